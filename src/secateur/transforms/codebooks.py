"""k-means of numbers: the few values that stand for many, on sorted values and their running sums."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_name, check_whole
from secateur.types import InputError

__all__ = ["INITIALISATIONS", "centroids"]

Floats = NDArray[np.float64]

EXACT = 16384
"""Up to so many different numbers the exact optimum is computed; more of them are drawn together in as many bins."""

ITERATIONS = 1000
"""More than any run that was seen took; a run ends when no number changes its cluster."""


@dataclass(frozen=True, eq=False)
class _Sorted:
    """Different numbers in ascending order, how often each stands, and running sums: cluster i:j costs a difference.

    Attributes:
        values: the numbers, less their mean `offset`, which costs fewer digits.
        count, first, second: Σw, Σwx and Σwx² of the numbers before each place; one entry more than there are numbers.
    """

    values: Floats
    count: Floats
    first: Floats
    second: Floats
    offset: float

    @classmethod
    def of(cls, numbers: Floats) -> Self:
        values, counts = np.unique(numbers, return_counts=True)
        offset = float(numbers.mean())
        return cls.weighted(values - offset, counts.astype(np.float64), offset)

    @classmethod
    def weighted(cls, values: Floats, counts: Floats, offset: float) -> Self:
        count, first, second = (np.concatenate([[0.0], np.cumsum(counts * values**power)]) for power in range(3))
        return cls(values, count, first, second, offset)

    def cost(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> Floats:
        """Σw(x − mean)² over the numbers of each slice: Σwx² − (Σwx)² / Σw."""
        total = self.first[stop] - self.first[start]
        return self.second[stop] - self.second[start] - total**2 / (self.count[stop] - self.count[start])

    def means(self, bounds: NDArray[np.int64]) -> Floats:
        """The mean of each cluster between two bounds; NaN where there is none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.diff(self.first[bounds]) / np.diff(self.count[bounds])

    def binned(self, bins: int) -> _Sorted:
        """The numbers in so many bins of equal width, each as its mean."""
        edges = np.linspace(self.values[0], self.values[-1], bins + 1)
        bounds = np.unique(np.concatenate([np.searchsorted(self.values, edges[:-1]), [len(self.values)]]))
        return self.weighted(self.means(bounds), np.diff(self.count[bounds]), self.offset)


def centroids(numbers: Floats, k: int, initialisation: str = "exact", seed: int = 0) -> Floats:
    """Return at most k numbers, ascending, of which each given one is near to one: k-means in one dimension.

    ``"exact"`` finds the least sum of squared distances there is, by dynamic programming over sorted numbers with divide
    and conquer (Wang and Song, 2011; Grønlund et al., 2017; O(k n log n)); more than 16,384 different numbers are first
    drawn together in as many bins of equal width, and what is found is refined on all by Lloyd's iteration. The others are
    Lloyd's iteration from a beginning (Han, Mao and Dally, 2016, section 3.1): ``"linear"``, evenly from the least to the
    greatest; ``"density"``, at even steps of the cumulative distribution; ``"random"``, numbers drawn from the given ones.

    Args:
        numbers: 1-D, finite.
        k: how many, 1 or more; where there are no more different numbers, they are returned.
        initialisation: see above.
        seed: of ``"random"``.

    Raises:
        InputError, UnknownNameError: an option is out of range, or there are no numbers.

    >>> centroids(np.array([0.0, 1.0, 10.0, 12.0]), 2).tolist()
    [0.5, 11.0]
    """
    check_whole("centroids", k=k)
    check_name("initialisation", initialisation, ["exact", *INITIALISATIONS])
    if not numbers.size:
        raise InputError("centroids: there are no numbers; give one at least")
    data = _Sorted.of(np.asarray(numbers, np.float64))
    if len(data.values) <= k:
        return data.values + data.offset
    if initialisation == "exact":
        few = data if len(data.values) <= EXACT else data.binned(EXACT)
        start = few.means(_optimal_bounds(few, k))
    else:
        start = INITIALISATIONS[initialisation](data, k, seed)
    return np.unique(_lloyd(data, start)) + data.offset


def _linear(data: _Sorted, k: int, seed: int) -> Floats:
    return np.linspace(data.values[0], data.values[-1], k)


def _density(data: _Sorted, k: int, seed: int) -> Floats:
    shares = (np.arange(k) + 0.5) / k
    places = np.searchsorted(data.count[1:], shares * data.count[-1])
    return np.asarray(data.values[places])


def _random(data: _Sorted, k: int, seed: int) -> Floats:
    # Of the different numbers, in proportion to how often each stands, none twice.
    shares = np.diff(data.count) / data.count[-1]
    return np.sort(np.random.default_rng(seed).choice(data.values, k, replace=False, p=shares))


INITIALISATIONS: Mapping[str, Callable[[_Sorted, int, int], Floats]] = {
    "linear": _linear,
    "density": _density,
    "random": _random,
}
"""Where Lloyd's iteration begins."""


def _lloyd(data: _Sorted, start: Floats) -> Floats:
    """Move each centroid to the mean of what is nearest to it until nothing changes; one without any stays."""
    centres, before = start, np.empty(0, np.int64)
    for _ in range(ITERATIONS):
        inner = np.searchsorted(data.values, (centres[1:] + centres[:-1]) / 2, side="right")
        bounds = np.concatenate([[0], inner, [len(data.values)]])
        if np.array_equal(bounds, before):
            break
        means = data.means(bounds)
        centres, before = np.sort(np.where(np.isnan(means), centres, means)), bounds
    return centres


def _optimal_bounds(data: _Sorted, k: int) -> NDArray[np.int64]:
    """The bounds of the k clusters with the least cost of all.

    D[j][i] = min over m of D[j − 1][m] + cost(m, i), the numbers before i in j clusters; the best m grows with i.
    """
    n = len(data.values)
    ends = np.arange(1, n + 1)
    least = data.cost(np.zeros(n, np.int64), ends)  # one cluster, of the numbers before 1 … n
    splits = np.zeros((k, n + 1), np.int32)
    for clusters in range(2, k + 1):
        least, splits[clusters - 1, clusters:] = _next_row(data, least, clusters)
    bounds = [n]
    for clusters in range(k, 0, -1):
        bounds.append(int(splits[clusters - 1, bounds[-1]]))
    return np.array(bounds[::-1])


def _next_row(data: _Sorted, least: Floats, clusters: int) -> tuple[Floats, NDArray[np.int64]]:
    """The least cost, and the last split, of the numbers before `clusters` … n; `least` is that of a cluster fewer.

    `least[r]` is for the numbers before clusters − 1 + r. All middles of a level of the divide and conquer are computed at
    once: the best split of a middle lies between those of its neighbours, which are of levels before.
    """
    size = len(least) - 1
    best, split = np.empty(size), np.empty(size, np.int64)
    segments = np.array([[0, size, 0, size]])  # first and last + 1 place; first and last row of the split
    while len(segments):
        start, stop, low, high = segments.T
        middle = (start + stop) // 2
        best[middle], split[middle] = _best_rows(data, least, clusters, middle, low, np.minimum(high, middle))
        left = np.stack([start, middle, low, split[middle]], 1)
        right = np.stack([middle + 1, stop, split[middle], high], 1)
        segments = np.concatenate([left, right])
        segments = segments[segments[:, 0] < segments[:, 1]]
    return best, split + clusters - 1


def _best_rows(
    data: _Sorted,
    least: Floats,
    clusters: int,
    places: NDArray[np.int64],
    low: NDArray[np.int64],
    high: NDArray[np.int64],
) -> tuple[Floats, NDArray[np.int64]]:
    """The best of the rows low … high of `least` for each place, and its cost."""
    lengths = high - low + 1
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    rows = np.arange(lengths.sum()) - np.repeat(starts - low, lengths)
    costs = least[rows] + data.cost(rows + clusters - 1, np.repeat(places + clusters, lengths))
    best = np.minimum.reduceat(costs, starts)
    first = np.flatnonzero(costs == np.repeat(best, lengths))
    at = first[np.searchsorted(first, starts)]
    return best, rows[at]
