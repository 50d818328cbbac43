"""L. Charpentier, 2020, section 3.3: pruning by importance that was measured once, on the whole network."""

from __future__ import annotations

from collections.abc import Mapping
from time import process_time
from typing import TYPE_CHECKING

from secateur.criteria import LossChange
from secateur.criteria.loss_change.labels import LABELS
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.schedules import Precomputed
from secateur.schedules.walk import Unit
from secateur.structure import channels
from secateur.studies.charpentier.by_loss import (
    DRAWS,
    IMAGES,
    cut_and_rate,
    path,
    pruning_study,
    with_controls,
    without,
)
from secateur.studies.charpentier.common import NETWORKS, WIDTH, bases, options
from secateur.studies.kit.networks import example, images_of, loss_of, network
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

STOPS: Mapping[str, tuple[str, ...]] = {"worse": ("worse",), "worse and zero": ("worse", "zero"), "no higher loss": ()}
"""Schedule → the labels that go; without labels, the longest way that ends with no higher training loss."""

NOTES = (
    "The loss change of every unit is measured once, exactly, on the whole network and on training images; units are "
    "ranked by it, and go lowest first. The text calls the result slightly too extreme and says no more; it is read so: all "
    "units go that are worse or zero. Beside it stand two milder readings: only the worse ones go; and units go in that "
    "order for as long as the training loss of what is left is no higher than that of the whole network.",
    "Every layer keeps at least one unit. Labels are those of a paired test with Holm's correction at 0.05.",
    "Nothing was chosen by validation or test images, and nothing retrained.",
)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    cells = []
    for base in bases(name, settled):
        parameters = {"images": settled["images"]}
        cells += [base, ranked := base.then("rank", rank_cell, parameters)]
        for schedule in settled["schedules"]:
            pruned = base.then("prune", prune_cell, {**parameters, "schedule": schedule}, after=[ranked])
            cells += with_controls(base, pruned, settled["draws"])
    return cells


def rank_cell(context: Context) -> Outcome:
    """Measure once, remove all units lowest first, and follow the loss."""
    model, recipe = network(context)
    sites = channels(model, example(context, recipe))
    splits = images_of(context, recipe, context["images"])
    since = process_time()
    changes = LossChange(splits["train"], loss_of(recipe))(model, sites)
    measuring = process_time() - since
    pruned = Precomputed(changes, LABELS, splits["train"], loss_of(recipe), reading="significance")(model, sites)
    metrics: dict[str, Json] = {
        "order": [name for name, _ in pruned.history.removed],
        "numbers": [number for _, number in pruned.history.removed],
        "took": [label for step in pruned.history.steps for label in step.labels],
        "losses": [pruned.history.loss_before, *(step.loss for step in pruned.history.steps)],
        "evaluations": sum(site.size for site in sites.values()),
        "cpu_seconds": measuring,
    }
    return Outcome(metrics, path(pruned.history, model, sites, splits))


def prune_cell(context: Context) -> Outcome:
    """Cut what the ranking says."""
    model, recipe = network(context)
    ranked = context.record(1).metrics
    sites = channels(model, example(context, recipe))
    keep = without(sites, stop(context["schedule"], ranked))
    splits = images_of(context, recipe, context["images"])
    # Where the way ends is found by following the loss; labels need no more than the measuring.
    followed = 0 if STOPS[context["schedule"]] else len(ranked["order"])
    effort = {"evaluations": ranked["evaluations"] + followed, "cpu_seconds": ranked["cpu_seconds"]}
    return cut_and_rate(model, sites, keep, splits, loss_of(recipe), effort)


def stop(schedule: str, ranked: Mapping[str, Json]) -> list[Unit]:
    """Return the units that go: those of the schedule's labels, or the longest way with no higher loss at its end.

    >>> ranked = {"order": ["a", "a"], "numbers": [1, 0], "took": ["worse", "zero"], "losses": [0.5, 0.4, 0.6]}
    >>> stop("worse and zero", ranked), stop("no higher loss", ranked)
    ([('a', 1), ('a', 0)], [('a', 1)])
    """
    units = list(zip(ranked["order"], ranked["numbers"], strict=True))
    labels = STOPS[schedule]
    if labels:
        return [unit for unit, label in zip(units, ranked["took"], strict=True) if label in labels]
    losses = ranked["losses"]
    return units[: max(count for count, loss in enumerate(losses) if loss <= losses[0])]


def _paths(part: Part) -> DataFrame:
    return part.steps(part.kind("rank").assign(schedule="ranked once"))


STUDY = pruning_study(
    "charpentier-precomputed",
    "Pruning by importance that was measured once",
    "All units ranked once by their exact loss change; the worse, or the worse and zero ones, really cut from three networks.",
    options=options(
        IMAGES,
        DRAWS,
        Option("schedules", "text", list(STOPS), "what goes", allowed=tuple(STOPS), many="list"),
        model=NETWORKS,
        model_options=WIDTH,
    ),
    cells=_cells,
    paths=_paths,
    notes=NOTES,
)
