"""Rank the units once, and remove them by that."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

from secateur.checks import check_fraction, check_name, check_number
from secateur.criteria.loss_change import UnitWorth
from secateur.criteria.loss_change.labels import LABELS, READINGS, Reading
from secateur.labelled import Data
from secateur.rate.masks import Evaluations, Removals
from secateur.result import Result
from secateur.schedules.losses import check_changes
from secateur.schedules.options import check_rating
from secateur.schedules.walk import Schedule, Unit, Walk
from secateur.types import InputError, Loss

__all__ = ["Precomputed"]

BLOCK = 64
"""How many removals are followed at a time; a checkpoint that goes on from within computes at most so many again."""


@dataclass(frozen=True)
class Precomputed(Schedule):
    """Removes units worst first, by loss changes that were measured once on the whole model (Charpentier, 2020).

    What a unit is worth alone says little of what many are worth together: two units that do the same are each *zero*,
    and both go. So this may remove more than the model can spare, which following the loss shows, and `within` prevents.

    Attributes:
        importance: what `LossChange` found on the same model and sites.
        remove: which labels go (see `UnitWorth.label`); or a sparsity: the lowest changes go, whatever their labels.
        data: labelled samples to follow the loss on, one removal a step; None removes all in one step.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        reading: of the labels: ``"practical"``, or ``"significance"``, by which much is *zero* that few samples tell
            nothing of.
        within: stop where the loss that is followed would rise by more than this share of the whole model's; None goes on.
        minimum: how many units every site keeps at least; the worst go first, and what would leave fewer stays.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.criteria import LossChange
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), (torch.eye(2), 0.0, 2 * torch.eye(2), 0.0)):
    ...         _ = parameter.copy_(torch.as_tensor(value))
    >>> data = torch.eye(2), torch.tensor([0, 0])
    >>> sites = channels(model, data[0])
    >>> Precomputed(LossChange(data)(model, sites), remove=0.5, data=data)(model, sites).history.steps[0].units
    (('0', 1),)
    """

    importance: UnitWorth
    remove: tuple[str, ...] | float = ("worse", "zero")
    data: Data | None = field(default=None, repr=False)
    loss: str | Loss = "cross_entropy"
    minimum: int = 1
    reading: Reading = "practical"
    within: float | None = None

    def __post_init__(self) -> None:
        importance: object = self.importance
        if not isinstance(importance, UnitWorth):
            kind = type(importance).__name__
            raise InputError(f"Precomputed: importance is a {kind}; give what LossChange(data)(model, sites) returns")
        if isinstance(self.remove, (tuple, list)):
            for label in self.remove:
                check_name("label", label, LABELS)
        else:
            check_fraction(self, remove=self.remove)
        check_rating(self)
        check_name("reading of labels", self.reading, READINGS)
        check_number(self, "[0, inf)", "a share of the loss; 0.001 is usual", or_none=True, within=self.within)
        if self.within is not None and self.data is None:
            raise InputError("Precomputed: within=... follows the loss; give data to follow it on")

    def _prune(self, walk: Walk) -> Result:
        check_changes(self.importance, walk, "Precomputed")
        labels = {
            (site, n): label
            for site, site_labels in self.importance.label(reading=self.reading).items()
            for n, label in enumerate(site_labels)
        }
        queue = self._queue(walk, labels)
        if self.data is None:
            if queue and not walk.steps:
                base = self.importance.base
                walk.base = (base.loss, base.accuracy)
                nothing = float("nan")
                walk.remove(queue, nothing, nothing, [labels[unit] for unit in queue])
            return walk.finish()
        removals = Removals(walk.model, walk.sites, self.data, self.loss)
        whole = removals([{}])
        walk.begin(float(whole.losses[0]), float(whole.accuracy[0]))
        highest = inf if self.within is None else walk.base[0] + self.within * abs(walk.base[0])
        while left := queue[len(walk.steps) :]:
            if not _follow(walk, removals, left[:BLOCK], labels, highest):
                break
        return walk.finish()

    def _queue(self, walk: Walk, labels: dict[Unit, str]) -> list[Unit]:
        """What goes, in order; the first of equals first."""
        change = {(s, n): x for s, changes in self.importance.items() for n, x in enumerate(changes.flatten().tolist())}
        ranked = sorted(walk.units, key=change.__getitem__)
        removable = set(ranked)
        goal = len(ranked)
        if isinstance(self.remove, (tuple, list)):
            removable = {unit for unit in ranked if labels[unit] in self.remove}
        else:
            goal = walk.goal(self.remove)
        room = {name: site.size - walk.minimum for name, site in walk.sites.items()}
        queue: list[Unit] = []
        for unit in ranked:
            if unit in removable and room[unit[0]] > 0 and len(queue) < goal:
                room[unit[0]] -= 1
                queue.append(unit)
        return queue


def _follow(walk: Walk, removals: Removals, units: list[Unit], labels: dict[Unit, str], highest: float) -> bool:
    """Remove units one after the other, the losses on the way found together; return whether none left the highest loss."""
    masks = [walk.without(units[: count + 1]) for count in range(len(units))]
    evaluations: Evaluations = removals([keep for keep in masks if keep is not None])
    for unit, loss, accuracy in zip(units, evaluations.losses.tolist(), evaluations.accuracy.tolist(), strict=True):
        walk.evaluations += 1
        if loss > highest:
            return False
        walk.remove([unit], loss, accuracy, [labels[unit]])
    return True
