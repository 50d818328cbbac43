"""L. Charpentier, 2020: the cells that measure what every unit is worth, and cut by it beside the controls."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur.criteria import LossChange, UnitWorth
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import parameters
from secateur.structure import channels, cut
from secateur.studies.kit.controls import METHODS, by_method
from secateur.studies.kit.networks import example, first, images_of, loss_of, network, rate, size, split
from secateur.types import Keep

__all__ = ["LABELS", "OPTIONS", "measure_cell", "measured", "prune_cell", "worth"]

LABELS = ("important", "zero", "worse")

OPTIONS = (
    Option("measured", "count", 10_000, "training images to measure the units on, the first ones", least=1),
    Option("sparsities", "number", [0.5], "fractions of the units to cut", 0, 1, many="list"),
)
"""What every study of measured units takes."""


def measured(base: Cell, settled: Mapping[str, Json], **lookup: Json) -> list[Cell]:
    """Return the cells of one network: training, measuring every unit, and cutting by that and by the controls.

    Each sparsity and method is a cell, all of which cut as many units of each layer.

    Args:
        base: the cell of the trained network.
        settled: the study's options, those of `OPTIONS` among them.
        lookup: what `base` decides and rows are looked up by, beside the data set and the network.
    """
    measure = base.then("measure", measure_cell, {"images": settled["measured"]}, lookup=lookup)
    cuts = [{"method": method, "sparsity": sparsity} for sparsity in settled["sparsities"] for method in METHODS]
    return [base, measure, *(base.then("prune", prune_cell, cut, after=[measure], lookup=lookup) for cut in cuts)]


def measure_cell(context: Context) -> Outcome:
    """Measure the loss change of every unit on training images, and rate the whole network."""
    model, recipe = network(context)
    image = example(context, recipe)
    loss, images = loss_of(recipe), first(split(context, recipe, "train"), context["images"])
    changes = LossChange(images, loss)(model, channels(model, image))
    rating = rate(model, images_of(context, recipe, context["images"]), loss)
    metrics = {**rating, **size(model, image), **worth(changes)}
    tensors = {f"change.{name}": change for name, change in changes.items()}
    tensors |= {f"error.{name}": error for name, error in changes.error.items()}
    return Outcome(metrics, artefact=tensors)


def prune_cell(context: Context) -> Outcome:
    """Cut the units of the lowest loss changes, or as many of each layer by a control, and rate what is left."""
    model, recipe = network(context)
    image, tensors = example(context, recipe), context.artefact(1)
    sites = channels(model, image)
    changes = {name: tensors[f"change.{name}"] for name in sites}
    keep = by_method(context["method"], model, sites, changes, context["sparsity"], context["seed"])
    small = cut(model, sites, keep)
    count = context.record(1).recipe.parameters["images"]
    metrics = rate(small, images_of(context, recipe, count), loss_of(recipe))
    return Outcome({**metrics, **size(small, image), **_removed(model, small, keep)})


def worth(changes: UnitWorth) -> dict[str, Json]:
    """Return the share of units with each label, in all and by site, and how their loss changes are spread.

    >>> from secateur.criteria import Base
    >>> changes = UnitWorth(Base(1.0, 0.5, torch.zeros(2), 9, torch.tensor([4, 5])), {"fc": torch.tensor([0.5, 0.0])})
    >>> changes.error["fc"] = torch.tensor([0.1, 0.1])
    >>> {name: worth(changes)[name] for name in ("units", "important", "zero", "worse", "change_max")}
    {'units': 2, 'important': 0.5, 'zero': 0.5, 'worse': 0.0, 'change_max': 0.5}
    """
    labels = changes.label(reading="significance")
    every = [label for names in labels.values() for label in names]
    flat: Tensor = torch.cat([change.double().flatten() for change in changes.values()])
    places = (("min", 0.0), ("25", 0.25), ("50", 0.5), ("75", 0.75), ("max", 1.0))
    return {
        "units": len(every),
        **{label: every.count(label) / len(every) for label in LABELS},
        "by_site": {site: {label: names.count(label) for label in LABELS} for site, names in labels.items()},
        "change_mean": float(flat.mean()),
        "change_std": float(flat.std(correction=0)),
        **{f"change_{name}": float(flat.quantile(at)) for name, at in places},
    }


def _removed(model: nn.Module, small: nn.Module, keep: Keep) -> dict[str, Json]:
    units = sum(mask.numel() for mask in keep.values())
    return {
        "kept": {name: int(mask.sum()) for name, mask in keep.items()},
        "units_removed": sum(int((~mask).sum()) for mask in keep.values()) / units,
        "parameters_removed": 1 - parameters(small).total / parameters(model).total,
    }
