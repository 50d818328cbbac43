"""Every road that data take, with every kind of outputs and losses: each must do what it does for one tensor of numbers.

A kind has a twin: the same layers behind one tensor of outputs, with a loss that says the same of it. Scores, losses and
masks of both must agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur import criteria, schedules, search, solvers
from secateur.criteria import CRITERIA, by_name
from secateur.structure import channels, weights

COUNT = 24


class Body(nn.Module):
    """Two hidden layers under two heads of 3 and 2 outputs, whose outputs a kind arranges."""

    def __init__(self, arranged: Callable[[Tensor, Tensor], Any], columns: int = 3) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 6)
        self.left, self.right = nn.Linear(6, columns), nn.Linear(6, 2)
        self.arranged = arranged

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return self.arranged(self.left(h), self.right(h))


@dataclass
class Pair:
    """Outputs in a dataclass that torch does not know."""

    left: Tensor
    right: Tensor
    note: str = "no tensor"


@dataclass
class HubLike(OrderedDict):  # type: ignore[type-arg]
    """Outputs as those of the Hugging Face hub are: fields of a dataclass and entries of a mapping at once."""

    left: Tensor | None = None
    right: Tensor | None = None

    def __post_init__(self) -> None:
        for entry in fields(self):
            OrderedDict.__setitem__(self, entry.name, getattr(self, entry.name))

    def __reduce__(self) -> Any:
        return type(self), tuple(getattr(self, entry.name) for entry in fields(self))


class Named(NamedTuple):
    """Outputs in a tuple with names."""

    left: Tensor
    right: Tensor


@dataclass(frozen=True)
class Kind:
    """Outputs, targets and a loss, with what they are as one tensor."""

    arranged: Callable[[Tensor, Tensor], Any]
    targets: Callable[[Tensor], Any]
    loss: Any
    twin: Callable[[Tensor, Tensor], Tensor]
    twin_loss: Callable[[Tensor, Tensor], Tensor]
    columns: int = 3


def _only_left(left: Tensor, right: Tensor) -> Tensor:
    return left


def _side_by_side(left: Tensor, right: Tensor) -> Tensor:
    return torch.cat([left, right], 1)


def _huber_and_l1(left: Tensor, right: Tensor, y: Tensor) -> Tensor:
    """A loss of two heads; smooth, and not that of any name."""
    return F.smooth_l1_loss(left, y[:, :3]) + 0.5 * (right - y[:, 3:]).square().mean()


def _of_columns(outputs: Tensor, y: Tensor) -> Tensor:
    return _huber_and_l1(outputs[:, :3], outputs[:, 3:], y)


def _numbers(y: Tensor) -> Tensor:
    return y


def _mse(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets.reshape(outputs.shape)).square().mean()


def _bce(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.softplus(outputs).mean() - (outputs * targets).mean()


def _many(arranged: Callable[[Tensor, Tensor], Any], of: Callable[[Any], tuple[Tensor, Tensor]]) -> Kind:
    return Kind(arranged, _numbers, lambda o, y: _huber_and_l1(*of(o), y), _side_by_side, _of_columns)


KINDS: Mapping[str, Kind] = {
    "one number": Kind(lambda a, b: a.squeeze(1), lambda y: y[:, 0], "mse", _only_left, _mse, 1),
    "one column": Kind(_only_left, lambda y: y[:, :1], "mse", _only_left, _mse, 1),
    "several numbers": Kind(_only_left, lambda y: y[:, :3], "mse", _only_left, _mse),
    "several labels": Kind(_only_left, lambda y: (y[:, :3] > 0).float(), "bce", _only_left, _bce),
    "labels as whole numbers": Kind(_only_left, lambda y: (y[:, :3] > 0).long(), "bce", _only_left, _bce),
    "a loss of one's own": Kind(
        _only_left,
        lambda y: y[:, :3],
        lambda o, y: F.huber_loss(o, y, delta=0.3),
        _only_left,
        lambda o, y: F.huber_loss(o, y, delta=0.3),
    ),
    "logits of a name": Kind(lambda a, b: {"logits": a, "hidden": b}, lambda y: y[:, :3], "mse", _only_left, _mse),
    "tuple": _many(lambda a, b: (a, b), lambda o: o),
    "list in a tuple": _many(lambda a, b: (a, [None, b]), lambda o: (o[0], o[1][1])),
    "named tuple": _many(Named, lambda o: (o.left, o.right)),
    "dict": _many(lambda a, b: {"left": a, "right": b}, lambda o: (o["left"], o["right"])),
    "dict of one": Kind(
        lambda a, b: {"left": a}, lambda y: y[:, :3], lambda o, y: F.mse_loss(o["left"], y), _only_left, _mse
    ),
    "dataclass": _many(Pair, lambda o: (o.left, o.right)),
    "as the hub's": _many(HubLike, lambda o: (o.left, o["right"])),
    "targets in a tuple": Kind(
        lambda a, b: (a, b),
        lambda y: (y[:, :3], y[:, 3:]),
        lambda o, y: _huber_and_l1(*o, torch.cat(y, 1)),
        _side_by_side,
        _of_columns,
    ),
    "targets in a dict": Kind(
        Pair,
        lambda y: {"left": y[:, :3], "right": y[:, 3:]},
        lambda o, y: _huber_and_l1(o.left, o.right, torch.cat([y["left"], y["right"]], 1)),
        _side_by_side,
        _of_columns,
    ),
}


@dataclass(frozen=True)
class Case:
    """A model with its data and its loss."""

    model: nn.Module
    data: Any
    loss: Any
    inputs: Tensor = field(repr=False)


def _samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(COUNT, 4, generator=generator)
    return x, torch.cat([x.sin(), x[:, :1] * x[:, 1:2]], 1) + 0.1 * torch.randn(COUNT, 5, generator=generator)


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return made(request.param)


def made(name: str, twin: bool = False) -> Case:
    """The case of a kind, or its twin."""
    kind, (x, y) = KINDS[name], _samples()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Body(kind.twin if twin else kind.arranged, kind.columns).eval()
    if not twin:
        return Case(model, (x, kind.targets(y)), kind.loss, x)
    plain = {"one number": y[:, :1]}.get(name, kind.targets(y))
    if not isinstance(plain, Tensor):
        plain = y
    return Case(model, (x, plain), kind.twin_loss, x)


ALL = pytest.mark.parametrize("name", KINDS)

SITES = {"obs": weights}
"""The criteria of single weights; all others are asked about channels."""


def _scores(name: str, case: Case) -> Iterator[Tensor]:
    sites = SITES.get(name, channels)(*((case.model,) if name in SITES else (case.model, case.inputs[:2])))
    options = {"curvature": "empirical"} if name == "obd" else {}
    scores = by_name(name, case.data, case.loss, **options)(case.model, sites)
    for site in ("first", "second") if name not in SITES else ("first.weight", "second.weight"):
        yield scores[site]


OF_DATA = [name for name, entry in CRITERIA.items() if entry.needs_data]


@ALL
@pytest.mark.parametrize("criterion", OF_DATA)
def test_scores_are_those_of_one_tensor(criterion: str, name: str) -> None:
    scores, expected = list(_scores(criterion, made(name))), list(_scores(criterion, made(name, twin=True)))
    for ours, theirs in zip(scores, expected, strict=True):
        assert float(ours.std()) > 0
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-4, atol=1e-6)
