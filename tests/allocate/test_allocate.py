"""Fractions for each site: rules by their formulas, the scan by hand, dynamic programming against all choices."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from secateur.allocate import (
    Choices,
    Portions,
    Sensitivity,
    SensitivityRow,
    by_sensitivity,
    erk,
    sensitivity,
    uniform,
)
from secateur.criteria import Magnitude
from secateur.measure import evaluate
from secateur.selection import select
from secateur.structure import channels, cut, weights
from secateur.structure.sites import with_zeros
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, Sites, UnknownNameError

X = torch.tensor([[1.0, 2.0]])


def test_uniform() -> None:
    assert uniform(weights(hand_mlp()), 0.25) == {"0.weight": 0.25, "2.weight": 0.25}


def test_erk_by_hand() -> None:
    """A 3×3 convolution 2 → 4: (2 + 4 + 3 + 3) / 72 = 1/6; linear 4 → 6: 10 / 24.

    Of 96 weights 24 stay: ε (72/6 + 24·10/24) = 22 ε = 24, so ε = 12/11, and the densities are 2/11 and 5/11.
    """
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Linear(4, 6))
    found = erk(weights(model), 0.75)
    assert found == pytest.approx({"0.weight": 1 - 2 / 11, "1.weight": 1 - 5 / 11})


def test_erk_leaves_small_layers_whole_and_keeps_the_whole_exact() -> None:
    """Linear 1 → 2 has 3/2, linear 10 → 10 has 1/5: at half of 102, ε = 51/23 = 2.2 would make the first 3.3 dense."""
    model = nn.Sequential(nn.Linear(1, 2), nn.Linear(10, 10))
    found = erk(weights(model), 0.5)
    assert found == pytest.approx({"0.weight": 0.0, "1.weight": 0.51})


def test_erk_of_channels_takes_the_weights_that_produce_them() -> None:
    toy = TOYS["residual"]
    sites = channels(toy.build(), toy.inputs())
    found = erk(sites, 0.5)
    # 3×3 convolutions: stem 1 → 4 and conv2 6 → 4 are tied, conv1 is 4 → 6; five of ten units stay.
    tied = (4 + 1 + 3 + 3 + 4 + 6 + 3 + 3) / (4 * 1 * 9 + 4 * 6 * 9)
    alone = (6 + 4 + 3 + 3) / (6 * 4 * 9)
    scale = 5 / (4 * tied + 6 * alone)
    assert found == pytest.approx({"stem": 1 - scale * tied, "conv1": 1 - scale * alone})


@given(st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=4), min_size=1, max_size=3), st.data())
def test_dynamic_programming_finds_the_best_of_all_choices(losses: list[list[int]], data: st.DataObject) -> None:
    table = Portions({str(i): Choices(range(len(loss)), loss) for i, loss in enumerate(losses)})
    need = data.draw(st.integers(0, sum(len(loss) - 1 for loss in losses)))
    found = table.at(need)
    every = [c for c in product(*(range(len(loss)) for loss in losses)) if sum(c) >= need]
    best = min(sum(loss[i] for loss, i in zip(losses, c, strict=True)) for c in every)
    assert sum(found.values()) >= need
    assert sum(loss[i] for loss, i in zip(losses, found.values(), strict=True)) == best


def test_savings_that_are_not_whole_are_never_less_than_asked_for() -> None:
    table = Portions({"a": Choices([0, 0.3], [0, 1]), "b": Choices([0, 1.7], [0, 5])})
    assert table.at(0.29) == {"a": 1, "b": 0}
    assert table.at(0.31) == {"a": 0, "b": 1}
    assert table.at(2.0) == {"a": 1, "b": 1}
    with pytest.raises(InputError, match=r"2\.5 cannot be saved; all choices together save 2 at most"):
        table.at(2.5)


def scan(rows: dict[str, list[float]], units: int) -> Sensitivity:
    """A scan of sites with as many units, the losses at a quarter, a half, three quarters."""
    made = [
        SensitivityRow(site, (i + 1) / 4, units * (i + 1) // 4, units, {"loss": loss, "accuracy": 1 - loss})
        for site, losses in rows.items()
        for i, loss in enumerate(losses)
    ]
    return Sensitivity({"loss": 0.0, "accuracy": 1.0}, tuple(made))


def test_the_scan_says_where_to_remove() -> None:
    """At half of eight units: three of b and one of a lose 0.3 + 0.15; two of each would lose 0.2 + 1.0."""
    found = scan({"a": [0.15, 1.0, 9.0], "b": [0.1, 0.2, 0.3]}, 4)
    assert by_sensitivity(found, 0.5) == {"a": 0.25, "b": 0.75}
    assert by_sensitivity(found, 0.5, metric="-accuracy") == {"a": 0.25, "b": 0.75}
    assert by_sensitivity(found, 0.25) == {"a": 0.0, "b": 0.5}
    with pytest.raises(InputError, match=r"ask for 0\.7500 or less, or scan higher ones"):
        by_sensitivity(found, 0.9)
    with pytest.raises(UnknownNameError, match="figure of the sensitivity scan 'los'"):
        by_sensitivity(found, 0.5, metric="los")


def test_a_scan_by_hand() -> None:
    """The outputs are 5 − 2 and 2·5 + 4 − 1; by the L1 norm unit 1 goes first, then unit 0."""
    model = hand_mlp()
    before = snapshot(model)
    sites = channels(model, X)
    found = sensitivity(model, sites, Magnitude(p=1), [1 / 3, 2 / 3], lambda m: m(X).sum().item())
    assert found.baseline == {"loss": 16.0}
    assert found.curve("0", "loss") == {0: 16.0, 1: 18.0, 2: 3.0}
    assert same_state(before, snapshot(model))


def test_a_scan_rates_what_the_masked_model_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = TOYS["residual"]
    model, batches = toy.build(), toy.batches()
    sites = channels(model, toy.inputs())
    scores = Magnitude()(model, sites)
    found = sensitivity(model, sites, scores, [0.25, 0.5], lambda m: evaluate(m, batches))
    for row in found.rows:
        keep = select({row.site: scores[row.site]}, row.sparsity, scope="layer")
        rated = evaluate(with_zeros(model, sites, keep), batches)
        assert row.figures == {"loss": rated.loss, "accuracy": rated.accuracy, "count": 12}
    assert [(row.site, row.removed, row.units) for row in found.rows] == [
        ("stem", 1, 4),
        ("stem", 2, 4),
        ("conv1", 2, 6),
        ("conv1", 3, 6),
    ]
    assert list(found.frame()) == ["site", "sparsity", "removed", "units", "loss", "accuracy", "count"]


def test_where_a_norm_sees_the_units_the_scan_cuts() -> None:
    toy = TOYS["attention"]
    model, x = toy.build(), toy.inputs()
    sites = channels(model, x)
    name = next(iter(sites))
    scores = Magnitude()(model, sites)
    found = sensitivity(model, sites, scores, [0.5], lambda m: m(x).square().mean().item())
    small = cut(model, sites, select({name: scores[name]}, 0.5, scope="layer"))
    assert found.curve(name, "loss")[sites[name].size // 2] == pytest.approx(small(x).square().mean().item(), rel=1e-5)


def test_single_weights_can_be_scanned() -> None:
    model = hand_mlp()
    found = sensitivity(model, weights(model), Magnitude(p=1), [0.5], lambda m: m(X).sum().item())
    assert [(row.site, row.removed) for row in found.rows] == [("0.weight", 3), ("2.weight", 3)]


def test_bad_input() -> None:
    model = hand_mlp()
    sites = channels(model, X)
    with pytest.raises(InputError, match=r"sparsities is 0\.5; give a list"):
        sensitivity(model, sites, Magnitude(), 0.5, lambda m: 0.0)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"must be a number in \[0, 1\]"):
        sensitivity(model, sites, Magnitude(), [1.5], lambda m: 0.0)
    with pytest.raises(InputError, match="evaluate returned a str"):
        sensitivity(model, sites, Magnitude(), [0.5], lambda m: "good")
    with pytest.raises(UnknownNameError, match="unknown site 'x'"):
        scan({"a": [0.1]}, 4).curve("x", "loss")
    wrong: Any
    for wrong in (-0.1, 2, True, "a"):
        with pytest.raises(InputError, match=r"sparsity=.* must be a number in .0, 1.: the fraction removed"):
            erk(sites, wrong)
    with pytest.raises(InputError, match="nothing of this model can be removed"):
        uniform(Sites({}), 0.5)
