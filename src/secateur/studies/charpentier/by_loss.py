"""L. Charpentier, 2020, sections 3.3 to 3.5: cells and pages of the studies that prune by the measured loss.

A schedule decides on training images which units go; the network is really cut; controls remove as many units of each
site at random, or those of the lowest L2 norm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from secateur import data
from secateur.files import require
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome, Study
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.words import formatted
from secateur.measure import predict
from secateur.rate.masks import Evaluations
from secateur.rate.masks import rate as rate_masks
from secateur.schedules import PruningLog
from secateur.schedules.walk import Unit
from secateur.structure import channels, cut, mask
from secateur.structure.difference import difference
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.kit.controls import by_magnitude, drawn_like
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.networks import example, images_of, network, rate, size
from secateur.studies.kit.parts import Part, study
from secateur.types import Keep, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["BY_LOSS", "DRAWS", "IMAGES", "cut_and_rate", "path", "pruning_study", "with_controls", "without"]

IMAGES = Option("images", "count", 2000, "training images that decide, at most", least=1)

DRAWS = Option("draws", "count", 20, "random controls for each pruned network", least=1)

BY_LOSS = "by loss"

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


def path(log: PruningLog, model: nn.Module, sites: Sites, splits: Mapping[str, data.Images]) -> list[dict[str, Json]]:
    """Return the history of a pruning: loss and accuracy after each removal, on the images that decided and beside them."""
    rows = _rows("training", [0], [log.loss_before], [log.accuracy_before])
    counts = torch.tensor([len(step.units) for step in log.steps]).cumsum(0).tolist() if log.steps else []
    rows += _rows("training", counts, [s.loss for s in log.steps], [s.accuracy for s in log.steps])
    every = max(1, len(counts) // POINTS)
    places = sorted({0, *counts[every - 1 :: every], *counts[-1:]})
    masks = [without(sites, log.removed[:count]) for count in places]
    for name in ("validation", "test"):
        ratings = rate_masks(model, sites, masks, splits[name])
        rows += _rows(name, places, ratings.losses.tolist(), ratings.accuracy.tolist())
    return rows


def _rows(images: str, counts: Sequence[int], losses: Sequence[float], right: Sequence[float]) -> list[dict[str, Json]]:
    return [
        {"images": images, "step": count, "loss": loss, "accuracy": accuracy}
        for count, loss, accuracy in zip(counts, losses, right, strict=True)
    ]


def cut_and_rate(
    model: nn.Module,
    sites: Sites,
    keep: Keep,
    splits: Mapping[str, data.Images],
    loss: str,
    further: Mapping[str, Json],
) -> Outcome:
    """Cut for real, compare with the masked network on all test images, and rate before and after; keeps the masks."""
    image = splits["test"].head(1)
    small = cut(model, sites, keep, form="module")
    masked = mask(model, sites, keep)
    removed = {name: int((~units).sum()) for name, units in keep.items()}
    units = sum(site.size for site in sites.values())
    metrics: dict[str, Json] = {
        "units": units,
        "removed": sum(removed.values()),
        "share": sum(removed.values()) / units,
        "kept": {name: site.size - removed[name] for name, site in sites.items()},
        **{f"whole_{key}": value for key, value in {**rate(model, splits, loss), **size(model, image)}.items()},
        **rate(small, splits, loss),
        **size(small, image),
        "cut_difference": difference(predict(masked, splits["test"]), predict(small, splits["test"])),
    }
    return Outcome({**metrics, **further}, artefact={name: units.clone() for name, units in keep.items()})


def with_controls(base: Cell, pruned: Cell, draws: int) -> list[Cell]:
    """Return the cell of a pruned network, and those of its controls."""
    parameters = {key: pruned.recipe.parameters[key] for key in ("schedule", "images")}
    random = base.then("control", control_cell, {**parameters, "method": "random", "draws": draws}, after=[pruned])
    magnitude = base.then("control", control_cell, {**parameters, "method": "magnitude"}, after=[pruned])
    return [pruned, random, magnitude]


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
        ratings = rate_masks(model, sites, keeps, images)
        metrics |= _means("" if name == "test" else f"{name}_", ratings)
    return Outcome(metrics)


def _means(prefix: str, ratings: Evaluations) -> dict[str, Json]:
    return {
        f"{prefix}loss": float(ratings.losses.mean()),
        f"{prefix}accuracy": float(ratings.accuracy.mean()),
        f"{prefix}class_accuracy": ratings.class_accuracy.mean(0).tolist(),
    }


# The report


def pruning_study(
    name: str,
    title: str,
    summary: str,
    *,
    options: Options,
    cells: Callable[[str, Mapping[str, Json]], list[Cell]],
    paths: Callable[[Part], DataFrame],
    notes: Sequence[str],
) -> Study:
    """Return a study of such prunings.

    Args:
        name, title, summary, options, cells, notes: as `secateur.studies.kit.parts.study` takes them.
        paths: from the cells of one network to the histories of `path`, with a column ``schedule``.
    """
    return study(
        name,
        title,
        summary,
        source=SOURCE,
        options=options,
        cells=cells,
        sections=lambda part: _sections(part, paths(part)) if len(part.pruned) else [],
        words=lambda part: _words(part) if len(part.pruned) else [],
        notes=notes,
    )


def _sections(part: Part, paths: DataFrame) -> list[Section]:
    """Return the sections: what was cut, the paths, the controls, and the classes."""
    pruned, controls = part.pruned, part.kind("control")
    sections = [Section("What was cut", [_cut_table(part, pruned), _size_table(part, pruned)])]
    if len(paths):
        sections.append(Section("The way there", _paths(part, paths)))
    if len(controls):
        sections.append(Section("Against random and magnitude", _controls(part, pruned, controls)))
    return [*sections, Section("Classes", _classes(part, pruned, controls))]


_SCHEDULE = {"schedule": Column("schedule")}


def _gap(rows: DataFrame, key: str) -> Any:
    """How a value changed against the whole network."""
    return rows[key] - rows[f"whole_{key}"]


def _cut_table(part: Part, pruned: DataFrame) -> Table:
    columns = [
        Mean("removed", Column("units removed", format=".1f")),
        Mean("share", Column("of all", format=".1%")),
        *(
            Mean(partial(_gap, key=key), Column(f"{name} loss", "change", format="+.4f"), f"95 % of {name}")
            for name, key in _LOSSES.items()
        ),
        Mean(lambda rows: 100 * _gap(rows, "accuracy"), Column("test accuracy", "points", format="+.2f"), "95 % of it"),
        Mean(_no_higher, Column("training loss no higher")),
    ]
    caption = (
        "Cut by the loss of training images, not retrained; changes against the whole network, on the same images."
    )
    basis = part.basis(pruned, "training, validation and test images")
    return grouped(pruned, "cut", caption, _SCHEDULE, columns, basis)


def _no_higher(rows: DataFrame) -> str:
    """In how many networks the training loss is no higher than before."""
    # The masked network decides, the cut one is rated: they differ by rounding.
    lower = rows["train_loss"] <= rows["whole_train_loss"] * (1 + 1e-6)
    return f"{int(lower.sum())} of {len(rows)}"


def _size_table(part: Part, pruned: DataFrame) -> Table:
    columns = [
        Mean("whole_parameters", Column("parameters before", format=",.0f")),
        Mean("parameters", Column("after", format=",.0f")),
        Mean("whole_macs", Column("MACs before", format=",.0f")),
        Mean("macs", Column("MACs after", format=",.0f")),
        Mean("bytes", Column("bytes after", format=",.0f")),
        Mean(lambda rows: float(rows["cut_difference"].max()), Column("difference from masked", format=".1e")),
        Mean("evaluations", Column("losses looked at", format=",.0f")),
        Mean("cpu_seconds", Column("processor seconds", format=".2f")),
    ]
    caption = (
        "Size before and after the cut, the greatest relative difference of cut and masked network on all test images, and "
        "what the choice took; means over networks."
    )
    return grouped(pruned, "size", caption, _SCHEDULE, columns, part.basis(pruned))


def _paths(part: Part, paths: DataFrame) -> list[Block]:
    several = paths["schedule"].nunique() > 1
    rows = paths.assign(
        series=paths["schedule"] + ", " + paths["images"] if several else paths["images"],
    )
    # What one network alone reaches is no mean of several.
    longest = rows.groupby(["series", "step"])["seed"].transform("nunique") == rows["seed"].nunique()
    drawing = figures.path(rows[longest], step="step", value="loss", by="series", label=("Units removed", "Loss"))
    ends = rows[rows["images"] == "training"].groupby("schedule", sort=False)["step"].max()
    by_schedule = ", ".join(f"{schedule} goes up to {int(end)}" for schedule, end in ends.items())
    caption = "Loss after each removal, mean and range over networks, as far as all of them go; training images decide."
    basis = part.basis(part.cells[part.cells["id"].isin(paths["id"])], "training, validation and test images")
    return [Picture("path", drawing, caption, f"Curves of the loss by units removed; {by_schedule}.", basis, rows)]


def _controls(part: Part, pruned: DataFrame, controls: DataFrame) -> list[Block]:
    rows = require("pandas", "lab").concat([pruned.assign(method=BY_LOSS), controls], ignore_index=True)
    order = list(dict.fromkeys(rows["schedule"]))
    rows = rows.sort_values("schedule", key=lambda names: names.map(order.index), kind="stable")
    columns = [
        Mean("removed", Column("units removed", format=".1f")),
        *(Mean(key, Column(f"{name} loss", format=".4f")) for name, key in _LOSSES.items()),
        Mean("accuracy", Column("test accuracy", format=".4f"), "95 %"),
    ]
    caption = "The same numbers of units of each site removed by the loss, at random (mean of the draws), and by the lowest L2 norm."
    basis = part.basis(rows, "training, validation and test images")
    groups = {**_SCHEDULE, "method": Column("method")}
    words = "Test loss of the controls against removal by the loss, at the same numbers of units."
    return [
        grouped(rows, "controls", caption, groups, columns, basis),
        *paired(rows, "compared", words, value="loss", baseline=BY_LOSS, within=("schedule",), better="lower"),
    ]


def _classes(part: Part, pruned: DataFrame, controls: DataFrame) -> list[Block]:
    pandas = require("pandas", "lab")
    blocks: list[Block] = []
    for schedule, networks in pruned.groupby("schedule", sort=False):
        beside = pick(controls, schedule=schedule) if len(controls) else controls
        rows = pandas.concat([networks.assign(method=str(schedule)), beside], ignore_index=True)
        after = rows[["seed", "method", "class_accuracy"]].assign(sparsity=mean(networks, "share"))
        name = str(schedule).replace(" ", "-")
        damage = class_damage(part.trained, after, part.classes, method=str(schedule), basis=part.basis(networks))
        blocks += [b if isinstance(b, str) else replace(b, name=f"{name}-{b.name}") for b in damage]
    return blocks


def _words(part: Part) -> list[str]:
    """Return what happened, in words: how much went, and what it did to the losses."""
    words = []
    for schedule, rows in part.pruned.groupby("schedule", sort=False):
        losses = ", ".join(f"{name} {formatted(_gap(rows, key).mean(), '+.4f')}" for name, key in _LOSSES.items())
        points = (100 * _gap(rows, "accuracy")).mean()
        words.append(
            f"{str(schedule).capitalize()}: {formatted(mean(rows, 'removed'), '.1f')} of {formatted(mean(rows, 'units'), '.0f')} units cut; change of the "
            f"loss: {losses}; test accuracy {formatted(points, '+.2f')} points; training loss no higher in {_no_higher(rows)} "
            "networks."
        )
    return words
