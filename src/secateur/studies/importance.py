"""What every unit of a trained network is worth, and what cutting by it costs: the cells that several studies share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from secateur import data
from secateur.criteria import LossChange, LossChanges, Magnitude, Random
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome
from secateur.measure import parameters
from secateur.select import select
from secateur.structure import channels, cut
from secateur.studies.networks import example, network, quality, size, split
from secateur.types import Keep, Scores, Sites

__all__ = [
    "LABELS",
    "METHODS",
    "OPTIONS",
    "as_many",
    "chosen",
    "first",
    "measure_cell",
    "measured",
    "prune_cell",
    "pruned",
    "rated",
    "worth",
]

METHODS = ("loss change", "magnitude", "random")
"""What chooses the units that go; the last two are the controls."""

LABELS = ("important", "zero", "worse")

OPTIONS = (
    Option("measured", "count", 10_000, "training images to measure the units on, the first ones", least=1),
    Option("sparsities", "number", [0.5], "fractions of the units to cut", 0, 1, many="list"),
)
"""What every study of measured units takes."""


def measured(study: str, base: Cell, settled: Mapping[str, Json], known: Mapping[str, Json]) -> Cell:
    """Return the cell that measures every unit of the network that `base` trains.

    Args:
        study: the study's name.
        base: the cell of the trained network.
        settled: the study's options, those of `OPTIONS` among them.
        known: what `base` decides and rows are looked up by, such as the data set.
    """
    what = {"seed": base.recipe.seed, "images": settled["measured"], **known}
    return Cell(Recipe(study, "measure", what, (base.id,), known), measure_cell)


def pruned(study: str, base: Cell, measure: Cell, settled: Mapping[str, Json], known: Mapping[str, Json]) -> list[Cell]:
    """Return one cell for each sparsity and method, all of which cut as many units of each layer."""
    cells = []
    for sparsity in settled["sparsities"]:
        for method in METHODS:
            what = {"seed": base.recipe.seed, "method": method, "sparsity": sparsity, **known}
            cells.append(Cell(Recipe(study, "prune", what, (base.id, measure.id), known), prune_cell))
    return cells


def measure_cell(context: Context) -> Outcome:
    """Measure the loss change of every unit on training images, and rate the whole network."""
    model, recipe = network(context)
    image = example(context, recipe)
    changes = LossChange(first(split(context, recipe, "train"), context["images"]))(model, channels(model, image))
    metrics = {**rated(context, recipe, model, context["images"]), **size(model, image), **worth(changes)}
    kept = {f"change.{name}": change for name, change in changes.items()}
    kept |= {f"error.{name}": error for name, error in changes.error.items()}
    return Outcome(metrics, artefact=kept)


def prune_cell(context: Context) -> Outcome:
    """Cut the units of the lowest loss changes, or as many of each layer by a control, and rate what is left."""
    model, recipe = network(context)
    image = example(context, recipe)
    sites = channels(model, image)
    found = context.artefact(1)
    changes = {name: found[f"change.{name}"] for name in sites}
    keep = chosen(context["method"], model, sites, changes, context["sparsity"], context["seed"])
    small = cut(model, sites, keep)
    metrics = rated(context, recipe, small, context.record(1).recipe.parameters["images"])
    return Outcome({**metrics, **size(small, image), **_removed(model, small, keep)})


def chosen(method: str, model: nn.Module, sites: Sites, changes: Scores, sparsity: float, seed: int) -> Keep:
    """Return the masks of one of `METHODS`; the controls remove as many units of each layer as the loss change does."""
    keep = select(changes, sparsity)
    if method == "loss change":
        return keep
    return as_many((Random(seed) if method == "random" else Magnitude(p=2))(model, sites), keep)


def as_many(scores: Scores, keep: Keep) -> Keep:
    """Return masks that remove the lowest scores, in each site as many as `keep` does.

    >>> as_many({"fc": torch.tensor([3.0, 1.0, 2.0])}, {"fc": torch.tensor([True, True, False])})
    {'fc': tensor([ True, False,  True])}
    """
    parts = {name: float((~kept).double().mean()) for name, kept in keep.items()}
    return select(scores, parts, scope="layer", minimum=0)


def first(images: data.Split, count: int) -> data.Split:
    """Return the first `count` images, or all where there are fewer."""
    return images.subset(range(min(count, len(images))))


def rated(context: Context, recipe: Mapping[str, Json], model: nn.Module, count: int) -> dict[str, Json]:
    """Return loss and accuracies on test, validation and the first `count` training images."""
    return {
        **quality(model, split(context, recipe, "test")),
        **quality(model, split(context, recipe, "validation"), "validation_"),
        **quality(model, first(split(context, recipe, "train"), count), "train_"),
    }


def worth(changes: LossChanges) -> dict[str, Json]:
    """Return the share of units with each label, in all and by site, and how their loss changes are spread.

    >>> from secateur.criteria import Base
    >>> found = LossChanges(Base(1.0, 0.5, torch.zeros(2), 9, torch.tensor([4, 5])), {"fc": torch.tensor([0.5, 0.0])})
    >>> found.error["fc"] = torch.tensor([0.1, 0.1])
    >>> {name: worth(found)[name] for name in ("units", "important", "zero", "worse", "change_max")}
    {'units': 2, 'important': 0.5, 'zero': 0.5, 'worse': 0.0, 'change_max': 0.5}
    """
    labels = changes.label()
    every = [label for given in labels.values() for label in given]
    flat: Tensor = torch.cat([change.double().flatten() for change in changes.values()])
    places = (("min", 0.0), ("25", 0.25), ("50", 0.5), ("75", 0.75), ("max", 1.0))
    return {
        "units": len(every),
        **{label: every.count(label) / len(every) for label in LABELS},
        "by_site": {site: {label: given.count(label) for label in LABELS} for site, given in labels.items()},
        "change_mean": float(flat.mean()),
        "change_std": float(flat.std(correction=0)),
        **{f"change_{name}": float(flat.quantile(at)) for name, at in places},
    }


def _removed(model: nn.Module, small: nn.Module, keep: Keep) -> dict[str, Json]:
    units = sum(k.numel() for k in keep.values())
    return {
        "kept": {name: int(k.sum()) for name, k in keep.items()},
        "units_removed": sum(int((~k).sum()) for k in keep.values()) / units,
        "parameters_removed": 1 - parameters(small).total / parameters(model).total,
    }
