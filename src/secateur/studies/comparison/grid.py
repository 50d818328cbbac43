"""Prunings by any criterion, solver or schedule, the library's or one's own: how they are made, checked and computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import torch
from torch import nn

from secateur import criteria, data, schedules
from secateur.checks import check_name, in_one_line
from secateur.criteria.base import scores_of
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.labelled import Data
from secateur.measure import compare_latency, parameters, predict
from secateur.randomness import private_draws
from secateur.result import Result
from secateur.selection import select
from secateur.structure import channels, mask, weights
from secateur.structure.difference import difference
from secateur.studies.comparison.options import ONE_SHOT, OPTIONS, SOLVED, Pruning, methods_of
from secateur.studies.kit import networks
from secateur.studies.kit.making import MOVEMENT, criterion, made, solver
from secateur.studies.kit.parts import UNPRUNED
from secateur.train import HoldZeros, fit
from secateur.types import Criterion, InputError, Keep, SecateurError, Sites

__all__ = ["cell_of", "check_methods", "check_shown", "method_cell", "speed", "unpruned_cells"]

BATCHES = (1, 256)
"""The batch sizes at which latency is measured."""

SCHEDULES = (ONE_SHOT, "iterative")


# What can be seen before anything runs


def check_methods(study: str, settled: Mapping[str, Json]) -> dict[str, Pruning]:
    """Return the methods that the options ask for, each of them tried on a toy.

    Raises:
        UnknownNameError: there is no such criterion, solver, schedule, module or class.
        InputError: there is no method at all, or one that cannot do what it is asked to.
    """
    methods = methods_of(settled)
    if not methods:
        raise InputError(f"study {study!r}: methods is []; give one or more, or criteria, or a solver")
    for method in methods.values():
        if method.criterion != "magnitude" and (method.criterion or method.solver):
            _try(method, settled["minimum"])
    return methods


def check_shown(study: str, settled: Mapping[str, Json]) -> None:
    """Refuse to show criteria more images than there are to train on; the default takes what there is.

    Raises:
        InputError: the error says how many there are.
    """
    shown = settled["shown"]
    if shown == OPTIONS["shown"]:
        return
    for single in networks.singles(settled):
        count = networks.training_count(single, shown)
        if shown > count:
            raise InputError(
                f"study {study!r}: shown is {shown:,}, but {single['data']} has {count:,} images to train on; give at most "
                f"{count:,}"
            )


def _try(method: Pruning, minimum: int) -> None:
    """Prune a toy of a few weights: what cannot be done to that cannot be done to a network."""
    if method.schedule not in SCHEDULES and ":" not in method.schedule:
        check_name("schedule", method.schedule, SCHEDULES)
    if method.solver and ":" not in method.solver:
        check_name("solver", method.solver, SOLVED)
    if method.criterion and ":" not in method.criterion and method.criterion != MOVEMENT:
        criteria.entry(method.criterion)
    toy, samples = _toy()
    sites = channels(toy, samples[0][:1]) if method.unit == "channels" else weights(toy)
    try:
        ways = {"seed": 0, "minimum": min(minimum, 1), "loss": networks.PLAIN, "train": None}
        _remove(method, toy, sites, samples, 0.5, ways)
    except SecateurError as error:
        raise type(error)(f"{method.label} cannot be compared: {error}") from error
    except Exception as error:
        # Code of the user's own fails in its own way.
        if not any(":" in name for name in (method.criterion, method.solver, method.schedule)):
            raise
        raise InputError(
            f"{method.label} cannot be compared: {in_one_line(error)}, on a network of four filters"
        ) from error


def _toy() -> tuple[nn.Sequential, tuple[torch.Tensor, torch.Tensor]]:
    """A network of four filters, one of them dead and one never silent, and samples of it."""
    with private_draws(0):
        toy = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).eval()
        images = torch.randn(24, 1, 6, 6)
    norm = toy.get_parameter("1.bias")
    with torch.no_grad():
        norm.copy_(torch.linspace(-5, 5, 4))
    return toy, (images, torch.arange(24) % 3)


# One cell


def method_cell(context: Context) -> Outcome:
    """Prune a trained network by one method at one sparsity, fine-tune it if asked, rate and measure it."""
    model, recipe = networks.network(context)
    settings = context.recipe.parameters
    method = Pruning(**{f.name: settings[f.name] for f in fields(Pruning) if f.name in settings})
    trained_on = networks.split(context, recipe, "train")
    images = networks.drawn(trained_on, settings["shown"], context["seed"])
    sites = _sites(method, model, images.head(1), context["output"])
    loss = networks.loss_of(recipe)
    tuning = {"batch_size": recipe["batch_size"], "seed": context["seed"], "loss": loss}
    tune = partial(_tune, method, trained_on, tuning)
    ways = {
        "seed": context["seed"],
        "minimum": context["minimum"],
        "loss": loss,
        "train": tune if method.finetune else None,
    }
    result, masked = _remove(method, model, sites, images, context["sparsity"], ways)
    test = networks.split(context, recipe, "test")
    metrics: dict[str, Json] = {}
    if masked is not None:
        metrics |= _verified(method, result.model, masked, test)
        if method.finetune:
            untuned = networks.quality(result.model, test, loss=loss)
            metrics |= {"accuracy_untuned": untuned["accuracy"], "loss_untuned": untuned["loss"]}
            tune(result.model, dict(result.keep))
    metrics |= networks.quality(result.model, test, loss=loss)
    return Outcome({**metrics, **_measured(method, model, result, test)})


def _sites(method: Pruning, model: nn.Module, image: torch.Tensor, output: str) -> Sites:
    sites = channels(model, image)
    if method.unit == "channels":
        return sites
    return weights(model, ignore=[f"{name}.weight" for name in sites.frozen] if output == "whole" else [])


def _remove(
    method: Pruning, model: nn.Module, sites: Sites, images: Data, sparsity: float, ways: Mapping[str, Any]
) -> tuple[Result, nn.Module | None]:
    """What is left, and the same network with zeros in it; None where a schedule has trained on the way."""
    if method.solver:
        solution = solver(method.solver, images, ways["seed"]).solve(model, sites, sparsity)
        return _result(model, sites, solution.keep, solution.apply(model))

    def scorer(model: nn.Module, sites: Sites) -> dict[str, torch.Tensor]:
        # Made for the model as it is: a schedule asks about smaller ones.
        return criterion(method.criterion, model, images, ways["seed"], ways["loss"])(model, sites)

    if method.schedule != ONE_SHOT:
        return _scheduled(method, scorer, images, sparsity, ways)(model, sites), None
    scope: Any = method.scope
    scores = scores_of(scorer, model, sites, method.label)
    keep = select(scores, sparsity, scope=scope, minimum=ways["minimum"], sites=sites)
    return _result(model, sites, keep, model)


def _result(model: nn.Module, sites: Sites, keep: Keep, ready: nn.Module) -> tuple[Result, nn.Module]:
    """Channels are cut out, unless a site has lost them all: there is no such network, and its zeros are rated."""
    masked = mask(ready, sites, keep)
    if sites.structure is None or all(bool(kept.any()) for kept in keep.values()):
        return Result.of(model, sites, keep, repaired=ready, form="module"), masked
    return Result.masked(model, sites, keep, repaired=ready), masked


def _scheduled(
    method: Pruning, scorer: Criterion, images: Data, sparsity: float, ways: Mapping[str, Any]
) -> Callable[[nn.Module, Sites], Result]:
    offered: dict[str, Any] = {"criterion": scorer, "sparsity": sparsity, "steps": method.steps, "scope": method.scope}
    # One shot may empty a layer, and its zeros are rated; the steps of a schedule go on from a network that is cut.
    least = max(ways["minimum"], 1) if method.unit == "channels" else ways["minimum"]
    offered |= {"minimum": least, "train": ways["train"]}
    if method.schedule == "iterative":
        return schedules.Iterative(**offered, round_to=1)
    schedule: Callable[[nn.Module, Sites], Result] = made(method.schedule, "schedule", {**offered, "data": images})
    return schedule


def _tune(method: Pruning, images: data.Images, options: Mapping[str, Any], model: nn.Module, keep: Keep) -> None:
    """Train what is left; removed weights stay zero."""
    callbacks = [HoldZeros(keep)] if keep and method.unit == "weights" else []
    fit(model, images, epochs=method.finetune, callbacks=callbacks, **options)


def _verified(method: Pruning, small: nn.Module, masked: nn.Module, test: data.Images) -> dict[str, Json]:
    if method.unit == "weights":
        return {}
    return {"cut_difference": difference(predict(masked, test), predict(small, test))}


def _measured(method: Pruning, model: nn.Module, result: Result, test: data.Images) -> dict[str, Json]:
    image, keep = test.head(1), result.keep
    units = sum(site_mask.numel() for site_mask in keep.values())
    size = networks.size(result.model, image)
    metrics = {
        **size,
        "kept": {name: int(site_mask.sum()) for name, site_mask in keep.items()},
        "units_removed": sum(int((~site_mask).sum()) for site_mask in keep.values()) / units,
        "parameters_removed": 1 - int(size["nonzero"]) / parameters(model).nonzero,
    }
    if method.unit == "channels" and size["parameters"] < parameters(model).total:
        metrics |= {f"cut_{name}": value for name, value in size.items()}
        metrics |= speed({"unpruned": model, "cut": result.model}, image)
    return metrics


def speed(compared: Mapping[str, nn.Module], image: torch.Tensor) -> dict[str, Json]:
    """Median milliseconds of a batch, all models in turns in one run at one thread, and the speedups."""
    result: dict[str, Json] = {}
    for batch in BATCHES:
        timed = compare_latency(dict(compared), image, batch_size=batch, repeats=15)
        for name, latency in timed.latencies.items():
            result[f"ms_{name}_{batch}"] = 1000 * latency.median
            if name != "unpruned":
                result[f"speedup_{name}_{batch}"] = timed.speedups[name].median
    return result


def unpruned_cell(context: Context) -> Outcome:
    """Train an unpruned network further, as long as pruned ones are fine-tuned, and rate it: what those are held against."""
    model, recipe = networks.network(context)
    method, loss = Pruning(finetune=context["finetune"]), networks.loss_of(recipe)
    tuning = {"batch_size": recipe["batch_size"], "seed": context["seed"], "loss": loss}
    for _ in range(context["rounds"]):
        _tune(method, networks.split(context, recipe, "train"), tuning, model, {})
    return Outcome(networks.quality(model, networks.split(context, recipe, "test"), loss=loss))


def unpruned_cells(base: Cell, methods: Mapping[str, Pruning]) -> list[Cell]:
    """Return a cell for each length of fine-tuning: the unpruned network, trained as long."""
    tuned = {method.unpruned: method for method in methods.values() if method.finetune}
    return [
        base.then(
            UNPRUNED, unpruned_cell, {"finetune": method.finetune, "rounds": method.rounds}, lookup={"method": name}
        )
        for name, method in tuned.items()
    ]


def cell_of(base: Cell, method: Pruning, sparsity: float, settled: Mapping[str, Json]) -> Cell:
    """Return the cell that prunes a trained network by a method; it is looked up by what the method is called."""
    settings = {key: settled[key] for key in ("minimum", "output", "shown")}
    parameters_ = {**method.parameters, "sparsity": sparsity, **settings}
    return base.then("prune", method_cell, parameters_, lookup={"method": method.label})
