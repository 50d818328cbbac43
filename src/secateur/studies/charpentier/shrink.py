"""L. Charpentier, 2020, section 3.1, Algorithm 2: how far a network shrinks by random removals that do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from secateur.lab import figures
from secateur.lab.blocks import Block, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import paired
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Cell, Context, Outcome, Results, Study
from secateur.rate.masks import Evaluations
from secateur.rate.masks import rate as rate_masks
from secateur.schedules import Shrink
from secateur.structure import channels
from secateur.studies.charpentier.common import SOURCE, bases, check, options
from secateur.studies.charpentier.measured import by_magnitude, drawn_like, images_of
from secateur.studies.charpentier.published import SHRINK
from secateur.studies.kit.networks import example, network
from secateur.studies.kit.parts import Part, class_rows, describe_table, quartiles, report, statistics
from secateur.types import Keep

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

NAME = "charpentier-shrink"

METHODS = ("shrink", "random", "magnitude")

SPLITS = ("train", "validation", "test")

OPTIONS = options(
    Option("n", "count", [1, 2, 3, 4, 8], "how many nodes to draw at a time", least=1, many="list"),
    Option("runs", "count", 20, "runs of the algorithm for each n and network", least=1),
    Option("images", "count", 10000, "training images that decide, at most", least=1),
)

NOTES = (
    "The printed Algorithm 2 has lost its middle. It is read so: draw n of the nodes that have not been tried, remove "
    "them, keep that if the training loss does not rise, else restore them; a tried node is not drawn again; stop when "
    "fewer than n are left. The published means are multiples of 1/20, so there are 20 runs for each n.",
    "The loss that decides is that of training images alone, as many as the options say; the text says not how many (60,000 "
    "takes all). Validation and test images were only looked at afterwards. "
    "The controls remove as many nodes as each run did, drawn at random without a look at the loss, or those of the "
    "lowest L2 norm of the incoming weights.",
    "The text has one network; here the statistics are those of one network's runs, averaged over the networks.",
)


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    check(NAME, OPTIONS, settled)
    made = []
    for base, known in bases(NAME, settled):
        made.append(base)
        for n in settled["n"]:
            own = {"seed": base.recipe.seed, "n": n, "runs": settled["runs"], "images": settled["images"], **known}
            made.append(Cell(Recipe(NAME, "shrink", own, (base.id,), known), shrink_cell))
    return made


def shrink_cell(context: Context) -> Outcome:
    """Run the algorithm again and again, each time really cut, and rate what is left beside the controls."""
    model, recipe = network(context)
    splits = images_of(context, recipe, context["images"])
    sites = channels(model, example(context, recipe))
    generator = np.random.default_rng([context["seed"], context["n"]])
    seeds = [int(one) for one in generator.integers(2**31, size=(int(context["runs"]),))]
    runs = [Shrink(context["n"], splits["train"], seed=one)(model, sites) for one in seeds]
    keeps: dict[str, list[Keep]] = {
        "shrink": [run.keep for run in runs],
        "random": [drawn_like(run.keep, model, sites, 1, (1, one))[0] for run, one in zip(runs, seeds, strict=True)],
        "magnitude": [by_magnitude(run.keep, model, sites) for run in runs],
    }
    masks = [{}, *(keep for method in METHODS for keep in keeps[method])]
    found = {name: rate_masks(model, sites, masks, images) for name, images in splits.items()}
    units = sum(site.size for site in sites.values())
    metrics: dict[str, Json] = {
        "units": units,
        "share": sum(len(run.history.removed) for run in runs) / len(runs) / units,
        "evaluations": sum(run.history.evaluations for run in runs),
        "cut_difference": max(0.0 if run.verification is None else run.verification.example for run in runs),
        **{f"whole_{name}_loss": float(one.losses[0]) for name, one in found.items()},
    }
    history = []
    for place, method in enumerate(METHODS):
        rows = slice(1 + place * len(runs), 1 + (place + 1) * len(runs))
        metrics[f"{method}_class_accuracy"] = found["test"].class_accuracy[rows].mean(0).tolist()
        history += _history(method, [len(run.history.removed) for run in runs], found, rows)
    return Outcome(metrics, history)


def _history(method: str, removed: list[int], found: Mapping[str, Evaluations], rows: slice) -> list[dict[str, Json]]:
    """One row a run: how many nodes went, and how loss and accuracy changed by it."""
    made: list[dict[str, Json]] = [{"run": run, "method": method, "removed": n} for run, n in enumerate(removed)]
    for name, one in found.items():
        losses, accuracy = one.losses[rows] - one.losses[0], one.accuracy[rows] - one.accuracy[0]
        for row, loss, points in zip(made, losses.tolist(), (100 * accuracy).tolist(), strict=True):
            row |= {f"{name}_loss": loss, f"{name}_points": points}
    return made


# The report


def _pages(results: Results) -> Report:
    return report(results, "Shrinking at random", _sections, _summary, notes=NOTES)


def _sections(part: Part) -> list[Section]:
    cells = part.kind("shrink")
    runs = part.steps(cells)
    return [
        Section("How many nodes go", _counts(part, cells, pick(runs, method="shrink"))),
        Section("What it does to the loss", _losses(part, cells, runs)),
        Section("Classes", _classes(part, cells)),
    ]


def _counts(part: Part, cells: DataFrame, runs: DataFrame) -> list[Block]:
    theirs = SHRINK.get(part.data) if part.model == "ann-128" else None
    basis = part.basis(cells, "training images").also(f"{int(cells['runs'].iloc[0])} runs a network")
    beside = "; published beside" if theirs else ""
    ours = statistics(runs, "n", "removed")["mean"]
    drawing = figures.box(
        runs, x="n", value="removed", label=("n, nodes at a time", "Nodes removed"), published=quartiles(theirs)
    )
    alt = f"Box plots of the number of nodes removed; the greatest mean is {ours.max():.1f}, at n = {ours.idxmax()}."
    caption = f"Nodes removed until all have been tried, of {int(cells['units'].iloc[0])}{beside}"
    return [
        Picture("box-removed", drawing, f"{caption}; all runs of all networks.", alt, basis, ours.reset_index()),
        describe_table(
            runs,
            "n",
            "removed",
            "describe-removed",
            f"{caption}: one network's runs, averaged over the networks.",
            basis,
            theirs=theirs,
            digits=2,
        ),
    ]


def _losses(part: Part, cells: DataFrame, runs: DataFrame) -> list[Block]:
    columns = [Column("n"), Column("method"), Column("nodes removed", format=".2f")]
    for name in SPLITS:
        columns += [Column(f"{name} loss", "change", format="+.4f"), Column(f"95 % of {name}")]
    columns.append(Column("test accuracy", "points", format="+.2f"))
    each = _each(runs)
    rows = []
    for (n, method), own in each.groupby(["n", "method"], sort=False):
        row = [n, method, mean(own, "removed")]
        for name in SPLITS:
            row += [mean(own, f"{name}_loss"), interval(own[f"{name}_loss"])]
        rows.append([*row, mean(own, "test_points")])
    basis = part.basis(cells, "training, validation and test images")
    caption = (
        "Change of loss and accuracy against the whole network; means of each network's runs, intervals over networks."
    )
    blocks: list[Block] = [Table("losses", caption, columns, rows, basis)]
    for name in ("train", "test"):
        drawing = figures.box(
            pick(runs, method="shrink"),
            x="n",
            value=f"{name}_loss",
            label=("n, nodes at a time", f"Change of {name} loss"),
        )
        own = pick(each, method="shrink").groupby("n")[f"{name}_loss"].mean()
        alt = f"Box plots of the change of the {name} loss; means from {own.min():+.4f} to {own.max():+.4f}."
        blocks.append(
            Picture(f"box-{name}-loss", drawing, f"What shrinking did to the {name} loss, all runs.", alt, basis)
        )
    named = each.rename(columns={"n": "at a time"})
    words = "Test loss of the controls against shrinking at the same number of nodes."
    return blocks + paired(
        named, "compared", words, value="test_loss", baseline="shrink", within=("at a time",), better="lower"
    )


def _each(runs: DataFrame) -> DataFrame:
    """Each network's mean over its runs."""
    values = ["removed", *(f"{name}_{what}" for name in SPLITS for what in ("loss", "points"))]
    return runs.groupby(["n", "method", "seed"], sort=False)[values].mean().reset_index()


def _classes(part: Part, cells: DataFrame) -> list[Block]:
    share = cells.groupby("n")["share"].transform("mean")
    after = class_rows(cells, {method: f"{method}_class_accuracy" for method in METHODS}, share)
    return class_damage(part.trained, after, part.classes, method="shrink", basis=part.basis(cells))


def _summary(part: Part) -> list[str]:
    each = pick(_each(part.steps(part.kind("shrink"))), method="shrink")
    words = []
    for n, own in each.groupby("n"):
        words.append(
            f"n = {n}: {mean(own, 'removed'):.1f} nodes go, and the loss changes by {mean(own, 'train_loss'):+.4f} on "
            f"training, {mean(own, 'validation_loss'):+.4f} on validation and {mean(own, 'test_loss'):+.4f} on test images."
        )
    return [" ".join(words).replace("by -", "by −").replace(", -", ", −").replace("and -", "and −")]


STUDY = Study(
    name=NAME,
    title="Shrinking at random",
    source=SOURCE,
    summary="Nodes removed n at a time at random and kept out where the training loss does not rise, 20 runs for each n.",
    cells=_cells,
    pages=_pages,
    defaults=OPTIONS,
)
