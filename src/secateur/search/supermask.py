"""A keep mask learned by gradient: the best search here, where the searched units are single weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_number, check_whole
from secateur.search.fitness import Fitness, FitnessLike, Screened
from secateur.search.run import Arrays, Search, SearchRun
from secateur.types import InputError

__all__ = ["Supermask"]

Floats = NDArray[np.float64]

GRADIENT_COST = 3.0  # a forward pass and a backward one of about twice the work
DECAY, DECAY2, TINY = 0.9, 0.999, 1e-8  # Adam's


@dataclass(frozen=True)
class Supermask(Search):
    """Learns a number for each weight, which is kept where the number is positive (Zhou et al., 2019).

    The loss is the cross-entropy of the masked model plus `pressure` times the mean of the numbers' sigmoid, which
    drives weights out; its gradient passes the threshold as if that were the sigmoid (straight-through; Bengio et al.,
    2013), and Adam follows it. Weights themselves stay as they are; the searched biases are learned with the mask. The
    loss, unlike the count of right answers, tells of each weight where to go, and is harder to please by chance.

    Between the gradients the mask is rated, and so is that of the numbers' running average. A gradient on all data is
    counted as three evaluations, for a forward and a backward pass; on some of the data as that part of three.

    Attributes:
        pressure: the weight of the mean of the sigmoids; more removes more.
        rate: the step of the numbers.
        bias_rate: the step of the biases.
        batches: how many batches of the fitness's data a gradient is taken on, drawn anew each time.
        gradients: gradients between two ratings.

    Raises:
        InputError: the space has channels, or the fitness no gradient (take a `Fitness`, or a `Screened` one).

    >>> Supermask(pressure=1.0).batches
    4
    """

    pressure: float = 1.0
    rate: float = 0.1
    bias_rate: float = 0.03
    batches: int = 4
    gradients: int = 10

    def __post_init__(self) -> None:
        check_whole(self, batches=self.batches, gradients=self.gradients)
        check_number(self, "[0, 1]", rate=self.rate, bias_rate=self.bias_rate)
        check_number(self, "[0, inf)", pressure=self.pressure)

    def begin(self, run: SearchRun) -> Arrays:
        """Start with every number at 1."""
        exact(run.fitness)
        start = np.concatenate([np.ones(run.space.size), np.zeros(run.space.bias_size)])
        return {
            "point": start,
            "mean": start.copy(),
            "m": np.zeros_like(start),
            "v": np.zeros_like(start),
            "t": np.zeros(1),
        }

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Follow some gradients, and rate the mask."""
        size, full = run.space.size, exact(run.fitness)
        for _ in range(self.gradients):
            batch_numbers = run.rng.permutation(len(full.population.batches))[: self.batches]
            cost = GRADIENT_COST * full.population.count(batch_numbers) / full.samples
            if run.spent + cost + run.fitness.cost > run.budget:
                arrays = {**arrays, "done": np.ones(1)}
                break
            run.spent += cost
            arrays = self._followed(arrays, self._slope(full, arrays["point"], size, batch_numbers), size)
        points = np.stack([arrays["point"], arrays["mean"]])
        run.record(run.rate(points[:, :size] > 0, points[:, size:] if run.space.biases else None))
        return arrays

    def _slope(self, full: Fitness, point: Floats, size: int, batch_numbers: NDArray[np.int64]) -> Floats:
        genes, offsets = point[:size] > 0, point[size:]
        slope = full.population.gradient(genes, offsets if len(offsets) else None, batch_numbers)
        keep = 1 / (1 + np.exp(-point[:size]))
        slope[:size] = (slope[:size] + self.pressure / size) * keep * (1 - keep)
        return slope

    def _followed(self, arrays: Arrays, slope: Floats, size: int) -> Arrays:
        t = arrays["t"] + 1
        m = DECAY * arrays["m"] + (1 - DECAY) * slope
        v = DECAY2 * arrays["v"] + (1 - DECAY2) * slope**2
        rate = np.where(np.arange(len(slope)) < size, self.rate, self.bias_rate)
        point = arrays["point"] - rate * (m / (1 - DECAY**t)) / (np.sqrt(v / (1 - DECAY2**t)) + TINY)
        return {**arrays, "point": point, "mean": DECAY * arrays["mean"] + (1 - DECAY) * point, "m": m, "v": v, "t": t}


def exact(fitness: FitnessLike) -> Fitness:
    """Return the fitness on all data that gradients are taken of."""
    full = fitness.full if isinstance(fitness, Screened) else fitness
    if not isinstance(full, Fitness):
        raise InputError(f"Supermask needs gradients; give a Fitness, not a {type(fitness).__name__}")
    return full
