"""What `prune` does where nothing is chosen: half of the multiply-accumulates, no site emptied, data used, changes said."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.allocate import budget
from secateur.allocate.balance import foretold_losses
from secateur.labelled import SampleBatch
from secateur.result.change import OutputChange, output_change
from secateur.structure import channels
from secateur.types import InputError, UnknownNameError

X = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))


def linear(inputs: int, outputs: int, seed: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    generator = torch.Generator().manual_seed(seed)
    layer.weight.data = torch.randn(outputs, inputs, generator=generator) / math.sqrt(inputs)
    layer.bias.data = torch.zeros(outputs)
    return layer


def mlp(*widths: int) -> nn.Sequential:
    layers = [linear(a, b, seed) for seed, (a, b) in enumerate(pairwise(widths))]
    return nn.Sequential(*[module for layer in layers for module in (layer, nn.ReLU())][:-1])


class Residual(nn.Module):
    """A stream of eight that two blocks add to."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = linear(8, 8, 0), linear(8, 3, 1)
        self.wide, self.narrow = (nn.ModuleList([linear(8, 8, 2 + 2 * i + k) for i in range(2)]) for k in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(wide(x).relu())
        out: Tensor = self.head(x)
        return out


def quiet(model: nn.Module, *args: Any, **options: Any) -> sc.Result:
    return sc.prune(model, *args, latency=False, **options)


def test_losses_are_logarithms_of_the_scores_kept_times_the_layers_that_produce_them() -> None:
    sites = channels(Residual(), X)
    scores = {name: torch.arange(1.0, 9.0) for name in sites}
    losses = foretold_losses(scores, sites)
    # 1 + 2 + … + 8 = 36; the stem and two blocks produce the stream, one layer the inside of a block.
    assert losses["wide.0"][:3] == pytest.approx([0, -math.log(35 / 36), -math.log(33 / 36)])
    assert losses["stem"] == pytest.approx([3 * loss for loss in losses["wide.0"]])
    assert losses["wide.0"][-1] == pytest.approx(-math.log(8 / 36))


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.0, 0.0, 0.0, 0.0], [0, math.log(4 / 3), math.log(2), math.log(4)]),
        ([-5.0, 1.0, 1.0, 2.0], [0, 0, math.log(4 / 3), math.log(2)]),
        ([1.0, 2.0, 2.0, math.inf], [0, math.log(7 / 6), math.log(7 / 4), math.log(7 / 2)]),
    ],
)
def test_scores_that_are_no_shares_are_made_some(scores: list[float], expected: list[float]) -> None:
    sites = channels(nn.Sequential(linear(8, 4, 0), nn.ReLU(), linear(4, 2, 1)), X)
    assert foretold_losses({"0": torch.tensor(scores)}, sites)["0"] == pytest.approx(expected, abs=1e-6)


def test_nothing_chosen_halves_the_macs_and_empties_no_site() -> None:
    model = mlp(8, 30, 10, 30, 4)
    with torch.no_grad():
        model[2].weight.mul_(1e-3)  # by magnitude over all sites this one would go first
    result = quiet(model, X[:1])
    report = result.report
    assert report.macs is not None
    assert 0.45 < report.macs[1] / report.macs[0] <= 0.5
    assert min(site.share for site in report.sites) >= 0.3
    assert (report.criterion, report.scope, report.sparsity) == ("l2", "balanced", None)
    assert report.rule == {"budget": {"macs": 0.5}}
    pooled = quiet(model, X[:1], scope="global").report
    assert min(site.share for site in pooled.sites) < 0.3
    same = quiet(model, X[:1], budget={"macs": 0.5}).keep
    assert all(torch.equal(same[name], mask) for name, mask in result.keep.items())


def test_half_of_each_site_where_half_of_the_macs_cannot_go() -> None:
    model = nn.Sequential(
        linear(8, 64, 0), nn.ReLU(), linear(64, 64, 1), nn.ReLU(), linear(64, 8, 2), nn.ReLU(), linear(8, 64, 3)
    )
    result = quiet(model, X[:1], ignore=["0", "2"])
    assert [(site.name, site.kept, site.units) for site in result.report.sites] == [("4", 4, 8)]
    assert (result.report.sparsity, result.report.scope, result.report.rule) == (0.5, "layer", {})


def test_a_budget_that_asks_for_it_may_leave_less_of_a_site() -> None:
    model = mlp(8, 30, 30, 4)
    shares = [site.share for site in quiet(model, X[:1], budget={"macs": 0.1}).report.sites]
    assert min(shares) < 0.3
    sites = channels(model, X[:1])
    scores = sc.criteria.Magnitude()(model, sites)
    with pytest.raises(InputError, match="cannot come down"):
        budget(model, sites, scores, macs=0.1, scope="balanced", least=0.5)
    with pytest.raises(UnknownNameError, match="scope of a budget 'row'"):
        budget(model, sites, scores, macs=0.1, scope="row")  # type: ignore[arg-type]


def test_scopes_of_their_own_units() -> None:
    model = mlp(8, 30, 30, 4)
    assert quiet(model, X, sparsity=0.5).report.scope == "layer"
    assert {site.share for site in quiet(model, X, sparsity=0.5).report.sites} == {0.5}
    weights = quiet(model, X, unit="weights").report
    assert (weights.scope, weights.sparsity) == ("global", 0.5)
    with pytest.raises(InputError, match="goes with a budget"):
        quiet(model, X, sparsity=0.5, scope="balanced")


def classes(count: int) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(count, 8, generator=torch.Generator().manual_seed(1))
    return inputs, (inputs[:, 0] > 0).long() + 2 * (inputs[:, 1] > 0).long()


def test_data_that_are_given_are_scored_and_repaired_with() -> None:
    model, data = mlp(8, 40, 40, 4), classes(400)
    sc.fit(model, data, epochs=3, lr=1e-2, seed=0)
    plain, looked = quiet(model, X[:1]), quiet(model, X[:1], data=data)
    assert (looked.report.criterion, looked.report.repair) == ("joint-loss-change", ("least-squares", "norms"))
    assert looked.change is not None
    assert (looked.change.inputs, looked.change.samples) == ("data", 256)
    by_weights = plain.compared(SampleBatch(data[0][:256])).change
    assert by_weights is not None
    assert looked.change.relative < by_weights.relative / 2
    halved = quiet(model, X[:1], sparsity=0.5, data=data).report
    assert (halved.criterion, halved.scope, {site.share for site in halved.sites}) == (
        "joint-loss-change",
        "layer",
        {0.5},
    )


def test_a_criterion_or_a_repair_that_is_chosen_is_all_that_is_done() -> None:
    model, data = mlp(8, 16, 4), classes(64)
    assert quiet(model, X[:1], "taylor", data=data).report.repair == ()
    assert quiet(model, X[:1], data=data, repair=()).report.repair == ()
    assert quiet(model, X[:1], "l2", data=data, repair="bias").report.repair == ("bias",)


def test_what_cannot_be_repaired_is_cut_and_said() -> None:
    model = nn.Sequential(linear(8, 16, 0), nn.LayerNorm(16), nn.ReLU(), linear(16, 4, 1))
    report = quiet(model, X[:1], data=classes(64)).report
    assert report.repair == ()
    assert "WARNING: not repaired from the data:" in str(report)
    with pytest.raises(InputError):
        quiet(model, X[:1], data=classes(64), repair="least-squares")


def test_outputs_beyond_recognition_are_said() -> None:
    model = mlp(8, 64, 4)
    assert "hardly recognisable; give data=" in str(quiet(model, X, sparsity=0.95).report)
    assert "hardly recognisable" not in str(quiet(model, X, sparsity=0.02).report)


def test_a_remedy_that_was_taken_or_cannot_help_is_not_given() -> None:
    data = classes(64)
    unrepaired = quiet(mlp(8, 64, 4), X, "random", sparsity=0.95, data=data).report
    assert 'hardly recognisable; repair it from the data (repair="least-squares"), train' in str(unrepaired)
    normed = nn.Sequential(linear(8, 64, 0), nn.LayerNorm(64), nn.ReLU(), linear(64, 4, 1))
    unrepairable = quiet(normed, X, sparsity=0.95, data=data).report
    assert "not repaired from the data" in str(unrepairable)
    assert "hardly recognisable; train it back, or remove less" in str(unrepairable)


class Constant(nn.Module):
    def __init__(self, answers: Any) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, x: Tensor) -> Any:
        return self.answers


def changed(before: Any, after: Any, count: int = 2) -> OutputChange:
    return output_change(Constant(before), Constant(after), SampleBatch(torch.zeros(count, 1)), "data")


def test_changes_are_measured_about_the_mean() -> None:
    before = torch.tensor([[101.0, 99.0], [99.0, 101.0]])
    assert changed(before, before).relative == 0
    # The spread is √4 = 2; one number that is 1 off is half of it, however large all are.
    assert changed(before, before + torch.tensor([[1.0, 0], [0, 0]])).relative == pytest.approx(0.5)
    assert changed(before, torch.full((2, 2), 100.0)).relative == pytest.approx(1)
    assert changed(torch.ones(2, 2), torch.ones(2, 2)).relative == 0
    assert changed(torch.full((2, 2), 2.0), torch.ones(2, 2)).relative == pytest.approx(0.5)
    # Two tensors count the same, whatever their sizes: √((0² + 1²) / 2).
    both = changed((before, 1000 * before), (before, torch.full((2, 2), 100_000.0)))
    assert both.relative == pytest.approx(math.sqrt(0.5))
    assert both.agreement is None


def test_answers_that_are_others_are_beyond_recognition() -> None:
    before = torch.eye(4).repeat(5, 1) * 10
    flipped = before.roll(1, 1)
    assert changed(before, before, 20).agreement == 1
    assert not changed(before, before / 2, 20).is_beyond_recognition
    assert changed(before, flipped, 20).agreement == 0
    swapped = before.clone()
    swapped[:12, :] += 5 * flipped[:12]  # twelve of twenty answers are others
    assert changed(before, swapped, 20).agreement == pytest.approx(0.4)
    assert changed(before, swapped, 20).is_beyond_recognition


def test_outputs_that_are_not_numbers_are_beyond_recognition() -> None:
    before = torch.tensor([[1.0, 2.0]])
    assert changed(before, before * math.nan, 1).is_beyond_recognition
    assert changed(before, torch.ones(1, 3), 1).relative == math.inf
    masked = torch.tensor([[1.0, -math.inf]])
    assert changed(masked, masked, 1).relative == 0
