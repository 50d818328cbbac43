"""Magnitude and Random: the contract of every criterion, and scores worked out by hand."""

from __future__ import annotations

from math import inf, sqrt

import pytest
import torch
from torch import nn

from secateur.criteria import CRITERIA, Magnitude, Random, by_name, names
from secateur.structure import channels, weights
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import TOYS, hand_mlp
from secateur.types import Batches, Criterion, InputError, Loss, UnknownNameError


class TestL1(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Magnitude(p=1)


class TestL2(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Magnitude()


class TestLinf(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Magnitude(p=inf)


class TestRandom(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return Random(seed=3)

    def test_weights_that_are_nan_are_refused_by_name(self) -> None:  # type: ignore[override]
        """It never looks at the weights; `channels` and `weights` refuse such a model."""
        model = hand_mlp()
        model[0].weight.data[0, 0] = float("nan")
        with pytest.raises(InputError, match=r"0\.weight of the model holds 1 NaN"):
            weights(model)


@pytest.mark.parametrize(
    ("p", "expected"),
    [
        (1, [3.0, 2.0, 4.0]),  # |1|+|2|, |−1|+|1|, |3|+|−1|; the bias of unit 1 is left out
        (2, [sqrt(5), sqrt(2), sqrt(10)]),
        (inf, [2.0, 1.0, 3.0]),
    ],
)
def test_a_neuron_is_the_norm_of_its_incoming_weights(p: float, expected: list[float]) -> None:
    model = hand_mlp()
    scores = Magnitude(p=p)(model, channels(model, torch.ones(1, 2)))
    assert list(scores) == ["0"]
    assert torch.allclose(scores["0"], torch.tensor(expected))


def test_a_weight_is_its_absolute_value_whatever_p() -> None:
    model = hand_mlp()
    for p in (1, 2, inf):
        scores = Magnitude(p=p)(model, weights(model))
        assert scores["0.weight"].tolist() == [[1, 2], [1, 1], [3, 1]]
        assert scores["2.weight"].tolist() == [[1, 1, 0], [2, 0, 4]]


def test_a_filter_is_the_norm_over_its_whole_kernel() -> None:
    model = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(8, 1))
    model[0].weight.data = torch.tensor([[3.0, 4.0], [0.0, -2.0]]).reshape(2, 2, 1, 1)
    scores = Magnitude()(model, channels(model, torch.ones(1, 2, 2, 2)))
    assert scores["0"].tolist() == [5.0, 2.0]


def test_tied_layers_are_scored_together() -> None:
    """Stem and conv2 of the residual block produce the same channels: one score from both."""
    toy = TOYS["residual"]
    model = toy.build()
    scores = Magnitude(p=1)(model, channels(model, toy.inputs()))
    parts = [model.get_parameter(f"{n}.weight").detach().abs().sum((1, 2, 3)) for n in ("stem", "conv2")]
    assert torch.allclose(scores["stem"], parts[0] + parts[1], rtol=1e-6)


def test_random_scores_are_its_own_generator_s() -> None:
    model = hand_mlp()
    sites = weights(model)
    generator = torch.Generator().manual_seed(5)
    expected = [torch.rand(3, 2, generator=generator), torch.rand(2, 3, generator=generator)]
    scores = Random(seed=5)(model, sites)
    assert all(torch.equal(s, e) for s, e in zip(scores.values(), expected, strict=True))
    assert not torch.equal(Random(seed=6)(model, sites)["0.weight"], expected[0])
    assert all(bool(((s >= 0) & (s < 1)).all()) for s in scores.values())


@pytest.mark.parametrize("p", [0, 0.5, -1, float("nan")])
def test_orders_below_one_are_refused(p: float) -> None:
    with pytest.raises(InputError, match=r"p=.* must be a number, 1 or more"):
        Magnitude(p=p)


def test_an_order_that_is_no_number_is_refused() -> None:
    with pytest.raises(InputError, match=r"p=.* must be"):
        Magnitude(p="2")  # type: ignore[arg-type]


def test_names_of_criteria() -> None:
    assert {"l1", "l2", "linf", "random"} <= set(names())
    assert by_name("magnitude") == by_name("l2")
    assert by_name("l1") == Magnitude(p=1)
    assert by_name("linf") == Magnitude(p=inf)
    assert by_name("random", seed=4) == Random(seed=4)
    with pytest.raises(UnknownNameError, match=r"unknown criterion 'l22'; did you mean 'l2'\?.*Known: .*random"):
        by_name("l22")


def test_names_of_criteria_that_look_at_data() -> None:
    samples = torch.rand(6, 2), torch.zeros(6, dtype=torch.long)
    assert by_name("taylor", samples, sign="squared").sign == "squared"  # type: ignore[attr-defined]
    for name in (name for name, row in CRITERIA.items() if row.needs_data):
        assert by_name(name, samples).data is samples  # type: ignore[attr-defined]
        with pytest.raises(InputError, match=f"'{name}' looks at data"):
            by_name(name)


def test_options_that_a_criterion_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match=r"random.*sed"):
        by_name("random", sed=4)
    with pytest.raises(InputError, match=r"taylor.*sing.*sign"):
        by_name("taylor", (torch.rand(6, 2), torch.zeros(6, dtype=torch.long)), sing="squared")
