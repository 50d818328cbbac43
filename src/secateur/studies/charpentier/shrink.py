"""L. Charpentier, 2020, section 3.1, Algorithm 2: how far a network shrinks by random removals that do no harm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Section
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.words import formatted
from secateur.rate.masks import Evaluations
from secateur.rate.masks import rate as rate_masks
from secateur.schedules import Shrink
from secateur.structure import channels
from secateur.studies.charpentier.common import SOURCE, bases, options, printed
from secateur.studies.kit import networks
from secateur.studies.kit.controls import by_magnitude, drawn_like
from secateur.studies.kit.distributions import describe_table, quartiles, statistics
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.networks import example, images_of, loss_of, network
from secateur.studies.kit.parts import Part, class_rows, study
from secateur.types import Keep

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

METHODS = ("shrink", "random", "magnitude")

SPLITS = ("train", "validation", "test")

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


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    networks.check_count(settled, "n", networks.taken_options)
    cells = []
    for base in bases(name, settled):
        effort = {key: settled[key] for key in ("runs", "images")}
        cells += [base, *(base.then("shrink", shrink_cell, {"n": n, **effort}) for n in settled["n"])]
    return cells


def shrink_cell(context: Context) -> Outcome:
    """Run the algorithm again and again, each time really cut, and rate what is left beside the controls."""
    model, recipe = network(context)
    splits = images_of(context, recipe, context["images"])
    sites = channels(model, example(context, recipe))
    generator = np.random.default_rng([context["seed"], context["n"]])
    seeds = [int(number) for number in generator.integers(2**31, size=(int(context["runs"]),))]
    runs = [Shrink(context["n"], splits["train"], loss_of(recipe), seed=seed)(model, sites) for seed in seeds]
    keeps: dict[str, list[Keep]] = {
        "shrink": [run.keep for run in runs],
        "random": [drawn_like(run.keep, model, sites, 1, (1, seed))[0] for run, seed in zip(runs, seeds, strict=True)],
        "magnitude": [by_magnitude(run.keep, model, sites) for run in runs],
    }
    masks = [{}, *(keep for method in METHODS for keep in keeps[method])]
    ratings = {name: rate_masks(model, sites, masks, images, loss_of(recipe)) for name, images in splits.items()}
    units = sum(site.size for site in sites.values())
    removed = [len(run.history.removed) for run in runs]
    metrics: dict[str, Json] = {
        "units": units,
        "share": sum(removed) / len(runs) / units,
        "evaluations": sum(run.history.evaluations for run in runs),
        "cut_difference": max(0.0 if run.verification is None else run.verification.example for run in runs),
        **{f"whole_{name}_loss": float(rating.losses[0]) for name, rating in ratings.items()},
    }
    history = []
    for place, method in enumerate(METHODS):
        rows = slice(1 + place * len(runs), 1 + (place + 1) * len(runs))
        metrics[f"{method}_class_accuracy"] = ratings["test"].class_accuracy[rows].mean(0).tolist()
        history += _history(method, removed, ratings, rows)
    return Outcome(metrics, history)


def _history(method: str, removed: list[int], ratings: Mapping[str, Evaluations], rows: slice) -> list[dict[str, Json]]:
    """One row a run: how many nodes went, and how loss and accuracy changed by it."""
    history: list[dict[str, Json]] = [{"run": run, "method": method, "removed": n} for run, n in enumerate(removed)]
    for name, rating in ratings.items():
        losses = rating.losses[rows] - rating.losses[0]
        accuracy = rating.accuracy[rows] - rating.accuracy[0]
        for row, loss, points in zip(history, losses.tolist(), (100 * accuracy).tolist(), strict=True):
            row |= {f"{name}_loss": loss, f"{name}_points": points}
    return history


# The report


def _sections(part: Part) -> list[Section]:
    cells = part.kind("shrink")
    runs = part.steps(cells)
    return [
        Section("How many nodes go", _counts(part, cells, pick(runs, method="shrink"))),
        Section("What it does to the loss", _losses(part, cells, runs)),
        Section("Classes", _classes(part, cells)),
    ]


def _counts(part: Part, cells: DataFrame, runs: DataFrame) -> list[Block]:
    theirs = printed("shrink", part.data, part.model)
    basis = part.basis(cells, "training images").also(f"{int(cells['runs'].iloc[0])} runs a network")
    beside = "; published beside" if theirs else ""
    ours = statistics(runs, "n", "removed")["mean"]
    labels = ("n, nodes at a time", "Nodes removed")
    drawing = figures.box(runs, x="n", value="removed", label=labels, published=quartiles(theirs))
    alt = f"Box plots of the number of nodes removed; the greatest mean is {formatted(ours.max(), '.1f')}, at n = {ours.idxmax()}."
    caption = f"Nodes removed until all have been tried, of {int(cells['units'].iloc[0])}{beside}"
    words = f"{caption}: one network's runs, averaged over the networks."
    return [
        Picture("box-removed", drawing, f"{caption}; all runs of all networks.", alt, basis, ours.reset_index()),
        describe_table(runs, "n", "removed", "describe-removed", words, basis, theirs=theirs, digits=2),
    ]


def _losses(part: Part, cells: DataFrame, runs: DataFrame) -> list[Block]:
    columns = [Mean("removed", Column("nodes removed", format=".2f"))]
    columns += [
        Mean(f"{name}_loss", Column(f"{name} loss", "change", format="+.4f"), f"95 % of {name}") for name in SPLITS
    ]
    columns.append(Mean("test_points", Column("test accuracy", "points", format="+.2f")))
    means = _each(runs)
    basis = part.basis(cells, "training, validation and test images")
    caption = (
        "Change of loss and accuracy against the whole network; means of each network's runs, intervals over networks."
    )
    groups = {"n": Column("n"), "method": Column("method")}
    blocks: list[Block] = [grouped(means, "losses", caption, groups, columns, basis)]
    for name in ("train", "test"):
        labels = ("n, nodes at a time", f"Change of {name} loss")
        drawing = figures.box(pick(runs, method="shrink"), x="n", value=f"{name}_loss", label=labels)
        changes = pick(means, method="shrink").groupby("n")[f"{name}_loss"].mean()
        alt = f"Box plots of the change of the {name} loss; means from {formatted(changes.min(), '+.4f')} to {formatted(changes.max(), '+.4f')}."
        caption = f"What shrinking did to the {name} loss, all runs."
        blocks.append(Picture(f"box-{name}-loss", drawing, caption, alt, basis))
    named = means.rename(columns={"n": "at a time"})
    words = "Test loss of the controls against shrinking at the same number of nodes."
    return blocks + paired(
        named, "compared", words, value="test_loss", baseline="shrink", within=("at a time",), better="lower"
    )


def _each(runs: DataFrame) -> DataFrame:
    """Each network's mean over its runs."""
    values = ["removed", *(f"{name}_{quantity}" for name in SPLITS for quantity in ("loss", "points"))]
    return runs.groupby(["n", "method", "seed"], sort=False)[values].mean().reset_index()


def _classes(part: Part, cells: DataFrame) -> list[Block]:
    share = cells.groupby("n")["share"].transform("mean")
    after = class_rows(cells, {method: f"{method}_class_accuracy" for method in METHODS}, share)
    return class_damage(part.trained, after, part.classes, method="shrink", basis=part.basis(cells))


def _words(part: Part) -> list[str]:
    means = pick(_each(part.steps(part.kind("shrink"))), method="shrink")
    words = []
    for n, rows in means.groupby("n"):
        changes = [formatted(mean(rows, f"{name}_loss"), "+.4f") for name in SPLITS]
        words.append(
            f"n = {n}: {formatted(mean(rows, 'removed'), '.1f')} nodes go, and the loss changes by {changes[0]} on training, {changes[1]} "
            f"on validation and {changes[2]} on test images."
        )
    return [" ".join(words)]


STUDY = study(
    "charpentier-shrink",
    "Shrinking at random",
    "Nodes removed n at a time at random and kept out where the training loss does not rise, 20 runs for each n.",
    source=SOURCE,
    options=options(
        Option("n", "count", [1, 2, 3, 4, 8], "how many nodes to draw at a time", least=1, many="list"),
        Option("runs", "count", 20, "runs of the algorithm for each n and network", least=1),
        Option("images", "count", 10000, "training images that decide, at most", least=1),
    ),
    cells=_cells,
    sections=_sections,
    words=_words,
    notes=NOTES,
)
