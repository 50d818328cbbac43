"""Criteria: one file a family. A criterion is a frozen dataclass that only scores: ``(model, sites) → scores``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from math import inf

from secateur.criteria.activity import ActivationRank, ActiveFraction, MeanActivation
from secateur.criteria.class_accuracy import ClassAccuracy
from secateur.criteria.curvature import HessianTrace, OptimalBrainDamage, OptimalBrainSurgeon
from secateur.criteria.energy import Energy
from secateur.criteria.foresight import GraSP, Snip, SynFlow
from secateur.criteria.layerwise import Lamp
from secateur.criteria.loss_change import Base, LossChange, LossChanges
from secateur.criteria.magnitude import Magnitude
from secateur.criteria.movement import Movement
from secateur.criteria.next_layer import NextLayer
from secateur.criteria.random import Random
from secateur.criteria.reconstruction import Reconstruction, Wanda
from secateur.criteria.redundancy import Correlation, GeometricMedian
from secateur.criteria.removal import Evaluations, evaluate_keeps
from secateur.criteria.scale import NormScale
from secateur.criteria.second_order import SecondOrder
from secateur.criteria.taylor import Taylor
from secateur.types import Criterion, InputError, unknown_name

__all__ = [
    "CRITERIA",
    "ActivationRank",
    "ActiveFraction",
    "Base",
    "ClassAccuracy",
    "Correlation",
    "Energy",
    "Evaluations",
    "GeometricMedian",
    "GraSP",
    "HessianTrace",
    "Lamp",
    "LossChange",
    "LossChanges",
    "Magnitude",
    "MeanActivation",
    "Movement",
    "NextLayer",
    "NormScale",
    "OptimalBrainDamage",
    "OptimalBrainSurgeon",
    "Random",
    "Reconstruction",
    "SecondOrder",
    "Snip",
    "SynFlow",
    "Taylor",
    "Wanda",
    "by_name",
    "evaluate_keeps",
]

CRITERIA: dict[str, Callable[..., Criterion]] = {
    "bn-scale": NormScale,
    "correlation": Correlation,
    "energy": Energy,
    "fpgm": GeometricMedian,
    "l1": partial(Magnitude, p=1),
    "l2": partial(Magnitude, p=2),
    "lamp": Lamp,
    "linf": partial(Magnitude, p=inf),
    "magnitude": Magnitude,
    "random": Random,
    "synflow": SynFlow,
}
"""The criteria that need no data, by the names used in recipes and on the command line."""


def by_name(name: str, **options: object) -> Criterion:
    """Return the criterion called `name`.

    >>> by_name("l1")
    Magnitude(p=1, side='incoming', reduce='joint')
    """
    if name not in CRITERIA:
        raise unknown_name("criterion", name, CRITERIA)
    try:
        return CRITERIA[name](**options)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(type(CRITERIA[name]())))  # type: ignore[arg-type]
        raise InputError(
            f"criterion {name!r} cannot be made with {options}: {error}; its options are {known}"
        ) from error
