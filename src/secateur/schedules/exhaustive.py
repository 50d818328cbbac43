"""Remove the unit that the model is best without, measure all anew, and so on."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from secateur.checks import check_fraction, check_number, check_whole
from secateur.criteria.loss_change import UnitWorth
from secateur.labelled import Data
from secateur.result import Result
from secateur.schedules.losses import check_changes, losses_of
from secateur.schedules.options import check_rating
from secateur.schedules.walk import Schedule, Unit, Walk
from secateur.types import InputError, Loss

__all__ = ["Exhaustive"]


@dataclass(frozen=True)
class Exhaustive(Schedule):
    """Removes the unit whose removal lowers the loss most, measures all others exactly anew, and so on (Charpentier, 2020).

    Of equals the first goes. Each step costs the loss change of every unit that is left; where the sites are read only
    by the last layer, as in a network of one hidden layer, what a removal leaves untouched is not computed again.

    Attributes:
        data: labelled samples, as `LossChange` takes them.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        until: ``"no improvement"`` ends where no single removal lowers the loss; a sparsity goes on to that fraction of
            all units, through removals that cost something.
        tolerance: an improvement counts when it is above this (and above what rounding does, 1e-7 of the loss).
        minimum: how many units every site keeps at least.
        max_memory: bytes that the measuring may take.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), (torch.eye(2), 0.0, 2 * torch.eye(2), 0.0)):
    ...         _ = parameter.copy_(torch.as_tensor(value))
    >>> inputs, labels = torch.eye(2), torch.tensor([0, 0])
    >>> pruned = Exhaustive((inputs, labels))(model, channels(model, inputs))
    >>> log = pruned.history
    >>> log.removed, round(log.loss_before, 4), round(log.loss, 4)
    ([('0', 1)], 1.1269, 0.41)
    >>> pruned.model[0].out_features
    1
    """

    data: Data = field(repr=False)
    loss: str | Loss = "cross_entropy"
    until: Literal["no improvement"] | float = "no improvement"
    tolerance: float = 0.0
    minimum: int = 1
    max_memory: int | None = None

    def __post_init__(self) -> None:
        check_rating(self)
        check_number(self, "[0, inf)", tolerance=self.tolerance)
        check_whole(self, or_none=True, max_memory=self.max_memory)
        if isinstance(self.until, str):
            if self.until != "no improvement":
                raise InputError(f"Exhaustive: until={self.until!r}; give 'no improvement', or a sparsity in [0, 1]")
        else:
            check_fraction(self, until=self.until)

    def _prune(self, walk: Walk) -> Result:
        goal = None if isinstance(self.until, str) else walk.goal(self.until)
        losses = losses_of(walk, self.data, self.loss, self.max_memory)
        while goal is None or walk.gone < goal:
            worth = losses.changes()
            check_changes(worth, walk, "Exhaustive")
            if not walk.steps:
                walk.begin(worth.base.loss, worth.base.accuracy)
            walk.check(walk.loss, worth.base.loss)
            best, change = lowest(worth, walk)
            walk.evaluations += sum(walk.left.values())
            if best is None or (goal is None and not walk.better(worth.base.loss + change, self.tolerance)):
                break
            name, number = best
            accuracy = worth.base.accuracy + float(worth.accuracy[name].flatten()[number])
            label = worth.label(reading="significance")[name][number]
            walk.remove([best], worth.base.loss + change, accuracy, [label], worth.base.loss)
            losses.remove(best)
        return walk.finish()


def lowest(worth: UnitWorth, walk: Walk) -> tuple[Unit | None, float]:
    """The removable unit of the lowest change, the first of equals, and its change."""
    best: Unit | None = None
    least = inf
    for name, change in worth.items():
        if walk.left[name] > walk.minimum:
            free = change.flatten().double().cpu().masked_fill(~walk.keep[name].flatten(), inf)
            number = int(free.argmin())
            if free[number] < least:
                best, least = (name, number), float(free[number])
    return best, least
