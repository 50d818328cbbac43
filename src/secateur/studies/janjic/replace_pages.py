"""The report on pruned filters that are replaced, and on readers that are corrected."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from secateur.lab import figures
from secateur.lab.blocks import Block, Column, Picture, Section, Table
from secateur.lab.classes import class_damage
from secateur.lab.judgement import judged
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Results
from secateur.studies.kit.parts import Part, report

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["pages"]

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


def pages(results: Results, title: str) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    return report(results, title, _sections, _summary, notes=NOTES)


def _sections(part: Part) -> list[Section]:
    cells = part.kind("replace")
    made = [
        Section(f"{layer}, filters by {choice}", _blocks(part, rows, f"{layer}-{choice}"))
        for (layer, choice), rows in cells.groupby(["layer", "choice"], sort=False)
    ]
    own = _first(cells)
    best = str(own.groupby("method", sort=False)["validation_accuracy"].mean().idxmax())
    made.append(Section("Classes", class_damage(part.trained, own, part.classes, method=best, basis=part.basis(own))))
    return made


def _first(cells: DataFrame) -> DataFrame:
    """The rows of the first layer and choice, one a seed, method and fraction."""
    return pick(cells, layer=cells["layer"].iloc[0], choice=cells["choice"].iloc[0])


def _blocks(part: Part, rows: DataFrame, name: str) -> list[Block]:
    basis = part.basis(rows)
    base = mean(part.trained, "accuracy")
    drawn = figures.bars_with_intervals(
        rows.assign(removed=[f"{100 * s:g} % removed" for s in rows["sparsity"]]),
        value="accuracy",
        by="removed",
        label="Test accuracy",
        share=True,
    )
    caption = f"Test accuracy after pruning and mending; unpruned networks have {base:.4f}."
    means = rows.groupby("method", sort=False)["accuracy"].mean()
    alt = f"Bars; {means.idxmax()} is highest with {means.max():.4f}, {means.idxmin()} lowest with {means.min():.4f}."
    blocks: list[Block] = [
        _table(part, rows, name),
        Picture(f"accuracy-{name}", drawn, caption, alt, basis, rows[["method", "sparsity", "seed", "accuracy"]]),
        *_descent(part, rows, name),
    ]
    methods = [method for method in dict.fromkeys(rows["method"]) if method != "removed"]
    tests = judged(rows, {"removed": methods}, basis)
    return [*blocks, *(replace(block, name=f"tests-{name}") if isinstance(block, Table) else block for block in tests)]


def _table(part: Part, rows: DataFrame, name: str) -> Table:
    numbers = {
        "accuracy": Column("test", format=".4f"),
        "validation_accuracy": Column("validation", format=".4f"),
        "train_accuracy": Column("training", format=".4f"),
        "loss": Column("test loss", format=".4f"),
        "error": Column("error of the reader", format=".2%"),
        "likeness": Column("likeness to the old filters", format=".3f"),
        "strength": Column("strength beside the others", format=".3f"),
    }
    base = part.trained.set_index("seed")["accuracy"]
    columns = [
        Column("removed", format=".0%"),
        Column("method"),
        *numbers.values(),
        Column("change", "points", format="+.2f"),
        Column("95 %"),
    ]
    table: list[list[Any]] = []
    for (sparsity, method), runs in rows.groupby(["sparsity", "method"], sort=False):
        change = (100 * (runs.set_index("seed")["accuracy"] - base)).dropna()
        values = [mean(runs, key) for key in numbers]
        table.append([sparsity, method, *values, float(change.mean()), interval(change)])
    caption = (
        "After pruning: nothing, new filters, or corrections; means over the networks, changes against the unpruned one, "
        "paired by seed. Likeness is the cosine between new and old filters, strength the ratio of their norms to those "
        "of the filters that stayed."
    )
    return Table(f"mended-{name}", caption, columns, table, part.basis(rows))


def _descent(part: Part, rows: DataFrame, name: str) -> list[Block]:
    """How far evolution brings the error down, as a part of the error at its start."""
    if not len(part.histories):
        return []
    steps = part.steps(rows).sort_values(["id", "step"], kind="stable")
    if not len(steps):
        return []
    shown = steps.assign(part=steps["error"] / steps.groupby("id")["error"].transform("first"))
    drawn = figures.path(
        shown, step="step", value="part", label=("Generation", "Error, as a part of the first"), share=True
    )
    ends = shown.groupby(["method", "id"])["part"].last().groupby("method").mean()
    said = ", ".join(f"{method} {100 * value:.1f} %" for method, value in ends.items())
    caption = "The least error by generation (loss for filters, squared error for corrections): mean and range."
    return [
        Picture(
            f"descent-{name}", drawn, caption, f"Lines that fall; left at the end: {said}.", part.basis(rows), shown
        )
    ]


def _summary(part: Part) -> list[str]:
    words = []
    cells = part.kind("replace")
    base = part.trained.set_index("seed")["accuracy"]
    for (layer, choice), rows in cells.groupby(["layer", "choice"], sort=False):
        most = rows["sparsity"].max()
        top = pick(rows, sparsity=most)
        changes = {
            method: float((100 * (runs.set_index("seed")["accuracy"] - base)).mean())
            for method, runs in top.groupby("method", sort=False)
        }
        said = ", ".join(f"{method} {change:+.2f}" for method, change in changes.items())
        words.append(f"{100 * most:g} % of {layer}'s filters gone by {choice}, points of test accuracy: {said}.")
    return words
