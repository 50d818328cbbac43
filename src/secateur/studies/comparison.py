"""Weight pruning against neuron pruning on one network: the cells that the studies of this kind share."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from secateur import data, models
from secateur.criteria import Magnitude, Random
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome
from secateur.measure import compare_latency, evaluate, file_bytes, macs, parameters, predict
from secateur.models.initialise import initialise
from secateur.select import Scope, select
from secateur.structure import channels, cut, mask, weights
from secateur.structure.verify import difference
from secateur.studies.comparison_options import METHODS, check, options
from secateur.train import fit
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
    made: list[Cell] = []
    controls: list[Cell] = []
    for seed in range(settled["seeds"]):
        what = {key: settled[key] for key in ("data", "model", "model_options", "epochs", "batch_size", "validation")}
        trained = Cell(Recipe(study, "train", {"seed": seed, **what}), train_cell)
        made.append(trained)
        for method in settled["methods"]:
            for sparsity in settled["sparsities"]:
                chosen = {"seed": seed, "method": method, "sparsity": sparsity}
                chosen |= {key: settled[key] for key in ("minimum", "output")}
                made.append(Cell(Recipe(study, "prune", chosen, needs=(trained.id,)), prune_cell))
                if sparsity in settled["dense"] and METHODS[method][:2] == ("channels", "magnitude"):
                    own = {"seed": seed, "method": method, "sparsity": sparsity, "network": OWN_SEED + seed}
                    needs = (trained.id, made[-1].id)
                    controls.append(Cell(Recipe(study, "dense", {**own, "init": INIT}, needs=needs), dense_cell))
    # Last, so that the order of what there was before stays as it was.
    return made + controls


@lru_cache(maxsize=4)
def _load(name: str, split: str, root: str | None, validation: int) -> data.Split:
    # seed=None: the last images of train are the validation set, as Keras's validation_split takes them.
    return data.load(name, split, root=root, validation=validation if split != "test" else 0, seed=None)


def _split(context: Context, recipe: Mapping[str, Json], split: str) -> data.Split:
    return _load(recipe["data"], split, context.options.get("data_dir"), recipe["validation"])


def train_cell(context: Context) -> Outcome:
    """Train one network; keep the weights of the epoch with the lowest validation loss."""
    recipe = context.recipe.parameters
    model = models.build(recipe["model"], seed=recipe["seed"], **recipe["model_options"])
    return _fitted(context, recipe, model, recipe["seed"])


def dense_cell(context: Context) -> Outcome:
    """Train a network of a cut network's widths from scratch, as long as the large one was (Liu et al., 2019)."""
    trained, kept = context.record(0).recipe.parameters, context.record(1).metrics["kept"]
    empty = [name for name, count in kept.items() if not count]
    if empty:
        return Outcome({"dense_error": f"no unit is left of {', '.join(empty)}, so there is no network of this shape"})
    chosen = {"init": context["init"], **trained["model_options"]}
    full = models.build(trained["model"], seed=context["network"], **chosen)
    sites = channels(full, _example(context, trained))
    keep = {name: torch.arange(site.size) < kept[name] for name, site in sites.items()}
    model = cut(full, sites, keep, form="module")
    # The weights that the cut left are scaled to the wide layers.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context["network"])
        initialise(model, chosen["init"])
    return _fitted(context, trained, model, context["network"])


def _fitted(context: Context, recipe: Mapping[str, Json], model: nn.Module, seed: int) -> Outcome:
    history = fit(
        model,
        _split(context, recipe, "train"),
        _split(context, recipe, "validation"),
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        seed=seed,
    )
    metrics = {**_quality(model, _split(context, recipe, "test")), **_size(model, _example(context, recipe))}
    return Outcome({**metrics, "best_epoch": history.best_epoch}, history.to_dicts(), model.state_dict())


def prune_cell(context: Context) -> Outcome:
    """Prune a trained network without retraining; neuron pruning is also cut for real, verified and timed."""
    trained = context.record().recipe.parameters
    model = models.build(trained["model"], seed=0, **trained["model_options"])
    model.load_state_dict(context.artefact())
    test, example = _split(context, trained, "test"), _example(context, trained)
    sites, keep = _choose(context, model, example)
    masked = mask(model, sites, keep)
    metrics: dict[str, Json] = {
        **_quality(masked, test),
        **_size(masked, example),
        "units_removed": sum(int((~k).sum()) for k in keep.values()) / sum(k.numel() for k in keep.values()),
        "kept": {name: int(k.sum()) for name, k in keep.items()},
    }
    if sites.structure is None:
        metrics |= _speed({"unpruned": model, "masked": masked}, example)
    elif all(bool(k.any()) for k in keep.values()):
        metrics |= _really_cut(model, masked, sites, keep, test, example)
    return Outcome({**metrics, "parameters_removed": _removed(model, metrics)})


def _choose(context: Context, model: nn.Module, example: Tensor) -> tuple[Sites, Keep]:
    unit, criterion, scope = METHODS[context["method"]]
    sites = channels(model, example)
    if unit == "weights":
        # Neurons of the output layer are always left whole; "whole" leaves its weights so, too.
        last = [f"{name}.weight" for name in sites.frozen] if context["output"] == "whole" else []
        sites = weights(model, ignore=last)
    scorer = Random(context["seed"]) if criterion == "random" else Magnitude(p=2)
    within: Scope = "layer" if scope == "layer" else "global"
    keep = select(scorer(model, sites), context["sparsity"], scope=within, minimum=context["minimum"])
    return sites, keep


def _really_cut(
    model: nn.Module, masked: nn.Module, sites: Sites, keep: Keep, test: data.Split, example: Tensor
) -> dict[str, Json]:
    """Cut, compare with the masked network on all test images, and measure what was gained."""
    try:
        small = cut(model, sites, keep, form="module")
    except CutError as error:
        return {"cut_error": str(error)}
    found = difference(predict(masked, test), predict(small, test))
    speed = _speed({"unpruned": model, "masked": masked, "cut": small}, example)
    return {**speed, **{f"cut_{k}": v for k, v in _size(small, example).items()}, "cut_difference": found}


def _example(context: Context, recipe: Mapping[str, Json]) -> Tensor:
    return _split(context, recipe, "test").images[:1]


def _quality(model: nn.Module, test: data.Split) -> dict[str, Json]:
    rated = evaluate(model, test, batch_size=1000)
    return {"loss": rated.loss, "accuracy": rated.accuracy, "class_accuracy": list(rated.class_accuracy)}


def _size(model: nn.Module, example: Tensor) -> dict[str, Json]:
    count = parameters(model)
    return {
        "parameters": count.total,
        "nonzero": count.nonzero,
        "bytes": file_bytes(model),
        "macs": macs(model, example),
    }


def _speed(compared: Mapping[str, nn.Module], example: Tensor) -> dict[str, Json]:
    """Median milliseconds of a batch, all models in turns in one run at one thread, and the speedups."""
    result: dict[str, Json] = {}
    for size in BATCHES:
        found = compare_latency(dict(compared), example, batch_size=size, repeats=15)
        for name, latency in found.latencies.items():
            result[f"ms_{name}_{size}"] = 1000 * latency.median
            if name != "unpruned":
                result[f"speedup_{name}_{size}"] = found.speedups[name].median
    return result


def _removed(model: nn.Module, metrics: Mapping[str, Any]) -> float:
    """The fraction of parameters that went: those cut away, or those that became zero."""
    before = parameters(model)
    if "cut_parameters" in metrics:
        return 1 - int(metrics["cut_parameters"]) / before.total
    return 1 - int(metrics["nonzero"]) / before.nonzero
