"""Criteria: one file a family. A criterion is a frozen dataclass that only scores: ``(model, sites) → scores``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from math import inf

from secateur.calls import looking
from secateur.criteria.activity import ActivationCount, ActivationRank, ActiveFraction, MeanActivation
from secateur.criteria.base import CriterionBase, DataCriterion, LossCriterion
from secateur.criteria.class_accuracy import ClassAccuracy
from secateur.criteria.curvature import OptimalBrainDamage, OptimalBrainSurgeon
from secateur.criteria.energy import Energy
from secateur.criteria.foresight import GraSP, Snip, SynFlow
from secateur.criteria.hessian_trace import HessianTrace, TraceScores
from secateur.criteria.joint_loss_change import JointLossChange, JointWorth
from secateur.criteria.layerwise import Lamp
from secateur.criteria.loss_change import Base, LossChange, UnitWorth
from secateur.criteria.magnitude import Magnitude
from secateur.criteria.movement import Movement
from secateur.criteria.next_layer import NextLayer
from secateur.criteria.random import Random
from secateur.criteria.reconstruction import Reconstruction, Wanda
from secateur.criteria.redundancy import Correlation, GeometricMedian
from secateur.criteria.scale import NormScale
from secateur.criteria.second_order import SecondOrder
from secateur.criteria.taylor import Taylor
from secateur.hints import Checked
from secateur.labelled import Data
from secateur.types import Criterion, InputError, Loss, unknown_name

__all__ = [
    "CRITERIA",
    "ActivationCount",
    "ActivationRank",
    "ActiveFraction",
    "Base",
    "ClassAccuracy",
    "Correlation",
    "CriterionBase",
    "DataCriterion",
    "Energy",
    "Entry",
    "GeometricMedian",
    "GraSP",
    "HessianTrace",
    "JointLossChange",
    "JointWorth",
    "Lamp",
    "LossChange",
    "LossCriterion",
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
    "TraceScores",
    "UnitWorth",
    "Wanda",
    "by_name",
    "entry",
    "names",
]


@dataclass(frozen=True)
class Entry(Checked):
    """A criterion in the table.

    Attributes:
        make: what makes it; one that looks at data takes them first.
        needs_data: whether it looks at labelled samples.
    """

    make: Callable[..., Criterion]
    needs_data: bool = False


CRITERIA: Mapping[str, Entry] = {
    "activation-count": Entry(ActivationCount, needs_data=True),
    "activation-rank": Entry(ActivationRank, needs_data=True),
    "active-fraction": Entry(ActiveFraction, needs_data=True),
    "bn-scale": Entry(NormScale),
    "correlation": Entry(Correlation),
    "energy": Entry(Energy),
    "fpgm": Entry(GeometricMedian),
    "grasp": Entry(GraSP, needs_data=True),
    "hessian-trace": Entry(HessianTrace, needs_data=True),
    "joint-loss-change": Entry(JointLossChange, needs_data=True),
    "l1": Entry(partial(Magnitude, p=1)),
    "l2": Entry(partial(Magnitude, p=2)),
    "lamp": Entry(Lamp),
    "linf": Entry(partial(Magnitude, p=inf)),
    "loss-change": Entry(LossChange, needs_data=True),
    "mean-activation": Entry(MeanActivation, needs_data=True),
    "next-layer": Entry(NextLayer, needs_data=True),
    "obd": Entry(OptimalBrainDamage, needs_data=True),
    "obs": Entry(OptimalBrainSurgeon, needs_data=True),
    "random": Entry(Random),
    "reconstruction": Entry(Reconstruction, needs_data=True),
    "second-order": Entry(SecondOrder, needs_data=True),
    "snip": Entry(Snip, needs_data=True),
    "synflow": Entry(SynFlow),
    "taylor": Entry(Taylor, needs_data=True),
    "wanda": Entry(Wanda, needs_data=True),
}
"""All criteria, by the names used in the library, on the command line, in TOML files and in studies."""

OTHER_SPELLINGS = {"magnitude": "l2"}
"""Spellings that are understood too: recipes of studies hold them, and words with spaces in the place of hyphens."""


def names() -> list[str]:
    """Return the names of all criteria.

    >>> names()[:3]
    ['activation-count', 'activation-rank', 'active-fraction']
    """
    return sorted(CRITERIA)


@looking
def entry(name: str) -> Entry:
    """Return the table's entry of the criterion called `name`.

    Raises:
        UnknownNameError: there is no such criterion.

    >>> entry("loss-change").needs_data, entry("loss change").needs_data, entry("l2").needs_data
    (True, True, False)
    """
    spelling = OTHER_SPELLINGS.get(name, str(name).replace(" ", "-"))
    if spelling not in CRITERIA:
        raise unknown_name("criterion", name, CRITERIA)
    return CRITERIA[spelling]


@looking
def by_name(name: str, data: Data | None = None, loss: str | Loss | None = None, **options: object) -> Criterion:
    """Return the criterion called `name`.

    Args:
        name: one of `names`.
        data: the labelled samples that it looks at; nothing to one that looks at none.
        loss: what it takes for the loss, by name or as a function; nothing to one that has none.
        options: what else the criterion takes.

    Raises:
        UnknownNameError: there is no such criterion.
        InputError: it looks at samples and has none, or does not take these options.

    >>> by_name("l1")
    Magnitude(p=1, side='incoming', reduce='joint')
    """
    row = entry(name)
    if row.needs_data and data is None:
        raise InputError(f"criterion {name!r} looks at data: give labelled samples, such as (inputs, targets)")
    samples = (data,) if row.needs_data else ()
    option_names = [field.name for field in fields(row.make(*samples))]  # type: ignore[arg-type]
    if loss is not None and "loss" in option_names:
        options["loss"] = loss
    try:
        return row.make(*samples, **options)
    except TypeError as error:
        raise InputError(
            f"criterion {name!r} cannot be made with {options}: {error}; its options are {', '.join(option_names)}"
        ) from error
