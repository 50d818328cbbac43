"""Remove some units at random, and put them back if the model is worse for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from secateur.checks import check_whole
from secateur.labelled import Data
from secateur.rate.masks import Removals
from secateur.result import Result
from secateur.schedules.options import check_rating
from secateur.schedules.walk import Schedule, Walk
from secateur.types import InputError, Loss

__all__ = ["Shrink"]


@dataclass(frozen=True)
class Shrink(Schedule):
    """Removes `n` random units at a time, and restores them where the loss rises (Charpentier, 2020, Algorithm 2).

    The printed algorithm lost its middle; the reading is: draw n of the units that were not tried yet, remove them, keep
    the removal if the loss does not rise, else restore; units are tried once; stop when fewer than n are left. Drawing
    so is going through a random order of all units in blocks of n.

    Attributes:
        n: how many units are removed at a time.
        data: labelled samples, those of the training: a `Split`, a pair (inputs, targets), or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        seed: of the order.
        minimum: how many units every site keeps at least; a draw that would leave fewer is restored unmeasured.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), (torch.eye(2), 0.0, 2 * torch.eye(2), 0.0)):
    ...         _ = parameter.copy_(torch.as_tensor(value))
    >>> inputs, labels = torch.eye(2), torch.tensor([0, 0])
    >>> Shrink(1, (inputs, labels))(model, channels(model, inputs)).history.removed
    [('0', 1)]
    """

    n: int
    data: Data = field(repr=False)
    loss: str | Loss = "cross_entropy"
    seed: int = 0
    minimum: int = 1

    remembers: ClassVar[Mapping[str, Any]] = {"tried": int}

    def __post_init__(self) -> None:
        check_whole(self, n=self.n)
        check_whole(self, 0, seed=self.seed)
        check_rating(self)

    def _prune(self, walk: Walk) -> Result:
        units = walk.units
        if self.n > len(units):
            raise InputError(f"Shrink: n={self.n} units are to go at a time, and there are {len(units)} in all")
        removals = Removals(walk.model, walk.sites, self.data, self.loss)
        whole = removals([{}])
        walk.begin(float(whole.losses[0]), float(whole.accuracy[0]))
        order = [units[at] for at in np.random.default_rng(self.seed).permutation(len(units))]
        for tried in range(walk.memory.get("tried", 0), len(order) - self.n + 1, self.n):
            unit_group = order[tried : tried + self.n]
            keep = walk.without(unit_group)
            if keep is None:
                continue
            evaluation = removals([keep])
            walk.evaluations += 1
            if not walk.worse(float(evaluation.losses[0])):
                walk.memory["tried"] = tried + self.n
                walk.remove(unit_group, float(evaluation.losses[0]), float(evaluation.accuracy[0]))
        return walk.finish()
