"""What a search found, and what it met on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.search.fitness import Rating
from secateur.search.space import Genes, Offsets, Space

__all__ = ["Generation", "SearchResult", "lineage"]


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


@dataclass(frozen=True, eq=False)
class SearchResult:
    """The best candidate that a search met, and its history.

    Attributes:
        search: the search, as it is written.
        space: what was searched.
        genes: the best candidate, ``(units,)`` bool, True = keep.
        offsets: what it adds to the searched biases, ``(biases,)``; None where none were searched.
        fitness, accuracy, compression: its rating; accuracy is the change in points on the data searched with.
        spent: evaluations spent.
        history: all generations, the initial one first.
        population: the last generation's candidates, where the search keeps any.
    """

    search: str
    space: Space
    genes: Genes
    offsets: Offsets | None
    fitness: float
    accuracy: float
    compression: float
    spent: float
    history: Sequence[Generation]
    population: Genes | None = None

    @property
    def keep(self) -> dict[str, Tensor]:
        """The best candidate's keep masks, one a site."""
        return self.space.keep(self.genes)

    @property
    def biases(self) -> Mapping[str, Tensor]:
        """The new values of the searched biases."""
        changed = self.space.tensors(self.genes, self.offsets)
        return {name: changed[name] for name in self.space.biases if name in changed}

    def apply(self) -> nn.Module:
        """Return the masked copy of the model that was found, its searched biases shifted."""
        return self.space.apply(self.genes, self.offsets)


def lineage(history: Sequence[Generation], individual: int) -> list[int]:
    """Return the number of an individual's ancestor in every generation, the last generation's last.

    Of two parents the first is followed: that whose genes lie outside the two cuts of the crossover.

    >>> one = Rating(np.zeros(2), np.zeros(2), np.zeros(2), np.ones(2, dtype=np.bool_))
    >>> first = Generation(one, np.full((2, 2), -1), 2)
    >>> lineage([first, Generation(one, np.array([[0, -1], [0, 1]]), 4)], 1)
    [0, 1]
    """
    found = [individual]
    for generation in reversed(history[1:]):
        found.append(int(generation.parents[found[-1], 0]))
    return found[::-1]
