"""How long a population's fitness takes, beside copying the model for each individual, and beside PyGAD and DEAP.

    python benchmarks/population.py --rounds 5

The plain loop is what a user would write: copy the model, set the masked weight, run it over the data in batches of 256,
count right answers. PyGAD and DEAP drive that same loop, and are also timed on their operators alone: selection,
crossover and mutation at 20,000 genes, their own where they have them and the two pruning mutators in their style.
Process time at one thread, in turns in one run, medians of ratios; the counts are compared. Needs deap and pygad.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from secateur.models import build
from secateur.rate.population import Population
from secateur.search import Genetic, Space, only, operators
from secateur.structure import weights

SAMPLES = 1000
GENES = 20_000
CASES = (
    ("janjic-mlp", "fc2.weight", 50, "2048→10"),
    ("janjic-cnn", "fc1.weight", 50, "576→200"),
    ("janjic-mlp", "fc1.weight", 6, "1024→2048"),
)


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the process time of one call, and what it returned."""
    start = time.process_time()
    made = work()
    return time.process_time() - start, made


def plain(model: nn.Module, name: str, genes: np.ndarray, x: torch.Tensor, y: torch.Tensor) -> list[int]:
    """Right answers of each individual, one copied model after another."""
    found = []
    with torch.no_grad():
        for one in genes:
            other = copy.deepcopy(model)
            weight = other.get_parameter(name)
            weight.mul_(torch.from_numpy(one).view_as(weight))
            found.append(
                sum(int((other(a).argmax(1) == b).sum()) for a, b in zip(x.split(256), y.split(256), strict=True))
            )
    return found


def population(model: str, name: str, count: int, rounds: int) -> list[float]:
    """Ratios of the plain loop to ours, the loop on a few of the individuals and scaled."""
    network = build(model, seed=0).eval()
    x, y = torch.randn(SAMPLES, 1, 28, 28), torch.randint(10, (SAMPLES,))
    space = Space(network, only(weights(network), name))
    rng = np.random.default_rng(0)
    counted, few, ratios = Population(space, x, y), min(count, 5), []
    for number in range(rounds + 1):
        genes = rng.random((count, space.size)) < 0.7
        slow, expected = seconds(lambda g=genes: plain(network, name, g[:few], x, y))
        fast, found = seconds(lambda g=genes: counted.right(g))
        assert found[:few].tolist() == expected, "the counts differ"
        if number:  # the first round warms up
            ratios.append(slow / few * count / fast)
    return ratios


def reused(rounds: int) -> list[float]:
    """The same for 1024→2048 where four rows in five are the parent's, as after a crossover or a small mutation."""
    network = build("janjic-mlp", seed=0).eval()
    x, y = torch.randn(SAMPLES, 1, 28, 28), torch.randint(10, (SAMPLES,))
    space = Space(network, only(weights(network), "fc1.weight"))
    rng, counted, ratios = np.random.default_rng(0), Population(space, x, y), []
    parents = rng.random((6, 2048, 1024)) < 0.7
    counted.right(parents.reshape(6, -1))
    for _ in range(rounds):
        children = np.where(rng.random((6, 2048, 1)) < 0.2, rng.random(parents.shape) < 0.7, parents)
        genes = children.reshape(6, -1)
        slow, expected = seconds(lambda g=genes: plain(network, "fc1.weight", g[:3], x, y))
        fast, found = seconds(lambda g=genes: counted.right(g))
        assert found[:3].tolist() == expected, "the counts differ"
        ratios.append(slow * 2 / fast)
        parents = children
    return ratios


def gemm(rounds: int) -> list[float]:
    """Multiply–accumulates a second of 576→200 as a part of those of one product of the same size."""
    network = build("janjic-cnn", seed=0).eval()
    x, y = torch.randn(SAMPLES, 1, 28, 28), torch.randint(10, (SAMPLES,))
    space = Space(network, only(weights(network), "fc1.weight"))
    genes = np.random.default_rng(0).random((50, space.size)) < 0.7
    counted, a, b = Population(space, x, y), torch.randn(SAMPLES, 576), torch.randn(576, 200 * 50)
    pairs = [(seconds(lambda: a @ b)[0], seconds(lambda: counted.right(genes))[0]) for _ in range(rounds + 1)]
    return [peak / ours for peak, ours in pairs[1:]]


def ours(genes: np.ndarray, fitness: np.ndarray, magnitudes: np.ndarray, rng: np.random.Generator) -> None:
    """One generation of operators."""
    partners = operators.tournament(fitness, 3, rng)
    children, _ = operators.two_point_crossover(genes, partners, 0.7, rng)
    children, _ = operators.prune_lowest(children, magnitudes, 0.5, 0.1, rng)
    operators.prune_random(children, 0.5, 0.1, rng)


def with_deap(genes: list[Any], size: np.ndarray) -> None:
    """The same with DEAP's selection and crossover, and the mutators as one writes them for its lists."""
    from deap import tools

    partners = tools.selTournament(genes, len(genes), 3)
    children = [copy.deepcopy(one) for one in genes]
    for one, other in zip(children, partners, strict=True):
        if random.random() < 0.7:
            tools.cxTwoPoint(one, list(other))
    for one in children:
        if random.random() < 0.5:
            left = sorted((n for n, bit in enumerate(one) if bit), key=size.__getitem__)
            for n in left[: len(left) // 10]:
                one[n] = 0
        if random.random() < 0.5:
            left = [n for n, bit in enumerate(one) if bit]
            for n in random.sample(left, len(left) // 10):
                one[n] = 0


def operators_against_deap(rounds: int) -> list[float]:
    """Ratios of DEAP's generation of operators to ours."""
    from deap import base, creator

    if not hasattr(creator, "Best"):
        creator.create("Best", base.Fitness, weights=(1.0,))
        creator.create("Individual", list, fitness=creator.Best)
    rng = np.random.default_rng(0)
    genes, fitness, size = rng.random((50, GENES)) < 0.7, rng.random(50), rng.random(GENES)
    ratios = []
    lists = [creator.Individual(row) for row in genes.astype(int).tolist()]
    for one, value in zip(lists, fitness, strict=True):
        one.fitness.values = (value,)
    for _ in range(rounds):
        slow, _ = seconds(lambda: with_deap(lists, size))
        fast = min(seconds(lambda: ours(genes, fitness, size, rng))[0] for _ in range(3))
        ratios.append(slow / fast)
    return ratios


def pygad(function: Callable[..., float], genes: int, parents: int, generations: int) -> Any:
    """PyGAD's algorithm: tournaments, two-point crossover and random mutation of binary genes."""
    import pygad as library

    return library.GA(
        num_generations=generations, num_parents_mating=parents, fitness_func=function, sol_per_pop=50, num_genes=genes,
        gene_space=[0, 1], gene_type=int, parent_selection_type="tournament", K_tournament=3,
        crossover_type="two_points", crossover_probability=0.7, mutation_type="random", mutation_percent_genes=10,
        keep_elitism=0, keep_parents=0, random_seed=0, suppress_warnings=True,
    )  # fmt: skip


def operators_against_pygad(rounds: int) -> list[float]:
    """Ratios of a generation of PyGAD with a fitness that costs nothing to our operators."""
    rng = np.random.default_rng(0)
    genes, fitness, magnitudes = rng.random((50, GENES)) < 0.7, rng.random(50), rng.random(GENES)
    ratios = []
    for _ in range(rounds):
        algorithm = pygad(lambda _ga, _one, number: float(number), GENES, 50, 2)
        slow, _ = seconds(algorithm.run)
        fast = min(seconds(lambda: ours(genes, fitness, magnitudes, rng))[0] for _ in range(3))
        ratios.append(slow / 2 / fast)
    return ratios


def whole_search(rounds: int) -> list[float]:
    """Two generations of PyGAD driving the plain loop on 2048→10, beside two of ours, fitness and operators together."""
    from secateur.search import Fitness

    network = build("janjic-mlp", seed=0).eval()
    x, y = torch.randn(SAMPLES, 1, 28, 28), torch.randint(10, (SAMPLES,))
    space = Space(network, only(weights(network), "fc2.weight"))
    fitness, ratios = Fitness(space, (x, y)), []
    for _ in range(rounds):
        algorithm = pygad(
            lambda _ga, one, _n: plain(network, "fc2.weight", one[None].astype(bool), x, y)[0], space.size, 50, 1
        )
        slow, _ = seconds(algorithm.run)
        fast, _ = seconds(lambda: Genetic()(fitness, space, 100))
        ratios.append(slow / fast)
    return ratios


def main() -> None:
    """Print one line a ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    rows: list[tuple[str, Callable[[], list[float]]]] = [
        (f"{what}, {count} individuals / plain loop", partial(population, m, n, count, rounds))
        for m, n, count, what in CASES
    ]
    rows += [
        ("1024→2048, four rows in five shared / plain loop", partial(reused, rounds)),
        ("576→200, part of the speed of one product", partial(gemm, rounds)),
        ("operators, 20,000 genes / DEAP", partial(operators_against_deap, rounds)),
        ("operators, 20,000 genes / PyGAD", partial(operators_against_pygad, min(rounds, 3))),
        ("search of 2048→10, 100 evaluations / PyGAD", partial(whole_search, min(rounds, 2))),
    ]
    for name, measure in rows:
        ratios = measure()
        print(f"{name:55s} {statistics.median(ratios):8.2f}  ({min(ratios):.2f} … {max(ratios):.2f})", flush=True)


if __name__ == "__main__":
    main()
