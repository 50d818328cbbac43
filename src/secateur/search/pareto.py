"""The front of accuracy and compression: what no candidate beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.calls import looking
from secateur.checks import check_number, check_whole
from secateur.search import operators
from secateur.search.result import Generation
from secateur.search.run import Arrays, Search, SearchRun

__all__ = ["Nsga2", "front"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Nsga2(Search):
    """Evolves the whole front of accuracy and compression (NSGA-II, Deb et al., 2002).

    Parents are chosen by tournaments of two, by rank and then by crowding; children come by crossover and the pruning
    mutators of `Genetic`, and a mutator that puts as many genes back. The better half of parents and children
    together is the next generation: the result's last one holds the front.

    Attributes:
        population: individuals; an even number.
        crossover: the probability of a crossover.
        mutation: the probability of each mutator.
        strength: the fraction of the genes left that a mutator changes.

    >>> Nsga2(population=20).crossover
    0.9
    """

    population: int = 50
    crossover: float = 0.9
    mutation: float = 0.5
    strength: float = 0.1

    def __post_init__(self) -> None:
        check_whole(self, 4, population=self.population)
        check_number(self, "[0, 1]", crossover=self.crossover, mutation=self.mutation, strength=self.strength)

    def begin(self, run: SearchRun) -> Arrays:
        """Rate masks by magnitude, from the whole layer to all but a tenth removed."""
        counts = np.linspace(0, 0.9 * run.space.size, self.population)[:, None]
        place = np.empty(run.space.size, dtype=np.int64)
        place[run.space.order] = np.arange(run.space.size)
        genes = place >= counts
        rating = run.rate(genes)
        run.record(rating)
        return {
            "genes": genes,
            "fitness": rating.fitness,
            "accuracy": rating.accuracy,
            "compression": rating.compression,
        }

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Make as many children as there are parents, and keep the better half of all."""
        genes, rng = arrays["genes"], run.rng
        order = ranked(arrays["accuracy"], arrays["compression"])
        worth = np.empty(len(genes))
        worth[order] = -np.arange(len(genes))
        first = operators.tournament(worth, 2, rng)
        children, _ = operators.two_point_crossover(genes[first], rng.permutation(len(genes)), self.crossover, rng)
        children, _ = operators.prune_lowest(children, run.space.magnitude, self.mutation, self.strength, rng)
        children, _ = operators.prune_random(children, self.mutation / 2, self.strength, rng)
        put_back, _ = operators.prune_random(~children, self.mutation, self.strength, rng)
        rating = run.rate(~put_back)
        run.record(rating)
        both = {name: np.concatenate([arrays[name], getattr(rating, name)]) for name in KEPT}
        best = ranked(both["accuracy"], both["compression"])[: len(genes)]
        return {
            "genes": np.concatenate([genes, ~put_back])[best],
            **{name: value[best] for name, value in both.items()},
        }


KEPT = ("fitness", "accuracy", "compression")


def ranked(accuracy: Floats, compression: Floats) -> Numbers:
    """Return candidates from the best to the worst: by front, and within a front the lonelier ones first.

    >>> ranked(np.array([0.0, 1.0, -1.0, 1.0]), np.array([0.5, 0.5, 0.2, 0.1])).tolist()
    [1, 0, 3, 2]
    """
    beaten = _beaten(accuracy, compression)
    ranks, left = np.full(len(accuracy), -1), np.ones(len(accuracy), dtype=np.bool_)
    rank = 0
    while left.any():
        first = left & ~(beaten & left[None, :]).any(1)
        ranks[first], left, rank = rank, left & ~first, rank + 1
    lonely = np.zeros(len(accuracy))
    for number in range(rank):
        members = np.flatnonzero(ranks == number)
        for values in (accuracy[members], compression[members]):
            lonely[members] += _gaps(values)
    return np.lexsort((-lonely, ranks))


def _beaten(accuracy: Floats, compression: Floats) -> NDArray[np.bool_]:
    """Whether the first is beaten by the second: not better in either, and worse in one."""
    a, c = (values[:, None] - values[None, :] for values in (accuracy, compression))
    with np.errstate(invalid="ignore"):
        dominated: NDArray[np.bool_] = (a <= 0) & (c <= 0) & ((a < 0) | (c < 0))
    return dominated


def _gaps(values: Floats) -> Floats:
    """How far the neighbours of each value are apart, as a fraction of the range; infinite at the ends."""
    order = np.argsort(values, kind="stable")
    spread = values[order[-1]] - values[order[0]]
    gaps = np.full(len(values), np.inf)
    if len(values) > 2 and np.isfinite(spread) and spread > 0:
        gaps[order[1:-1]] = (values[order[2:]] - values[order[:-2]]) / spread
    return gaps


@looking
def front(generations: Sequence[Generation]) -> list[tuple[float, float]]:
    """Return the pairs (compression, accuracy) of the front of all that was rated on all data, by compression.

    >>> from secateur.search.fitness import Rating
    >>> rating = Rating(np.zeros(3), np.array([0.0, -1.0, -2.0]), np.array([0.1, 0.5, 0.4]), np.ones(3, dtype=np.bool_))
    >>> front([Generation(rating, np.full((3, 2), -1), 3)])
    [(0.1, 0.0), (0.5, -1.0)]
    """
    sure = [generation.rating.part(generation.rating.exact) for generation in generations]
    accuracy = np.concatenate([r.accuracy for r in sure])
    compression = np.concatenate([r.compression for r in sure])
    points: list[tuple[float, float]] = []
    for n in np.lexsort((-accuracy, -compression)):
        if not points or accuracy[n] > points[-1][1]:
            points.append((float(compression[n]), float(accuracy[n])))
    return points[::-1]
