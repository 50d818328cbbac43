"""Every convolution pruned alone by the energy of its filters, beside its controls: the cells of Janjić's section 5.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome, Study
from secateur.rate.masks import Evaluations, Removals
from secateur.studies.janjic import filters
from secateur.studies.janjic.energy_pages import NOTES, cards, sections, words
from secateur.studies.kit.networks import network
from secateur.studies.kit.parts import study
from secateur.studies.kit.published import published
from secateur.types import Site

__all__ = ["energy_study", "layers_cell"]

FURTHER = (
    Option("thresholds", "number", filters.THRESHOLDS, "shares of a layer's energy to remove", 0, 1, many="list"),
    Option("methods", "text", list(filters.METHODS), "what chooses", allowed=filters.METHODS, many="list"),
)


def energy_study(name: str, title: str, summary: str, notes: Sequence[str], **defaults: Json) -> Study:
    """Return a study of filter energy.

    Args:
        name, title, summary: the study's; the last part of the name is that of its published figures.
        notes: how passages of the text were read.
        defaults: of its options.
    """
    claims = published("janjic")[name.rpartition("-")[2]]
    return study(
        name,
        title,
        summary,
        source=filters.SOURCE,
        options=filters.options(*FURTHER, **defaults),
        cells=_cells,
        sections=partial(sections, claims=claims),
        words=words,
        cards=cards,
        notes=[*NOTES, *notes],
    )


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    """One cell a network, and on each one cell for each method and threshold, which takes every layer alone."""
    cells = filters.bases(name, settled)
    shared = {key: settled[key] for key in ("layers", "test_images")}
    for base, method, threshold in product(list(cells), settled["methods"], settled["thresholds"]):
        parameters = {"method": method, "threshold": threshold, **shared}
        cells.append(base.then("layers", layers_cell, parameters, defaults={"layers": "*"}))
    return cells


def layers_cell(context: Context) -> Outcome:
    """Prune each convolution alone, the others whole, and rate every one of these networks."""
    model, recipe = network(context)
    test = filters.rated(context, recipe)
    image = test.head(1)
    sites = filters.filters(model, image, context["layers"])
    keep = filters.choose(model, sites, context["threshold"], context["method"], context["seed"])
    # As `mask` rates it, and so as `cut` does; what comes before a layer runs once.
    rate = Removals(model, sites, test, max_memory=0, batch_size=filters.step_size(image))
    whole, total = rate([{}]), sum(p.numel() for p in model.parameters())
    ratings = {name: whole if bool(keep[name].all()) else rate([{name: keep[name]}]) for name in sites}
    rows = [_row(place, sites[name], keep[name], whole, ratings[name], total) for place, name in enumerate(sites, 1)]
    # The text prunes those layers that a convolution follows.
    means = [row for row in rows if row["counted"]] or rows
    return Outcome(_metrics(means, whole, [ratings[row["layer"]] for row in means]), rows)


def _row(place: int, site: Site, keep: Tensor, whole: Evaluations, rating: Evaluations, total: int) -> dict[str, Any]:
    """The history's line of one layer that was pruned alone."""
    removed, accuracy = int((~keep).sum()), float(rating.accuracy[0])
    points, share = 100 * (accuracy - float(whole.accuracy[0])), removed / keep.numel()
    return {
        "step": place,
        "layer": site.name,
        "filters": keep.numel(),
        "removed": removed,
        "compression": share,
        "parameters_removed": filters.parameters_of(site, keep) / total,
        "accuracy": accuracy,
        "loss": float(rating.losses[0]),
        "points": points,
        "fitness": points + share,
        "counted": filters.before_convolution(site),
    }


def _metrics(rows: Sequence[Mapping[str, Any]], whole: Evaluations, ratings: Sequence[Evaluations]) -> dict[str, Json]:
    """Means over layers, beside the whole network."""
    names = ("accuracy", "loss", "points", "compression", "parameters_removed", "fitness")
    return {
        **{name: sum(row[name] for row in rows) / len(rows) for name in names},
        "class_accuracy": torch.stack([rating.class_accuracy[0] for rating in ratings]).mean(0).tolist(),
        "layers_pruned": len(rows),
        "base_accuracy": float(whole.accuracy[0]),
        "base_loss": float(whole.losses[0]),
        "base_class_accuracy": whole.class_accuracy[0].tolist(),
    }
