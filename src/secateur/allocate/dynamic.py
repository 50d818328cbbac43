"""Dynamic programming over sites: so much must be saved in all; how much of it at which site, for the least loss?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from secateur.hints import Checked
from secateur.types import InputError

__all__ = ["Choices", "Portions"]

FINEST = 4096
"""How many steps the savings are counted in where they are not whole numbers or are many."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Choices(Checked):
    """What can be taken at one site: choice i saves ``saving[i]`` and adds ``loss[i]``; choice 0 saves nothing."""

    saving: Sequence[float]
    loss: Sequence[float]


@dataclass(frozen=True, eq=False)
class Portions(Checked):
    """The best choice at every site for every total saving: a knapsack with one choice a site.

    With whole savings of at most 4096 in all the answer is exact; others are rounded down to a 4096th of the greatest
    total, so that no answer saves less than was asked for.

    Args:
        choices: of every site.

    >>> table = Portions({"a": Choices([0, 1, 2], [0, 1, 9]), "b": Choices([0, 1, 2], [0, 3, 4])})
    >>> table.at(1), table.at(2), table.at(3)
    ({'a': 1, 'b': 0}, {'a': 1, 'b': 1}, {'a': 1, 'b': 2})
    """

    choices: Mapping[str, Choices]
    _best_choice: dict[str, NDArray[np.int64]] = field(default_factory=dict, repr=False)

    @property
    def most(self) -> float:
        """The greatest total saving."""
        return sum(max(c.saving) for c in self.choices.values())

    @property
    def steps(self) -> int:
        """How many different totals are told apart."""
        whole = all(float(s).is_integer() for c in self.choices.values() for s in c.saving)
        return int(self.most) if whole and self.most <= FINEST else FINEST

    def at(self, saving: float) -> dict[str, int]:
        """Return the choice of each site that loses least among those that save at least so much together.

        Raises:
            InputError: that much cannot be saved.
        """
        if not saving <= self.most:
            raise InputError(f"allocate: {saving:g} cannot be saved; all choices together save {self.most:g} at most")
        least = self._least
        need = min(int(np.ceil(saving / self._unit - 1e-9)), self._reachable)
        place = need + int(np.argmin(least[need:]))
        choice_by_site = {}
        for name in reversed(list(self.choices)):
            choice_by_site[name] = int(self._best_choice[name][place])
            place -= int(self._whole[name][choice_by_site[name]])
        return {name: choice_by_site[name] for name in self.choices}

    @cached_property
    def _unit(self) -> float:
        return self.most / self.steps if self.most else 1.0

    @cached_property
    def _whole(self) -> dict[str, NDArray[np.int64]]:
        """The savings in steps, rounded down."""
        return {
            name: np.floor(np.asarray(c.saving) / self._unit + 1e-9).astype(np.int64)
            for name, c in self.choices.items()
        }

    @cached_property
    def _reachable(self) -> int:
        return int(np.flatnonzero(np.isfinite(self._least))[-1])

    @cached_property
    def _least(self) -> Floats:
        """The least loss for every total, filled site by site; `_best_choice` keeps the choices."""
        least = np.full(self.steps + 1, np.inf)
        least[0] = 0.0
        for name, choice in self.choices.items():
            least, self._best_choice[name] = _with(least, self._whole[name], np.asarray(choice.loss, dtype=np.float64))
        return least


def _with(least: Floats, saving: NDArray[np.int64], loss: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """One more site: of its choices the best for every total; of equals the one that removes less."""
    best, best_choice = np.full_like(least, np.inf), np.zeros(len(least), dtype=np.int64)
    for number, (saved, lost) in enumerate(zip(saving, loss, strict=True)):
        tried = np.full_like(least, np.inf)
        tried[saved:] = least[: len(least) - saved] + lost
        better = tried < best
        best[better], best_choice[better] = tried[better], number
    return best, best_choice
