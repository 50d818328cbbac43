"""The criteria and solvers that are held against each other, each with what it looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from torch import nn

from secateur import data
from secateur.solvers import Solver, SparseGPT, ThiNet, WoodFisher
from secateur.studies.kit import making
from secateur.types import Criterion

__all__ = ["CONTROLS", "CRITERIA", "SOLVERS", "Scorer", "Solving", "criterion", "scorers", "solvers"]

CONTROLS = ("random", "magnitude")


@dataclass(frozen=True)
class Scorer:
    """A criterion of the study.

    Attributes:
        units: what it scores: ``channels``, ``weights``.
        options: what it takes beside the images.
        name: what the library calls it, where that is another name than the study's.
    """

    units: tuple[str, ...] = ("channels", "weights")
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Solving:
    """A solver of the study: how it is made of images, what it removes, and within which scope."""

    make: Callable[[data.Images], Solver]
    unit: str
    scope: str

    def made(self, images: data.Images, loss: str) -> Solver:
        """Return the solver on images, with a loss where it takes one."""
        solver = self.make(images)
        return replace(solver, loss=loss) if hasattr(solver, "loss") else solver  # type: ignore[type-var]


_CHANNELS = Scorer(("channels",))

CRITERIA: dict[str, Scorer] = {
    "random": Scorer(),
    "magnitude": Scorer(),
    "l1": _CHANNELS,
    "linf": _CHANNELS,
    "lamp": Scorer(),
    "fpgm": _CHANNELS,
    "correlation": _CHANNELS,
    "energy": _CHANNELS,
    "synflow": Scorer(),
    "snip": Scorer(),
    "grasp": Scorer(),
    "movement": Scorer(),
    "obd": Scorer(options={"curvature": "empirical"}),
    "hessian trace": _CHANNELS,
    "obs": Scorer(("weights",), {"block": 16}),
    "active fraction": _CHANNELS,
    "mean activation": _CHANNELS,
    "activation rank": _CHANNELS,
    "wanda": Scorer(),
    "reconstruction": _CHANNELS,
    "taylor": Scorer(),
    "taylor absolute": Scorer(options={"sign": "absolute"}, name="taylor"),
    "second order": _CHANNELS,
    "next layer": _CHANNELS,
    "loss change": _CHANNELS,
}
"""Every criterion that means something on networks without norms."""


def criterion(name: str, model: nn.Module, images: data.Images, seed: int, loss: str = "cross_entropy") -> Criterion:
    """Return a criterion of the study for a network, the training images that criteria are shown, a seed and a loss."""
    return making.criterion(CRITERIA[name].name or name, model, images, seed, loss, **CRITERIA[name].options)


SOLVERS: dict[str, Solving] = {
    "woodfisher": Solving(partial(WoodFisher, block=16, steps=2), "weights", "global"),
    "sparsegpt": Solving(SparseGPT, "weights", "layer"),
    "thinet": Solving(ThiNet, "channels", "layer"),
}


def scorers(unit: str, names: list[str]) -> list[str]:
    """Return the criteria that score a kind of unit: the controls and those `names`, or all where none is named.

    >>> scorers("weights", ["l1", "snip"])
    ['random', 'magnitude', 'snip']
    """
    asked = {*CONTROLS, *names} if names else CRITERIA
    return [name for name, scorer in CRITERIA.items() if unit in scorer.units and name in asked]


def solvers(unit: str) -> list[str]:
    """Return the solvers that remove a kind of unit.

    >>> solvers("channels")
    ['thinet']
    """
    return [name for name, solving in SOLVERS.items() if solving.unit == unit]
