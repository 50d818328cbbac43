"""The operators of a genetic algorithm over keep masks: each a small function that can be replaced.

Chromosomes are rows of bool, ``(individuals, genes)``, True = keep. All chance comes from the generator that is passed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from secateur.search.space import Genes

__all__ = [
    "coin_damaged",
    "damaged",
    "prune_lowest",
    "prune_near_lowest",
    "prune_random",
    "replace_if_better",
    "tournament",
    "two_point_crossover",
]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Bools = NDArray[np.bool_]


def damaged(individuals: int, genes: int, damage: float, rng: np.random.Generator) -> Genes:
    """Return the first generation: the first individual undamaged, the others with exactly a fraction removed at random.

    >>> damaged(3, 4, 0.5, np.random.default_rng(0)).sum(1).tolist()
    [4, 2, 2]
    """
    masks = np.ones((individuals, genes), dtype=np.bool_)
    count = round(damage * genes)
    for mask in masks[1:]:
        mask[rng.choice(genes, count, replace=False, shuffle=False)] = False
    return masks


def coin_damaged(individuals: int, genes: int, damage: float, rng: np.random.Generator) -> Genes:
    """Return the first generation: the first individual undamaged, each gene of the others removed with this probability.

    One coin a gene: the compressions of 49 individuals scatter, as the initial maxima in Janjić's Table 5.2 do.

    >>> coin_damaged(3, 4, 0.5, np.random.default_rng(0)).sum(1).tolist()
    [4, 1, 3]
    """
    masks = rng.random((individuals, genes)) >= damage
    masks[0] = True
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
    genes: Genes, magnitudes: Floats, probability: float, strength: float, rng: np.random.Generator
) -> tuple[Genes, Bools]:
    """Return the individuals with their weakest genes removed, and who was changed.

    Args:
        genes: ``(individuals, genes)``.
        magnitudes: of the genes' weights, ``(genes,)``.
        probability: that an individual is changed.
        strength: the fraction of the genes left that is removed; one gene at least.
        rng: where chance comes from.

    >>> genes = np.array([[True, False, True, True]])
    >>> prune_lowest(genes, np.array([0.3, 0.1, 0.4, 0.2]), 1.0, 0.4, np.random.default_rng(0))[0].tolist()
    [[True, False, True, False]]
    """
    order = np.argsort(magnitudes, kind="stable")

    def weakest(left: Numbers, mask: Genes) -> Numbers:
        removed: Numbers = order[mask[order]][: max(1, round(strength * len(left)))]
        return removed

    return _pruned(genes, probability, rng, weakest)


def prune_near_lowest(
    genes: Genes, magnitudes: Floats, probability: float, strength: float, rng: np.random.Generator
) -> tuple[Genes, Bools]:
    """Return the individuals without the genes up to the lowest magnitude left plus a fraction of it, and who was changed.

    The mutator as Janjić (2018, section 4.1.2) writes it: the weight of the lowest magnitude goes, or all "less than the
    lowest magnitude weight plus 10 %" with a `strength` of 0.1; the other arguments as of `prune_lowest`.

    >>> genes = np.array([[True, False, True, True]])
    >>> prune_near_lowest(genes, np.array([0.21, 0.1, 0.4, 0.2]), 1.0, 0.1, np.random.default_rng(0))[0].tolist()
    [[False, False, True, False]]
    """

    def near_lowest(left: Numbers, mask: Genes) -> Numbers:
        lowest = magnitudes[left].min()
        # Of several that are lowest at strength 0, or where the lowest is 0, all go.
        removed: Numbers = left[magnitudes[left] <= lowest * (1 + strength)]
        return removed

    return _pruned(genes, probability, rng, near_lowest)


def prune_random(genes: Genes, probability: float, strength: float, rng: np.random.Generator) -> tuple[Genes, Bools]:
    """Return the individuals with genes removed at random, and who was changed; the arguments as of `prune_lowest`.

    >>> genes = np.ones((2, 10), dtype=np.bool_)
    >>> prune_random(genes, 1.0, 0.3, np.random.default_rng(0))[0].sum(1).tolist()
    [7, 7]
    """

    def choose(left: Numbers, mask: Genes) -> Numbers:
        count = max(1, round(strength * len(left)))
        return left[rng.choice(len(left), count, replace=False, shuffle=False)]

    return _pruned(genes, probability, rng, choose)


def _pruned(
    genes: Genes, probability: float, rng: np.random.Generator, choose: Callable[[Numbers, Genes], Numbers]
) -> tuple[Genes, Bools]:
    """Remove from some individuals, each with `probability`, what `choose` takes of the genes left and of the mask."""
    changed: Bools = (rng.random(size=len(genes)) < probability) & genes.any(axis=1)
    mutants = genes.copy()
    for n in np.flatnonzero(changed):
        mutants[n, choose(np.flatnonzero(mutants[n]), mutants[n])] = False
    return mutants, changed


def replace_if_better(fitness: Floats, children: Floats) -> Bools:
    """Return where a child takes the place of the individual of its number: where it is fitter (elitism by index).

    >>> replace_if_better(np.array([1.0, 1.0]), np.array([1.0, 2.0])).tolist()
    [False, True]
    """
    fitter: Bools = children > fitness
    return fitter
