"""A study's report: what it found with each network on each data set, and the frame around it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from secateur import data
from secateur.files import require
from secateur.lab.plan.options import Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Publication, Results, Study
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.show.chance import not_learnt
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.origins import Origins
from secateur.lab.show.report import Report
from secateur.lab.show.sections import mean, pick, several, training
from secateur.lab.show.shares import as_removed, unlike_asked
from secateur.lab.show.style import styles
from secateur.lab.show.words import counted, formatted
from secateur.studies.kit.networks import grid, layer_sizes
from secateur.studies.kit.pictures import kept_picture

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["UNPRUNED", "Part", "class_rows", "class_section", "networks_section", "parts", "report", "study"]

_PANELS = 2
"""So many networks stand side by side at the head of a page."""
UNPRUNED = "unpruned"
"""What the trained networks are called beside pruned ones; those that were trained further have a kind of this name."""
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
        """One row a cut network; ``sparsity`` is the part of the units that was really removed (`as_removed`)."""
        return as_removed(self.kind("prune"), self._apart)

    @property
    def unpruned(self) -> dict[str, DataFrame]:
        """The networks that pruned ones are held against, by what they are called: as trained, and fine-tuned alike."""
        tuned = self.kind(UNPRUNED)
        further = {str(name): rows for name, rows in tuned.groupby("method", sort=False)} if len(tuned) else {}
        return {UNPRUNED: self.trained, **further} if len(self.trained) else further

    @property
    def unlike_asked(self) -> list[str]:
        """The sentence that says where something else was removed than was asked for."""
        rows = self.kind("prune")
        return unlike_asked(rows, self._apart) if "method" in rows else []

    @property
    def _apart(self) -> list[str]:
        """What the recipes tell cells of one sparsity apart by, besides the seed."""
        return [name for name in self.origins.keys if name not in ("seed", "sparsity")]

    @property
    def options(self) -> Mapping[str, Json]:
        """The study's options."""
        return self.results.options

    @property
    def epochs(self) -> DataFrame:
        """The histories of the trained networks alone."""
        return self.results.store.histories(self.trained["id"])

    def kind(self, kind: str) -> DataFrame:
        """Return the rows of one kind of cell."""
        rows = _of_one_kind(pick(self.cells, kind=kind), self.results)
        # Beside cells that lack them, pandas makes whole numbers floats.
        whole = [name for name in _WHOLE if name in rows and rows[name].dtype.kind == "f" and rows[name].notna().all()]
        return rows.astype(dict.fromkeys(whole, int))

    def basis(self, rows: DataFrame, split: str = "test set") -> Basis:
        """Return the basis of a block that was made of `rows`, measured on a split of the data."""
        return self.origins.of(rows, f"{split} of {self.data}")

    def steps(self, rows: DataFrame) -> DataFrame:
        """Return the histories of these rows, with the parameters that tell the rows apart."""
        names = [name for name in ("seed", "n", "schedule", "method") if name in rows]
        return self.histories.merge(rows[["id", *names]], on="id", suffixes=("_step", ""))

    def lines(self, rows: DataFrame) -> DataFrame:
        """Return the histories of these rows as they are, with whole steps."""
        return self.histories[self.histories["id"].isin(rows["id"])].astype({"step": int})


def parts(results: Results) -> list[Part]:
    """Return what there is of each network on each data set, in the order of the options; nothing of those to come."""
    if not len(results.frame):
        return []
    origins = Origins.among(results)
    return [part for pair in grid(results.options) if (part := _part(results, origins, *pair)) is not None]


def _part(results: Results, origins: Origins, name: str, model: str) -> Part | None:
    rows = pick(results.frame, data=name, model=model)
    if not len(rows):
        return None
    histories = results.histories
    histories = histories[histories["id"].isin(rows["id"])] if len(histories) else histories
    trained, cells = rows[rows["kind"] == "train"], rows[rows["kind"] != "train"]
    return Part(name, model, _of_one_kind(trained, results), cells, histories, results, origins)


def _of_one_kind(rows: DataFrame, results: Results) -> DataFrame:
    """Without the columns that only cells of other kinds have; a loss that is no number anywhere stays, as nan."""
    if not len(rows):
        return rows
    measured = results.store.get(rows["id"].iloc[0]).metrics
    return rows[[name for name in rows if name in measured or rows[name].notna().any()]]


Sections = Callable[[Part], Sequence[Section]]
Words = Callable[[Part], Sequence[str]]
Cards = Callable[[Part], Sequence[Card]]
Notes = Sequence[str] | Callable[[Results], Sequence[str]]
Curves = Callable[[Sequence[Part]], Mapping[str, "DataFrame"]]
"""From all parts to the rows whose accuracy over sparsity the page leads with, by the part's title."""


def study(
    name: str,
    title: str,
    summary: str,
    *,
    options: Options,
    cells: Callable[[str, Mapping[str, Json]], Sequence[Cell]],
    sections: Sections,
    words: Words,
    cards: Cards = lambda _: (),
    notes: Notes = (),
    source: Publication | None = None,
    trained: bool = True,
    network: str = "",
    lead: str = "",
    curves: Curves | None = None,
    best: tuple[str, Literal["max", "min"]] | None = None,
) -> Study:
    """Return a study of trained networks.

    Args:
        name, title, summary, source, best: as `Study` has them.
        options: what it takes.
        cells: from its name and its settled options to its cells.
        sections, words, cards, notes, trained, lead, curves: of its report, as `report` takes them.
        network: the name of its one network, where that is no option.
    """

    def pages(results: Results) -> Report:
        named = replace(results, options={**results.options, "model": network}) if network else results
        return report(
            named, title, sections, words, cards, notes, trained=trained, lead=lead, curves=curves or pruned_curves
        )

    return Study(
        name=name,
        title=title,
        source=source,
        summary=summary,
        cells=lambda settled: cells(name, settled),
        pages=pages,
        defaults=options,
        best=best,
    )


def report(
    results: Results,
    title: str,
    sections: Sections,
    words: Words,
    cards: Cards = lambda _: (),
    notes: Notes = (),
    *,
    trained: bool = True,
    lead: str = "",
    curves: Curves = lambda _: {},
) -> Report:
    """Return the report: the sections of each part and its training, then how it was done; it bears with missing cells.

    Args:
        results: the study's.
        title: the report's.
        sections, words, cards: of a part that has more than its training; the words make the summary.
        notes: how it was done, and how doubtful passages were read; ``{epochs}`` stands for an option.
        trained: whether each part ends with a section on its training; else the sections have it, if any.
        lead: the name of the figure that the page leads with, where there is one network on one data set.
        curves: what it leads with where there is no such figure; where there are no curves either, its first figure.
    """
    several = len(grid(results.options)) > 1
    body: list[Section] = []
    summary: list[str] = []
    warnings: list[str] = []
    heads: list[Card] = []
    there_are = parts(results)
    for part in there_are:
        there = len(part.cells) > 0
        part_sections = list(sections(part)) if there or not trained else []
        part_sections += _kept(part) if there else []
        part_sections += [networks_section(part)] if trained and (len(part.trained) or len(part.kind("load"))) else []
        prefix = f"{part.model} on {part.data}: " if several else ""
        body += [section.within(part.data, part.model) for section in part_sections] if several else part_sections
        warnings += [f"{prefix}{warning}" for warning in [*not_learnt(_whole(part)), *part.unlike_asked]]
        summary += [f"{prefix}{sentence}" for sentence in (words(part) if there else ()) if sentence]
        heads += [replace(card, label=f"{prefix}{card.label}") for card in (cards(part) if there else ())]
    how = notes(results) if callable(notes) else _filled(notes, results.options)
    body.append(Section("How it was done", list(how)))
    summary = [*warnings, *summary] or ["Nothing has been computed yet."]
    names = {block.name for section in body for block in section.blocks if not isinstance(block, str)}
    head = lead if lead in names else _lead(there_are, curves(there_are)) or ""
    return Report(title, summary=summary, cards=heads, sections=body, lead=head, subject=_subject(results.options))


def _subject(options: Mapping[str, Json]) -> str:
    """What a study was run on, in its options' names: each network on each data set.

    >>> _subject({"model": ["ann-128", "cnn-4"], "data": "digits"})
    'ann-128 and cnn-4 on digits'
    """
    sets, networks = zip(*grid(options), strict=True)
    return f"{_and(dict.fromkeys(networks))} on {_and(dict.fromkeys(sets))}"


def _and(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def _filled(notes: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """Notes with the options in their places; one that has a value for each of several names is told by name."""
    values = {
        name: ", ".join(f"{key}: {item}" for key, item in value.items()) if isinstance(value, Mapping) else value
        for name, value in options.items()
    }
    return [note.format(**values) for note in notes]


def _kept(part: Part) -> list[Section]:
    """What each layer kept, a picture for each kind of unit, where networks say it."""
    rows = part.pruned
    if not {"kept", "method", "sparsity"} <= set(rows):
        return []
    if "scope" in rows and "global" in set(rows["scope"]):  # where layers compete; else all keep the same part
        rows = pick(rows, scope="global")
    units = dict.fromkeys(rows["unit"]) if "unit" in rows else [""]
    frames = {unit: pick(rows, unit=unit) if unit else rows for unit in units}
    has_options = len(part.trained) > 0 and "model_options" in part.trained
    sizes = layer_sizes(part.model, part.trained["model_options"].iloc[0]) if has_options else {}
    pictures = [kept_picture(frame, sizes, unit, part.basis(frame, "networks")) for unit, frame in frames.items()]
    blocks: list[Block] = [picture for picture in pictures if picture is not None]
    return [Section("What each layer kept", blocks)] if blocks else []


def pruned_curves(parts_: Sequence[Part]) -> dict[str, DataFrame]:
    """Return the accuracies of the cut networks of each part, where they differ by method and sparsity."""
    rows = {_title(part): part.pruned for part in parts_}
    return {title: frame for title, frame in rows.items() if _is_curve(frame)}


def _is_curve(frame: DataFrame) -> bool:
    columns = ("method", "sparsity", "accuracy")
    return all(name in frame and frame[name].notna().any() for name in columns) and frame["sparsity"].nunique() > 1


def _title(part: Part) -> str:
    return f"{part.model} on {part.data}"


def _lead(parts_: Sequence[Part], rows: Mapping[str, DataFrame]) -> Picture | None:
    """The figure of some curves, a panel for each of the first parts."""
    if not rows:
        return None
    panels = dict(list(rows.items())[:_PANELS])
    there_are = {_title(part): part for part in parts_}
    baselines = {
        title: {name: mean(rows_, "accuracy") for name, rows_ in there_are[title].unpruned.items()} for title in panels
    }
    methods = dict.fromkeys(method for frame in panels.values() for method in frame["method"])
    drawing = figures.accuracy_panels(panels, baselines, look=styles(methods))
    left = f"; {counted(len(rows) - _PANELS, 'more network')} below" if len(rows) > _PANELS else ""
    title, frame = next(iter(panels.items()))
    means = frame.groupby(["method", "sparsity"])["accuracy"].mean()
    (method, sparsity), least = means.idxmin(), means.min()
    alt = f"Accuracy by sparsity, one line a method; on {title} it is least with {method} at {100 * sparsity:g} %, {formatted(least, '.4f')}."
    drawn = ": the mean over the networks, and its 95 % interval as a band" if several(frame) else ", one run each"
    caption = f"Test accuracy by the part removed{drawn}{left}."
    both = require("pandas", "lab").concat(
        [
            rows_.assign(network=name)[["network", "method", "sparsity", "seed", "accuracy"]]
            for name, rows_ in panels.items()
        ]
    )
    return Picture("lead", drawing, caption, alt, there_are[title].basis(frame), both)


def _whole(part: Part) -> DataFrame:
    """The unpruned networks, trained or loaded."""
    return part.trained if len(part.trained) else part.kind("load")


def networks_section(part: Part) -> Section:
    """Return the section on the unpruned networks: how they were trained, or where they come from."""
    if len(part.trained):
        return training(part.trained, part.epochs, part.basis(part.trained))
    loaded = part.kind("load")
    columns = [
        Column("weights"),
        Column("accuracy", format=".4f"),
        Column("loss", format=".4f"),
        Column("parameters", format=",.0f"),
        Column("MACs", format=",.0f", key="macs"),
    ]
    caption = "The unpruned network, with the weights of a file, known by the first digits of its SHA-256."
    return Section("The network", [Table.of(loaded, "baselines", caption, columns, part.basis(loaded, "test images"))])


def class_rows(cells: DataFrame, columns: Mapping[str, str], share: Sequence[float] | DataFrame) -> DataFrame:
    """Return what `class_damage` takes of cells that hold several methods' accuracies of each class.

    Args:
        cells: one row a cell, with ``seed``.
        columns: method → the column of its accuracies.
        share: the fraction of the units that each row has lost.
    """
    pandas = require("pandas", "lab")
    frames: list[Any] = [
        pandas.DataFrame({"method": name, "sparsity": share, "seed": cells["seed"], "class_accuracy": cells[column]})
        for name, column in columns.items()
    ]
    rows: DataFrame = pandas.concat(frames, ignore_index=True)
    return rows


def class_section(part: Part, runs: DataFrame, basis: Basis, removed: str) -> list[Block]:
    """Return what pruning costs each class, with the threshold as the part removed.

    Args:
        part: for the names of the classes.
        runs: rows with ``base_class_accuracy`` and ``class_accuracy``, ``method``, ``threshold`` and ``seed``.
        basis: what the numbers were computed from.
        removed: what the threshold is a part of, such as ``"of a layer's energy removed"``.
    """
    count = len(runs["class_accuracy"].iloc[0])
    names = part.classes if len(part.classes) == count else tuple(f"class {number}" for number in range(count))
    whole = runs.drop_duplicates("seed")[["seed", "base_class_accuracy"]]
    before = whole.rename(columns={"base_class_accuracy": "class_accuracy"})
    after = runs[["method", "seed", "class_accuracy"]].assign(sparsity=runs["threshold"])
    return class_damage(before, after, names, basis=basis, removed=removed)
