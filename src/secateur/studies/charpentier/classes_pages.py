"""The report on what cuts do to each class."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from secateur.files import require
from secateur.lab.show.blocks import Basis, Block, Column, Section, Table
from secateur.lab.show.class_damage import class_changes, class_damage
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import interval, pick
from secateur.lab.show.words import percent, points
from secateur.studies.charpentier import factors_pages
from secateur.studies.charpentier.factors_pages import Factor, cuts
from secateur.studies.kit.controls import METHODS
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part
from secateur.studies.kit.pictures import change_picture

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "WAYS", "sections", "words"]

WAYS = {"keep": "keep what the class needs", "forget": "forget the class"}
"""What a cut is meant to do to a class."""

_PREFIXES = {"class accuracy": "", "magnitude": "magnitude_", "random": "random_"}

NOTES = (
    "Keeping what a class needs removes the units whose removal costs that class the least accuracy; forgetting it "
    "removes first the units that serve it and not the others. Units of equal accuracy are told apart by the loss. The "
    "sections of the text are headings; the readings are ours, and there is no published figure to compare with.",
    *factors_pages.NOTES,
)

_HEAT = "Heat map; the greatest loss is {column} at {row}, {loss} points."


def sections(part: Part) -> list[Section]:
    """Return the sections on cuts by loss, and on those for and against a class."""
    aimed = part.kind("class")
    if not len(part.pruned):
        return []
    parts = [Section("After cuts by loss", _by_loss(part))]
    if len(aimed):
        changes = _aimed(part, aimed)
        ways = {way: title for way, title in WAYS.items() if way in set(aimed["way"])}
        parts += [Section(title[0].upper() + title[1:], _way(part, changes, aimed, w)) for w, title in ways.items()]
    return parts


def words(part: Part) -> list[str]:
    """Return what cuts for and against a class changed, on the mean."""
    aimed = part.kind("class")
    if not len(part.pruned) or not len(aimed):
        return ["Nothing has been cut for or against a class yet."]
    changes, parts = _aimed(part, aimed), []
    for way, aim in WAYS.items():
        for method in ("class accuracy", "random"):
            rows = pick(changes, way=way, method=method)
            if len(rows):
                parts.append(
                    f"to {aim} by {method} changes its accuracy by {points(rows['own'].mean(), 1)} points and the others' by "
                    f"{points(rows['others'].mean(), 1)}"
                )
    return [f"On the mean over the classes, {'; '.join(parts)}."]


def _by_loss(part: Part) -> list[Block]:
    blocks = cuts(part, Factor("model", "network", part.model, [part.model]))
    pruned = pick(part.pruned, method=METHODS[0])
    changes = class_changes(part.measured, pruned, part.classes)
    table = 100 * changes.pivot(index="sparsity", columns="class", values="change").reindex(columns=list(part.classes))
    table.index = [percent(sparsity) for sparsity in table.index]
    table = table.rename_axis("removed")
    caption = "Change of each class's test accuracy after a cut by loss change, by the part of the units cut."
    blocks.append(change_picture("by-loss", table, caption, _HEAT, part.basis(pruned), "removed"))
    basis = part.basis(part.pruned)
    return [*blocks, *class_damage(part.measured, part.pruned, part.classes, method=METHODS[0], basis=basis)]


def _aimed(part: Part, frame: DataFrame) -> DataFrame:
    """A row for each cut and control: how the class that was meant changed, and the mean of the others."""
    whole = part.measured.set_index("seed")["class_accuracy"]
    rows = []
    for run in frame.to_dict("records"):
        number, before = int(run["class"]), whole[run["seed"]]
        for method, prefix in _PREFIXES.items():
            change = [100 * (now - was) for now, was in zip(run[f"{prefix}class_accuracy"], before, strict=True)]
            others = [value for at, value in enumerate(change) if at != number]
            values = {"own": change[number], "others": sum(others) / max(len(others), 1), "before": before[number]}
            keys = {"seed": run["seed"], "class": number, "name": part.classes[number], "way": run["way"]}
            rows.append({**keys, "method": method, **values})
    return require("pandas", "lab").DataFrame(rows)


def _way(part: Part, changes: DataFrame, aimed: DataFrame, way: str) -> list[Block]:
    rows, runs = pick(changes, way=way), pick(aimed, way=way)
    basis, removed = part.basis(runs), percent(runs["sparsity"].iloc[0])
    table = require("pandas", "lab").DataFrame(
        {part.classes[int(number)]: _changes(part, class_runs) for number, class_runs in runs.groupby("class")}
    )
    caption = (
        f"Change of each class's test accuracy with {removed} of the units cut to {WAYS[way]}: the class meant in rows, what "
        "became of all classes in columns."
    )
    picture = change_picture(f"{way}-classes", table.T.rename_axis("class"), caption, _HEAT, basis, "class")
    return [picture, _table(rows, removed, way, basis), *_compared(rows, way)]


def _changes(part: Part, runs: DataFrame) -> Any:
    after = runs.assign(method="class accuracy")
    changes = class_changes(part.measured, after, part.classes).set_index("class")["change"]
    return 100 * changes.reindex(list(part.classes))


def _table(rows: DataFrame, removed: str, way: str, basis: Basis) -> Table:
    def of(method: str, key: str) -> Callable[[DataFrame], Any]:
        return lambda rows: pick(rows, method=method)[key]

    columns = [Mean("before", Column("before", format=".4f"))]
    for method in _PREFIXES:
        columns.append(Mean(of(method, "own"), Column(f"{method}: this class", "points", format="+.1f")))
        columns.append(Mean(of(method, "others"), Column("the others", "points", format="+.1f")))
    title = "95 % of this class, class accuracy"
    columns.append(
        Mean(lambda rows: interval(of("class accuracy", "own")(rows), within=(-100, 100), shape="+.1f"), Column(title))
    )
    caption = f"Changes of test accuracy with {removed} of the units cut to {WAYS[way]}; the controls remove as many units of each layer."
    return grouped(rows.sort_values("class", kind="stable"), way, caption, {"name": Column("class")}, columns, basis)


def _compared(rows: DataFrame, way: str) -> list[Block]:
    """The cuts against their controls: the class meant less the others, the mean over the classes, paired by seed."""
    gaps = rows.assign(gap=rows["own"] - rows["others"]).groupby(["method", "seed"], sort=False)["gap"].mean()
    caption = "What the class meant gained over the others, in points: mean over the classes, the controls against class accuracy."
    better: Literal["higher", "lower"] = "lower" if way == "forget" else "higher"
    return paired(
        gaps.reset_index(), f"compare-{way}", caption, baseline="class accuracy", value="gap", within=(), better=better
    )
