"""What `prune` says of the loss of a joint cut, beside what the scores of its units foretold."""

from __future__ import annotations

from math import log

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import secateur as sc
from secateur.criteria import JointLossChange, LossChange, SecondOrder, Taylor
from secateur.result import JointCut


def twins() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Ten units in pairs that say the same: either can go, both cannot."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 10), nn.ReLU(), nn.Linear(10, 5)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(5).repeat(2, 1) * torch.linspace(1, 1.3, 10)[:, None])
        model[0].bias.zero_()
        model[2].weight.copy_(6 * torch.eye(5).repeat(1, 2))
        model[2].bias.zero_()
    labels = torch.arange(5).repeat(20)
    return model, (torch.eye(5)[labels], labels)


def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        return float(cross_entropy(model(data[0]), data[1]))


def pruned(criterion: object, keep_none_of: str = "layer") -> sc.Result:
    model, data = twins()
    return sc.prune(model, data[0][:2], criterion, 0.5, scope=keep_none_of, latency=False)  # type: ignore[arg-type]


def test_a_joint_cut_far_worse_than_the_scores_is_warned_of() -> None:
    model, data = twins()
    scores = LossChange(data)(model, sc.channels(model, data[0][:1]))
    # As few as one unit of each pair would do, but the first of equals go: units 0 to 4 lose nothing, so take both of some.
    scores["0"] = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]) * 1e-6

    class Fixed(LossChange):
        def _score(self, model: nn.Module, sites: sc.Sites) -> object:  # type: ignore[override]
            return scores

    result = pruned(Fixed(data))
    joint = result.report.joint
    assert joint is not None
    assert joint.before == pytest.approx(loss(model, data), abs=1e-7)
    assert joint.after == pytest.approx(loss(result.model, data), abs=1e-6)
    assert joint.empty == pytest.approx(log(5), abs=1e-6)
    assert joint.foretold == pytest.approx(joint.before, abs=1e-6)
    assert joint.is_far_worse
    assert "WARNING: loss" in str(result.report)
    assert "cut in steps" in str(result.report)
    assert result.report.to_dict()["joint"]["after"] == joint.after


@pytest.mark.parametrize("make", [LossChange, SecondOrder, Taylor])
def test_sums_of_single_changes_foretell(make: type[LossChange]) -> None:
    model, data = twins()
    criterion = make(data)
    sites = sc.channels(model, data[0][:1])
    scores = criterion(model, sites)
    keep = sc.select(scores, 0.5, scope="layer")
    expected = sum(float(score) for score, left in zip(scores["0"], keep["0"], strict=True) if not left)
    assert criterion.foretold(scores, keep) == pytest.approx(expected)
    joint = pruned(criterion).report.joint
    assert joint is not None
    assert joint.foretold - joint.before == pytest.approx(expected, abs=1e-6)


def test_pairs_foretell_by_pairs() -> None:
    model, data = twins()
    criterion = JointLossChange(data)
    scores = criterion(model, sc.channels(model, data[0][:1]))
    keep = sc.select(scores, 0.5, scope="layer")
    assert criterion.foretold(scores, keep) == pytest.approx(scores.foretell(keep))
    joint = pruned(JointLossChange(data, scope="layer")).report.joint
    assert joint is not None
    layer = JointLossChange(data, scope="layer")(model, sc.channels(model, data[0][:1]))
    expected = layer.foretell(sc.select(layer, 0.5, scope="layer"))
    assert joint.foretold - joint.before == pytest.approx(expected, abs=1e-6)


def test_a_cut_that_keeps_the_loss_is_not_warned_of() -> None:
    model, data = twins()
    with torch.no_grad():
        model[2].weight[:, 5:] = 0  # nothing reads the second of each pair
    report = sc.prune(model, data[0][:2], LossChange(data), 0.5, scope="layer", latency=False).report
    assert report.joint is not None
    assert report.joint.after == pytest.approx(report.joint.before)
    assert "WARNING: loss" not in str(report)
    assert "where the scores foretold" in str(report)


@pytest.mark.parametrize("criterion", ["l2", "random"])
def test_what_foretells_nothing_is_not_measured(criterion: str) -> None:
    assert pruned(criterion).report.joint is None


def test_without_its_sign_a_score_foretells_nothing() -> None:
    _, data = twins()
    for criterion in (
        Taylor(data, sign="absolute"),
        Taylor(data, sign="squared"),
        Taylor(data, "mse"),
        sc.criteria.Snip(data),
    ):
        assert criterion.foretold({}, {}) is None
    assert Taylor(data, "mse", sign="signed").foretold({}, {}) == 0


def test_far_is_beside_the_greater_of_both() -> None:
    assert JointCut(0.3, -0.17, 1.61, 2.3, 500).is_far_worse
    assert not JointCut(0.3, -0.17, 0.44, 2.3, 500).is_far_worse
    assert not JointCut(0.3, 0.5, 0.7, 2.3, 500).is_far_worse
    assert not JointCut(0.001, 0.001, 0.01, 2.3, 500).is_far_worse, "a trifle, though ten times as much"
    assert JointCut(0.3, 0.5, float("nan"), 2.3, 500).is_far_worse
