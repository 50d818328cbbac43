"""What studies of measured units share: images, ratings, controls, and the cells that measure every unit and cut by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from secateur import data
from secateur.criteria import LossChange, Magnitude, Random, UnitWorth
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome
from secateur.measure import parameters
from secateur.selection import select
from secateur.structure import channels, cut
from secateur.studies.kit.networks import example, first, network, quality, size, split
from secateur.types import InputError, Keep, Scores, Sites

__all__ = [
    "LABELS",
    "METHODS",
    "OPTIONS",
    "as_many",
    "by_magnitude",
    "chosen",
    "drawn",
    "drawn_like",
    "images_of",
    "measure_cell",
    "measured",
    "prune_cell",
    "rate",
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


def measured(study: str, base: Cell, settled: Mapping[str, Json], known: Mapping[str, Json]) -> list[Cell]:
    """Return the cells of one network: training, measuring every unit, and cutting by that and by the controls.

    Each sparsity and method is a cell, all of which cut as many units of each layer.

    Args:
        study: the study's name.
        base: the cell of the trained network.
        settled: the study's options, those of `OPTIONS` among them.
        known: what `base` decides and rows are looked up by, such as the data set.
    """
    seed = base.recipe.seed
    what = {"seed": seed, "images": settled["measured"], **known}
    measure = Cell(Recipe(study, "measure", what, (base.id,), known), measure_cell)
    cells = [base, measure]
    for sparsity in settled["sparsities"]:
        for method in METHODS:
            what = {"seed": seed, "method": method, "sparsity": sparsity, **known}
            cells.append(Cell(Recipe(study, "prune", what, (base.id, measure.id), known), prune_cell))
    return cells


def measure_cell(context: Context) -> Outcome:
    """Measure the loss change of every unit on training images, and rate the whole network."""
    model, recipe = network(context)
    image = example(context, recipe)
    changes = LossChange(first(split(context, recipe, "train"), context["images"]))(model, channels(model, image))
    metrics = {**rate(model, images_of(context, recipe, context["images"])), **size(model, image), **worth(changes)}
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
    metrics = rate(small, images_of(context, recipe, context.record(1).recipe.parameters["images"]))
    return Outcome({**metrics, **size(small, image), **_removed(model, small, keep)})


def chosen(method: str, model: nn.Module, sites: Sites, changes: Scores, sparsity: float, seed: int) -> Keep:
    """Return the masks of one of `METHODS`; the controls remove as many units of each layer as the loss change does."""
    keep = select(changes, sparsity)
    if method == "loss change":
        return keep
    return as_many(Random(seed)(model, sites), keep) if method == "random" else by_magnitude(keep, model, sites)


def as_many(scores: Scores, keep: Keep) -> dict[str, Tensor]:
    """Return masks that remove the lowest scores, in each site as many as `keep` does.

    >>> as_many({"fc": torch.tensor([3.0, 1.0, 2.0])}, {"fc": torch.tensor([True, True, False])})
    {'fc': tensor([ True, False,  True])}
    """
    fractions = {name: int((~kept).sum()) / kept.numel() for name, kept in keep.items()}
    return select(scores, fractions, scope="layer", minimum=0)


def by_magnitude(keep: Keep, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
    """Return the keep mask that removes as many units of each site as `keep` does: those of the lowest L2 norm."""
    return as_many(Magnitude(p=2)(model, sites), keep)


def drawn(model: nn.Module, sites: Sites, n: int, draws: int, seed: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return keep masks that each remove `n` of all units, drawn at random.

    Args:
        model, sites: the network and its sites, all pooled; one may lose every unit.
        n: how many units go.
        draws: how many masks.
        seed: whole numbers that together decide the draws.

    Raises:
        InputError: there are fewer units than `n`.
    """
    total = sum(site.size for site in sites.values())
    if n > total:
        raise InputError(f"{n} units are to be removed at random, but the network has only {total}; ask for fewer")
    return [select(scores, n / total, minimum=0) for scores in _random(model, sites, draws, seed)]


def drawn_like(keep: Keep, model: nn.Module, sites: Sites, draws: int, seed: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return keep masks that each remove as many units of each site as `keep` does, drawn at random."""
    return [as_many(scores, keep) for scores in _random(model, sites, draws, seed)]


def _random(model: nn.Module, sites: Sites, draws: int, seed: Sequence[int]) -> Iterable[dict[str, Tensor]]:
    seeds = np.random.default_rng(list(seed)).integers(2**31, size=draws)
    return (Random(int(one))(model, sites) for one in seeds)


def images_of(context: Context, recipe: Mapping[str, Json], count: int) -> dict[str, data.Split]:
    """Return the images: the first `count` of training, which alone may decide, validation and test."""
    splits = {name: split(context, recipe, name) for name in ("train", "validation", "test")}
    return {**splits, "train": first(splits["train"], count)}


def rate(model: nn.Module, splits: Mapping[str, data.Split]) -> dict[str, Json]:
    """Return loss, accuracy and the accuracy of each class on each split; those on ``test`` without a prefix."""
    return {
        name: value
        for key, split in splits.items()
        for name, value in quality(model, split, "" if key == "test" else f"{key}_").items()
    }


def worth(changes: UnitWorth) -> dict[str, Json]:
    """Return the share of units with each label, in all and by site, and how their loss changes are spread.

    >>> from secateur.criteria import Base
    >>> found = UnitWorth(Base(1.0, 0.5, torch.zeros(2), 9, torch.tensor([4, 5])), {"fc": torch.tensor([0.5, 0.0])})
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
