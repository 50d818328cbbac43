"""S. Janjić, 2018, chapter 8: filters pruned by the genetic algorithm, with fitness as it is and approximated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

import numpy as np
import torch
from torch import nn

from secateur import criteria, data
from secateur.criteria import Energy, Random
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.search import Fitness, FitnessLike, Genetic, Screened, Space, Surrogate
from secateur.search.operators import coin_damaged, prune_near_lowest
from secateur.structure import cut
from secateur.studies.janjic import filters
from secateur.studies.janjic.evolution import progress_rows
from secateur.studies.janjic.ga_filters_pages import NOTES, cards, sections, words
from secateur.studies.kit import networks
from secateur.studies.kit.controls import as_many, by_magnitude
from secateur.studies.kit.networks import example, first, network, rate, split
from secateur.studies.kit.parts import study

__all__ = ["FITNESSES", "STUDY", "evolve_cell"]

GRADIENT, TRIALS = 3, 20
"""What a gradient on all images counts as, in evaluations, and the masks that an estimate is fitted to."""


def _whole(full: Fitness, images: data.Images, context: Context) -> tuple[FitnessLike, float]:
    return full, 0


def _some(full: Fitness, images: data.Images, context: Context) -> tuple[FitnessLike, float]:
    some = full.subset(max(1, round(context["share"] * full.samples)), context["seed"])
    return Screened(full, some, context["again"]), 0


def _estimated(criterion: str) -> Callable[[Fitness, data.Images, Context], tuple[FitnessLike, float]]:
    def estimated(full: Fitness, images: data.Images, context: Context) -> tuple[FitnessLike, float]:
        scores = criteria.by_name(criterion, images)(full.space.model, full.space.sites)
        guess = Surrogate(full, scores, trials=TRIALS, seed=context["seed"])
        return Screened(full, guess, context["again"]), TRIALS + GRADIENT

    return estimated


FITNESSES: Mapping[str, Callable[[Fitness, data.Images, Context], tuple[FitnessLike, float]]] = {
    "all images": _whole,
    "some images": _some,
    "taylor": _estimated("taylor"),
    "second order": _estimated("second-order"),
}
"""What stands for the fitness: from that on all images, the images and the cell to it, and what its making costs."""

OPTIONS = Options(
    (
        *networks.OPTIONS,
        Option("layers", "text", "*", "which convolutions, by name or pattern", many="either"),
        Option(
            "fitnesses", "text", list(FITNESSES), "what candidates are rated by", allowed=tuple(FITNESSES), many="list"
        ),
        Option("images", "count", 500, "validation images to search on", least=1),
        Option("share", "number", 0.1, "the part of them that 'some images' takes", 0.001, 1),
        Option("again", "number", 0.2, "the part of the candidates that is rated again on all of them", 0.001, 1),
        Option("alpha", "number", 100.0, "what accuracy weighs, as a fraction, beside the filters removed", least=0),
        Option("damage", "number", 0.1, "initial damage rate", 0, 1),
        Option("population", "count", 20, "individuals", least=2),
        Option("generations", "count", 20, "generations that all evaluations are enough for", least=1),
    )
).changed(epochs=3, model="janjic-cnn")

_EFFORT = ("layers", "images", "share", "again", "alpha", "damage", "population")


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    """One cell a network, and one for each fitness, all with as many evaluations."""
    networks.check_layers(settled, "layers", (nn.Conv2d,))
    parameters = {key: settled[key] for key in _EFFORT}
    parameters["evaluations"] = settled["population"] * (settled["generations"] + 1)
    cells: list[Cell] = []
    for base in networks.bases(name, settled):
        cells.append(base)
        cells += [base.then("evolve", evolve_cell, {"method": way, **parameters}) for way in settled["fitnesses"]]
    return cells


def evolve_cell(context: Context) -> Outcome:
    """Evolve which filters stay on validation images, cut the others, and rate the network on the test images."""
    model, recipe = network(context)
    image = example(context, recipe)
    near = first(split(context, recipe, "validation"), context["images"])
    far = split(context, recipe, "test")
    sites = filters.filters(model, image, context["layers"])
    space = Space(model, sites)
    full = Fitness(space, near, context["alpha"])
    fitness, cost = FITNESSES[context["method"]](full, near, context)
    search = Genetic(context["damage"], context["population"], initial=coin_damaged, lowest=prune_near_lowest)
    log = search(fitness, space, max(1, context["evaluations"] - cost), context["seed"]).history
    keep = space.keep(log.genes)
    small = cut(model, sites, keep)
    metrics: dict[str, Json] = {
        "fitness": log.fitness,
        "change": log.accuracy,
        "compression": log.compression,
        "spent": log.spent + cost,
        "generations": len(log.generations) - 1,
        **rate(small, {"test": far}),
        **_size(model, small, image),
        **_controls(context["seed"], Fitness(space, far, context["alpha"]), keep),
    }
    rows = [{**row, "evaluations": row["evaluations"] + cost} for row in progress_rows(log.generations)]
    return Outcome(metrics, rows, {"genes": torch.from_numpy(log.genes)})


def _size(model: nn.Module, small: nn.Module, image: torch.Tensor) -> dict[str, Json]:
    whole, left = (networks.size(net, image) for net in (model, small))
    return {f"{name}_removed": 1 - left[name] / whole[name] for name in ("parameters", "macs")}


def _controls(seed: int, test: Fitness, keep: Mapping[str, torch.Tensor]) -> dict[str, Json]:
    """Fitness on the test images: what was evolved, and as many filters of each layer by other choices."""
    model, sites = test.space.model, test.space.sites
    masks = {
        "untouched": keep,
        "energy": as_many(Energy()(model, sites), keep),
        "magnitude": by_magnitude(keep, model, sites),
        "random": as_many(Random(seed)(model, sites), keep),
    }
    genes = np.stack([test.space.flat(mask) for mask in masks.values()]).astype(np.bool_)
    rating = test(genes)
    return {
        f"{name}_{value}": float(getattr(rating, attribute)[place])
        for (place, name), (value, attribute) in product(
            enumerate(masks), (("fitness", "fitness"), ("change", "accuracy"))
        )
    }


STUDY = study(
    "janjic-ga-filters",
    "Filters evolved away, with fitness as it is and approximated",
    "The genetic algorithm over the filters of a convolutional network: rated on all images, on some, or estimated.",
    source=filters.SOURCE,
    options=OPTIONS,
    cells=_cells,
    sections=sections,
    words=words,
    cards=cards,
    notes=NOTES,
    best=("untouched_fitness", "max"),
)
