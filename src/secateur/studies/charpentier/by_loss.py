"""L. Charpentier, 2020, sections 3.3 to 3.5: cells and pages of the studies that prune by the measured loss.

A schedule decides on training images which units go; the network is really cut; controls remove as many units of each
site at random, or those of the lowest L2 norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur import data
from secateur.files import require
from secateur.lab import figures
from secateur.lab.blocks import Block, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import paired
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Cell, Context, Outcome, Results
from secateur.measure import predict
from secateur.rate.masks import Evaluations
from secateur.rate.masks import rate as rate_masks
from secateur.schedules import PruningLog
from secateur.schedules.walk import Unit
from secateur.structure import channels, cut, mask
from secateur.structure.difference import difference
from secateur.studies.charpentier.measured import by_magnitude, drawn_like, images_of, rate
from secateur.studies.kit.networks import example, network, size
from secateur.studies.kit.parts import Part, report
from secateur.types import Keep, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "BY_LOSS",
    "CONTROLS",
    "DRAWS",
    "IMAGES",
    "control_cells",
    "cut_and_rate",
    "path",
    "pruning_report",
    "without",
]

IMAGES = Option("images", "count", 2000, "training images that decide, at most", least=1)

DRAWS = Option("draws", "count", 20, "random controls for each pruned network", least=1)

BY_LOSS = "by loss"

CONTROLS = ("random", "magnitude")

POINTS = 12
"""At so many places of a path, about, validation and test images are looked at; training images at every step."""

_LOSSES = {"train": "train_loss", "validation": "validation_loss", "test": "loss"}


# Cells


def without(sites: Sites, units: Sequence[Unit]) -> dict[str, Tensor]:
    """Return the keep masks that remove these units."""
    keep = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
    for name, number in units:
        keep[name][number] = False
    return keep


def path(log: PruningLog, model: nn.Module, sites: Sites, splits: Mapping[str, data.Split]) -> list[dict[str, Json]]:
    """Return the history of a pruning: loss and accuracy after each removal, on the images that decided and beside them."""
    rows = _rows("training", [0], [log.loss_before], [log.accuracy_before])
    counts = torch.tensor([len(step.units) for step in log.steps]).cumsum(0).tolist() if log.steps else []
    rows += _rows("training", counts, [s.loss for s in log.steps], [s.accuracy for s in log.steps])
    every = max(1, len(counts) // POINTS)
    chosen = sorted({0, *counts[every - 1 :: every], *counts[-1:]})
    masks = [without(sites, log.removed[:count]) for count in chosen]
    for name in ("validation", "test"):
        found = rate_masks(model, sites, masks, splits[name])
        rows += _rows(name, chosen, found.losses.tolist(), found.accuracy.tolist())
    return rows


def _rows(images: str, counts: Sequence[int], losses: Sequence[float], right: Sequence[float]) -> list[dict[str, Json]]:
    return [
        {"images": images, "step": count, "loss": loss, "accuracy": accuracy}
        for count, loss, accuracy in zip(counts, losses, right, strict=True)
    ]


def cut_and_rate(
    model: nn.Module, sites: Sites, keep: Keep, splits: Mapping[str, data.Split], further: Mapping[str, Json]
) -> Outcome:
    """Cut for real, compare with the masked network on all test images, and rate before and after; keeps the masks."""
    image = splits["test"].images[:1]
    small = cut(model, sites, keep, form="module")
    masked = mask(model, sites, keep)
    removed = {name: int((~kept).sum()) for name, kept in keep.items()}
    units = sum(site.size for site in sites.values())
    metrics: dict[str, Json] = {
        "units": units,
        "removed": sum(removed.values()),
        "share": sum(removed.values()) / units,
        "kept": {name: site.size - removed[name] for name, site in sites.items()},
        **{f"whole_{key}": value for key, value in {**rate(model, splits), **size(model, image)}.items()},
        **rate(small, splits),
        **size(small, image),
        "cut_difference": difference(predict(masked, splits["test"]), predict(small, splits["test"])),
    }
    return Outcome({**metrics, **further}, artefact={name: kept.clone() for name, kept in keep.items()})


def control_cells(study: str, pruned: Cell, base: Cell, draws: int, known: Mapping[str, Json]) -> list[Cell]:
    """Return the cells of the controls of one pruned network."""
    told = {key: pruned.recipe.parameters[key] for key in ("seed", "schedule", "images")}
    made = []
    for method in CONTROLS:
        own = {**told, "method": method, **({"draws": draws} if method == "random" else {}), **known}
        made.append(Cell(Recipe(study, "control", own, (base.id, pruned.id), dict(known)), control_cell))
    return made


def control_cell(context: Context) -> Outcome:
    """Rate the network without as many units of each site as were pruned, chosen without a look at the loss."""
    model, recipe = network(context)
    sites, keep = channels(model, example(context, recipe)), context.artefact(1)
    if context["method"] == "random":
        keeps = drawn_like(keep, model, sites, context["draws"], (2, context["seed"]))
    else:
        keeps = [by_magnitude(keep, model, sites)]
    metrics: dict[str, Json] = {key: context.record(1).metrics[key] for key in ("units", "removed", "share")}
    for name, images in images_of(context, recipe, context["images"]).items():
        found = rate_masks(model, sites, keeps, images)
        metrics |= _means("" if name == "test" else f"{name}_", found)
    return Outcome(metrics)


def _means(prefix: str, found: Evaluations) -> dict[str, Json]:
    means = {"loss": float(found.losses.mean()), "accuracy": float(found.accuracy.mean())}
    return {
        f"{prefix}{key}": x for key, x in {**means, "class_accuracy": found.class_accuracy.mean(0).tolist()}.items()
    }


# The report


def pruning_report(results: Results, title: str, paths: Callable[[Part], DataFrame], notes: Sequence[str]) -> Report:
    """Return the report of a study of such prunings.

    Args:
        results: of the study.
        title: of the report.
        paths: from the cells of one network to the histories of `path`, with a column ``schedule``.
        notes: what a reader should know.
    """
    return report(
        results,
        title,
        lambda part: _sections(part, paths(part)) if len(part.kind("prune")) else [],
        lambda part: _summary(part) if len(part.kind("prune")) else [],
        notes=notes,
    )


def _sections(part: Part, paths: DataFrame) -> list[Section]:
    """Return the sections: what was cut, the paths, the controls, and the classes.

    Args:
        part: with cells of the kinds ``prune`` and ``control``.
        paths: the histories of `path`, with a column ``schedule``.
    """
    pruned, controls = part.kind("prune"), part.kind("control")
    made = [Section("What was cut", [_cut_table(part, pruned), _size_table(part, pruned)])]
    if len(paths):
        made.append(Section("The way there", _paths(part, paths)))
    if len(controls):
        made.append(Section("Against random and magnitude", _controls(part, pruned, controls)))
    return [*made, Section("Classes", _classes(part, pruned, controls))]


def _cut_table(part: Part, pruned: DataFrame) -> Table:
    columns = [Column("schedule"), Column("units removed", format=".1f"), Column("of all", format=".1%")]
    for name in _LOSSES:
        columns += [Column(f"{name} loss", "change", format="+.4f"), Column(f"95 % of {name}")]
    columns += [
        Column("test accuracy", "points", format="+.2f"),
        Column("95 % of it"),
        Column("training loss no higher"),
    ]
    rows = []
    for schedule, own in pruned.groupby("schedule", sort=False):
        row: list[Any] = [schedule, mean(own, "removed"), mean(own, "share")]
        for key in _LOSSES.values():
            row += [(gap := own[key] - own[f"whole_{key}"]).mean(), interval(gap)]
        points = 100 * (own["accuracy"] - own["whole_accuracy"])
        lower = int(_no_higher(own).sum())
        rows.append([*row, points.mean(), interval(points), f"{lower} of {len(own)}"])
    caption = (
        "Cut by the loss of training images, not retrained; changes against the whole network, on the same images."
    )
    return Table("cut", caption, columns, rows, part.basis(pruned, "training, validation and test images"))


def _no_higher(own: DataFrame) -> Any:
    # The masked network decides, the cut one is rated: they differ by rounding.
    return own["train_loss"] <= own["whole_train_loss"] * (1 + 1e-6)


def _size_table(part: Part, pruned: DataFrame) -> Table:
    columns = [
        Column("schedule"),
        Column("parameters before", format=",.0f"),
        Column("after", format=",.0f"),
        Column("MACs before", format=",.0f"),
        Column("MACs after", format=",.0f"),
        Column("bytes after", format=",.0f"),
        Column("difference from masked", format=".1e"),
        Column("losses looked at", format=",.0f"),
        Column("processor seconds", format=".2f"),
    ]
    keys = ["whole_parameters", "parameters", "whole_macs", "macs", "bytes"]
    rows = []
    for schedule, own in pruned.groupby("schedule", sort=False):
        most = float(own["cut_difference"].max())
        effort = [mean(own, "evaluations"), mean(own, "cpu_seconds")]
        rows.append([schedule, *(mean(own, key) for key in keys), most, *effort])
    caption = (
        "Size before and after the cut, the greatest relative difference of cut and masked network on all test images, and "
        "what the choice took; means over networks."
    )
    return Table("size", caption, columns, rows, part.basis(pruned))


def _paths(part: Part, paths: DataFrame) -> list[Block]:
    several = paths["schedule"].nunique() > 1
    rows = paths.assign(
        series=paths["schedule"] + ", " + paths["images"] if several else paths["images"],
    )
    # What one network alone reaches is no mean of several.
    longest = rows.groupby(["series", "step"])["seed"].transform("nunique") == rows["seed"].nunique()
    drawing = figures.path(rows[longest], step="step", value="loss", by="series", label=("Units removed", "Loss"))
    ends = rows[rows["images"] == "training"].groupby("schedule", sort=False)["step"].max()
    said = ", ".join(f"{schedule} goes up to {int(end)}" for schedule, end in ends.items())
    caption = "Loss after each removal, mean and range over networks, as far as all of them go; training images decide."
    basis = part.basis(part.cells[part.cells["id"].isin(paths["id"])], "training, validation and test images")
    return [Picture("path", drawing, caption, f"Curves of the loss by units removed; {said}.", basis, rows)]


def _controls(part: Part, pruned: DataFrame, controls: DataFrame) -> list[Block]:
    pandas = require("pandas", "lab")
    rows = pandas.concat([pruned.assign(method=BY_LOSS), controls], ignore_index=True)
    columns = [Column("schedule"), Column("method"), Column("units removed", format=".1f")]
    columns += [Column(f"{name} loss", format=".4f") for name in _LOSSES]
    columns += [Column("test accuracy", format=".4f"), Column("95 %")]
    table = []
    order = list(dict.fromkeys(rows["schedule"]))
    rows = rows.sort_values("schedule", key=lambda names: names.map(order.index), kind="stable")
    for (schedule, method), own in rows.groupby(["schedule", "method"], sort=False):
        losses = [mean(own, key) for key in _LOSSES.values()]
        table.append(
            [schedule, method, mean(own, "removed"), *losses, mean(own, "accuracy"), interval(own["accuracy"])]
        )
    caption = "The same numbers of units of each site removed by the loss, at random (mean of the draws), and by the lowest L2 norm."
    basis = part.basis(rows, "training, validation and test images")
    blocks: list[Block] = [Table("controls", caption, columns, table, basis)]
    words = "Test loss of the controls against removal by the loss, at the same numbers of units."
    return blocks + paired(
        rows, "compared", words, value="loss", baseline=BY_LOSS, within=("schedule",), better="lower"
    )


def _classes(part: Part, pruned: DataFrame, controls: DataFrame) -> list[Block]:
    pandas = require("pandas", "lab")
    blocks: list[Block] = []
    columns = ["seed", "method", "class_accuracy"]
    for schedule, own in pruned.groupby("schedule", sort=False):
        beside = pick(controls, schedule=schedule) if len(controls) else controls
        rows = pandas.concat([own.assign(method=str(schedule)), beside], ignore_index=True)
        after = rows[columns].assign(sparsity=mean(own, "share"))
        name = str(schedule).replace(" ", "-")
        found = class_damage(part.trained, after, part.classes, method=str(schedule), basis=part.basis(own))
        blocks += [one if isinstance(one, str) else replace(one, name=f"{name}-{one.name}") for one in found]
    return blocks


def _summary(part: Part) -> list[str]:
    """Return what happened, in words: how much went, and what it did to the losses."""
    words = []
    for schedule, own in part.kind("prune").groupby("schedule", sort=False):
        gaps = {name: (own[key] - own[f"whole_{key}"]).mean() for name, key in _LOSSES.items()}
        points = (100 * (own["accuracy"] - own["whole_accuracy"])).mean()
        said = ", ".join(f"{name} {gap:+.4f}" for name, gap in gaps.items())
        words.append(
            f"{str(schedule).capitalize()}: {mean(own, 'removed'):.1f} of {mean(own, 'units'):.0f} units cut; change of the "
            f"loss: {said}; test accuracy {points:+.2f} points; training loss no higher in {int(_no_higher(own).sum())} "
            f"of {len(own)} networks.".replace("-", "−")
        )
    return words
