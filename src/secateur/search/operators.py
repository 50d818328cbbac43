"""The operators of a genetic algorithm over keep masks: each a small function that can be replaced.

Chromosomes are rows of bool, ``(individuals, genes)``, True = keep. All chance comes from the generator that is passed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secateur.search.space import Genes

__all__ = ["damaged", "prune_lowest", "prune_random", "replace_if_better", "tournament", "two_point_crossover"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Bools = NDArray[np.bool_]


def damaged(individuals: int, genes: int, damage: float, rng: np.random.Generator) -> Genes:
    """Return the first generation: the first individual undamaged, the others with a fraction removed at random.

    >>> damaged(3, 4, 0.5, np.random.default_rng(0)).sum(1).tolist()
    [4, 2, 2]
    """
    masks = np.ones((individuals, genes), dtype=np.bool_)
    count = round(damage * genes)
    for mask in masks[1:]:
        mask[rng.choice(genes, count, replace=False, shuffle=False)] = False
    return masks


def tournament(fitness: Floats, size: int, rng: np.random.Generator) -> Numbers:
    """Return a partner for each individual: the fittest of `size` others drawn at random, the first of equals.

    >>> tournament(np.array([3.0, 1.0, 2.0]), 2, np.random.default_rng(0)).tolist()
    [2, 0, 0]
    """
    count = len(fitness)
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    size = min(size, count - 1)
    rivals = np.argpartition(rng.random((count, count - 1)), size - 1, axis=1)[:, :size]
    rivals += rivals >= np.arange(count)[:, None]  # nobody meets itself
    rivals.sort(axis=1)
    partners: Numbers = rivals[np.arange(count), np.argmax(fitness[rivals], axis=1)]
    return partners


def two_point_crossover(genes: Genes, partners: Numbers, rate: float, rng: np.random.Generator) -> tuple[Genes, Bools]:
    """Return children that have their partner's genes between two cuts, and who was crossed.

    Each individual is crossed with probability `rate`; the cuts are two different ones of the 0 … genes.

    >>> parents = np.array([[True] * 6, [False] * 6])
    >>> children, crossed = two_point_crossover(parents, np.array([1, 0]), 1.0, np.random.default_rng(1))
    >>> children.astype(int).tolist()
    [[0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    """
    count, length = genes.shape
    crossed: Bools = np.less(rng.random(count), rate)
    cuts = rng.integers(0, (length + 1, length), size=(count, 2))
    cuts[:, 1] += cuts[:, 1] >= cuts[:, 0]  # two different ones
    cuts.sort(axis=1)
    children = genes.copy()
    for n in np.flatnonzero(crossed):
        part = slice(*cuts[n])
        children[n, part] = genes[partners[n], part]
    return children, crossed


def prune_lowest(
    genes: Genes, order: Numbers, probability: float, strength: float, rng: np.random.Generator
) -> tuple[Genes, Bools]:
    """Return the individuals with their weakest genes removed, and who was changed.

    Args:
        genes: ``(individuals, genes)``.
        order: the genes from the lowest magnitude to the highest.
        probability: that an individual is changed.
        strength: the fraction of the genes left that is removed; one gene at least.
        rng: where chance comes from.

    >>> genes = np.array([[True, False, True, True]])
    >>> prune_lowest(genes, np.array([1, 3, 0, 2]), 1.0, 0.4, np.random.default_rng(0))[0].tolist()
    [[True, False, True, False]]
    """
    return _pruned(genes, probability, strength, rng, lambda mask, count: order[mask[order]][:count])


def prune_random(genes: Genes, probability: float, strength: float, rng: np.random.Generator) -> tuple[Genes, Bools]:
    """Return the individuals with genes removed at random, and who was changed; the arguments as of `prune_lowest`.

    >>> genes = np.ones((2, 10), dtype=np.bool_)
    >>> prune_random(genes, 1.0, 0.3, np.random.default_rng(0))[0].sum(1).tolist()
    [7, 7]
    """

    def choose(mask: Genes, count: int) -> Numbers:
        left = np.flatnonzero(mask)
        return left[rng.choice(len(left), count, replace=False, shuffle=False)]

    return _pruned(genes, probability, strength, rng, choose)


def _pruned(
    genes: Genes,
    probability: float,
    strength: float,
    rng: np.random.Generator,
    choose: Callable[[Genes, int], Numbers],
) -> tuple[Genes, Bools]:
    changed: Bools = (rng.random(size=len(genes)) < probability) & genes.any(axis=1)
    mutants = genes.copy()
    for n in np.flatnonzero(changed):
        left = int(np.count_nonzero(mutants[n]))
        mutants[n, choose(mutants[n], max(1, round(strength * left)))] = False
    return mutants, changed


def replace_if_better(fitness: Floats, children: Floats) -> Bools:
    """Return where a child takes the place of the individual of its number: where it is fitter (elitism by index).

    >>> replace_if_better(np.array([1.0, 1.0]), np.array([1.0, 2.0])).tolist()
    [False, True]
    """
    fitter: Bools = children > fitness
    return fitter
