"""ClassAccuracy: what chosen classes need, and what only they need."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secateur.criteria import ClassAccuracy, LossChange
from secateur.selection import select
from secateur.structure import channels, weights
from secateur.structure.sites import with_zeros
from secateur.testing.conformance import CriterionConformance
from secateur.testing.toys import TOYS, hand_mlp
from secateur.types import Batches, Criterion, InputError, Loss


class TestForgotten(CriterionConformance):
    units = ("channels",)  # what it measures is LossChange's, which is tried on single weights too

    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return ClassAccuracy(batches, (0,), forget=True, loss=loss)

    def test_single_weights_are_masked_by_its_scores(self) -> None:
        """One weight of three, by the class that it serves."""
        model = nn.Sequential(nn.Linear(3, 3, bias=False))
        model[0].weight.data = torch.eye(3)
        sites = weights(model)
        keep = select(ClassAccuracy(DATA, [2], forget=True)(model, sites), 1 / 9)
        assert keep["0.weight"].tolist() == [[True] * 3, [True] * 3, [True, True, False]]


def units_of_classes() -> nn.Sequential:
    """Three classes, a unit for each, and a fourth unit that speaks for all alike."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False))
    model[0].weight.data = torch.cat([torch.eye(3), torch.ones(1, 3)])
    model[2].weight.data = torch.cat([torch.eye(3), torch.ones(3, 1)], dim=1)
    return model


DATA = (torch.eye(3).repeat(2, 1), torch.tensor([0, 1, 2, 0, 1, 2]))


def test_what_chosen_classes_need_is_kept() -> None:
    """Without its unit a class ties with the others, and the first of equals is class 0: 1 and 2 are lost."""
    model = units_of_classes()
    sites = channels(model, DATA[0])
    scores = ClassAccuracy(DATA, [1, 2])(model, sites)["0"]
    assert scores.round(decimals=1).tolist() == pytest.approx([0.0, 0.5, 0.5, 0.0], abs=0.11)
    keep = select({"0": scores}, 0.5)
    assert keep["0"].tolist() == [False, True, True, False]
    answers = with_zeros(model, sites, keep)(DATA[0]).argmax(1)
    assert answers.tolist() == [0, 1, 2, 0, 1, 2]


def test_what_only_the_chosen_class_needs_goes_first() -> None:
    model = units_of_classes()
    sites = channels(model, DATA[0])
    keep = select(ClassAccuracy(DATA, [2], forget=True)(model, sites), 0.25)
    assert keep["0"].tolist() == [True, True, False, True]
    assert with_zeros(model, sites, keep)(DATA[0]).argmax(1).tolist() == [0, 1, 0, 0, 1, 0]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_accuracies_come_before_losses(name: str) -> None:
    """The order is that of (accuracy, loss) on the chosen classes, both measured here unit by unit."""
    toy = TOYS[name]
    model, batches = toy.build(), toy.batches(3, 9)
    sites = channels(model, toy.inputs())
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    x, y = x[y != 1], y[y != 1]
    whole = model(x)
    chosen = sorted(set(y.tolist()))
    scores = ClassAccuracy(batches, chosen, batch_size=4)(model, sites)
    for site, found in scores.items():
        rows = []
        for unit in range(len(found)):
            keep = {site: torch.arange(len(found)) != unit}
            outputs = with_zeros(model, sites, keep)(x).detach()
            right = int((outputs.argmax(1) == y).sum()) - int((whole.argmax(1) == y).sum())
            rows.append((-right, float(cross_entropy(outputs, y)), unit))
            assert abs(float(found[unit]) + right / len(y)) <= 0.5 / len(y)
        # To the digits in which two roads to a loss agree.
        expected = [unit for *_, unit in sorted(rows)]
        order = torch.argsort(found, stable=True).tolist()
        for a, b in zip(order, expected, strict=True):
            assert rows[a][:2] == pytest.approx(rows[b][:2], abs=1e-6)


def test_all_classes_kept_are_what_the_accuracy_says() -> None:
    toy = TOYS["cnn"]
    model, batches = toy.build(), toy.batches()
    sites = channels(model, toy.inputs())
    changes = LossChange(batches)(model, sites)
    scores = ClassAccuracy(batches, range(3))(model, sites)
    for site in sites:
        torch.testing.assert_close(scores[site], -changes.accuracy[site], rtol=0, atol=0.5 / 12)


@pytest.mark.parametrize("classes", [[], [-1], ["a"], [True], "12", 1])
def test_classes_that_are_none(classes: Any) -> None:
    with pytest.raises(InputError, match="must be numbers of classes"):
        ClassAccuracy(DATA, classes)


def test_data_without_the_classes() -> None:
    model = units_of_classes()
    sites = channels(model, DATA[0])
    with pytest.raises(InputError, match="no sample of class 7"):
        ClassAccuracy(DATA, [1, 7])(model, sites)
    with pytest.raises(InputError, match=r"other than \[0, 1, 2\]"):
        ClassAccuracy(DATA, [0, 1, 2], forget=True)(model, sites)
    with pytest.raises(InputError, match="not classes"):
        ClassAccuracy((torch.zeros(2, 2), torch.zeros(2, 2)), [0])(hand_mlp(), channels(hand_mlp(), torch.zeros(1, 2)))
