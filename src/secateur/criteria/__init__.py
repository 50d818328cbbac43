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
from secateur.criteria.scale import NormScale
from secateur.criteria.second_order import SecondOrder
from secateur.criteria.taylor import Taylor
from secateur.labelled import Data
from secateur.rate.masks import Evaluations, evaluate_keeps
from secateur.types import Criterion, InputError, Loss, unknown_name

__all__ = [
    "CRITERIA",
    "CRITERIA_OF_DATA",
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


CRITERIA_OF_DATA: dict[str, Callable[..., Criterion]] = {
    "activation-rank": ActivationRank,
    "active-fraction": ActiveFraction,
    "grasp": GraSP,
    "hessian-trace": HessianTrace,
    "loss-change": LossChange,
    "mean-activation": MeanActivation,
    "next-layer": NextLayer,
    "obd": OptimalBrainDamage,
    "obs": OptimalBrainSurgeon,
    "reconstruction": Reconstruction,
    "second-order": SecondOrder,
    "snip": Snip,
    "taylor": Taylor,
    "wanda": Wanda,
}
"""The criteria that look at labelled samples, by the names used on the command line; each takes the samples first."""


def by_name(name: str, data: Data | None = None, loss: str | Loss | None = None, **options: object) -> Criterion:
    """Return the criterion called `name`.

    Args:
        name: one of `CRITERIA` or `CRITERIA_OF_DATA`.
        data: the labelled samples that one of `CRITERIA_OF_DATA` looks at; nothing to the others.
        loss: what those take for the loss, by name or as a function; nothing to those that look at none.
        options: what else the criterion takes.

    Raises:
        UnknownNameError: there is no such criterion.
        InputError: it looks at samples and has none, or does not take these options.

    >>> by_name("l1")
    Magnitude(p=1, side='incoming', reduce='joint')
    """
    if name in CRITERIA_OF_DATA and data is None:
        raise InputError(f"criterion {name!r} looks at data: give labelled samples, such as (inputs, targets)")
    every = {**CRITERIA, **CRITERIA_OF_DATA}
    if name not in every:
        raise unknown_name("criterion", name, every)
    given = (data,) if name in CRITERIA_OF_DATA else ()
    if loss is not None and any(field.name == "loss" for field in fields(every[name](*given))):  # type: ignore[arg-type]
        options["loss"] = loss
    try:
        return every[name](*given, **options)
    except TypeError as error:
        known = ", ".join(field.name for field in fields(type(every[name](*given))))  # type: ignore[arg-type]
        raise InputError(
            f"criterion {name!r} cannot be made with {options}: {error}; its options are {known}"
        ) from error
