"""The criteria and solvers that are held against each other, each with what it looks at."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf

from torch import nn

from secateur import data
from secateur.criteria import (
    ActivationRank,
    ActiveFraction,
    Correlation,
    Energy,
    GeometricMedian,
    GraSP,
    HessianTrace,
    Lamp,
    LossChange,
    Magnitude,
    MeanActivation,
    Movement,
    NextLayer,
    OptimalBrainDamage,
    OptimalBrainSurgeon,
    Random,
    Reconstruction,
    SecondOrder,
    Snip,
    SynFlow,
    Taylor,
    Wanda,
)
from secateur.solvers import Solver, SparseGPT, ThiNet, WoodFisher
from secateur.train import SumMovement, fit
from secateur.types import Criterion

__all__ = ["CONTROLS", "CRITERIA", "SOLVERS", "Scorer", "Solving", "scorers", "solvers"]

Make = Callable[[nn.Module, data.Split, int], Criterion]

CONTROLS = ("random", "magnitude")


@dataclass(frozen=True)
class Scorer:
    """A criterion of the study.

    Attributes:
        make: from the network, the training images that criteria are shown, and a seed.
        units: what it scores: ``channels``, ``weights``.
    """

    make: Make
    units: tuple[str, ...] = ("channels", "weights")


@dataclass(frozen=True)
class Solving:
    """A solver of the study: how it is made of images, what it removes, and within which scope."""

    make: Callable[[data.Split], Solver]
    unit: str
    scope: str


def _shown(criterion: Callable[..., Criterion]) -> Make:
    return lambda model, images, seed: criterion(images)


def _blind(criterion: Callable[..., Criterion]) -> Make:
    return lambda model, images, seed: criterion()


def _movement(model: nn.Module, images: data.Split, seed: int) -> Criterion:
    """Sum the movement of one epoch on the images, in a copy."""
    moved = SumMovement()
    fit(copy.deepcopy(model), images, epochs=1, batch_size=32, seed=seed, callbacks=[moved])
    return Movement(moved.moved)


_CHANNELS = ("channels",)

CRITERIA: dict[str, Scorer] = {
    "random": Scorer(lambda model, images, seed: Random(seed)),
    "magnitude": Scorer(_blind(partial(Magnitude, p=2))),
    "l1": Scorer(_blind(partial(Magnitude, p=1)), _CHANNELS),
    "linf": Scorer(_blind(partial(Magnitude, p=inf)), _CHANNELS),
    "lamp": Scorer(_blind(Lamp)),
    "fpgm": Scorer(_blind(GeometricMedian), _CHANNELS),
    "correlation": Scorer(_blind(Correlation), _CHANNELS),
    "energy": Scorer(_blind(Energy), _CHANNELS),
    "synflow": Scorer(lambda model, images, seed: SynFlow(images.images[:1])),
    "snip": Scorer(_shown(Snip)),
    "grasp": Scorer(_shown(GraSP)),
    "movement": Scorer(_movement),
    "obd": Scorer(_shown(partial(OptimalBrainDamage, curvature="empirical"))),
    "hessian trace": Scorer(_shown(HessianTrace), _CHANNELS),
    "obs": Scorer(_shown(partial(OptimalBrainSurgeon, block=16)), ("weights",)),
    "active fraction": Scorer(_shown(ActiveFraction), _CHANNELS),
    "mean activation": Scorer(_shown(MeanActivation), _CHANNELS),
    "activation rank": Scorer(_shown(ActivationRank), _CHANNELS),
    "wanda": Scorer(_shown(Wanda)),
    "reconstruction": Scorer(_shown(Reconstruction), _CHANNELS),
    "taylor": Scorer(_shown(Taylor)),
    "taylor absolute": Scorer(_shown(partial(Taylor, sign="absolute"))),
    "second order": Scorer(_shown(SecondOrder), _CHANNELS),
    "next layer": Scorer(_shown(NextLayer), _CHANNELS),
    "loss change": Scorer(_shown(LossChange), _CHANNELS),
}
"""Every criterion that means something on networks without norms."""

SOLVERS: dict[str, Solving] = {
    "woodfisher": Solving(partial(WoodFisher, block=16, steps=2), "weights", "global"),
    "sparsegpt": Solving(SparseGPT, "weights", "layer"),
    "thinet": Solving(ThiNet, "channels", "layer"),
}


def scorers(unit: str, wanted: list[str]) -> list[str]:
    """Return the criteria that score a kind of unit, those `wanted`, or all where none is named.

    >>> scorers("weights", ["l1", "snip"])
    ['snip']
    """
    return [name for name, one in CRITERIA.items() if unit in one.units and (not wanted or name in wanted)]


def solvers(unit: str) -> list[str]:
    """Return the solvers that remove a kind of unit.

    >>> solvers("channels")
    ['thinet']
    """
    return [name for name, one in SOLVERS.items() if one.unit == unit]
