"""Rounding to what a runtime likes: learnt from its times, and never so that a site or a goal is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.allocate import Rounding, budget, rounding
from secateur.allocate.multiples import filled, select_near
from secateur.criteria import Magnitude
from secateur.measure import macs
from secateur.runtimes import probes
from secateur.runtimes.probes import Kind, liked_multiple
from secateur.structure import channels
from secateur.types import InputError, MissingLibraryError

X = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _nothing_learnt() -> Iterator[None]:
    before = dict(probes._learnt)
    probes._learnt.clear()
    yield
    probes._learnt.clear()
    probes._learnt.update(before)


def staircase(block: int, overhead: float = 0.0) -> Callable[[nn.Module, Any], float]:
    """A runtime whose layers take the time of whole blocks of channels."""

    def seconds(model: nn.Module, example: Any) -> float:
        weights = [p for p in model.parameters() if p.ndim > 1]
        work = [ceil(w.shape[0] / block) * ceil(w.shape[1] / block) * w[0, 0].numel() * block**2 for w in weights]
        return overhead + sum(work) * 1e-9

    return seconds


def wide_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(64, 48, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 5)),
    )


@pytest.mark.parametrize("block", [1, 4, 8, 16, 32])
@pytest.mark.parametrize("kind", [Kind((3, 3), 64), Kind((), 128, many=True), Kind((5,), 128)])
def test_the_block_of_a_runtime_is_learnt(block: int, kind: Kind) -> None:
    assert liked_multiple(staircase(block), kind) == block


def test_a_layer_that_fills_one_block_is_liked_whole() -> None:
    assert liked_multiple(staircase(16), Kind((3, 3), 16)) == 16
    assert liked_multiple(staircase(8), Kind((3, 3), 16)) == 8


def test_where_a_call_costs_more_than_the_work_nothing_is_rounded() -> None:
    assert liked_multiple(staircase(16, overhead=1.0), Kind((3, 3), 64)) == 1


def test_a_kind_is_timed_once() -> None:
    calls = []

    def counted(model: nn.Module, example: Any) -> float:
        calls.append(model)
        return staircase(8)(model, example)

    for _ in range(2):
        assert liked_multiple(counted, Kind((3, 3), 64)) == 8
    assert len(calls) == len({64, 32, 61, 60, 56, 48})


def test_a_timer_that_takes_no_small_layer() -> None:
    def picky(model: nn.Module, example: Any) -> float:
        raise ValueError("another model, please")

    assert liked_multiple(picky, Kind((3, 3), 64)) == probes.UNMEASURED

    def missing(model: nn.Module, example: Any) -> float:
        raise MissingLibraryError("pip install it")

    with pytest.raises(MissingLibraryError, match="pip install it"):
        liked_multiple(missing, Kind((3, 3), 64))


def test_the_real_runtimes_give_a_power_of_two() -> None:
    for name in probes.installed():
        assert liked_multiple(name, Kind((1, 1), 32)) in (1, 4, 8, 16)


def test_sites_get_multiples_that_leave_them_something_to_lose() -> None:
    sites = channels(wide_cnn(), X)
    rounds = rounding(sites, "auto", staircase(16))
    assert rounds.multiples == {"0": 8, "2": 16, "4": 16}
    assert rounds.coarse == {"0": 16, "2": 16, "4": 16}
    assert str(rounds) == "to multiples of 8 (1 site), 16 (2 sites), learnt in seconds"
    assert rounding(sites, 4).multiples == {"0": 4, "2": 4, "4": 4}
    assert rounding(sites, {"2": 4}).multiples == {"2": 4}
    assert rounding(sites, "auto", staircase(1)).multiples == {}
    assert not probes._learnt.keys() - {key for key in probes._learnt if callable(key[0])}
    with pytest.raises(InputError, match="round_to=0 must be a whole number"):
        rounding(sites, 0)


def test_nothing_is_timed_where_it_does_not_matter() -> None:
    def never(model: nn.Module, example: Any) -> float:
        raise AssertionError("timed")

    small = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2))
    assert rounding(channels(small, torch.zeros(1, 8)), "auto", never).multiples == {}
    assert rounding(sc.weights(wide_cnn()), "auto", never).multiples == {}
    assert not probes._learnt


def test_heads_and_groups_are_not_rounded_and_keep_their_share() -> None:
    torch.manual_seed(0)
    attention = channels(nn.TransformerEncoderLayer(128, 4, 256, batch_first=True), torch.randn(4, 64, 128))
    rounds = rounding(attention, "auto", staircase(16))
    assert rounds.multiples
    assert all(attention[name].unit not in ("head", "head dimension") for name in rounds.multiples)
    grouped = nn.Sequential(
        *(nn.Conv2d(3, 64, 3), nn.GroupNorm(8, 64), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.GroupNorm(8, 64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )
    result = sc.prune(grouped, X, "l2", 0.3, scope="layer", runtime=staircase(16), latency=False)
    assert result.model[3].weight.shape[0] == 7 * 6


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("goal", [0.2, 0.35, 0.5, 0.7])
def test_a_budget_is_met_with_multiples(scope: Any, goal: float) -> None:
    model = wide_cnn()
    sites = channels(model, X)
    keep = budget(
        model, sites, Magnitude()(model, sites), macs=goal, scope=scope, round_to="auto", runtime=staircase(16)
    )
    small = sc.cut(model, sites, keep)
    assert 0.5 * goal * macs(model, X) < macs(small, X) <= goal * macs(model, X)
    assert all(int(mask.sum()) % 8 == 0 for mask in keep.values()) or goal < 0.3


def test_a_goal_below_the_multiples_is_reached_by_finer_ones() -> None:
    model = wide_cnn()
    result = sc.prune(model, X, "l2", budget={"macs": 0.02}, runtime=staircase(16), latency=False)
    before, after = result.report.macs
    assert after <= 0.02 * before
    with pytest.raises(InputError, match="macs cannot come down to 1"):
        sc.prune(model, X, "l2", budget={"macs": 1}, runtime=staircase(16), latency=False)


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.8, 0.95])
def test_a_sparsity_is_met_nearly_and_never_undone(scope: Any, sparsity: float) -> None:
    result = sc.prune(wide_cnn(), X, "l2", sparsity, scope=scope, runtime=staircase(16), latency=False)
    removed = result.report.units_removed / result.report.units
    assert removed > 0
    assert removed == pytest.approx(sparsity, abs=0.07)
    assert all(site.kept > 0 for site in result.report.sites)


def test_small_sites_alone_are_pruned_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(12, 12, 3, padding=1), nn.Flatten(), nn.Linear(12 * 1024, 2)),
    )
    result = sc.prune(model, X, "l2", 0.5, scope="layer", runtime=staircase(16), latency=False)
    assert 0 < result.report.units_removed < result.report.units
    assert all(0 < site.kept < site.units for site in result.report.sites)


def test_fractions_of_ones_own_are_rounded_but_not_undone() -> None:
    result = sc.prune(wide_cnn(), X, "l2", {"0": 0.5, "2": 0.3}, scope="layer", runtime=staircase(16), latency=False)
    assert {site.name: site.kept for site in result.report.sites} == {"0": 8, "2": 48, "4": 48}


def test_a_number_is_taken_as_it_is() -> None:
    result = sc.prune(wide_cnn(), X, "l2", 0.5, scope="layer", round_to=1, latency=False)
    assert result.report.units_removed == 64
    assert result.report.rounding == ""
    eights = sc.prune(wide_cnn(), X, "l2", 0.4, scope="layer", round_to=8, latency=False)
    assert all(site.kept % 8 == 0 for site in eights.report.sites)
    assert eights.report.rounding == "to multiples of 8 (3 sites)"
    with pytest.raises(InputError, match=r'round_to=0 must be a whole number, 1 or more.*"auto"'):
        sc.prune(wide_cnn(), X, round_to=0)


def test_near_by_hand() -> None:
    scores = {"a": torch.arange(8.0), "b": torch.arange(8.0) + 3}
    for sparsity, kept in ((0.1, (4, 8)), (0.45, (4, 4)), (0.9, (4, 4))):
        keep = select_near(scores, sparsity, 4)
        assert tuple(int(mask.sum()) for mask in keep.values()) == kept
    with pytest.raises(InputError, match="would remove 16 of 16"):
        select_near(scores, 1.0, 4)


def test_what_is_given_back_is_what_scores_highest() -> None:
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 9.0]), "b": torch.tensor([4.0, 5.0, 6.0, 7.0])}
    keep = {"a": scores["a"] > 8, "b": scores["b"] > 6}
    more = filled(keep, scores, 2, "global", lambda keep: sum(int(mask.sum()) for mask in keep.values()) <= 3)
    assert {name: mask.tolist() for name, mask in more.items()} == {
        "a": [False, False, False, True],
        "b": [False, False, True, True],
    }


def test_a_given_rounding_has_one_rung() -> None:
    assert [rung.multiples for rung in Rounding({"a": 4}).ladder(0.5)] == [{"a": 4}]
    assert Rounding({"a": 4}).to_fill_up == [{"a": 4}]
