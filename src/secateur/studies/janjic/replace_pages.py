"""The report on pruned filters that are replaced, and on readers that are corrected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import judged
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.words import formatted, percent
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "sections", "words"]

NOTES = (
    "The text says that evolved replacements could only rebuild the filters that had been removed, or filters of no use, "
    "and that the network did best when left alone; it gives no figures. Here new filters start as zeros, as if removed, "
    "and are evolved to lower the loss on 256 training images.",
    "Chapter 8 proposes to evolve filters that absorb the error of pruning: corrections are evolved of the weight and bias "
    "of the layer that reads the filters, by the squared error of its outputs on training images. Least squares has "
    "the least such error there is, in closed form.",
    "Random filters are drawn as layers begin. Filters go by their L2 norm, or at random. Nothing is chosen on the test "
    "images. The error is that of the reading layer's outputs on validation images, as a part of their power.",
)


def sections(part: Part) -> list[Section]:
    """Return the sections of each layer and choice, and on the classes."""
    cells = part.kind("replace")
    parts = [
        Section(f"{layer}, filters by {choice}", _blocks(part, rows, f"{layer}-{choice}"))
        for (layer, choice), rows in cells.groupby(["layer", "choice"], sort=False)
    ]
    first = _first(cells)
    best = str(first.groupby("method", sort=False)["validation_accuracy"].mean().idxmax())
    damage = class_damage(part.trained, first, part.classes, method=best, basis=part.basis(first))
    return [*parts, Section("Classes", damage)]


def _first(cells: DataFrame) -> DataFrame:
    """The rows of the first layer and choice, one a seed, method and fraction."""
    return pick(cells, layer=cells["layer"].iloc[0], choice=cells["choice"].iloc[0])


def _blocks(part: Part, rows: DataFrame, name: str) -> list[Block]:
    basis = part.basis(rows)
    removed = rows.assign(removed=[f"{percent(sparsity)} removed" for sparsity in rows["sparsity"]])
    drawing = figures.bars_with_intervals(removed, value="accuracy", by="removed", label="Test accuracy", share=True)
    caption = f"Test accuracy after pruning and mending; unpruned networks have {formatted(mean(part.trained, 'accuracy'), '.4f')}."
    means = rows.groupby("method", sort=False)["accuracy"].mean()
    alt = f"Bars; {means.idxmax()} is highest with {formatted(means.max(), '.4f')}, {means.idxmin()} lowest with {formatted(means.min(), '.4f')}."
    numbers = rows[["method", "sparsity", "seed", "accuracy"]]
    methods = [method for method in dict.fromkeys(rows["method"]) if method != "removed"]
    tests = judged(rows, {"removed": methods}, basis)
    return [
        _table(part, rows, name),
        Picture(f"accuracy-{name}", drawing, caption, alt, basis, numbers),
        *_descent(part, rows, name),
        *(replace(block, name=f"tests-{name}") if isinstance(block, Table) else block for block in tests),
    ]


def _table(part: Part, rows: DataFrame, name: str) -> Table:
    base = part.trained.set_index("seed")["accuracy"]
    columns = [
        Mean("accuracy", Column("test", format=".4f")),
        Mean("validation_accuracy", Column("validation", format=".4f")),
        Mean("train_accuracy", Column("training", format=".4f")),
        Mean("loss", Column("test loss", format=".4f")),
        Mean("error", Column("error of the reader", format=".2%")),
        Mean("likeness", Column("likeness to the old filters", format=".3f")),
        Mean("strength", Column("strength beside the others", format=".3f")),
        Mean(lambda runs: _change(runs, base).dropna(), Column("change", "points", format="+.2f"), "95 %"),
    ]
    caption = (
        "After pruning: nothing, new filters, or corrections; means over the networks, changes against the unpruned one, "
        "paired by seed. Likeness is the cosine between new and old filters, strength the ratio of their norms to those "
        "of the filters that stayed."
    )
    groups = {"sparsity": Column("removed", format=".0%"), "method": Column("method")}
    return grouped(rows, f"mended-{name}", caption, groups, columns, part.basis(rows))


def _change(runs: DataFrame, base: DataFrame) -> DataFrame:
    """The change of test accuracy against the unpruned networks, in points, by seed."""
    return 100 * (runs.set_index("seed")["accuracy"] - base)


def _descent(part: Part, rows: DataFrame, name: str) -> list[Block]:
    """How far evolution brings the error down, as a part of the error at its start."""
    if not len(part.histories):
        return []
    steps = part.steps(rows).sort_values(["id", "step"], kind="stable")
    if not len(steps):
        return []
    steps = steps.assign(part=steps["error"] / steps.groupby("id")["error"].transform("first"))
    label = ("Generation", "Error, as a part of the first")
    drawing = figures.path(steps, step="step", value="part", label=label, share=True)
    ends = steps.groupby(["method", "id"])["part"].last().groupby("method").mean()
    left = ", ".join(f"{method} {percent(value, 1)}" for method, value in ends.items())
    caption = "The least error by generation (loss for filters, squared error for corrections): mean and range."
    alt = f"Lines that fall; left at the end: {left}."
    return [Picture(f"descent-{name}", drawing, caption, alt, part.basis(rows), steps)]


def words(part: Part) -> list[str]:
    """Return what each way of mending changes, at the greatest part removed."""
    sentences = []
    base = part.trained.set_index("seed")["accuracy"]
    for (layer, choice), rows in part.kind("replace").groupby(["layer", "choice"], sort=False):
        most = rows["sparsity"].max()
        changes = ", ".join(
            f"{method} {formatted(float(_change(runs, base).mean()), '+.2f')}"
            for method, runs in pick(rows, sparsity=most).groupby("method", sort=False)
        )
        sentences.append(f"{percent(most)} of {layer}'s filters gone by {choice}, points of test accuracy: {changes}.")
    return sentences
