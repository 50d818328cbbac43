"""The parts of the solvers by themselves: what is added up where a layer is used again, how layers are grouped, the defaults."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from secateur.criteria.layer_inputs import LayerInputs
from secateur.equations import LayerEquations
from secateur.repair.consumers import layer_equations
from secateur.solvers import SparseGPT, StructuredOBS, ThiNet, WoodFisher, joint_refit, output_metrics
from secateur.solvers.joint_refit import GAIN, STEPS, _Curvature, _parts, _step
from secateur.solvers.layer_problems import merged
from secateur.solvers.refitting import Reader, by_fluctuation, by_output
from secateur.structure import channels
from secateur.structure.consumers import layers_of
from secateur.structure.flow import Flow

DEFAULTS: dict[type, dict[str, Any]] = {
    StructuredOBS: {"ridge": 0.01, "last": "auto", "rounds": 4, "batch_size": 500},
    ThiNet: {"damping": 0.001, "batch_size": 500},
    SparseGPT: {"damping": 0.01, "block": 128, "batch_size": 500},
    WoodFisher: {"loss": "cross_entropy", "damping": 0.01, "block": 64, "steps": 4, "batch_size": 500},
}
"""What stored numbers were computed with."""


@pytest.mark.parametrize("solver", DEFAULTS, ids=lambda kind: kind.__name__)
def test_the_defaults_are_those_of_the_numbers_that_are_written_down(solver: type) -> None:
    defaults = {field.name: field.default for field in fields(solver)}
    assert {name: defaults[name] for name in DEFAULTS[solver]} == DEFAULTS[solver]


def test_a_metric_is_drawn_to_its_mean_over_all_outputs_by_three_tenths() -> None:
    root = output_metrics._root(torch.tensor([[1.0, 0.5], [0.5, 3.0]]).double())
    torch.testing.assert_close(root @ root.mT, torch.tensor([[1.3, 0.35], [0.35, 2.7]]).double())


class Twice(nn.Module):
    """A layer that is used twice, on sequences of two lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.again, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.again(x).relu()
        return self.last(self.again(x[:, :2]).relu()).mean(1)  # type: ignore[no-any-return]


def test_a_layer_that_is_used_again_adds_its_inputs_and_their_number() -> None:
    torch.manual_seed(0)
    found = LayerInputs(Twice(), (torch.randn(5, 3, 4), torch.zeros(5).long()), 500, "test")
    first, second = sorted(found.second_moments(["again.weight"])["again.weight"], key=lambda part: -part.count)
    assert (first.count, second.count) == (15, 10)
    (both,) = merged([first, second], "test")
    assert both.count == 25
    assert torch.equal(both.total, first.total + second.total)


def equations(inputs: int, kernel: int = 1) -> LayerEquations:
    weight = torch.zeros(4, inputs, kernel) if kernel > 1 else torch.zeros(4, inputs)
    options = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1} if kernel > 1 else {}
    return LayerEquations(weight, options, [torch.arange(inputs)], bias=False)


@pytest.mark.parametrize(("kernel", "least"), [(1, 60), (3, 180)])
def test_there_are_enough_places_from_ten_a_column_on(kernel: int, least: int) -> None:
    for places, enough in ((least - 1, False), (least, True)):
        curvature = _Curvature(SimpleNamespace(), equations(6, kernel), places=places)  # type: ignore[arg-type]
        assert curvature.is_enough is enough


def test_layers_are_held_together_up_to_a_size_and_those_of_too_many_columns_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns = {"a": 3, "b": 4, "c": 5, "wide": 9, "d": 1}
    monkeypatch.setattr(joint_refit, "_equations", lambda _, name: equations(columns[name]))
    monkeypatch.setattr(joint_refit, "COLUMNS", 8)
    monkeypatch.setattr(joint_refit, "HELD", 8 * (9 + 16))  # a and b fill it to the last byte
    assert _parts(SimpleNamespace(), list(columns)) == [["a", "b"], ["c"], ["d"]]  # type: ignore[arg-type]
    assert _parts(SimpleNamespace(), ["wide"]) == []  # type: ignore[arg-type]


def test_sites_that_no_layer_reads_are_none_that_it_chooses_from() -> None:
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(2, 4)
    sites = channels(model, x)
    assert StructuredOBS((x, torch.zeros(2))).able(model, sites) == ["0", "2"]


@pytest.mark.parametrize("centred", [False, True])
def test_units_go_whose_part_in_their_readers_outputs_is_small_or_steady(centred: bool) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(50, 4)
    with torch.no_grad():
        model[0].bias += torch.linspace(0, 9, 6)  # steady units of great size
        hidden = model[:2](x).double()
    structure, reads = Flow(model, channels(model, x)).at(x)
    (layer,) = (layer for layer in layers_of(structure, reads) if layer.weight == "2.weight")
    equations = layer_equations(layer, model, {}, 0.01)
    equations.add(hidden.float(), torch.zeros(50, 3))
    metric = torch.diag(torch.tensor([1.0, 2.0, 0.5])).double()
    columns = (metric @ model[2].weight.double()).square().sum(0)
    moments = (hidden - hidden.mean(0) * centred).square().sum(0)
    order = (moments * columns).argsort().tolist()
    choose = by_fluctuation if centred else by_output
    readers = [Reader(layer, equations, metric, 0.01)]
    assert choose("0", 6, 6, readers) == order
    assert choose("0", 6, 2, readers * 2) == order[:2]


@pytest.mark.parametrize(
    ("near", "least", "taken"),
    [
        ([0.5, 0.1], 1.0, 0),  # the first that helps, not the best
        ([2.0, 0.5], 1.0, 1),
        ([2.0, 1.0], 1.0, None),
        ([1.0 - GAIN / 2], 1.0, None),  # too little to be more than chance
        ([1.0 - 2 * GAIN], 1.0, 0),
        ([0.0], 0.0, None),  # the student is the teacher already
        ([float("nan")], 1.0, None),
    ],
)
def test_the_longest_step_that_helps_is_gone_and_none_where_nothing_is_to_gain(
    near: list[float], least: float, taken: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_step = dict(zip(STEPS, [*near, *[9.0] * len(STEPS)], strict=False))
    written: list[Any] = []
    monkeypatch.setattr(joint_refit, "_moved", lambda beside, changes, step: step)
    monkeypatch.setattr(joint_refit, "_held_out", lambda beside, wanted, step: by_step[step])
    monkeypatch.setattr(joint_refit, "write", lambda student, step: written.append(step))
    left = _step(SimpleNamespace(student=None), {}, [], least)  # type: ignore[arg-type]
    assert written == ([] if taken is None else [STEPS[taken]])
    assert left == (least if taken is None else near[taken])
    assert list(STEPS) == sorted(STEPS, reverse=True)
