"""After filters are cut: evolve replacements for them, or corrections of what reads them, and the closed form to beat.

The next layer's outputs before the cut are the aim. What is evolved is judged by the mean squared error of those outputs
on calibration data, which for a layer that is linear in its inputs depends on two small matrices of moments alone; so
a candidate costs the same whatever the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.calls import usual
from secateur.checks import check_whole
from secateur.equations import Moments
from secateur.search import operators
from secateur.types import InputError

__all__ = ["Replacement", "corrections", "replacements"]


@dataclass(frozen=True, eq=False)
class Replacement:
    """What an evolution of numbers found.

    Attributes:
        values: the best candidate.
        error: its error.
        start: the error at the start.
        history: the least error of every generation.
    """

    values: NDArray[np.float64]
    error: float
    start: float
    history: tuple[float, ...]


@usual
def corrections(
    moments: Moments,
    weight: Tensor,
    *,
    generations: int = 100,
    population: int = 40,
    sigma: float = 0.05,
    seed: int = 0,
) -> Replacement:
    """Evolve a small change of the next layer's weight that absorbs the error of a cut (Janjić, 2018, chapter 8).

    Args:
        moments: of the layer's inputs before and after the cut.
        weight: ``(outputs, inputs left)``, the next layer's weight, cut.
        generations, population, sigma, seed: see `replacements`.

    Returns:
        The corrected weight, flat, and its mean squared error; `least_squares` is its lower bound.

    >>> x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    >>> moments = Moments.of(x, x[:, :1], torch.tensor([[1.0, 4.0]]))
    >>> found = corrections(moments, torch.tensor([[1.0]]), sigma=0.5)
    >>> round(found.values.item(), 2), found.error < found.start
    (5.0, True)
    """
    shape = tuple(weight.shape)
    if shape != tuple(moments.cross.shape):
        raise InputError(f"corrections: the weight is {shape}, and the moments are of {tuple(moments.cross.shape)}")

    def error(values: NDArray[np.float64]) -> NDArray[np.float64]:
        squared_errors: NDArray[np.float64] = (
            moments.error(torch.from_numpy(values).view(-1, *shape).to(moments.gram)).cpu().numpy()
        )
        return squared_errors

    start = weight.detach().double().cpu().flatten().numpy()
    scale = np.full(start.shape, max(float(np.abs(start).mean()), 1e-12))
    return replacements(error, start, scale * sigma, generations=generations, population=population, seed=seed)


def replacements(
    error: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    start: NDArray[np.float64],
    sigma: NDArray[np.float64],
    *,
    generations: int = 100,
    population: int = 40,
    seed: int = 0,
) -> Replacement:
    """Evolve numbers, such as the filters put in the place of pruned ones (Janjić, 2018, section 6.2).

    A genetic algorithm over real genes: tournaments of three, uniform crossover, normal mutation of a tenth of the
    genes with a step that shrinks evenly to a tenth of `sigma`, elitism by index. Individual 0 begins as `start`, the others as
    `start` with every gene mutated, so the error never rises above that of the start.

    Args:
        error: from candidates ``(candidates, numbers)`` to their errors ``(candidates,)``; it is minimised.
        start: ``(numbers,)``.
        sigma: ``(numbers,)``, the size of a mutation of each.
        generations, population, seed: as many as are wanted, and the source of chance.

    Raises:
        InputError: fewer than two individuals, or sizes that do not fit.

    >>> found = replacements(lambda x: (x**2).sum(1), np.ones(2), np.full(2, 0.5), seed=1)
    >>> found.start, found.error < 0.01
    (2.0, True)
    """
    check_whole("replacements", 2, population=population)
    check_whole("replacements", 0, generations=generations)
    if start.ndim != 1 or sigma.shape != start.shape:
        raise InputError(f"replacements: start {start.shape} and sigma {sigma.shape} must be one number for each gene")
    rng = np.random.default_rng(seed)
    genes = start + sigma * rng.standard_normal((population, len(start)))
    genes[0] = start
    errors = error(genes)
    first, history = float(errors[0]), [float(errors.min())]
    for generation in range(generations):
        partners = operators.tournament(-errors, 3, rng)
        swapped = (rng.random(genes.shape) < 0.5) & (rng.random((population, 1)) < 0.7)
        step = sigma * (1 - 0.9 * generation / generations)
        moved = rng.random(genes.shape) < max(0.1, 1 / len(start))
        children = np.where(swapped, genes[partners], genes) + moved * step * rng.standard_normal(genes.shape)
        children_errors = error(children)
        better = children_errors < errors
        genes, errors = np.where(better[:, None], children, genes), np.where(better, children_errors, errors)
        history.append(float(errors.min()))
    best = int(np.argmin(errors))
    return Replacement(genes[best], float(errors[best]), first, tuple(history))
