"""All criteria on the same trained networks: what is left, with and without fine-tuning, and what each of them costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from secateur import data
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import parameters, predict
from secateur.selection import Scope, select
from secateur.structure import channels, cut, mask, weights
from secateur.studies.comparison.cells import dense
from secateur.studies.kit import networks
from secateur.studies.kit.parts import study
from secateur.studies.shootout.pages import NOTES, sections, words
from secateur.studies.shootout.ways import CRITERIA, SOLVERS, criterion, scorers, solvers
from secateur.train import HoldZeros, fit
from secateur.types import Keep, Sites

__all__ = ["STUDY"]

SCOPES: tuple[Scope, ...] = ("layer", "global")

_OWN = (
    Option("images", "count", 20_000, "training images to train on, the first ones", least=1),
    Option("rated", "count", 10_000, "test images to rate on, the first ones", least=1),
    Option("shown", "count", 500, "training images that criteria and solvers are shown, the first ones", least=1),
    Option("units", "text", ["channels", "weights"], "what is removed", allowed=("channels", "weights"), many="list"),
    Option("criteria", "text", [], "criteria to compare; [] for all", allowed=tuple(CRITERIA), many="any"),
    Option("sparsities", "number", [0.3, 0.5, 0.7], "fractions of the channels to cut", 0, 1, many="list"),
    Option("weight_sparsities", "number", [0.7, 0.9], "fractions of the weights to remove", 0, 1, many="list"),
    Option("tune_at", "number", 0.5, "the fraction of the channels at which is fine-tuned", 0, 1),
    Option("tune_weights_at", "number", 0.9, "the fraction of the weights at which is fine-tuned", 0, 1),
    Option("tune_images", "count", 5000, "training images of the one epoch of fine-tuning, the first ones", least=1),
)

OPTIONS = Options((*networks.OPTIONS, networks.LOSS, *_OWN)).changed(
    seeds=5, epochs=3, model=["lenet-300-100", "cnn-4"], model_options={"cnn-4": {"width": 0.25}}
)


def _options_of(settled: Mapping[str, Json]) -> Mapping[str, Json]:
    """The options of one network alone: several networks do not take the same."""
    options: Mapping[str, Json] = settled["model_options"].get(settled["model"], {})
    return options


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    bases = [_base(cell, settled) for cell in networks.bases(name, settled, _options_of)]
    # Seed by seed, so that a run that is stopped leaves whole comparisons.
    bases.sort(key=lambda base: base.recipe.seed or 0)
    return [cell for base in bases for cell in _of_network(base, settled)]


def _base(cell: Cell, settled: Mapping[str, Json]) -> Cell:
    images = {key: settled[key] for key in ("images", "rated")}
    return replace(cell, recipe=replace(cell.recipe, parameters={**cell.recipe.parameters, **images}))


def _of_network(base: Cell, settled: Mapping[str, Json]) -> list[Cell]:
    cells = [base]
    for unit in settled["units"]:
        which, at = ("weight_sparsities", "tune_weights_at") if unit == "weights" else ("sparsities", "tune_at")
        shared = {"unit": unit, "shown": settled["shown"], "sparsities": settled[which]}
        tuned = {**shared, "tune_at": settled[at], "tune_images": settled["tune_images"]}
        for method in scorers(unit, settled["criteria"]):
            cells.append(pruned := base.then("prune", prune_cell, {**tuned, "method": method}))
            if (unit, method) == ("channels", "magnitude"):
                cells.append(dense(base, pruned, {}))
        cells += [base.then("solve", solve_cell, {**shared, "method": method}) for method in solvers(unit)]
    return cells


def prune_cell(context: Context) -> Outcome:
    """Score once, remove by every sparsity and scope, rate each network that is left, and fine-tune one a scope."""
    model, recipe = networks.network(context)
    images = networks.first(networks.split(context, recipe, "train"), context["shown"])
    sites, remove = _removing(context, model, recipe)
    since = time.process_time()
    scores = criterion(context["method"], model, images, context["seed"], networks.loss_of(recipe))(model, sites)
    cost = _cost(time.process_time() - since, model, images)
    metrics: dict[str, Json] = dict(cost)
    history = []
    for scope in SCOPES:
        for sparsity in context["sparsities"]:
            keep = select(scores, sparsity, scope=scope, sites=sites)
            small = remove(model, keep)
            history.append(_row(context, recipe, model, small, keep) | {"scope": scope, "sparsity": sparsity})
            if sparsity == context["tune_at"] and scope == "layer":
                metrics |= {"class_accuracy": history[-1].pop("class_accuracy"), "kept": _counts(keep)}
                _tune(context, recipe, small, keep)
                tuned = _row(context, recipe, model, small, keep)
                history.append(tuned | {"scope": scope, "sparsity": sparsity, "tuned": 1})
    return Outcome(metrics, [_numbers(row) for row in history])


def solve_cell(context: Context) -> Outcome:
    """Remove and repair by a solver at every sparsity, and rate what is left, without any training."""
    model, recipe = networks.network(context)
    images = networks.first(networks.split(context, recipe, "train"), context["shown"])
    sites, remove = _removing(context, model, recipe)
    way = SOLVERS[context["method"]]
    history, seconds = [], 0.0
    for sparsity in context["sparsities"]:
        since = time.process_time()
        solution = way.made(images, networks.loss_of(recipe)).solve(model, sites, sparsity)
        seconds += time.process_time() - since
        row = _row(context, recipe, model, remove(solution.apply(model), solution.keep), solution.keep)
        history.append(_numbers(row | {"scope": way.scope, "sparsity": sparsity}))
    return Outcome(_cost(seconds / len(history), model, images), history)


def _removing(
    context: Context, model: nn.Module, recipe: Mapping[str, Json]
) -> tuple[Sites, Callable[[nn.Module, Keep], nn.Module]]:
    """The sites, and what takes units out: channels are really cut. The output layer stays whole."""
    sites = channels(model, networks.example(context, recipe))
    if context["unit"] == "channels":
        return sites, lambda model, keep: cut(model, sites, keep, form="module")
    single = weights(model, ignore=[f"{name}.weight" for name in sites.frozen])
    return single, lambda model, keep: mask(model, single, keep)


def _cost(seconds: float, model: nn.Module, images: data.Split) -> dict[str, Json]:
    """Processor seconds, and how many forward passes over the same images take as long."""
    passes = []
    for _ in range(5):
        since = time.process_time()
        predict(model, images)
        passes.append(time.process_time() - since)
    return {"score_seconds": seconds, "forward_passes": seconds / sorted(passes)[2]}


def _row(
    context: Context, recipe: Mapping[str, Json], model: nn.Module, small: nn.Module, keep: Keep
) -> dict[str, Json]:
    test = networks.first(networks.split(context, recipe, "test"), recipe["rated"])
    quality = networks.quality(small, test, loss=networks.loss_of(recipe))
    units = sum(mask.numel() for mask in keep.values())
    removed = 1 - parameters(small).nonzero / parameters(model).total
    return {
        **quality,
        "tuned": 0,
        "units_removed": sum(int((~mask).sum()) for mask in keep.values()) / units,
        "parameters_removed": removed,
    }


def _numbers(row: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in row.items() if name != "class_accuracy"}


def _counts(keep: Keep) -> dict[str, Json]:
    return {name: int(mask.sum()) for name, mask in keep.items()}


def _tune(context: Context, recipe: Mapping[str, Json], small: nn.Module, keep: Keep) -> None:
    images = networks.first(networks.split(context, recipe, "train"), context["tune_images"])
    callbacks = [HoldZeros(keep)] if context["unit"] == "weights" else []
    options = {"batch_size": recipe["batch_size"], "seed": context["seed"], "loss": networks.loss_of(recipe)}
    fit(small, images, epochs=1, callbacks=callbacks, **options)


STUDY = study(
    "criteria-shootout",
    "Criteria held against each other",
    "All criteria and solvers on two networks, with and without fine-tuning, tested against magnitude and random.",
    options=OPTIONS,
    cells=_cells,
    sections=sections,
    words=words,
    notes=NOTES,
)
