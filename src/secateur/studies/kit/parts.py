"""What reports of trained and measured networks share: their parts, the report of them, tables of distributions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secateur import data
from secateur.files import require
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Card, Column, Section, Table
from secateur.lab.report import Report
from secateur.lab.sections import pick, training
from secateur.lab.study import Results
from secateur.studies.kit.networks import grid

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STATISTICS", "Part", "class_rows", "describe_table", "parts", "quartiles", "report", "statistics"]

STATISTICS = ("mean", "std", "min", "25%", "50%", "75%", "max")
"""What pandas' ``describe`` says of a distribution, as the thesis prints it."""

_WHOLE = ("seed", "n", "draws", "units", "removed")


@dataclass(frozen=True, eq=False)
class Part:
    """What a study found with one network on one data set.

    Attributes:
        data, model: their names.
        trained: one row a trained network.
        cells: one row for each of the other cells.
        histories: the histories of all of them.
        results: the whole study's.
        origins: says from which rows a block was made.
    """

    data: str
    model: str
    trained: DataFrame
    cells: DataFrame
    histories: DataFrame
    results: Results
    origins: Origins = field(repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return data.info(self.data).classes

    @property
    def measured(self) -> DataFrame:
        """One row a trained network whose units were measured."""
        return self.kind("measure")

    @property
    def pruned(self) -> DataFrame:
        """One row a cut network."""
        return self.kind("prune")

    def kind(self, kind: str) -> DataFrame:
        """Return the rows of one kind of cell."""
        rows = pick(self.cells, kind=kind).dropna(axis=1, how="all")
        # Beside cells that lack them, pandas makes whole numbers floats.
        whole = [name for name in _WHOLE if name in rows and rows[name].notna().all()]
        return rows.astype(dict.fromkeys(whole, int))

    def basis(self, rows: DataFrame, split: str = "test set") -> Basis:
        """Return the basis of a block that was made of `rows`, measured on a split of the data."""
        return self.origins.of(rows, f"{split} of {self.data}")

    def steps(self, rows: DataFrame) -> DataFrame:
        """Return the histories of these rows, with the parameters that tell the rows apart."""
        told = [name for name in ("seed", "n", "schedule", "method") if name in rows]
        return self.histories.merge(rows[["id", *told]], on="id", suffixes=("_step", ""))


def parts(results: Results) -> list[Part]:
    """Return what there is of each network on each data set, in the order of the options; nothing of those to come."""
    found: list[Part] = []
    if not len(results.frame):
        return found
    origins = Origins.among(results)
    for name, model in grid(results.options):
        own = pick(results.frame, data=name, model=model)
        histories = results.histories
        histories = histories[histories["id"].isin(own["id"])] if len(histories) else histories
        trained, cells = own[own["kind"] == "train"], own[own["kind"] != "train"]
        if len(own):
            found.append(
                Part(name, model, trained.dropna(axis=1, how="all"), cells, histories, results, origins),
            )
    return found


def report(
    results: Results,
    title: str,
    sections: Callable[[Part], list[Section]],
    summary: Callable[[Part], list[str]],
    cards: Callable[[Part], list[Card]] = lambda _: [],
    notes: Sequence[str] = (),
    *,
    trained: bool = True,
) -> Report:
    """Return the report: the sections of each part and its training, then how it was done.

    Args:
        results: the study's.
        title: the report's.
        sections, summary, cards: of a part that has more than its training.
        notes: how it was done, and how doubtful passages were read.
        trained: whether each part ends with a section on its training.
    """
    found = parts(results)
    many = len(grid(results.options)) > 1
    made, words, heads = [], [], []
    for part in found:
        own = sections(part) if len(part.cells) else []
        own += [_training(part)] if trained and len(part.trained) else []
        made += [one.within(part.data, part.model) for one in own] if many else own
        said = summary(part) if len(part.cells) else []
        words += [f"{part.model} on {part.data}: {one}" for one in said] if many else said
        heads += [
            Card(f"{part.model} on {part.data}: {c.label}" if many else c.label, c.value, c.note)
            for c in (cards(part) if len(part.cells) else [])
        ]
    made.append(Section("How it was done", list(notes)))
    return Report(title, summary=words or ["Nothing has been computed yet."], cards=heads, sections=made)


def _training(part: Part) -> Section:
    return training(part.trained, part.histories, part.basis(part.trained))


def statistics(frame: DataFrame, x: str, value: str) -> DataFrame:
    """Return the statistics of each network's draws at each `x`, averaged over the networks.

    One network's spread is what a publication on one network shows; networks differ besides.

    >>> import pandas
    >>> rows = pandas.DataFrame({"n": 1, "seed": [0, 0, 1, 1], "loss": [1.0, 3.0, 2.0, 6.0]})
    >>> statistics(rows, "n", "loss").loc[1, ["mean", "min", "max"]].tolist()
    [3.0, 1.5, 4.5]
    """
    each = frame.groupby([x, "seed"])[value].describe()
    return each.groupby(level=0)[list(STATISTICS)].mean()


def quartiles(theirs: Mapping[int, Sequence[float]] | None) -> DataFrame | None:
    """Return published statistics as the `box` figure takes them; None where there are none."""
    if not theirs:
        return None
    rows = [{"n": n, **dict(zip(STATISTICS, found, strict=True))} for n, found in theirs.items()]
    frame: DataFrame = require("pandas", "lab").DataFrame(rows)
    return frame


def class_rows(cells: DataFrame, columns: Mapping[str, str], share: Sequence[float] | DataFrame) -> DataFrame:
    """Return what `class_damage` takes of cells that hold several methods' accuracies of each class.

    Args:
        cells: one row a cell, with ``seed``.
        columns: method → the column of its accuracies.
        share: the fraction of the units that each row has lost.
    """
    pandas = require("pandas", "lab")
    made = [
        pandas.DataFrame({"method": name, "sparsity": share, "seed": cells["seed"], "class_accuracy": cells[column]})
        for name, column in columns.items()
    ]
    rows: DataFrame = pandas.concat(made, ignore_index=True)
    return rows


def describe_table(
    frame: DataFrame,
    x: str,
    value: str,
    name: str,
    caption: str,
    basis: Basis,
    *,
    theirs: Mapping[int, Sequence[float]] | None = None,
    digits: int = 4,
) -> Table:
    """Return the table of `statistics`, one column for each `x`, with the publication's columns beside ours.

    Args:
        frame: one row a draw, with ``seed``.
        x, value: the columns of groups and of values.
        name, caption, basis: the table's.
        theirs: x → the published statistics, in the order of `STATISTICS`.
        digits: behind the point.
    """
    ours = statistics(frame, x, value)
    columns, shown, shape = [Column("statistic")], [], f".{digits}f"
    for at in ours.index:
        columns.append(Column(f"{x} = {at}", format=shape))
        shown.append(ours.loc[at].tolist())
        if theirs and at in theirs:
            columns.append(Column(f"{x} = {at}", format=shape, published=True))
            shown.append(list(theirs[at]))
    rows = [[title, *(values[place] for values in shown)] for place, title in enumerate(STATISTICS)]
    return Table(name, caption, columns, rows, basis)
