"""What criteria make of draws and samples, by themselves: quantiles, labels, running means, sums over minibatches."""

from __future__ import annotations

import warnings
from collections import Counter
from math import atan, cos, inf, isclose, isnan, pi, sin, sqrt
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.criteria import HessianTrace, Taylor
from secateur.criteria.hessian_trace import TraceScores, _Estimates
from secateur.criteria.loss_change.labels import LABELS, Uncertainty, adjusted, practical_numbers, student
from secateur.criteria.taylor import _summed
from secateur.structure import channels, mask

# ---- Student's t ----


def beyond(t: float, freedom: int) -> float:
    """The chance that |t| exceeds a number, in the finite sums of Abramowitz & Stegun (26.7.3 and 26.7.4)."""
    angle = atan(t / sqrt(freedom))
    odd = freedom % 2
    term, total = cos(angle) if odd else 1.0, 0.0
    for k in range(3 if odd else 2, freedom + 1, 2):
        total += term
        term *= (k - 1) / k * cos(angle) ** 2
    return 1 - (2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total)


def quantile(level: float, freedom: int) -> float:
    low, high = 0.0, 1e9
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, freedom) > level else (low, middle)
    return low


@pytest.mark.parametrize(
    ("freedom", "precision"),
    [(1, 1e-9), (2, 1e-9), (3, 1e-5), (4, 5e-7), (5, 5e-6), (6, 7e-7), (7, 3e-6), (10, 1e-7), (30, 2e-8), (200, 2e-11)],
)
def test_a_quantile_is_exceeded_as_often_as_its_level_says(freedom: int, precision: float) -> None:
    for level in (0.9, 0.5, 0.3, 0.2, 0.1, 0.05, 0.01, 1e-3, 1e-4, 1e-6):
        assert isclose(student(level, freedom), quantile(level, freedom), rel_tol=precision), level


@pytest.mark.parametrize("freedom", [5, 6, 7, 10, 15, 30, 60])
def test_of_usual_levels_the_error_falls_with_the_fifth_power_of_the_freedom(freedom: int) -> None:
    for level in (0.9, 0.5, 0.3, 0.2, 0.1):
        assert isclose(student(level, freedom), quantile(level, freedom), rel_tol=1e-7 * (5 / freedom) ** 5), level


def test_of_no_degree_of_freedom_nothing_is_known() -> None:
    assert student(0.05, 0) == student(0.05, -1) == inf


# ---- intervals and labels ----


def doubles(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_an_interval_that_just_reaches_a_border_is_within_it() -> None:
    change, half = doubles(0.5, -0.5, 0.75, 0.25, -0.5, -0.75, 0.625), doubles(0, 0, 0.25, 0.25, 0.25, 0.25, 0.25)
    labels = [LABELS[n] for n in practical_numbers(change, half, 0.5, 0.5).tolist()]
    assert labels == ["zero", "zero", "undecided", "zero", "undecided", "undecided", "undecided"]
    assert [LABELS[n] for n in practical_numbers(change, half, 0.25, 0.25).tolist()] == [
        *("important", "worse", "important", "undecided", "undecided", "worse", "important")
    ]


def test_what_no_sample_moves_is_decided_by_any_and_what_lies_on_a_border_by_none() -> None:
    error = doubles(0.0, 0.25, 0.25)
    alone = Uncertainty(error, None, 50, 0.05).images_needed(doubles(0.25, 0.5, 0.25), 0.25)
    assert alone[0] == 0
    assert alone[2] == inf
    # half the width at so many samples is the distance to the border
    assert isclose(student(0.05, 49) * 0.25 * sqrt(50 / float(alone[1])), 0.25, rel_tol=1e-9)
    together = Uncertainty(error, doubles(0.04, 0.04, 0.04), 50, 0.05).images_needed(doubles(0.5, 0.5, 0.25), 0.25)
    assert 0 < together[0] < together[1] < together[2] == inf


@pytest.mark.parametrize("count", [2, 10, 1000])
def test_an_interval_is_as_wide_as_its_own_and_the_others_samples_say(count: int) -> None:
    error, pooled = doubles(0.0, 0.1, 0.4), doubles(0.09, 0.09, 0.09)
    alone = Uncertainty(error, None, count, 0.05).half_widths()
    torch.testing.assert_close(alone, quantile(0.05, count - 1) * error, rtol=1e-4, atol=0)
    together = Uncertainty(error, pooled, count, 0.05).half_widths()
    variance = (pooled + (count - 1) * error.square()) / count
    torch.testing.assert_close(together, quantile(0.05, count) * variance.sqrt(), rtol=1e-4, atol=0)
    assert Uncertainty(doubles(inf), doubles(1.0), count, 0.05).half_widths().tolist() == [inf]


def test_levels_are_shared_by_as_many_as_are_asked_about() -> None:
    for correction, level in ((None, 0.06), ("holm", 0.02), ("bonferroni", 0.02)):
        of = Uncertainty.of(doubles(1, 1, 1), None, 9, 0.06, correction)  # type: ignore[arg-type]
        assert isclose(of.level, level)
    assert Uncertainty.of(doubles(), None, 9, 0.06, "holm").level == 0.06


def test_corrected_chances_by_their_definitions() -> None:
    p = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64).square()
    ascending = p.sort().values
    for unit, chance in enumerate(p):
        rank = int((ascending <= chance).sum())
        holm = max(float((12 + 1 - k) * ascending[k - 1]) for k in range(1, rank + 1))
        fdr = min(float(12 / k * ascending[k - 1]) for k in range(rank, 13))
        for correction, expected in (("holm", holm), ("fdr", fdr), ("bonferroni", float(12 * chance))):
            assert isclose(float(adjusted(p, correction)[unit]), min(expected, 1.0), rel_tol=1e-12)  # type: ignore[arg-type]
        assert adjusted(p, None)[unit] == chance
    assert adjusted(doubles(), "holm").tolist() == []


# ---- probes ----


def test_running_means_are_the_mean_and_its_standard_error() -> None:
    draws = torch.randn(7, 5, dtype=torch.float64)
    tally = _Estimates()
    for number, draw in enumerate(draws, 1):
        tally.add(draw)
        torch.testing.assert_close(tally.mean, draws[:number].mean(0))
        if number > 1:
            torch.testing.assert_close(tally.error, draws[:number].std(0) / sqrt(number))
        else:
            assert bool(tally.error.isnan().all())


def estimates(mean: Tensor, apart: Tensor) -> _Estimates:
    tally = _Estimates()
    for sign in (1, -1):
        tally.add(mean + sign * apart)
    return tally


def test_ranks_are_foretold_from_how_far_draws_lie_apart() -> None:
    mean = torch.arange(40.0, dtype=torch.float64)
    same, near, far, lost = (estimates(mean, x * torch.ones(40)).correlation for x in (0.0, 1e-3, 20.0, 1e6))
    assert same == near == 1.0
    assert 0.3 < far < 0.9
    assert abs(lost) < 0.2
    one = _Estimates()
    one.add(mean)
    assert isnan(one.correlation)
    # a deviate of √2 standard errors: the rank correlation of normal numbers of that spread
    wide = torch.randn(4000, dtype=torch.float64)
    spread = estimates(wide, torch.ones(4000)).correlation  # errors as large as the units differ
    assert isclose(spread, 6 / pi * atan(1 / sqrt(11)), abs_tol=0.03)  # of ρ = 1/√3, 6/π · asin(ρ/2)


def test_of_very_many_units_every_few_stand_for_all() -> None:
    mean = torch.zeros(20_001, dtype=torch.float64)
    mean[::3] = torch.arange(6667.0, dtype=torch.float64)  # every third is told apart, the others not at all
    apart = torch.ones_like(mean)
    apart[::3] = 1e-6
    assert estimates(mean, apart).correlation > 0.99


class Unsettled:
    """A tally whose correlation is told after so many draws."""

    def __init__(self, settled: float) -> None:
        self.count, self.settled = 0, settled

    def add(self, estimate: Tensor) -> None:
        self.count += 1

    @property
    def correlation(self) -> float:
        return 1.0 if self.count >= self.settled else 0.1


@pytest.mark.parametrize(
    ("probes", "settled", "counts"),
    [
        (None, 16, [16]),
        (None, 17, [16, 16]),
        (None, 64, [16, 16, 32]),
        (None, inf, [16, 16, 32, 64, 128]),
        (5, inf, [5]),
    ],
)
def test_probes_double_until_ranks_are_settled_or_there_are_the_most(
    probes: int | None, settled: float, counts: list[int]
) -> None:
    criterion = HessianTrace((torch.zeros(2, 3), torch.zeros(2)), probes=probes)
    drawn: list[int] = []

    def draw(count: int) -> list[dict[str, Tensor]]:
        drawn.append(count)
        return [{"a": torch.zeros(1), "b": torch.zeros(1)}] * count

    tallies: Any = {"a": Unsettled(0), "b": Unsettled(settled)}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        criterion._settle(tallies, draw)
    assert drawn == counts
    assert [str(w.message).split(";")[0] for w in warned] == (
        ["HessianTrace: after 256 probes two seeds would rank the units of 'b' alike only to 0.10"]
        if settled == inf and probes is None
        else []
    )


def test_scores_say_how_many_units_and_probes_and_how_sure_they_are() -> None:
    scores = TraceScores({"a": torch.zeros(3), "b": torch.zeros(2, 4)})
    scores.probes, scores.correlation = {"a": 16, "b": 32}, {"a": 0.987, "b": 0.5}
    assert repr(scores) == "TraceScores(a: 3 units, 16 probes, ρ 0.99, b: 8 units, 32 probes, ρ 0.50)"


# ---- first-order estimates ----


@pytest.mark.parametrize("sign", ["signed", "absolute", "squared"])
def test_samples_are_summed_as_signed_squares_over_minibatches(sign: str) -> None:
    changes = torch.tensor([[1.0, -2.0], [3.0, 2.0], [-4.0, 6.0]])
    signed = {"signed": lambda x: x, "absolute": torch.abs, "squared": torch.square}[sign]
    assert torch.equal(_summed(changes, sign, 1), signed(changes).sum(0))
    # the means of the first two and of the last, each as often as it has samples
    pairs = 2 * signed(torch.tensor([2.0, 0.0])) + signed(torch.tensor([-4.0, 6.0]))
    assert torch.equal(_summed(changes, sign, 2), pairs)
    torch.testing.assert_close(_summed(changes, sign, 5), 3 * signed(changes.mean(0)))


class Steps(nn.Module):
    """A loop whose units the last layer reads, and whose weights read them on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.loop, self.last = nn.RNN(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.loop(x)[0].mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), Steps()])
def test_an_estimate_of_small_units_is_what_their_removal_changes(model: nn.Module) -> None:
    """With weights behind a unit a thousandth of what they were, the loss is linear in it."""
    torch.manual_seed(0)
    x = torch.randn(6, 5, 3) if isinstance(model, Steps) else torch.randn(6, 3)
    y = torch.randint(0, 2, (6,))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in ("last.weight", "2.weight", "loop.weight_hh_l0"):
                parameter.mul_(1e-3)
    model.double()
    sites = channels(model, x[:1].double())
    ((name, site),) = sites.items()
    loss = nn.functional.cross_entropy
    scores = Taylor((x.double(), y), sign="signed")(model, sites)[name]
    model.requires_grad_(False)
    whole = loss(model(x.double()), y)
    for unit in range(site.size):
        keep = {name: torch.arange(site.size) != unit}
        removed = loss(mask(model, sites, keep)(x.double()), y) - whole
        assert isclose(float(scores[unit]), float(removed), rel_tol=0.02, abs_tol=1e-7)
    counts = Counter(Taylor((x.double(), y), sign=sign)(model, sites)[name].shape for sign in ("absolute", "squared"))
    assert counts == {site.shape: 2}


def test_the_scores_of_a_site_are_divided_by_their_length_and_zeros_stay() -> None:
    criterion = Taylor((torch.zeros(2, 3), torch.zeros(2)), normalise=True)
    scores = criterion._normal({"a": torch.tensor([3.0, -4.0]), "b": torch.zeros(2)}, "signed")
    assert {name: x.tolist() for name, x in scores.items()} == {
        "a": [pytest.approx(0.6), pytest.approx(-0.8)],
        "b": [0, 0],
    }
    for sign, divided in (("signed", False), ("absolute", True), ("squared", False)):
        usual = Taylor((torch.zeros(2, 3), torch.zeros(2)))._normal({"a": torch.tensor([3.0, 4.0])}, sign)
        assert torch.equal(usual["a"], torch.tensor([3.0, 4.0]) / (5 if divided else 1))


@pytest.mark.parametrize("on", ["activations", "weights"])
@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_of_complex_units_both_parts_count(on: Any) -> None:
    """The output is Σ aᵤ·bᵤ·x, of which the loss takes the real part: without a unit it falls by Re(aᵤ·bᵤ·x)."""
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)).to(torch.complex64)
    model[0].weight.data, model[1].weight.data = torch.tensor([[2.0 + 1j], [1j]]), torch.tensor([[3.0, 1 - 2j]])
    x = torch.tensor([[1.0 + 1j]])
    taylor = Taylor([(x, torch.zeros(1, 1))], lambda y, _: y.real.sum(), sign="signed", on=on)
    scores = taylor(model, channels(model, x))["0"]
    assert scores.tolist() == [-((2 + 1j) * 3 * (1 + 1j)).real, -(1j * (1 - 2j) * (1 + 1j)).real]
