"""What criteria are by default, and their parts by themselves."""

from __future__ import annotations

from dataclasses import MISSING, fields
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss

from secateur.criteria import CRITERIA, ActivationRank, LossChange, NextLayer, SecondOrder, Snip, Taylor
from secateur.criteria.output_curvature import random_roots
from secateur.criteria.read_sums import _crossed
from secateur.criteria.weight_rows import parameters_of
from secateur.structure import channels, weights

BATCH: dict[str, Any] = {"batch_size": 500}
LOSS: dict[str, Any] = {**BATCH, "loss": "cross_entropy"}
WEIGHTS: dict[str, Any] = {"side": "incoming", "reduce": "joint"}
DEFAULTS: dict[str, dict[str, Any]] = {
    "activation-count": {**BATCH, "threshold": 0.0},
    "activation-rank": {**BATCH, "reduce": "joint", "at": "map"},
    "active-fraction": {**BATCH, "threshold": 0.0, "reduce": "joint", "at": "map"},
    "bn-scale": {"reduce": "mean"},
    "correlation": {"reduce": "joint"},
    "energy": {"threshold": 0.01, "bias": True, "relu": False, "channels": "same", "top": 1.0},
    "fpgm": {"reduce": "joint"},
    "grasp": {**LOSS, **WEIGHTS, "temperature": 200.0},
    "hessian-trace": {**LOSS, "seed": 0, "weighted": True, "side": "incoming", "reach": 0.9},
    "joint-loss-change": {**LOSS, "scope": "global", "minimum": 1, "directions": 64, "seed": 0},
    "l1": {**WEIGHTS, "p": 2},
    "l2": {**WEIGHTS, "p": 2},
    "lamp": {},
    "linf": {**WEIGHTS, "p": 2},
    "loss-change": {**LOSS, "progress": False},
    "mean-activation": {**BATCH, "absolute": True, "reduce": "joint"},
    "next-layer": LOSS,
    "obd": {**LOSS, **WEIGHTS, "curvature": "gauss-newton", "probes": 1, "seed": 0},
    "obs": {**LOSS, "block": 64, "damping": 0.001},
    "random": {"seed": 0},
    "reconstruction": BATCH,
    "second-order": {**LOSS, "curvature": "squared", "seed": 0},
    "snip": {**LOSS, **WEIGHTS},
    "synflow": WEIGHTS,
    "taylor": {**LOSS, "on": "activations", "minibatch": 32},
    "wanda": {**BATCH, "side": "outgoing", "reduce": "joint"},
}
"""What stored scores were computed with; what is None by default is left out."""


def defaults_of(kind: type) -> dict[str, Any]:
    return {field.name: field.default for field in fields(kind) if field.default not in (MISSING, None)}


def test_the_defaults_are_those_of_the_scores_that_are_written_down() -> None:
    made = {
        name: entry.make.func if isinstance(entry.make, partial) else entry.make for name, entry in CRITERIA.items()
    }
    assert {name: defaults_of(kind) for name, kind in made.items()} == DEFAULTS  # type: ignore[arg-type]
    assert [entry.make.keywords for entry in CRITERIA.values() if isinstance(entry.make, partial)] == [
        {"p": 1},
        {"p": 2},
        {"p": float("inf")},
    ]


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(self.b(self.a(x).relu()).relu())
        return logits


@pytest.mark.parametrize("find", [channels, lambda model, _: weights(model)], ids=["channels", "weights"])
def test_parameters_have_all_their_names(find: Any) -> None:
    model = Tied()
    parameters = parameters_of(model, find(model, torch.zeros(1, 4)))
    assert parameters.keys() == {f"{layer}.{kind}" for layer in ("a", "b", "out") for kind in ("weight", "bias")}
    assert parameters["b.weight"] is parameters["a.weight"]


def test_what_has_no_classes_has_accuracies_of_no_class() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)), torch.randn(6, 3)
    changes = LossChange((x, torch.zeros(6, 1)), mse_loss)(model, channels(model, x))
    assert changes.base.class_accuracy.shape == changes.base.class_count.shape == (0,)
    assert changes.class_accuracy["0"].shape == (4, 0)


DATA = (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("criterion", "adds_up"),
    [
        (Taylor(DATA), True),
        (Taylor(DATA, sign="signed"), True),
        (Taylor(DATA, sign="absolute"), False),
        (Taylor(DATA, normalise=True), False),
        (Taylor(DATA, mse_loss), False),
        (Taylor(DATA, mse_loss, sign="signed"), True),
        (NextLayer(DATA), True),
        (NextLayer(DATA, mse_loss), False),
        (NextLayer(DATA, mse_loss, sign="signed"), True),
        (NextLayer(DATA, sign="absolute"), False),
        (SecondOrder(DATA), True),
        (LossChange(DATA), True),
        (Snip(DATA), False),
    ],
)
def test_scores_add_up_that_are_changes_of_the_loss(criterion: Any, adds_up: bool) -> None:
    assert criterion.adds_up is adds_up
    scores, keep = {"a": torch.tensor([1.0, 2.0, 4.0])}, {"a": torch.tensor([True, False, False])}
    if not isinstance(criterion, LossChange):
        assert criterion.foretold(scores, keep) == (6.0 if adds_up else None)


def test_sums_by_sample_and_unit_where_both_lie_along_one_dimension() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    samples, units = torch.tensor([[0, 1, 2], [3, 4, 5]]), torch.tensor([[0, 3], [1, 2]])
    assert _crossed(values, samples, units).tolist() == [[1.0, 6.0], [8.0, 0.0]]
    assert _crossed(values, samples[:1], units[1:]).tolist() == [[6.0]]


@pytest.mark.parametrize("between", [[], [nn.ReLU(), nn.Flatten()], [nn.Flatten(), nn.Dropout()]])
def test_ranks_are_those_of_maps_even_where_they_are_flattened(between: list[nn.Module]) -> None:
    torch.manual_seed(0)
    last: nn.Module = (
        nn.Linear(2 * 12, 2) if between else nn.Sequential(nn.Conv2d(2, 1, (3, 4)), nn.Flatten(), nn.Linear(1, 2))
    )
    model, x = nn.Sequential(nn.Conv2d(1, 2, 1), *between, last).eval(), torch.zeros(2, 1, 3, 4)
    x[0, 0, :2, :2], x[1, 0, 0] = torch.eye(2), 1.0  # of rank 2, and 1
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
        model[0].bias.zero_()
    scores = ActivationRank((x, torch.zeros(2, dtype=torch.int64)))(model, channels(model, x))
    assert scores["0"].tolist() == [1.5, 1.5]


@pytest.mark.parametrize("shape", [(3, 2), (2, 2), (4, 2, 3)])
def test_random_roots_have_the_curvature_of_every_output_of_every_sample(shape: tuple[int, ...]) -> None:
    outputs, generator = torch.zeros(shape), torch.Generator().manual_seed(0)
    ((root, sign),) = random_roots(outputs, outputs, mse_loss, generator, "draw")
    each = 2 / outputs[0].numel()  # the second derivative of a mean of squares
    torch.testing.assert_close(root.square(), torch.full(shape, each))
    assert sign == 1
    draws = [next(random_roots(outputs, outputs, mse_loss, generator, "draw"))[0] for _ in range(200)]
    rows = torch.stack(draws).flatten(1)
    torch.testing.assert_close(rows.T @ rows / 200, each * torch.eye(rows.shape[1]), rtol=0, atol=0.3 * each)
