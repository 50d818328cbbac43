"""Remove the first unit that the model is no worse without, and so on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from secateur.checks import check_name, check_number, check_whole
from secateur.criteria.base import scores_of
from secateur.labelled import Data
from secateur.rate.masks import Removals
from secateur.result import Result
from secateur.schedules.options import check_rating
from secateur.schedules.walk import Schedule, Unit, Walk
from secateur.types import Criterion, InputError, Loss

__all__ = ["Greedy"]

Order = Literal["given", "random", "estimated"]
ORDERS = ("given", "random", "estimated")


@dataclass(frozen=True)
class Greedy(Schedule):
    """Walks over the units and removes the first whose removal improves the loss or does not matter, and so on.

    The greedy counterpart of `Exhaustive` (Charpentier, 2020). A round is one walk, up to its first removal; the next
    starts at the beginning, and leaves out for some rounds the units that were found important. The pruning ends when
    every unit that is left was measured since the last removal and is needed, or is left out for good.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        tolerance: the change of the loss that does not matter; each removal may cost so much, so many may add up
            (what rounding does, 1e-7 of the loss, never matters).
        skip_rounds: how many of the next rounds leave an important unit out; None leaves it out for good.
        skip_above: a unit whose removal changes the loss by more than this is important; None: more than `tolerance`.
        order: units as they are ``"given"``, in a ``"random"`` order anew for each round, or by what is ``"estimated"``
            of the whole model, lowest first.
        estimate: what estimates, such as `Taylor`.
        seed: of the random orders.
        minimum: how many units every site keeps at least.

    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), (torch.eye(2), 0.0, 2 * torch.eye(2), 0.0)):
    ...         _ = parameter.copy_(torch.as_tensor(value))
    >>> inputs, labels = torch.eye(2), torch.tensor([0, 0])
    >>> pruned = Greedy((inputs, labels))(model, channels(model, inputs))
    >>> pruned.history.removed, pruned.history.evaluations  # the whole model, unit 0 in vain, unit 1
    ([('0', 1)], 3)
    """

    data: Data = field(repr=False)
    loss: str | Loss = "cross_entropy"
    tolerance: float = 0.0
    skip_rounds: int | None = 2
    skip_above: float | None = None
    order: Order = "given"
    estimate: Criterion | None = None
    seed: int = 0
    minimum: int = 1

    remembers: ClassVar[Mapping[str, Any]] = {"waits": tuple[tuple[str, int, int | None], ...], "round": int}

    def __post_init__(self) -> None:
        check_rating(self)
        check_number(self, "[0, inf)", tolerance=self.tolerance)
        check_number(self, "[0, inf)", or_none=True, skip_above=self.skip_above)
        check_whole(self, 0, or_none=True, skip_rounds=self.skip_rounds)
        check_whole(self, 0, seed=self.seed)
        check_name("order", self.order, ORDERS)
        if (self.order == "estimated") != (self.estimate is not None):
            raise InputError('Greedy: order="estimated" and estimate=… (such as Taylor(data)) go together')

    def _prune(self, walk: Walk) -> Result:
        removals = Removals(walk.model, walk.sites, self.data, self.loss)
        whole = removals([{}])
        walk.begin(float(whole.losses[0]), float(whole.accuracy[0]))
        skips = _Skips(walk, self.skip_rounds)
        queue = self._estimated(walk) if self.estimate is not None else walk.units
        while not skips.ended():
            self._round(walk, removals, skips, self._ordered(queue, skips.round))
        return walk.finish()

    def _round(self, walk: Walk, removals: Removals, skips: _Skips, queue: list[Unit]) -> None:
        """Walk up to the first removal."""
        for unit in queue:
            keep = walk.without([unit]) if skips.due(unit) else None
            if keep is None:
                continue
            evaluation = removals([keep])
            walk.evaluations += 1
            loss = float(evaluation.losses[0])
            if not walk.worse(loss, self.tolerance):
                skips.begin_round()
                label = "worse" if walk.better(loss, self.tolerance) else "zero"
                walk.remove([unit], loss, float(evaluation.accuracy[0]), [label])
                skips.needed.clear()
                return
            skips.note(unit, important=self.skip_above is None or walk.worse(loss, self.skip_above))
        skips.begin_round()

    def _ordered(self, queue: list[Unit], number: int) -> list[Unit]:
        if self.order != "random":
            return queue
        return [queue[at] for at in np.random.default_rng([self.seed, number]).permutation(len(queue))]

    def _estimated(self, walk: Walk) -> list[Unit]:
        assert self.estimate is not None
        scores = scores_of(self.estimate, walk.model, walk.sites, "Greedy")
        flat = torch.cat([scores[name].flatten().double().cpu() for name in walk.sites])
        return [walk.units[at] for at in flat.argsort(stable=True).tolist()]


class _Skips:
    """Which units a round looks at; what must outlive the process is in the walk's memory."""

    def __init__(self, walk: Walk, rounds: int | None) -> None:
        self.walk, self.rounds = walk, rounds
        self.needed: set[Unit] = set()
        # Pairs, as JSON has no keys but text.
        waits = walk.memory.setdefault("waits", [])
        self.waits: dict[Unit, int | None] = {(name, number): until for name, number, until in waits}
        walk.memory.setdefault("round", 1)

    @property
    def round(self) -> int:
        """The number of the round, from 1."""
        number: int = self.walk.memory["round"]
        return number

    def begin_round(self) -> None:
        """Count the round that ends here."""
        self.walk.memory["round"] += 1
        self.walk.memory["waits"] = [[*unit, until] for unit, until in self.waits.items()]

    def due(self, unit: Unit) -> bool:
        """Whether the unit is to be measured."""
        until = self.waits.get(unit, 0)
        return until is not None and until < self.round and unit not in self.needed and self.walk.removable(unit)

    def note(self, unit: Unit, important: bool) -> None:
        """A unit was measured, and stays."""
        self.needed.add(unit)
        if important:
            self.waits[unit] = None if self.rounds is None else self.round + self.rounds

    def ended(self) -> bool:
        """Whether nothing is left that a later round could remove."""
        left = (unit for unit in self.walk.units if self.walk.removable(unit) and unit not in self.needed)
        return all(self.waits.get(unit, 0) is None for unit in left)
