"""S. Janjić, 2018, section 5.1: keep masks of one layer, evolved and searched for: the cells that its studies share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn

from secateur import data
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.search import (
    Annealing,
    CmaEs,
    CoordinateRows,
    Fitness,
    Generation,
    Genetic,
    HillClimbing,
    Judged,
    Nsga2,
    OneShotMagnitude,
    RandomSearch,
    Rating,
    Search,
    SearchLog,
    Space,
    Supermask,
    lineage,
    only,
)
from secateur.search.local import smallest_removed
from secateur.search.operators import coin_damaged, damaged, prune_lowest, prune_near_lowest
from secateur.structure import weights
from secateur.studies.kit import networks
from secateur.studies.kit.networks import first, network, rate, split
from secateur.types import InputError

__all__ = [
    "AUTHORS",
    "CONVERGED",
    "FRACTION",
    "SEARCHES",
    "cells",
    "genetic",
    "options",
    "planned",
    "progress_rows",
    "search_cell",
]

SEARCHES: Mapping[str, tuple[Callable[[], Search], bool]] = {
    "random": (RandomSearch, False),
    "magnitude": (OneShotMagnitude, False),
    "hill climbing": (HillClimbing, False),
    "annealing": (Annealing, False),
    "nsga-ii": (Nsga2, False),
    "thresholds of rows": (CoordinateRows, False),
    "thresholds by cma-es": (CmaEs, False),
    "threshold and biases": (lambda: CmaEs(scope="all"), True),
    "learned mask": (Supermask, False),
    "learned mask and biases": (Supermask, True),
}
"""The searches beside the genetic algorithm, and whether each may shift the layer's biases as well."""

AUTHORS, CONVERGED = "author's", "converged"
"""The two trainings: stochastic gradient descent as long as the author's, and Adam to a plateau."""

COIN, LOWEST_PLUS, FRACTION = "coin", "lowest plus", "fraction"
"""How weights are damaged at first and lost by the weakest-weight mutator: as the text has both, or an exact fraction."""

_IMAGES = {AUTHORS: 24_000, CONVERGED: 45_000}  # how many images a training sees at least, if no epochs are given
_LEAST = {AUTHORS: 1, CONVERGED: 6}
_PLATEAU = ("magnitude", "learned mask", "learned mask and biases")
TRAINING = 5000
"""How many training images solutions are rated on."""

_RATED = ("fitness", "accuracy", "compression")


def options(model: str) -> Options:
    """Return the options of the studies: five networks, population 50, 20 generations, the author's damage rates.

    >>> options("janjic-mlp")["damages"]
    [0.1, 0.3, 0.5, 0.7, 0.9]
    """
    decided = {
        "epochs": "passes over the training images; null for 24,000 images or 1",
        "validation": "images to hold out; null for as many as are in the test set",
    }
    shared = [
        replace(option, default=None, optional=True, help=decided[option.name]) if option.name in decided else option
        for option in networks.OPTIONS
    ]
    plateau = "passes to the plateau; 0 for none, null for 45,000 images or 6"
    further = (
        Option("lr", "number", 0.05, "learning rate of the stochastic gradient descent", least=0),
        Option("layer", "text", "fc2", "the layer whose weights are searched"),
        Option("damages", "number", [0.1, 0.3, 0.5, 0.7, 0.9], "initial damage rates", least=0, most=1, many="any"),
        Option(
            "initial", "text", COIN, "initial damage: one coin a weight, or an exact fraction", allowed=(COIN, FRACTION)
        ),
        Option(
            "weakest",
            "text",
            LOWEST_PLUS,
            "what the weakest-weight mutator removes: all up to the lowest magnitude plus 10 %, or a tenth of the weights left",
            allowed=(LOWEST_PLUS, FRACTION),
        ),
        Option("population", "count", 50, "individuals", least=2),
        Option("generations", "count", 20, "generations after the initial one", least=1),
        Option("protocols", "text", ["thesis", "honest"], "where to search", allowed=("thesis", "honest"), many="list"),
        Option("searches", "text", list(SEARCHES), "the other searches", allowed=tuple(SEARCHES), many="any"),
        Option("converged_epochs", "count", None, plateau, optional=True),
    )
    table = Options((*shared, *further))
    return table.changed(seeds=5, batch_size=10, model=model, data=["mnist-5k", "fashion-mnist"])


def cells(study: str, settled: Mapping[str, Json]) -> list[Cell]:
    """Return a training cell a seed, and one cell for each search and protocol on each trained network.

    Raises:
        InputError, UnknownNameError: a data set or network is not what the studies take; nothing has run then.
    """
    networks.check({**settled, "validation": None})
    networks.check_layers(settled, "layer", (nn.Linear, nn.Conv2d))
    return [
        cell
        for options in planned(settled)
        for base in networks.bases(study, {**options, "fit": {"optimizer": "sgd", "lr": options["lr"]}})
        for cell in _of_network(base, options)
    ]


def planned(settled: Mapping[str, Json]) -> Iterator[dict[str, Json]]:
    """Yield the options for each data set and network, with what the data set decides filled in.

    Raises:
        InputError: the size of the data set is not known, so validation and epochs must be given.
    """
    for options in networks.singles(settled):
        name = options["data"]
        counts = data.info(name).counts
        if not counts and None in (options["validation"], options["epochs"], options["converged_epochs"]):
            raise InputError(
                f"data set {name!r} has no size that is known beforehand; give validation, epochs and converged_epochs"
            )
        if options["validation"] is None:
            options["validation"] = counts["test"]
        validation = options["validation"]
        train = counts["train"] if counts else 1
        left = train - (round(validation * train) if validation < 1 else validation) if counts else 1
        for key, training in (("epochs", AUTHORS), ("converged_epochs", CONVERGED)):
            if options[key] is None:
                options[key] = max(_LEAST[training], round(_IMAGES[training] / left))
        yield options


def _of_network(base: Cell, options: Mapping[str, Json]) -> Iterator[Cell]:
    """The cells of one network of the author's training, and those of its converged twin."""
    shared = {"layer": options["layer"], "evaluations": options["population"] * (options["generations"] + 1)}
    yield base
    for protocol, damage in product(options["protocols"], options["damages"]):
        # A search whose own settings change is another search, so they are part of the recipe.
        parameters = {"search": repr(Genetic(damage, options["population"])), "population": options["population"]}
        parameters |= {"network": AUTHORS, "protocol": protocol, "method": genetic(damage), "damage": damage}
        # Recipes of before these were options had an exact fraction of both.
        parameters |= {name: options[name] for name in ("initial", "weakest") if options[name] != FRACTION}
        yield base.then("search", search_cell, {**parameters, **shared})
    for method in options["searches"]:
        yield base.then("search", search_cell, {"network": AUTHORS, **_other(method), **shared})
    plateau = [method for method in _PLATEAU if method in options["searches"]]
    if options["converged_epochs"] and plateau:
        yield (twin := _converged(base, options))
        for method in plateau:
            yield twin.then("search", search_cell, {"network": CONVERGED, **_other(method), **shared})


def _converged(base: Cell, options: Mapping[str, Json]) -> Cell:
    further = {**options, "epochs": options["converged_epochs"], "batch_size": 128}
    seed = base.recipe.seed or 0
    twin = networks.trained(base.recipe.study, seed, further)
    return replace(twin, recipe=replace(twin.recipe, kind="converge"))


def _other(method: str) -> dict[str, Json]:
    return {"protocol": "honest", "method": method, "search": repr(SEARCHES[method][0]())}


def genetic(damage: float) -> str:
    """Return what the genetic algorithm of an initial damage rate is called.

    >>> genetic(0.1)
    'genetic 10 %'
    """
    return f"genetic {100 * damage:g} %"


def search_cell(context: Context) -> Outcome:
    """Search a keep mask on one split, and rate it on all, beside magnitude and chance at the same number of weights."""
    model, recipe = network(context)
    near, far = (split(context, recipe, which) for which in ("validation", "test"))
    search, biased = _search(context)
    layer, seed = context["layer"], context["seed"]
    space = Space(model, only(weights(model), f"{layer}.weight"), [f"{layer}.bias"] if biased else [])
    fitnesses = {"validation": Fitness(space, near), "test": Fitness(space, far)}
    judged = _judged(context, search, space, fitnesses)
    change = judged.searched if context["protocol"] == "honest" else judged.untouched
    metrics = {
        **_figures(judged),
        **rate(judged.result.model, {"test": far, "train": first(split(context, recipe, "train"), TRAINING)}),
        "validation_accuracy": _accuracy(fitnesses["validation"], change),
        **_controls(seed, space, judged.result.history, fitnesses["test"]),
    }
    artefact = {"genes": torch.from_numpy(judged.result.history.genes)}
    if isinstance(search, Genetic):
        on = fitnesses["test" if context["protocol"] == "thesis" else "validation"]
        metrics |= _population(judged, 100 * on.start / on.samples)
        artefact |= _generations(judged, search, seed)
    return Outcome(metrics, progress_rows(judged.result.history.generations), artefact)


def _judged(context: Context, search: Search, space: Space, fitness_by_split: Mapping[str, Fitness]) -> Judged:
    """What `judge` returns, on data whose activations are kept, as the controls are rated on them too."""
    on, other = ("test", "validation") if context["protocol"] == "thesis" else ("validation", "test")
    result = search(fitness_by_split[on], space, context["evaluations"], context["seed"])
    log = result.history
    genes, offsets = log.genes[None], None if log.offsets is None else log.offsets[None]
    return Judged(
        result, fitness_by_split[on](genes, offsets), fitness_by_split[other](genes, offsets), context["protocol"]
    )


def _accuracy(fitness: Fitness, rating: Rating) -> float:
    return float(fitness.start / fitness.samples + rating.accuracy[0] / 100)


def _search(context: Context) -> tuple[Search, bool]:
    parameters = context.recipe.parameters
    if "damage" in parameters:
        return Genetic(
            damage=context["damage"],
            population=context["population"],
            initial=coin_damaged if parameters.get("initial") == COIN else damaged,
            lowest=prune_near_lowest if parameters.get("weakest") == LOWEST_PLUS else prune_lowest,
        ), False
    make, biased = SEARCHES[context["method"]]
    return make(), biased


def _figures(judged: Judged) -> dict[str, Json]:
    """Fitness, change of accuracy in points and compression on the data searched with, and on those untouched."""
    result = judged.result
    return {
        "fitness": float(judged.reported.fitness[0]),
        "searched_fitness": result.history.fitness,
        "searched_change": result.history.accuracy,
        "untouched_fitness": float(judged.untouched.fitness[0]),
        "untouched_change": float(judged.untouched.accuracy[0]),
        "compression": result.history.compression,
        "gap": judged.gap,
        "spent": result.history.spent,
    }


def _controls(seed: int, space: Space, log: SearchLog, test: Fitness) -> dict[str, Json]:
    """Test accuracy where as many weights go by magnitude, and at random."""
    removed = np.array([(~log.genes).sum()])
    chance = np.random.default_rng([seed, int(removed[0])]).permutation(space.size)
    orders = {"magnitude": space.order, "random": chance}
    ratings = {name: test(smallest_removed(order, removed)) for name, order in orders.items()}
    return {f"{name}_accuracy": _accuracy(test, rating) for name, rating in ratings.items()}


def _population(judged: Judged, base: float) -> dict[str, Json]:
    """The least, mean and greatest of the first and the last population; accuracy and compression in per cent."""
    metrics: dict[str, Json] = {}
    history = judged.result.history.generations
    for when, generation in (("initial", history[0]), ("final", history[-1])):
        rating = generation.rating
        values = (rating.fitness, base + rating.accuracy, 100 * rating.compression)
        for (name, numbers), statistic in product(zip(_RATED, values, strict=True), (np.min, np.mean, np.max)):
            metrics[f"{when}_{name}_{statistic.__name__}"] = float(statistic(numbers))
    rating = history[-1].rating
    return metrics | {"positive": int((rating.fitness > 0).sum()), "individuals": len(rating)}


def _generations(judged: Judged, search: Genetic, seed: int) -> dict[str, Tensor]:
    """Every individual of every generation, and the genes that the best one's ancestor began with."""
    log = judged.result.history
    ratings = {
        name: torch.from_numpy(np.stack([getattr(g.rating, name) for g in log.generations])).float() for name in _RATED
    }
    last = log.generations[-1].rating
    lines = [lineage(log.generations, int(values.argmax())) for values in (last.fitness, last.accuracy)]
    initial = search.initial(search.population, len(log.genes), search.damage, np.random.default_rng(seed))
    return {
        **ratings,
        "lineages": torch.tensor(lines),
        "parents": torch.from_numpy(np.stack([g.parents for g in log.generations])),
        "begun": torch.from_numpy(initial[lines[0][0]].copy()),
    }


def progress_rows(generations: Sequence[Generation]) -> list[dict[str, Json]]:
    """Return one row a generation or step: what was spent, and the best so far."""
    rows: list[dict[str, Json]] = []
    best = 0.0
    for number, generation in enumerate(generations):
        sure = generation.rating.fitness[generation.rating.exact]
        best = max(best, float(sure.max(initial=-np.inf)))
        rows.append({"step": number, "evaluations": generation.spent, "best": best})
    return rows
