"""L. Charpentier, 2020, sections 3.4 and 3.5: pruning by the loss, measured anew after each removal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from time import process_time

from secateur.data import Images
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.schedules import Exhaustive, Greedy
from secateur.structure import channels
from secateur.studies.charpentier.by_loss import DRAWS, IMAGES, cut_and_rate, path, pruning_study, with_controls
from secateur.studies.charpentier.common import NETWORKS, WIDTH, bases, options
from secateur.studies.kit.networks import example, images_of, loss_of, network

__all__ = ["STUDY"]

SCHEDULES = ("exhaustive", "greedy")

NOTES = (
    "Exhaustive: the unit whose removal lowers the training loss most goes, all others are measured anew, exactly, and so on "
    "until no removal lowers it. Greedy: the first unit whose removal lowers the loss, or changes it by no more than the "
    "tolerance, goes at once; a unit that is found important is left out for some rounds. The text names both and has the "
    "algorithms still to do; the readings are ours.",
    "Every layer keeps at least one unit. Nothing was chosen by validation or test images, and nothing retrained.",
    "Losses looked at are those over all deciding images: of exhaustive those of every unit at every step, though they are "
    "computed together; processor time says what that took.",
)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    cells = []
    for base in bases(name, settled):
        cells.append(base)
        for schedule in settled["schedules"]:
            keys = ("tolerance", "skip_rounds") if schedule == "greedy" else ()
            parameters = {"images": settled["images"], "schedule": schedule, **{key: settled[key] for key in keys}}
            cells += with_controls(base, base.then("prune", prune_cell, parameters), settled["draws"])
    return cells


def prune_cell(context: Context) -> Outcome:
    """Prune by the loss of training images, and follow the other images beside."""
    model, recipe = network(context)
    sites = channels(model, example(context, recipe))
    splits = images_of(context, recipe, context["images"])
    folder = context.options.get("checkpoints")
    file = None if folder is None else Path(folder) / f"{context.recipe.id}.safetensors"
    since = process_time()
    pruned = _schedule(context, splits["train"], loss_of(recipe))(model, sites, checkpoint=file)
    effort = {"evaluations": pruned.history.evaluations, "cpu_seconds": process_time() - since}
    outcome = cut_and_rate(model, sites, pruned.keep, splits, loss_of(recipe), effort)
    if file is not None:
        file.unlink(missing_ok=True)
    return Outcome(outcome.metrics, path(pruned.history, model, sites, splits), outcome.artefact)


def _schedule(context: Context, images: Images, loss: str) -> Exhaustive | Greedy:
    if context["schedule"] == "exhaustive":
        return Exhaustive(images, loss)
    return Greedy(images, loss, tolerance=context["tolerance"], skip_rounds=context["skip_rounds"])


STUDY = pruning_study(
    "charpentier-exhaustive-greedy",
    "Pruning by the loss, measured anew after each removal",
    "Exhaustive and greedy removal by the training loss, until none improves it, from three networks, really cut.",
    options=options(
        IMAGES,
        DRAWS,
        Option("schedules", "text", list(SCHEDULES), "how to go on", allowed=SCHEDULES, many="list"),
        Option("tolerance", "number", 0.0, "a change of the loss that does not matter to greedy", 0.0),
        Option("skip_rounds", "count", 2, "rounds that greedy leaves an important unit out"),
        Option("checkpoints", "text", None, "a folder for prunings under way, to go on after a kill", optional=True),
        model=NETWORKS,
        model_options=WIDTH,
    ),
    cells=_cells,
    paths=lambda part: part.steps(part.pruned),
    notes=NOTES,
)
