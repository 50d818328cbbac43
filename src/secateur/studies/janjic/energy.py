"""Every convolution pruned alone by the energy of its filters, beside its controls: the cells of Janjić's section 5.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome
from secateur.rate.masks import Evaluations, Removals
from secateur.studies.janjic import filters
from secateur.studies.kit.networks import network
from secateur.types import Keep, Site

__all__ = ["cells", "layers_cell", "options"]

FURTHER = (
    Option("thresholds", "number", filters.THRESHOLDS, "shares of a layer's energy to remove", 0, 1, many="list"),
    Option("methods", "text", list(filters.METHODS), "what chooses", allowed=filters.METHODS, many="list"),
)


def options(**defaults: Json) -> Options:
    """Return the options of a study of filter energy, with its defaults."""
    return filters.options(*FURTHER, **defaults)


def cells(study: str, settled: Mapping[str, Json], taken: Options) -> list[Cell]:
    """Return one cell a network, and on each one cell for each method and threshold, which takes every layer alone.

    Raises:
        InputError, UnknownNameError: an option is not what the study takes; nothing has run then.
    """
    filters.check(study, settled, taken)
    made = filters.bases(study, settled)
    known = {key: settled[key] for key in ("data", "model")}
    kept = {key: settled[key] for key in ("layers", "test_images")}
    for base, (method, threshold) in product(list(made), product(settled["methods"], settled["thresholds"])):
        what = {"seed": base.recipe.seed, "method": method, "threshold": threshold, **kept, **known}
        made.append(Cell(Recipe(study, "layers", what, (base.id,), {"layers": "*", **known}), layers_cell))
    return made


def layers_cell(context: Context) -> Outcome:
    """Prune each convolution alone, the others whole, and rate every one of these networks."""
    model, recipe = network(context)
    test = filters.rated(context, recipe)
    image = test.images[:1]
    sites = filters.filters(model, image, context["layers"])
    keep = filters.choose(model, sites, context["threshold"], context["method"], context["seed"])
    # As `mask` rates it, and so as `cut` does; what comes before a layer runs once.
    rate = Removals(model, sites, test, max_memory=0, batch_size=filters.step_size(image))
    whole, total = rate([{}]), sum(p.numel() for p in model.parameters())
    tried = [_Tried(place, sites[name], keep[name], whole, rate) for place, name in enumerate(sites, 1)]
    return Outcome(_metrics(tried, whole, total), [one.row(total) for one in tried])


@dataclass(eq=False)
class _Tried:
    """One layer pruned alone."""

    place: int
    site: Site
    kept: Tensor
    whole: Evaluations
    rate: Removals

    def __post_init__(self) -> None:
        one: Keep = {self.site.name: self.kept}
        self.found = self.whole if bool(self.kept.all()) else self.rate([one])

    def row(self, total: int) -> dict[str, Any]:
        """The layer's line of the history."""
        removed, accuracy = int((~self.kept).sum()), float(self.found.accuracy[0])
        points, share = 100 * (accuracy - float(self.whole.accuracy[0])), removed / self.kept.numel()
        return {
            "step": self.place,
            "layer": self.site.name,
            "filters": self.kept.numel(),
            "removed": removed,
            "compression": share,
            "parameters_removed": filters.parameters_of(self.site, self.kept) / total,
            "accuracy": accuracy,
            "loss": float(self.found.losses[0]),
            "points": points,
            "fitness": points + share,
            "counted": filters.before_convolution(self.site),
        }


def _metrics(tried: Sequence[_Tried], whole: Evaluations, total: int) -> dict[str, Json]:
    """Means over the layers that a convolution follows, which are those that the text prunes."""
    counted = [one for one in tried if filters.before_convolution(one.site)] or list(tried)
    rows = [one.row(total) for one in counted]
    names = ("accuracy", "loss", "points", "compression", "parameters_removed", "fitness")
    classes = torch.stack([one.found.class_accuracy[0] for one in counted]).mean(0)
    return {
        **{name: sum(row[name] for row in rows) / len(rows) for name in names},
        "class_accuracy": classes.tolist(),
        "layers_pruned": len(rows),
        "base_accuracy": float(whole.accuracy[0]),
        "base_loss": float(whole.losses[0]),
        "base_class_accuracy": whole.class_accuracy[0].tolist(),
    }
