"""The report on what cuts do to each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from secateur.files import require
from secateur.lab import figures
from secateur.lab.blocks import Block, Column, Picture, Section, Table
from secateur.lab.classes import class_changes, class_damage
from secateur.lab.judgement import paired
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Results
from secateur.studies.charpentier.factors_pages import NOTES, Factor, cuts, points
from secateur.studies.charpentier.measured import METHODS
from secateur.studies.kit.parts import Part, report

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["WAYS", "pages"]

WAYS = {"keep": "keep what the class needs", "forget": "forget the class"}
"""What a cut is meant to do to a class."""

_PREFIXES = {"class accuracy": "", "magnitude": "magnitude_", "random": "random_"}
_NOTES = (
    "Keeping what a class needs removes the units whose removal costs that class the least accuracy; forgetting it "
    "removes first the units that serve it and not the others. Units of equal accuracy are told apart by the loss. The "
    "sections of the text are headings; the readings are ours, and there is no published figure to compare with.",
)


def pages(results: Results, title: str) -> Report:
    """Return the report; it bears with cells that are not there yet."""
    return report(results, title, _sections, _summary, notes=[*_NOTES, *NOTES], trained=False)


def _sections(part: Part) -> list[Section]:
    aimed = part.kind("class")
    if not len(part.pruned):
        return []
    made = [Section("After cuts by loss", _by_loss(part, part.classes))]
    if len(aimed):
        rows = _aimed(part, aimed)
        for way, words in WAYS.items():
            made.append(Section(words[0].upper() + words[1:], _way(part, rows, aimed, part.classes, way)))
    return made


def _summary(part: Part) -> list[str]:
    aimed = part.kind("class")
    if not len(part.pruned) or not len(aimed):
        return ["Nothing has been cut for or against a class yet."]
    return [_words(_aimed(part, aimed))]


def _by_loss(part: Part, names: Sequence[str]) -> list[Block]:
    blocks = cuts(part, Factor("model", "network", part.model, [part.model]))
    changes = class_changes(part.measured, pick(part.pruned, method=METHODS[0]), names)
    table = 100 * changes.pivot(index="sparsity", columns="class", values="change").reindex(columns=list(names))
    table.index = [f"{100 * sparsity:.4g} %" for sparsity in table.index]
    basis = part.basis(pick(part.pruned, method=METHODS[0]))
    caption = "Change of each class's test accuracy after a cut by loss change, by the part of the units cut."
    blocks.append(_heat("by-loss", table, caption, "removed", basis))
    return [*blocks, *class_damage(part.measured, part.pruned, names, method=METHODS[0], basis=part.basis(part.pruned))]


def _heat(name: str, table: DataFrame, caption: str, rows: str, basis: Any) -> Picture:
    label = "Change (points)"
    drawn = figures.heatmap(table, label=label, axes_labels=("", rows), diverging=True, show=points)
    row, column = table.stack().idxmin()
    alt = f"Heat map; the greatest loss is {column} at {row}, {points(float(table.min().min()))} points."
    return Picture(name, drawn, caption, alt, basis, table.reset_index(names=rows))


def _aimed(part: Part, frame: DataFrame) -> DataFrame:
    """A row for each cut and control: how the class that was meant changed, and the mean of the others."""
    full = part.measured.set_index("seed")["class_accuracy"]
    rows = []
    for run in frame.to_dict("records"):
        number, before = int(run["class"]), full[run["seed"]]
        for method, prefix in _PREFIXES.items():
            change = [100 * (now - was) for now, was in zip(run[f"{prefix}class_accuracy"], before, strict=True)]
            others = [value for at, value in enumerate(change) if at != number]
            own = {"own": change[number], "others": sum(others) / max(len(others), 1), "before": before[number]}
            rows.append({key: run[key] for key in ("seed", "class", "way")} | {"method": method} | own)
    return require("pandas", "lab").DataFrame(rows).astype({"class": int})


def _words(rows: DataFrame) -> str:
    said = []
    for way, words in WAYS.items():
        for method in ("class accuracy", "random"):
            here = pick(rows, way=way, method=method)
            if len(here):
                said.append(
                    f"to {words} by {method} changes its accuracy by {points(here['own'].mean())} points and the others' by "
                    f"{points(here['others'].mean())}"
                )
    return (
        f"On the mean over the classes, {'; '.join(said)}."
        if said
        else "Nothing has been cut for or against a class yet."
    )


def _way(part: Part, rows: DataFrame, aimed: DataFrame, names: Sequence[str], way: str) -> list[Block]:
    here, runs = pick(rows, way=way), pick(aimed, way=way)
    basis = part.basis(runs)
    share = f"{100 * runs['sparsity'].iloc[0]:.4g} %"
    table = require("pandas", "lab").DataFrame(
        {names[int(number)]: _changes(part, group, names) for number, group in runs.groupby("class")}
    )
    caption = (
        f"Change of each class's test accuracy with {share} of the units cut to {WAYS[way]}: the class meant in rows, what "
        "became of all classes in columns."
    )
    picture = _heat(f"{way}-classes", table.T, caption, "class", basis)
    return [picture, _table(here, names, share, way, basis), *_compared(here, way)]


def _changes(part: Part, runs: DataFrame, names: Sequence[str]) -> Any:
    after = runs.assign(method="class accuracy")
    found = class_changes(part.measured, after, names).set_index("class")["change"]
    return 100 * found.reindex(list(names))


def _table(here: DataFrame, names: Sequence[str], share: str, way: str, basis: Any) -> Table:
    columns = [Column("class"), Column("before", format=".4f")]
    for method in _PREFIXES:
        columns += [
            Column(f"{method}: this class", "points", format="+.1f"),
            Column("the others", "points", format="+.1f"),
        ]
    columns.append(Column("95 % of this class, class accuracy"))
    rows = []
    for number, group in here.groupby("class"):
        row: list[Any] = [names[int(number)], mean(group, "before")]
        for method in _PREFIXES:
            row += [mean(pick(group, method=method), key) for key in ("own", "others")]
        rows.append([*row, interval(pick(group, method="class accuracy")["own"])])
    caption = f"Changes of test accuracy with {share} of the units cut to {WAYS[way]}; the controls remove as many units of each layer."
    return Table(way, caption, columns, rows, basis)


def _compared(here: DataFrame, way: str) -> list[Block]:
    """The cuts against their controls: the class meant less the others, the mean over the classes, paired by seed."""
    gaps = (
        here.assign(gap=here["own"] - here["others"])
        .groupby(["method", "seed"], sort=False)["gap"]
        .mean()
        .reset_index()
    )
    caption = "What the class meant gained over the others, in points: mean over the classes, the controls against class accuracy."
    better: Literal["higher", "lower"] = "lower" if way == "forget" else "higher"
    return paired(gaps, f"compare-{way}", caption, baseline="class accuracy", value="gap", within=(), better=better)
