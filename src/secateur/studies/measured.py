"""What studies of measured importance share: ratings, controls, tables of distributions, and a report of several parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from secateur import data
from secateur.criteria import Magnitude, Random
from secateur.files import require
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Card, Column, Section, Table
from secateur.lab.recipe import Json
from secateur.lab.report import Report
from secateur.lab.sections import pick, training
from secateur.lab.study import Results
from secateur.select import select
from secateur.studies.networks import grid, quality
from secateur.types import InputError, Keep, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "STATISTICS",
    "Part",
    "by_magnitude",
    "class_rows",
    "describe_table",
    "drawn",
    "drawn_like",
    "first",
    "parts",
    "quartiles",
    "rate",
    "report",
    "statistics",
]

STATISTICS = ("mean", "std", "min", "25%", "50%", "75%", "max")
"""What pandas' ``describe`` says of a distribution, as the thesis prints it."""

_WHOLE = ("seed", "n", "draws", "units", "removed")


# Cells


def first(images: data.Split, count: int) -> data.Split:
    """Return the first `count` images; all, where there are fewer."""
    return images.subset(range(min(count, len(images))))


def rate(model: nn.Module, splits: Mapping[str, data.Split]) -> dict[str, Json]:
    """Return loss, accuracy and the accuracy of each class on each split; those on ``test`` without a prefix."""
    return {
        name: value
        for key, split in splits.items()
        for name, value in quality(model, split, "" if key == "test" else f"{key}_").items()
    }


def drawn(model: nn.Module, sites: Sites, n: int, draws: int, seed: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return keep masks that each remove `n` of all units, drawn at random.

    Args:
        model, sites: the network and its sites, all pooled; one may lose every unit.
        n: how many units go.
        draws: how many masks.
        seed: whole numbers that together decide the draws.

    Raises:
        InputError: there are fewer units than `n`.
    """
    total = sum(site.size for site in sites.values())
    if n > total:
        raise InputError(f"{n} units are to be removed at random, but the network has only {total}; ask for fewer")
    return [select(scores, n / total, minimum=0) for scores in _random(model, sites, draws, seed)]


def drawn_like(keep: Keep, model: nn.Module, sites: Sites, draws: int, seed: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return keep masks that each remove as many units of each site as `keep` does, drawn at random."""
    parts_removed = _fractions(keep)
    return [select(scores, parts_removed, scope="layer") for scores in _random(model, sites, draws, seed)]


def by_magnitude(keep: Keep, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
    """Return the keep mask that removes as many units of each site as `keep` does: those of the lowest L2 norm."""
    return select(Magnitude(p=2)(model, sites), _fractions(keep), scope="layer")


def _fractions(keep: Keep) -> dict[str, float]:
    return {name: int((~kept).sum()) / kept.numel() for name, kept in keep.items()}


def _random(model: nn.Module, sites: Sites, draws: int, seed: Sequence[int]) -> Iterable[dict[str, Tensor]]:
    seeds = np.random.default_rng(list(seed)).integers(2**31, size=draws)
    return (Random(int(one))(model, sites) for one in seeds)


# Reports


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
) -> Report:
    """Return the report: the sections of each part and its training, then how it was done.

    Args:
        results: the study's.
        title: the report's.
        sections, summary, cards: of a part that has more than its training.
        notes: how it was done, and how doubtful passages were read.
    """
    found = parts(results)
    many = len(grid(results.options)) > 1
    made, words, heads = [], [], []
    for part in found:
        own = sections(part) if len(part.cells) else []
        own += [_training(part)] if len(part.trained) else []
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
