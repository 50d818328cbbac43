"""Searches over a few numbers that stand for many genes: a threshold for each row, or one for all, and the biases."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_number, check_whole
from secateur.search.run import Arrays, Search, SearchRun
from secateur.search.space import Genes, Space
from secateur.types import UnknownNameError, unknown_name

__all__ = ["CmaEs", "CoordinateRows"]

Floats = NDArray[np.float64]

SCOPES = ("row", "all")


@dataclass(frozen=True)
class CmaEs(Search):
    """Evolves thresholds of magnitude, and the searched biases, by adapting the covariance of its draws (Hansen, 2016).

    A candidate is one number for each row (the weights that lead to one output, or the channels of a site), or one for
    all, and one for each searched bias. The numbers of thresholds go through a sigmoid and are the fractions of a row
    that are removed, its smallest magnitudes first. So a layer of 20,480 weights is searched in 10 to 20 dimensions,
    and a mask that is good on the data searched with is less likely to be so by chance.

    Attributes:
        scope: one threshold for each ``"row"``, or one for ``"all"``.
        population: candidates a generation.
        start: the fraction removed at the start.
        sigma: the first standard deviation of a threshold's number, which is 0 at half a row.
        shift: the first standard deviation of a bias's.

    >>> CmaEs(scope="all").population
    20
    """

    scope: str = "row"
    population: int = 20
    start: float = 0.5
    sigma: float = 0.5
    shift: float = 0.2

    def __post_init__(self) -> None:
        check_whole(self, 4, population=self.population)
        if self.scope not in SCOPES:
            raise unknown_scope(self.scope)
        check_number(self, "(0, inf)", sigma=self.sigma, shift=self.shift)
        check_number(self, "(0, 1)", start=self.start)

    def begin(self, run: SearchRun) -> Arrays:
        """Start at equal thresholds and no shift of biases."""
        count = thresholds(run.space, self.scope)
        mean = np.concatenate([np.full(count, log(self.start / (1 - self.start))), np.zeros(run.space.bias_size)])
        size = len(mean)
        zeros = np.zeros(size)
        return {"mean": mean, "scale": np.ones(1), "cov": np.eye(size), "path": zeros, "way": zeros.copy()}

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Draw a generation, rate it, and move the distribution to its better half."""
        count = thresholds(run.space, self.scope)
        width = np.concatenate([np.full(count, self.sigma), np.full(run.space.bias_size, self.shift)])
        # C = B D² Bᵀ, y = B D z with z ~ N(0, I), so y ~ N(0, C); x = m + σ w ∘ y, w the first standard deviations.
        variances, vectors = np.linalg.eigh(arrays["cov"])
        root = np.sqrt(np.maximum(variances, 1e-20))
        draws = run.rng.standard_normal((self.population, len(width))) * root @ vectors.T
        points = arrays["mean"] + arrays["scale"] * width * draws
        offsets = points[:, count:] if run.space.biases else None
        rating = run.rate(decoded(run.space, self.scope, points[:, :count]), offsets)
        run.record(rating)
        best = np.argsort(-rating.fitness, kind="stable")[: self.population // 2]
        inverse = (vectors / root) @ vectors.T  # C^(−½) = B D⁻¹ Bᵀ
        return self._adapted(arrays, draws[best], width, inverse, generation=len(run.history))

    def _adapted(self, arrays: Arrays, better: Floats, width: Floats, inverse: Floats, generation: int) -> Arrays:
        """Update mean m, step size σ and covariance C as Hansen (2016, appendix A) does, with the constants of his table 1.

        `better` are the draws yᵢ of the better half, best first; `inverse` is C^(−½). The paths are p_σ and p_c (`path` and
        `way`). All wᵢ are positive: the worse half, which his table weighs below zero, has no part.
        """
        n, mu = len(width), len(better)
        # wᵢ ∝ ln(μ + ½) − ln i, and μ_eff = 1 / Σ wᵢ², the number of draws that they are worth.
        weights = np.log(mu + 0.5) - np.log(np.arange(1, mu + 1))
        weights /= weights.sum()
        mu_eff = 1 / float((weights**2).sum())
        # The rates of the paths, of rank 1 and rank μ in C (α_cov = 2), and the damping of σ.
        c_sigma, c_c = (mu_eff + 2) / (n + mu_eff + 5), (4 + mu_eff / n) / (n + 4 + 2 * mu_eff / n)
        c_1 = 2 / ((n + 1.3) ** 2 + mu_eff)
        c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff) / ((n + 2) ** 2 + mu_eff))
        d_sigma = 1 + 2 * max(0.0, sqrt((mu_eff - 1) / (n + 1)) - 1) + c_sigma
        expected = sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))  # E‖N(0, I)‖, the length of a path without direction
        mean_draw = weights @ better  # y_w = Σ wᵢ yᵢ
        # p_σ ← (1 − c_σ) p_σ + √(c_σ (2 − c_σ) μ_eff) C^(−½) y_w
        path = (1 - c_sigma) * arrays["path"] + sqrt(c_sigma * (2 - c_sigma) * mu_eff) * (inverse @ mean_draw)
        length = float(np.linalg.norm(path))
        # h_σ = 0 holds p_c back while p_σ is long, so that C does not grow with σ.
        h_sigma = length / sqrt(1 - (1 - c_sigma) ** (2 * generation)) < (1.4 + 2 / (n + 1)) * expected
        # p_c ← (1 − c_c) p_c + h_σ √(c_c (2 − c_c) μ_eff) y_w
        way = (1 - c_c) * arrays["way"] + h_sigma * sqrt(c_c * (2 - c_c) * mu_eff) * mean_draw
        # C ← (1 − c₁ − c_μ + c₁ (1 − h_σ) c_c (2 − c_c)) C + c₁ p_c p_cᵀ + c_μ Σ wᵢ yᵢ yᵢᵀ
        rank_mu = (better * weights[:, None]).T @ better
        missed = (not h_sigma) * c_c * (2 - c_c)
        cov = (1 - c_1 - c_mu + c_1 * missed) * arrays["cov"] + c_1 * np.outer(way, way) + c_mu * rank_mu
        # m ← m + σ w ∘ y_w, and σ ← σ exp(c_σ / d_σ (‖p_σ‖ / E‖N(0, I)‖ − 1)), at most e times as large.
        return {
            "mean": arrays["mean"] + arrays["scale"] * width * mean_draw,
            "scale": arrays["scale"] * np.exp(min(1.0, c_sigma / d_sigma * (length / expected - 1))),
            "cov": (cov + cov.T) / 2,
            "path": path,
            "way": way,
        }


@dataclass(frozen=True)
class CoordinateRows(Search):
    """Searches one threshold of magnitude for each row, and each searched bias, one after the other.

    In turn every row tries `points` fractions to remove, within a reach of its own that halves from round to round, and
    every bias as many shifts; the best is kept if it is fitter. The start is the best common fraction.

    Attributes:
        points: values tried for a row or a bias.
        shift: the greatest first shift of a bias.

    >>> CoordinateRows().points
    10
    """

    points: int = 10
    shift: float = 0.5

    def __post_init__(self) -> None:
        check_whole(self, 2, points=self.points)
        check_number(self, "(0, inf)", shift=self.shift)

    def begin(self, run: SearchRun) -> Arrays:
        """Find the best common fraction."""
        rows = thresholds(run.space, "row")
        shares = np.tile(np.linspace(0, 0.95, 2 * self.points)[:, None], (1, rows))
        points = np.concatenate([shares, np.zeros((len(shares), run.space.bias_size))], axis=1)
        return self._tried(run, points, {"place": np.array([-1]), "reach": np.array([0.5])})

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Try other values for the next row or bias."""
        rows, size = thresholds(run.space, "row"), len(arrays["point"])
        place = (int(arrays["place"][0]) + 1) % size
        reach = arrays["reach"] / (2 if place == 0 and arrays["place"][0] >= 0 else 1)
        points = np.tile(arrays["point"], (self.points, 1))
        step = reach * (2 * run.rng.random(self.points) - 1)
        if place < rows:
            points[:, place] = np.clip(points[:, place] + step, 0, 1)
        else:
            points[:, place] += 2 * self.shift * step
        return self._tried(run, points, {**arrays, "place": np.array([place]), "reach": reach})

    def _tried(self, run: SearchRun, points: Floats, arrays: Arrays) -> Arrays:
        rows = thresholds(run.space, "row")
        offsets = points[:, rows:] if run.space.biases else None
        rating = run.rate(removed_by_row(run.space, "row", points[:, :rows]), offsets)
        run.record(rating)
        best = int(np.argmax(rating.fitness))
        if "value" in arrays and rating.fitness[best] <= arrays["value"][0]:
            return arrays
        return {**arrays, "point": points[best], "value": rating.fitness[best : best + 1]}


def thresholds(space: Space, scope: str) -> int:
    """Return how many thresholds a space has: one for each row, or one."""
    return int(space.rows.max()) + 1 if scope == "row" else 1


def decoded(space: Space, scope: str, numbers: Floats) -> Genes:
    """Return masks from numbers ``(candidates, thresholds)``, a sigmoid of which is the fraction removed."""
    return removed_by_row(space, scope, 1 / (1 + np.exp(-np.clip(numbers, -50, 50))))


def removed_by_row(space: Space, scope: str, shares: Floats) -> Genes:
    """Return masks that remove the smallest of each row, or of all: the fractions given, ``(candidates, thresholds)``."""
    rows = space.rows if scope == "row" else np.zeros(space.size, dtype=np.int64)
    order = np.lexsort((space.magnitude, rows))
    sizes = np.bincount(rows)
    place = np.empty(space.size, dtype=np.int64)
    place[order] = np.arange(space.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    keep_masks: Genes = place >= np.round(shares * sizes).astype(np.int64)[:, rows]
    return keep_masks


def unknown_scope(scope: str) -> UnknownNameError:
    """Return the error for a scope of thresholds that is not known."""
    return unknown_name("scope of thresholds", scope, SCOPES)
