"""What all transforms share: the model is left alone, and nothing unverified leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import nn

from secateur.edits import Depth
from secateur.pruning import prune
from secateur.testing.toys import same_state, snapshot
from secateur.transforms import TRANSFORMS, LowRank, Transform, Transformed
from secateur.types import ExampleInputs, InputError, VerificationError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))


@dataclass(frozen=True)
class Skipping(Transform):
    """Leaves out the third module, and says what it is told to have done."""

    kind: ClassVar[str] = "skipping"
    edits: tuple[Depth, ...] = field(default=(Depth({"2": False}),))
    outputs: int = 4

    def _transform(self, model: nn.Module, example_inputs: ExampleInputs) -> Transformed:
        small = Depth({"2": False}).apply(model)
        if self.outputs != 4:
            small.append(nn.Linear(4, self.outputs))  # type: ignore[operator]
        return Transformed(small, self.edits)


def test_a_transform_gives_a_result_and_leaves_the_model() -> None:
    model, x = network(), torch.randn(3, 12)
    before = snapshot(model)
    result = Skipping()(model, x)
    assert same_state(before, snapshot(model))
    assert result.original is model
    assert result.report.parameters == (20 * 12 + 20 + 420 + 84, 260 + 84)
    assert result.report.macs == (3 * (240 + 400 + 80), 3 * (240 + 80))
    assert result.change is not None
    assert "done again to the original" in result.report.verified
    assert torch.equal(result.apply(network())(x), result.model(x))


def test_nothing_done_is_an_error() -> None:
    with pytest.raises(InputError, match="Skipping: no layer was changed"):
        Skipping(edits=())(network(), torch.randn(1, 12))


def test_edits_that_do_not_give_the_model_again_are_refused() -> None:
    with pytest.raises(VerificationError, match="Skipping"):
        Skipping(edits=(Depth({"0": False}),))(network(), torch.randn(1, 12))


def test_outputs_of_another_shape_are_refused() -> None:
    with pytest.raises(VerificationError, match="does not answer in the form"):
        Skipping(outputs=5)(network(), torch.randn(1, 12))


def test_models_with_nan_are_refused() -> None:
    model = network()
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"0\.weight"):
        Skipping()(model, torch.randn(1, 12))


def test_transforms_are_known_by_name() -> None:
    assert TRANSFORMS["low-rank"] is LowRank
    assert all(kind == transform.kind for kind, transform in TRANSFORMS.items())


def test_a_report_says_what_became_of_each_layer() -> None:
    report = LowRank(rank=2)(network(), torch.randn(1, 12)).report
    text = str(report)
    assert text.startswith("3 layers changed by LowRank(rank=2)\n")
    assert "0: rank 2 of 12, parameters 260 → 84, error" in text
    assert report.unit == "layers"
    assert report.to_dict()["layers"][0]["name"] == "0"


def test_after_a_cut_the_report_says_both() -> None:
    x = torch.randn(2, 12)
    cut = prune(network(), x, "l2", 0.5, latency=False)
    both = LowRank(rank=1)(cut.model, x).after(cut)
    assert both.original is cut.original
    assert [edit.kind for edit in both.edits] == ["cut", "low-rank"]
    assert both.report.units == 40
    assert both.report.unit == "channels"
    assert both.report.frozen["4"] == "the model's output"
    assert "rank 1 of 10" in str(both.report)
    assert both.report.macs[1] < cut.report.macs[1]  # type: ignore[index]
    assert torch.equal(both.apply(network())(x), both.model(x))


def test_a_cut_after_low_rank_says_both() -> None:
    x = torch.randn(2, 12)
    split = LowRank(rank=4)(network(), x)
    both = prune(split.model, x, "l2", 0.5, latency=False).after(split)
    assert [edit.kind for edit in both.edits] == ["low-rank", "cut"]
    assert [layer.name for layer in both.layers] == ["0", "2"]
    assert both.model[0][0].out_features == 2
    assert torch.equal(both.apply(network())(x), both.model(x))
    # The rows of the layer's own outputs are those that are left of the second factor's.
    left = both.channels_left("0", "4")
    assert left["0"] is not None
    assert len(left["0"]) == both.model[0][1].out_features == 10
    assert left["4"] is None
