"""What a search met on the way, and the best of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from secateur.search.fitness import Rating
from secateur.search.space import Genes, Offsets

__all__ = ["Generation", "SearchLog", "lineage"]


@dataclass(frozen=True, eq=False)
class Generation:
    """One generation: the rating of every individual, and where each comes from.

    Attributes:
        rating: fitness, accuracy and compression of all individuals, ``(individuals,)`` each.
        parents: ``(individuals, 2)``, the numbers in the generation before of what an individual came from, −1 where
            there is none; an individual that was not replaced has itself and −1.
        spent: evaluations spent when the generation was complete.
    """

    rating: Rating
    parents: NDArray[np.int64]
    spent: float

    @property
    def best(self) -> int:
        """The number of the fittest individual."""
        return int(np.argmax(self.rating.fitness))

    def to_dict(self) -> dict[str, float]:
        """Return the rating of the fittest individual as plain data."""
        rating = self.rating.part(slice(self.best, self.best + 1))
        figures = {name: float(getattr(rating, name)[0]) for name in ("fitness", "accuracy", "compression")}
        return {name: value for name, value in figures.items() if np.isfinite(value)} | {"spent": self.spent}


@dataclass(frozen=True, eq=False)
class SearchLog:
    """How a search went, and the best candidate that it met: the `history` of its `Result`.

    Attributes:
        genes: the best candidate, ``(units,)`` bool, True = keep.
        offsets: what it adds to the searched biases, ``(biases,)``; None where none were searched.
        fitness, accuracy, compression: its rating; accuracy is the change in points on the data searched with.
        spent: evaluations spent.
        generations: all of them, the initial one first.
        population: the last generation's candidates, where the search keeps any.
    """

    genes: Genes
    offsets: Offsets | None
    fitness: float
    accuracy: float
    compression: float
    spent: float
    generations: Sequence[Generation]
    population: Genes | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the best candidate's rating, and that of each generation's fittest, as plain data for JSON."""
        best = {name: getattr(self, name) for name in ("fitness", "accuracy", "compression", "spent")}
        return {**best, "generations": [generation.to_dict() for generation in self.generations]}


def lineage(generations: Sequence[Generation], individual: int) -> list[int]:
    """Return the number of an individual's ancestor in every generation, the last generation's last.

    Of two parents the first is followed: that whose genes lie outside the two cuts of the crossover.

    >>> one = Rating(np.zeros(2), np.zeros(2), np.zeros(2), np.ones(2, dtype=np.bool_))
    >>> first = Generation(one, np.full((2, 2), -1), 2)
    >>> lineage([first, Generation(one, np.array([[0, -1], [0, 1]]), 4)], 1)
    [0, 1]
    """
    ancestors = [individual]
    for generation in reversed(generations[1:]):
        ancestors.append(int(generation.parents[ancestors[-1], 0]))
    return ancestors[::-1]
