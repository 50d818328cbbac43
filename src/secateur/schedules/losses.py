"""The loss change of every unit that is left, kept up to date while units are removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.criteria.loss_change import Base, LossChange, UnitWorth
from secateur.labelled import Data
from secateur.losses import loss_function
from secateur.rate.last import LastLayer
from secateur.rate.masks import Removals
from secateur.schedules.walk import Unit, Walk
from secateur.structure.sites import with_zeros
from secateur.types import InputError, Loss

__all__ = ["Losses", "check_changes", "losses_of"]


class Losses(Protocol):
    """Loss changes that follow removals."""

    def changes(self) -> UnitWorth:
        """The changes of all units from what is kept now; those of removed units mean nothing."""
        ...

    def remove(self, unit: Unit) -> None:
        """Follow the removal of a unit."""
        ...


def losses_of(walk: Walk, data: Data, loss: str | Loss, max_memory: int | None) -> Losses:
    """Return the fastest exact way to follow the losses from where the walk is."""
    removals = Removals(walk.model, walk.sites, data, loss, max_memory)
    last = removals.last_layer() if loss_function(loss) is cross_entropy else None
    followed: Losses = Measured(walk, LossChange(data, loss, max_memory)) if last is None else LastOnly(walk, *last)
    for step in walk.steps:
        for unit in step.units:
            followed.remove(unit)
    return followed


@dataclass(eq=False)
class Measured:
    """Measures the masked model anew each time."""

    walk: Walk
    criterion: LossChange

    def changes(self) -> UnitWorth:
        """Return the changes."""
        walk = self.walk
        masked = with_zeros(walk.model, walk.sites, walk.keep) if walk.gone else walk.model
        return self.criterion(masked, walk.sites)

    def remove(self, unit: Unit) -> None:
        """Nothing to do: the walk's own masks tell."""


@dataclass(eq=False)
class LastOnly:
    """Follows the units that only the last linear layer reads, by what a removal changes on the samples it touches."""

    walk: Walk
    layer: LastLayer
    columns: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        # Before any removal: what goes on from a checkpoint adds up the same numbers in the same order, to the last bit.
        self.layer.changes()

    def changes(self) -> UnitWorth:
        """Return the changes; infinite for units that are gone."""
        column_changes, layer = self.layer.changes(), self.layer
        count, right = int(layer.counts.sum()), layer.right
        base = Base(layer.loss, int(right.sum()) / count, right / layer.counts.double(), count, layer.counts)
        worth = UnitWorth(base)
        variance = (column_changes.square - column_changes.loss.square()).clamp(min=0) / max(count - 1, 1)
        error = torch.where(column_changes.loss.isinf(), 0.0, variance.sqrt())
        hits = column_changes.right.t() - right
        for name, columns in self.columns.items():
            worth[name] = column_changes.loss[columns]
            worth.error[name] = error[columns]
            worth.accuracy[name] = hits[columns].sum(1).double() / count
            worth.class_accuracy[name] = hits[columns] / layer.counts.double()
            worth.exact[name] = torch.ones(len(columns), dtype=torch.bool)
        return worth

    def remove(self, unit: Unit) -> None:
        """Follow the removal of a unit."""
        name, number = unit
        self.layer.remove(int(self.columns[name][number]))


def check_changes(changes: Mapping[str, Tensor], walk: Walk, doing: str) -> None:
    """Refuse changes that are not those of the walk's sites, or NaN.

    Raises:
        InputError: with the site.
    """
    for name, site in walk.sites.items():
        if name not in changes or tuple(changes[name].shape) != site.shape:
            shape = tuple(changes[name].shape) if name in changes else None
            raise InputError(f"{doing}: site {name!r} has shape {site.shape}, its changes {shape}; measure these sites")
        if bool(changes[name].isnan().any()):
            raise InputError(f"{doing}: the changes of {name!r} hold NaN; repair the model or its data")
