"""Searches to hold a better one against: random masks, one-shot magnitude, hill climbing, simulated annealing."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_number, check_whole
from secateur.search.run import Arrays, Search, SearchRun
from secateur.search.space import Genes

__all__ = ["Annealing", "HillClimbing", "OneShotMagnitude", "RandomSearch"]

CHUNK = 50  # candidates rated between two writes of the state


@dataclass(frozen=True)
class RandomSearch(Search):
    """Rates random masks, each with a fraction removed that is drawn evenly from [0, 1): the control.

    >>> RandomSearch()
    RandomSearch()
    """

    def begin(self, run: SearchRun) -> Arrays:
        """Rate nothing yet."""
        return {}

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Rate some random masks."""
        count = max(1, run.affordable(CHUNK))
        run.record(run.rate(run.rng.random((count, run.space.size)) >= run.rng.random((count, 1))))
        return {}


@dataclass(frozen=True)
class OneShotMagnitude(Search):
    """Removes what is smallest, and searches only how much: all thresholds evenly, then ever finer around the best.

    The budget is spent in rounds of `points` candidates; it ends early when no threshold is left between two others.

    Attributes:
        points: candidates a round.

    >>> OneShotMagnitude(points=10)
    OneShotMagnitude(points=10)
    """

    points: int = 50

    def __post_init__(self) -> None:
        check_whole(self, 4, points=self.points)

    def begin(self, run: SearchRun) -> Arrays:
        """Search among all numbers of units."""
        return {"range": np.array([0, run.space.size])}

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Rate numbers of units to remove, evenly over the range, and narrow it around the best."""
        low, high = (int(x) for x in arrays["range"])
        counts = np.unique(np.linspace(low, high, self.points).round().astype(np.int64))
        rating = run.rate(smallest_removed(run.space.order, counts))
        run.record(rating)
        best = int(np.argmax(rating.fitness))
        low, high = int(counts[max(best - 1, 0)]), int(counts[min(best + 1, len(counts) - 1)])
        narrowed: Arrays = {"range": np.array([low, high])}
        return narrowed if len(counts) == self.points else {**narrowed, "done": np.ones(1)}


def smallest_removed(order: NDArray[np.int64], counts: NDArray[np.int64]) -> Genes:
    """Return masks that remove the first so many of `order`.

    >>> smallest_removed(np.array([2, 0, 1]), np.array([0, 2])).astype(int).tolist()
    [[1, 1, 1], [0, 1, 0]]
    """
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    keep_masks: Genes = place >= counts[:, None]
    return keep_masks


@dataclass(frozen=True)
class HillClimbing(Search):
    """Goes from mask to mask: the best of some neighbours, if it is not worse.

    A neighbour differs in a number of genes drawn log-evenly between 1 and the fraction `reach` of all; three in four
    of them are removals where any are left.

    Attributes:
        neighbours: how many are looked at before a move.
        reach: the greatest fraction of the genes that a move changes.

    >>> HillClimbing().neighbours
    10
    """

    neighbours: int = 10
    reach: float = 0.05

    def __post_init__(self) -> None:
        check_whole(self, neighbours=self.neighbours)
        check_number(self, "[0, 1]", reach=self.reach)

    def begin(self, run: SearchRun) -> Arrays:
        """Start from the unpruned model."""
        return {"genes": np.ones((1, run.space.size), dtype=np.bool_), "fitness": np.zeros(1)}

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Look at some neighbours, and move to the best of them if it is not worse."""
        moved = np.concatenate([neighbour(arrays["genes"], self.reach, run.rng) for _ in range(self.neighbours)])
        rating = run.rate(moved)
        run.record(rating)
        best = int(np.argmax(rating.fitness))
        if rating.fitness[best] < arrays["fitness"][0]:
            return arrays
        return {"genes": moved[best : best + 1], "fitness": rating.fitness[best : best + 1]}


@dataclass(frozen=True)
class Annealing(Search):
    """Simulated annealing (Kirkpatrick et al., 1983): worse masks are taken too, ever more rarely.

    Several chains run side by side. A move that loses x in fitness is taken with probability exp(−x / temperature), and
    the temperature falls geometrically from `hot` to `cold` over the budget. Moves are those of `HillClimbing`.

    Attributes:
        chains: chains side by side.
        hot, cold: the first and the last temperature, in fitness.
        reach: the greatest fraction of the genes that a move changes.

    >>> Annealing(chains=5).hot
    0.5
    """

    chains: int = 10
    hot: float = 0.5
    cold: float = 0.02
    reach: float = 0.05

    def __post_init__(self) -> None:
        check_whole(self, chains=self.chains)
        check_number(self, "[0, 1]", reach=self.reach)
        check_number(self, "(0, inf)", "a temperature", hot=self.hot)
        check_number(self, f"(0, {self.hot}]", "a temperature, not above the hot one", cold=self.cold)

    def begin(self, run: SearchRun) -> Arrays:
        """Start all chains from the unpruned model."""
        return {"genes": np.ones((self.chains, run.space.size), dtype=np.bool_), "fitness": np.zeros(self.chains)}

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Move each chain, or leave it."""
        moved = neighbour(arrays["genes"], self.reach, run.rng)
        rating = run.rate(moved)
        run.record(rating)
        temperature = exp(log(self.hot) + (log(self.cold) - log(self.hot)) * min(1.0, run.spent / run.budget))
        gain = np.maximum(rating.fitness, -1e300) - arrays["fitness"]
        accepted = run.rng.random(self.chains) < np.exp(np.minimum(gain, 0) / temperature)
        return {
            "genes": np.where(accepted[:, None], moved, arrays["genes"]),
            "fitness": np.where(accepted, rating.fitness, arrays["fitness"]),
        }


def neighbour(genes: Genes, reach: float, rng: np.random.Generator) -> Genes:
    """Return masks that differ from these in a few genes each, ``(masks, genes)``.

    >>> start = np.ones((2, 100), dtype=np.bool_)
    >>> int((neighbour(start, 0.1, np.random.default_rng(0)) != start).sum(1).max()) <= 10
    True
    """
    neighbours = genes.copy()
    for mask in neighbours:
        most = max(1.0, reach * len(mask))
        count = max(1, round(exp(rng.random() * log(most))))
        pool = np.flatnonzero(mask if rng.random() < 0.75 else ~mask)
        if len(pool) == 0:
            pool = np.arange(len(mask))
        flips = rng.choice(pool, min(count, len(pool)), replace=False, shuffle=False)
        mask[flips] = ~mask[flips]
    return neighbours
