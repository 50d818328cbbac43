"""Weight pruning against neuron pruning on one network: the cells that the studies of this kind share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from secateur import data, models
from secateur.criteria import Magnitude, Random
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome
from secateur.measure import compare_latency, parameters, predict
from secateur.models.schemes import initialise
from secateur.randomness import private_draws
from secateur.selection import Scope, select
from secateur.structure import channels, cut, mask, weights
from secateur.structure.difference import difference
from secateur.studies.comparison.options import METHODS, check, options
from secateur.studies.kit.networks import example, fit_and_rate, grid, network, quality, size, split, trained
from secateur.types import CutError, Keep, Sites

__all__ = ["METHODS", "cells", "options"]

BATCHES = (1, 256)
"""The batch sizes at which latency is measured."""

OWN_SEED = 1000
"""Added to the seed of a network that is trained from scratch, so that it does not begin with the large one's weights."""

INIT = "xavier-uniform"
"""How it begins, where the options of the model name no scheme: scaled to the small layers, not to the large ones."""


def cells(study: str, settled: Mapping[str, Json]) -> list[Cell]:
    """Return one training cell a seed, and one pruning cell for each method and sparsity on each trained network.

    After them stand the controls: where `dense` asks for it, one network from scratch for each cut one.

    Raises:
        InputError, UnknownNameError: an option is not what a comparison takes; nothing has run then.
    """
    check(study, settled)
    made = [_of_network(study, settled, name, model) for name, model in grid(settled)]
    # The controls last, so that the order of what there was before them stays as it was.
    return [cell for pair in made for cell in pair[0]] + [cell for pair in made for cell in pair[1]]


def _of_network(study: str, settled: Mapping[str, Json], name: str, model: str) -> tuple[list[Cell], list[Cell]]:
    """The cells of one network on one data set, and its controls."""
    kept = {key: settled[key] for key in ("minimum", "output")}
    # The trained network that a pruning needs decides these; here they are for looking it up.
    known = {"data": name, "model": model}
    made: list[Cell] = []
    controls: list[Cell] = []
    for seed in range(settled["seeds"]):
        made.append(base := trained(study, seed, settled, name, model))
        for method, sparsity in product(settled["methods"], settled["sparsities"]):
            chosen = {"seed": seed, "method": method, "sparsity": sparsity}
            made.append(Cell(Recipe(study, "prune", {**chosen, **kept, **known}, (base.id,), known), prune_cell))
            if sparsity in settled["dense"] and METHODS[method][:2] == ("channels", "magnitude"):
                own = {**chosen, "network": OWN_SEED + seed, "init": INIT, **known}
                controls.append(Cell(Recipe(study, "dense", own, (base.id, made[-1].id), known), dense_cell))
    return made, controls


def dense_cell(context: Context) -> Outcome:
    """Train a network of a cut network's widths from scratch, as long as the large one was (Liu et al., 2019)."""
    recipe, kept = context.record(0).recipe.parameters, context.record(1).metrics["kept"]
    empty = [name for name, count in kept.items() if not count]
    if empty:
        return Outcome({"dense_error": f"no unit is left of {', '.join(empty)}, so there is no network of this shape"})
    chosen = {"init": context["init"], **recipe["model_options"]}
    full = models.build(recipe["model"], seed=context["network"], **chosen)
    sites = channels(full, example(context, recipe))
    keep = {name: torch.arange(site.size) < kept[name] for name, site in sites.items()}
    model = cut(full, sites, keep, form="module")
    # The weights that the cut left are scaled to the wide layers.
    with private_draws(context["network"]):
        initialise(model, chosen["init"])
    return fit_and_rate(context, recipe, model, context["network"])


def prune_cell(context: Context) -> Outcome:
    """Prune a trained network without retraining; neuron pruning is also cut for real, verified and timed."""
    model, recipe = network(context)
    test, image = split(context, recipe, "test"), example(context, recipe)
    sites, keep = _choose(context, model, image)
    masked = mask(model, sites, keep)
    metrics: dict[str, Json] = {
        **quality(masked, test),
        **size(masked, image),
        "units_removed": sum(int((~k).sum()) for k in keep.values()) / sum(k.numel() for k in keep.values()),
        "kept": {name: int(k.sum()) for name, k in keep.items()},
    }
    if sites.structure is None:
        metrics |= _speed({"unpruned": model, "masked": masked}, image)
    elif all(bool(k.any()) for k in keep.values()):
        metrics |= _really_cut(model, masked, sites, keep, test, image)
    return Outcome({**metrics, "parameters_removed": _removed(model, metrics)})


def _choose(context: Context, model: nn.Module, image: Tensor) -> tuple[Sites, Keep]:
    unit, criterion, scope = METHODS[context["method"]]
    sites = channels(model, image)
    if unit == "weights":
        # Neurons of the output layer are always left whole; "whole" leaves its weights so, too.
        last = [f"{name}.weight" for name in sites.frozen] if context["output"] == "whole" else []
        sites = weights(model, ignore=last)
    scorer = Random(context["seed"]) if criterion == "random" else Magnitude(p=2)
    within: Scope = "layer" if scope == "layer" else "global"
    keep = select(scorer(model, sites), context["sparsity"], scope=within, minimum=context["minimum"], sites=sites)
    return sites, keep


def _really_cut(
    model: nn.Module, masked: nn.Module, sites: Sites, keep: Keep, test: data.Split, image: Tensor
) -> dict[str, Json]:
    """Cut, compare with the masked network on all test images, and measure what was gained."""
    try:
        small = cut(model, sites, keep, form="module")
    except CutError as error:
        return {"cut_error": str(error)}
    found = difference(predict(masked, test), predict(small, test))
    speed = _speed({"unpruned": model, "masked": masked, "cut": small}, image)
    return {**speed, **{f"cut_{k}": v for k, v in size(small, image).items()}, "cut_difference": found}


def _speed(compared: Mapping[str, nn.Module], image: Tensor) -> dict[str, Json]:
    """Median milliseconds of a batch, all models in turns in one run at one thread, and the speedups."""
    result: dict[str, Json] = {}
    for batch in BATCHES:
        found = compare_latency(dict(compared), image, batch_size=batch, repeats=15)
        for name, latency in found.latencies.items():
            result[f"ms_{name}_{batch}"] = 1000 * latency.median
            if name != "unpruned":
                result[f"speedup_{name}_{batch}"] = found.speedups[name].median
    return result


def _removed(model: nn.Module, metrics: Mapping[str, Any]) -> float:
    """The fraction of parameters that went: those cut away, or those that became zero."""
    before = parameters(model)
    if "cut_parameters" in metrics:
        return 1 - int(metrics["cut_parameters"]) / before.total
    return 1 - int(metrics["nonzero"]) / before.nonzero
