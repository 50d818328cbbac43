"""All criteria on the same trained networks: what is left, with and without fine-tuning, and what each of them costs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import product

from torch import nn

from secateur import data
from secateur.criteria import TraceScores
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import parameters, predict
from secateur.selection import Scope, select
from secateur.structure import channels, cut, mask, weights
from secateur.studies.comparison.cells import dense
from secateur.studies.kit import networks
from secateur.studies.kit.parts import study
from secateur.studies.shootout.pages import NOTES, cards, curves, sections, words
from secateur.studies.shootout.ways import CRITERIA, SOLVERS, criterion, scorers, solvers
from secateur.train import HoldZeros, fit
from secateur.types import InputError, Keep, Scores, Sites

__all__ = ["STUDY"]

SCOPES: tuple[Scope, ...] = ("layer", "global")

_NAMES = {"channels": ("sparsities", "tune_at"), "weights": ("weight_sparsities", "tune_weights_at")}
"""Unit → the options that say how much of it to remove, and at which of these to fine-tune."""

_OWN = (
    Option("images", "count", 20_000, "training images to train on, the first ones", least=1),
    Option("rated", "count", 10_000, "test images to rate on, the first ones", least=1),
    Option("shown", "count", 500, "training images that criteria and solvers are shown, drawn by the seed", least=1),
    Option("units", "text", ["channels", "weights"], "what is removed", allowed=("channels", "weights"), many="list"),
    Option(
        "criteria",
        "text",
        [],
        "criteria to compare beside the controls; [] for all",
        allowed=tuple(CRITERIA),
        many="any",
    ),
    Option("sparsities", "number", [0.3, 0.5, 0.7], "fractions of the channels to cut", 0, 1, many="list"),
    Option("weight_sparsities", "number", [0.7, 0.9], "fractions of the weights to remove", 0, 1, many="list"),
    Option("tune_at", "number", 0.5, "the fraction of the channels at which is fine-tuned", 0, 1, optional=True),
    Option("tune_weights_at", "number", 0.9, "the fraction of the weights at which is fine-tuned", 0, 1, optional=True),
    Option("tune_images", "count", 5000, "training images of the one epoch of fine-tuning, drawn by the seed", least=1),
)

OPTIONS = Options((*networks.OPTIONS, networks.LOSS, *_OWN)).changed(
    seeds=5, epochs=3, model=["lenet-300-100", "cnn-4"], model_options={"cnn-4": {"width": 0.25}}
)


def _options_of(settled: Mapping[str, Json]) -> Mapping[str, Json]:
    """The options of one network alone: several networks do not take the same."""
    options: Mapping[str, Json] = settled["model_options"].get(settled["model"], {})
    return options


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    _check_tuned(settled)
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
        for method in scorers(unit, settled["criteria"]):
            cells += _of_criterion(base, unit, method, settled)
        settings = {"unit": unit, "shown": settled["shown"]}
        for method, sparsity in product(solvers(unit), settled[_NAMES[unit][0]]):
            choice = {"method": method, "scope": SOLVERS[method].scope, "sparsity": sparsity}
            cells.append(base.then("solve", solve_cell, {**settings, **choice}))
    return cells


def _of_criterion(base: Cell, unit: str, method: str, settled: Mapping[str, Json]) -> list[Cell]:
    """Scores, and of them one cell a network that is left, so that each of its numbers can be asked for."""
    sparsities, tune_at = (settled[name] for name in _NAMES[unit])
    of_method = {"unit": unit, "method": method}
    scores = base.then("score", score_cell, {**of_method, "shown": settled["shown"]})
    cells = [scores]
    for scope, sparsity in product(SCOPES, sparsities):
        choice = {**of_method, "scope": scope, "sparsity": sparsity}
        cells.append(pruned := base.then("prune", prune_cell, choice, after=[scores]))
        if (scope, sparsity) != ("layer", tune_at):
            continue
        tuning = {**choice, "tune_images": settled["tune_images"]}
        cells.append(base.then("tune", tune_cell, tuning, after=[scores]))
        if (unit, method) == ("channels", "magnitude"):
            cells.append(dense(base, pruned, choice))
    return cells


def _check_tuned(settled: Mapping[str, Json]) -> None:
    """Refuse to fine-tune at a sparsity at which nothing is removed."""
    for unit in settled["units"]:
        sparsities, tune_at = _NAMES[unit]
        if settled[tune_at] is not None and settled[tune_at] not in settled[sparsities]:
            raise InputError(
                f"{tune_at} is {settled[tune_at]}, which is none of {sparsities} {settled[sparsities]}; give one of them, "
                "or null for no fine-tuning"
            )


def score_cell(context: Context) -> Outcome:
    """Score the units once; the scores are kept."""
    model, recipe = networks.network(context)
    images = _shown(context, recipe)
    sites, _ = _removing(context, model, recipe)
    since = time.process_time()
    scores = criterion(context["method"], model, images, context["seed"], networks.loss_of(recipe))(model, sites)
    cost = _cost(time.process_time() - since, model, images)
    return Outcome({**cost, **_probes(scores)}, artefact=dict(scores))


def _probes(scores: Scores) -> dict[str, Json]:
    """How many probes scores by chance took, and the least rank correlation within a site that is foretold of two seeds."""
    if not isinstance(scores, TraceScores):
        return {}
    return {"probes": max(scores.probes.values()), "probe_correlation": min(scores.correlation.values())}


def prune_cell(context: Context) -> Outcome:
    """Remove by the scores, and rate what is left."""
    model, recipe = networks.network(context)
    small, keep = _pruned(context, model, recipe)
    return Outcome(_rated(context, recipe, model, small, keep))


def tune_cell(context: Context) -> Outcome:
    """Remove by the scores, fine-tune what is left, and rate it."""
    model, recipe = networks.network(context)
    small, keep = _pruned(context, model, recipe)
    images = networks.drawn(_trained_on(context, recipe), context["tune_images"], context["seed"])
    callbacks = [HoldZeros(keep)] if context["unit"] == "weights" else []
    options = {"batch_size": recipe["batch_size"], "seed": context["seed"], "loss": networks.loss_of(recipe)}
    fit(small, images, epochs=1, callbacks=callbacks, **options)
    return Outcome(_rated(context, recipe, model, small, keep))


def solve_cell(context: Context) -> Outcome:
    """Remove and repair by a solver, and rate what is left, without any training."""
    model, recipe = networks.network(context)
    images = _shown(context, recipe)
    sites, remove = _removing(context, model, recipe)
    since = time.process_time()
    solution = (
        SOLVERS[context["method"]].made(images, networks.loss_of(recipe)).solve(model, sites, context["sparsity"])
    )
    cost = _cost(time.process_time() - since, model, images)
    small = remove(solution.apply(model), solution.keep)
    return Outcome({**_rated(context, recipe, model, small, solution.keep), **cost})


def _trained_on(context: Context, recipe: Mapping[str, Json]) -> data.Images:
    return networks.first(networks.split(context, recipe, "train"), recipe["images"])


def _shown(context: Context, recipe: Mapping[str, Json]) -> data.Images:
    """The images that the methods of one seed are shown: of those that the network was trained on, drawn by the seed."""
    return networks.drawn(_trained_on(context, recipe), context["shown"], context["seed"])


def _pruned(context: Context, model: nn.Module, recipe: Mapping[str, Json]) -> tuple[nn.Module, Keep]:
    sites, remove = _removing(context, model, recipe)
    keep = select(context.artefact(1), context["sparsity"], scope=context["scope"], sites=sites)
    return remove(model, keep), keep


def _removing(
    context: Context, model: nn.Module, recipe: Mapping[str, Json]
) -> tuple[Sites, Callable[[nn.Module, Keep], nn.Module]]:
    """The sites, and what takes units out: channels are really cut. The output layer stays whole."""
    sites = channels(model, networks.example(context, recipe))
    if context["unit"] == "channels":
        return sites, lambda model, keep: cut(model, sites, keep, form="module")
    single = weights(model, ignore=[f"{name}.weight" for name in sites.frozen])
    return single, lambda model, keep: mask(model, single, keep)


def _cost(seconds: float, model: nn.Module, images: data.Images) -> dict[str, Json]:
    """Processor seconds, and how many forward passes over the same images take as long."""
    passes = []
    for _ in range(5):
        since = time.process_time()
        predict(model, images)
        passes.append(time.process_time() - since)
    return {"score_seconds": seconds, "forward_passes": seconds / sorted(passes)[2]}


def _rated(
    context: Context, recipe: Mapping[str, Json], model: nn.Module, small: nn.Module, keep: Keep
) -> dict[str, Json]:
    test = networks.first(networks.split(context, recipe, "test"), recipe["rated"])
    quality = networks.quality(small, test, loss=networks.loss_of(recipe))
    units = sum(mask.numel() for mask in keep.values())
    return {
        **quality,
        "kept": {name: int(mask.sum()) for name, mask in keep.items()},
        "units_removed": sum(int((~mask).sum()) for mask in keep.values()) / units,
        "parameters_removed": 1 - parameters(small).nonzero / parameters(model).total,
    }


STUDY = study(
    "criteria-shootout",
    "Criteria held against each other",
    "All criteria and solvers on two networks, with and without fine-tuning, tested against magnitude and random.",
    options=OPTIONS,
    cells=_cells,
    sections=sections,
    words=words,
    cards=cards,
    curves=curves,
    notes=NOTES,
)
