"""Weight pruning against neuron pruning on one network: the cells that the studies of this kind share."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from secateur import data, models
from secateur.criteria import Magnitude, Random
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import parameters, predict
from secateur.models.initialisation import initialise
from secateur.randomness import private_draws
from secateur.selection import Scope, select
from secateur.structure import channels, cut, mask, weights
from secateur.structure.difference import difference
from secateur.studies.comparison.grid import cell_of, check_methods, check_shown, speed, unpruned_cells
from secateur.studies.comparison.options import METHODS, check_used
from secateur.studies.kit.networks import bases, example, fit_and_rate, loss_of, network, quality, size, split
from secateur.types import CutError, Keep, Sites

__all__ = ["cells", "dense", "dense_cell", "prune_cell"]

OWN_SEED = 1000
"""Added to the seed of a network that is trained from scratch, so that it does not begin with the large one's weights."""

INIT = "xavier-uniform"
"""How it begins, where the options of the model name no scheme: scaled to the small layers, not to the large ones."""


def cells(study: str, settled: Mapping[str, Json]) -> list[Cell]:
    """Return one training cell a seed, and one pruning cell for each method and sparsity on each trained network.

    After them stand the controls: unpruned networks fine-tuned as long as pruned ones, and where `dense` asks for it,
    one network from scratch for each cut one.

    Raises:
        InputError, UnknownNameError: there is no such data set, network or option of it.
    """
    methods = check_methods(study, settled)
    check_used(study, settled)
    check_shown(study, settled)
    pruned: list[Cell] = []
    controls: list[Cell] = []
    for base in bases(study, settled):
        pruned.append(base)
        controls += unpruned_cells(base, methods)
        for (label, method), sparsity in product(methods.items(), settled["sparsities"]):
            choice = {"method": label, "sparsity": sparsity}
            keys = {key: settled[key] for key in ("minimum", "output")}
            named = base.then("prune", prune_cell, {**choice, **keys})
            cell = named if label in METHODS else cell_of(base, method, sparsity, settled)
            pruned.append(cell)
            if sparsity in settled["dense"] and method.unit == "channels" and not method.is_random:
                controls.append(dense(base, cell, choice))
    # The controls last, so that the order of what there was before them stays as it was.
    return [*pruned, *controls]


def dense(base: Cell, cut: Cell, choice: Mapping[str, Json]) -> Cell:
    """Return the control of a cut network: one of its shape that is trained from scratch."""
    network_seed = OWN_SEED + (base.recipe.seed or 0)
    return base.then("dense", dense_cell, {**choice, "network": network_seed, "init": INIT}, after=[cut])


def dense_cell(context: Context) -> Outcome:
    """Train a network of a cut network's widths from scratch, as long as the large one was (Liu et al., 2019)."""
    recipe, counts = context.record(0).recipe.parameters, context.record(1).metrics["kept"]
    empty = [name for name, count in counts.items() if not count]
    if empty:
        return Outcome({"dense_error": f"no unit is left of {', '.join(empty)}, so there is no network of this shape"})
    options = {"init": context["init"], **recipe["model_options"]}
    full = models.build(recipe["model"], seed=context["network"], **options)
    sites = channels(full, example(context, recipe))
    keep = {name: torch.arange(site.size) < counts[name] for name, site in sites.items()}
    model = cut(full, sites, keep, form="module")
    # The weights that the cut left are scaled to the wide layers.
    with private_draws(context["network"]):
        initialise(model, options["init"])
    return fit_and_rate(context, recipe, model, context["network"])


def prune_cell(context: Context) -> Outcome:
    """Prune a trained network without retraining; neuron pruning is also cut for real, verified and timed."""
    model, recipe = network(context)
    test, image = split(context, recipe, "test"), example(context, recipe)
    sites, keep = _choose(context, model, image)
    masked = mask(model, sites, keep)
    metrics: dict[str, Json] = {
        **quality(masked, test, loss=loss_of(recipe)),
        **size(masked, image),
        "units_removed": sum(int((~k).sum()) for k in keep.values()) / sum(k.numel() for k in keep.values()),
        "kept": {name: int(k.sum()) for name, k in keep.items()},
    }
    if sites.structure is None:
        metrics |= speed({"unpruned": model, "masked": masked}, image)
    elif all(bool(k.any()) for k in keep.values()):
        metrics |= _really_cut(model, masked, sites, keep, test, image)
    return Outcome({**metrics, "parameters_removed": _removed(model, metrics)})


def _choose(context: Context, model: nn.Module, image: Tensor) -> tuple[Sites, Keep]:
    method = METHODS[context["method"]]
    sites = channels(model, image)
    if method.unit == "weights":
        # Neurons of the output layer are always left whole; "whole" leaves its weights so, too.
        last = [f"{name}.weight" for name in sites.frozen] if context["output"] == "whole" else []
        sites = weights(model, ignore=last)
    scorer = Random(context["seed"]) if method.is_random else Magnitude(p=2)
    within: Scope = "layer" if method.scope == "layer" else "global"
    keep = select(scorer(model, sites), context["sparsity"], scope=within, minimum=context["minimum"], sites=sites)
    return sites, keep


def _really_cut(
    model: nn.Module, masked: nn.Module, sites: Sites, keep: Keep, test: data.Images, image: Tensor
) -> dict[str, Json]:
    """Cut, compare with the masked network on all test images, and measure what was gained."""
    try:
        small = cut(model, sites, keep, form="module")
    except CutError as error:
        return {"cut_error": str(error)}
    off = difference(predict(masked, test), predict(small, test))
    times = speed({"unpruned": model, "masked": masked, "cut": small}, image)
    return {**times, **{f"cut_{k}": v for k, v in size(small, image).items()}, "cut_difference": off}


def _removed(model: nn.Module, metrics: Mapping[str, Any]) -> float:
    """The fraction of parameters that went: those cut away, or those that became zero."""
    before = parameters(model)
    if "cut_parameters" in metrics:
        return 1 - int(metrics["cut_parameters"]) / before.total
    return 1 - int(metrics["nonzero"]) / before.nonzero
