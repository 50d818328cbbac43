"""The weight-pruning genetic algorithm of Janjić (2018, algorithm 2), over any sites."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_number, check_whole
from secateur.search import operators
from secateur.search.fitness import Rating
from secateur.search.run import Arrays, Search, SearchRun
from secateur.search.space import Genes
from secateur.types import InputError

__all__ = ["Genetic"]

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Genetic(Search):
    """Evolves keep masks by selection, crossover and pruning mutation (Janjić, 2018, section 4.1).

    Generation 0 is the undamaged layer and `population` − 1 copies with a fraction `damage` removed at random, exactly
    (``initial=operators.damaged``) or by one coin a gene (``operators.coin_damaged``, by which the author's initial
    compressions come about). In every generation each individual gets the fittest of `tournament` others for a partner, takes its genes between two
    cuts with probability `crossover`, loses its weakest genes and then random ones, each with probability `mutation`
    and `strength` of the genes left, and takes the place of the individual of its number if it is fitter.

    The weakest genes are a fraction of those left (``lowest=operators.prune_lowest``), or, as the text has it, all up to
    the lowest magnitude plus that fraction of it (``operators.prune_near_lowest``). The text states the population of 50,
    the 20 generations and the damage of 10 to 90 %; the other rates are ours. A budget of population × (generations + 1), 1,050, is what one trial takes; a search with
    more goes on. A child that equals its parent is counted, and not run again. Biases are not evolved.

    Attributes:
        damage: the fraction removed from each individual of generation 0 but the first.
        population: individuals.
        crossover: the probability of a crossover.
        tournament: how many others compete to be an individual's partner.
        mutation: the probability of each mutator.
        strength: the fraction of the genes left that a mutator removes, or of the lowest magnitude.
        initial: from individuals, genes, damage and generator to generation 0.
        select: from fitness, tournament size and generator to partners.
        cross: from genes, partners, rate and generator to children, and who was crossed.
        lowest: from genes, magnitudes, probability, strength and generator to mutants, and who was changed.
        drop: from genes, probability, strength and generator to mutants, and who was changed.
        replace: from the fitness of individuals and of their children to where a child takes the place.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.search import Fitness, Space
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> space = Space(model, weights(model))
    >>> fitness = Fitness(space, (torch.eye(2), torch.tensor([0, 1])))
    >>> result = Genetic(damage=0.5, population=10)(fitness, space, budget=50)
    >>> result.history.fitness, result.keep["weight"].int().tolist()
    (0.75, [[0, 0], [0, 1]])
    """

    damage: float = 0.1
    population: int = 50
    crossover: float = 0.7
    tournament: int = 3
    mutation: float = 0.5
    strength: float = 0.1
    initial: Callable[[int, int, float, np.random.Generator], Genes] = field(default=operators.damaged, repr=False)
    select: Callable[[Floats, int, np.random.Generator], Numbers] = field(default=operators.tournament, repr=False)
    cross: Callable[[Genes, Numbers, float, np.random.Generator], tuple[Genes, Bools]] = field(
        default=operators.two_point_crossover, repr=False
    )
    lowest: Callable[[Genes, Floats, float, float, np.random.Generator], tuple[Genes, Bools]] = field(
        default=operators.prune_lowest, repr=False
    )
    drop: Callable[[Genes, float, float, np.random.Generator], tuple[Genes, Bools]] = field(
        default=operators.prune_random, repr=False
    )
    replace: Callable[[Floats, Floats], Bools] = field(default=operators.replace_if_better, repr=False)

    def __post_init__(self) -> None:
        check_number(
            self, "[0, 1]", damage=self.damage, crossover=self.crossover, mutation=self.mutation, strength=self.strength
        )
        check_whole(self, 2, population=self.population)
        check_whole(self, tournament=self.tournament)
        for name in OPERATORS:
            if not callable(getattr(self, name)):
                raise InputError(f"Genetic: {name} must be a function like the one in secateur.search.operators")

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the operators, for a state on disk to be known by."""
        return tuple(getattr(self, name).__qualname__ for name in OPERATORS)

    def begin(self, run: SearchRun) -> Arrays:
        """Rate generation 0."""
        genes = self.initial(self.population, run.space.size, self.damage, run.rng)
        rating = run.rate(genes)
        run.record(rating)
        return {"genes": genes, **_arrays(rating)}

    def step(self, run: SearchRun, arrays: Arrays) -> Arrays:
        """Make one generation, and put the fitter children in."""
        genes, rating = arrays["genes"], Rating(*(arrays[name] for name in RATED))
        partners = self.select(rating.fitness, self.tournament, run.rng)
        children, crossed = self.cross(genes, partners, self.crossover, run.rng)
        children, _ = self.lowest(children, run.space.magnitude, self.mutation, self.strength, run.rng)
        children, _ = self.drop(children, self.mutation, self.strength, run.rng)
        children_rating = run.rate(children, free=(children == genes).all(1))
        replaced = self.replace(rating.fitness, children_rating.fitness)
        rating = Rating(*(np.where(replaced, getattr(children_rating, name), getattr(rating, name)) for name in RATED))
        indices = np.arange(len(genes))
        run.record(rating, np.stack([indices, np.where(replaced & crossed, partners, -1)], axis=1))
        return {"genes": np.where(replaced[:, None], children, genes), **_arrays(rating)}


OPERATORS = ("initial", "select", "cross", "lowest", "drop", "replace")
RATED = tuple(f.name for f in fields(Rating))


def _arrays(rating: Rating) -> Arrays:
    return {name: getattr(rating, name) for name in RATED}
