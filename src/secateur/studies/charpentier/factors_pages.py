"""Reports on what units are worth under some factor of the training: its labels, its cuts, its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.plan.options import Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Publication, Study
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section
from secateur.lab.show.class_damage import class_changes, class_damage
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import by_seed, interval, mean, mean_card, pick
from secateur.lab.show.stats.columns import SHARE
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, named, percent
from secateur.studies.charpentier.measured import LABELS
from secateur.studies.kit.controls import METHODS
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part, study
from secateur.studies.kit.pictures import change_picture

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "RATED", "Factor", "compared", "controls", "cuts", "factor_study", "words"]

NOTES = (
    "Units are measured, labelled and chosen on training images alone, and the epoch is chosen on validation images; "
    "the test images are only looked at in the end. Cut networks are not retrained.",
    "The controls remove as many units of each layer as the loss change does, so that all cut networks have one shape.",
)
"""What holds in every study of this kind."""

_SHARE = {"better": "higher", "worse": "lower"}

RATED = [
    Mean("accuracy", Column("test accuracy", format=".4f")),
    Mean("validation_accuracy", Column("validation accuracy", format=".4f")),
    Mean("train_accuracy", Column("training accuracy", format=".4f")),
]
"""The accuracies on the three splits."""


@dataclass(frozen=True)
class Factor:
    """What a study changes about the training.

    Attributes:
        key: the column that holds it.
        words: what it is called.
        reference: the value that the others are compared with.
        values: all of them, in order.
    """

    key: str
    words: str
    reference: Any
    values: Sequence[Any] = ()

    @property
    def base(self) -> Any:
        """The reference, or the first value where that is not among them."""
        return self.reference if self.reference in self.values else self.values[0]

    def at(self, frame: DataFrame, value: Any) -> DataFrame:
        """The rows at one value."""
        return pick(frame, **{self.key: value})

    def ordered(self, frame: DataFrame) -> DataFrame:
        """The rows in the order of the values."""
        rows: DataFrame = require("pandas", "lab").concat([self.at(frame, value) for value in self.values])
        return rows


FactorOf = Callable[[Mapping[str, Json]], Factor]
"""From a study's options to its factor."""


def factor_study(
    name: str,
    title: str,
    summary: str,
    *,
    source: Publication,
    options: Options,
    cells: Callable[[str, Mapping[str, Json]], list[Cell]],
    factor: FactorOf,
    notes: Any,
    further: Callable[[Part, Factor], list[Section]] = lambda part, factor: [],
    first_words: Callable[[Part, Factor], str] = lambda part, factor: "",
) -> Study:
    """Return a study that changes one thing about the training; its report bears with missing cells.

    Args:
        name, title, summary, source, options, cells: as `secateur.studies.kit.parts.study` takes them.
        factor: what is changed.
        notes: how passages of the text were read, and what else a reader must know.
        further: makes sections of the study's own, which stand first.
        first_words: makes a sentence of the study's own, which stands first in the summary.
    """

    def made_sections(part: Part) -> list[Section]:
        if not len(part.measured):
            return []
        changed = factor(part.options)
        return [*further(part, changed), *sections(part, changed)]

    def made_words(part: Part) -> list[str]:
        if not len(part.measured):
            return []
        changed = factor(part.options)
        return [f"{first_words(part, changed)} {words(part, changed)}".strip()]

    return study(
        name,
        title,
        summary,
        source=source,
        options=options,
        cells=cells,
        sections=made_sections,
        words=made_words,
        cards=lambda part: _cards(part, factor(part.options)),
        notes=lambda results: [
            *(notes(results) if callable(notes) else (note.format(**results.options) for note in notes)),
            *NOTES,
        ],
        trained=False,
    )


def _cards(part: Part, factor: Factor) -> list[Card]:
    if not len(part.measured):
        return []
    rows = factor.at(part.measured, factor.base)
    label = f"important units where {factor.words} is {factor.base}"
    note = f"test accuracy {formatted(mean(rows, 'accuracy'), '.4f')}"
    return [mean_card(label, 100 * by_seed(rows, "important"), note, shape=".1f", unit=" %", within=(0, 100))]


def sections(part: Part, factor: Factor) -> list[Section]:
    """Return the sections on labels, on cuts and on classes."""
    parts = [Section("What the units are worth", [*_labels(part, factor), *_changes(part, factor)])]
    if len(part.pruned):
        parts.append(Section("What cutting costs", cuts(part, factor)))
        parts.append(Section("Which classes a cut hurts", _classes(part, factor)))
    return parts


def words(part: Part, factor: Factor) -> str:
    """Return what the labels and accuracies did over the factor, in a sentence or two."""
    rows = {value: rows for value in factor.values if len(rows := factor.at(part.measured, value))}
    if len(rows) == 1:
        ((value, only),) = rows.items()
        return (
            f"Where {factor.words} is {value}, {formatted(mean(only, 'important'), '.1%')} of the units are important and "
            f"{formatted(mean(part.measured, 'worse'), '.1%')} worse; there is no other value to compare it with."
        )
    most = max(rows, key=lambda value: mean(rows[value], "important"))
    least = min(rows, key=lambda value: mean(rows[value], "important"))
    highest = max(rows, key=lambda value: mean(rows[value], "accuracy"))
    return (
        f"The share of important units is greatest where {factor.words} is {most} "
        f"({formatted(mean(rows[most], 'important'), '.1%')}) and least where it is {least} ({formatted(mean(rows[least], 'important'), '.1%')}); worse "
        f"units are {formatted(mean(part.measured, 'worse'), '.1%')} of all. The test accuracy is greatest where it is {highest} "
        f"({formatted(mean(rows[highest], 'accuracy'), '.4f')}; found on the test images themselves)."
    )


def _labels(part: Part, factor: Factor) -> list[Block]:
    columns = [
        Mean(len, Column("networks", format=".0f")),
        *RATED,
        Mean(lambda rows: interval(rows["accuracy"], within=SHARE), Column("95 % of test")),
        *(Mean(label, Column(label, format=".1%")) for label in LABELS),
        Mean(
            lambda rows: interval(100 * rows["important"], within=(0, 100), shape=".1f"),
            Column("95 % of important", "points"),
        ),
        Mean("change_mean", Column("mean Δ", format="+.2e")),
        Mean("change_50", Column("median Δ", format="+.2e")),
    ]
    images = int(part.measured["images"].iloc[0])
    caption = (
        f"Networks by {factor.words}: accuracy, and the shares of hidden units whose removal raises the "
        "training loss (important), lowers it (worse), or does neither beyond chance (zero); Holm's correction over the "
        "units, level 5 %. Δ is the change of the loss with one unit removed."
    )
    split = f"units measured on {images:,} training images; training accuracy on these; test set"
    basis = part.basis(part.measured, split)
    table = grouped(_named(part.measured, factor), "labels", caption, {"value": Column(factor.words)}, columns, basis)
    return [table, _shares(part, factor, basis), *_tests(part, factor)]


def _named(frame: DataFrame, factor: Factor) -> DataFrame:
    """The rows in the factor's order, with its values as texts."""
    rows = factor.ordered(frame)
    return rows.assign(value=rows[factor.key].map(str))


def _shares(part: Part, factor: Factor, basis: Basis) -> Picture:
    rows = [
        {factor.words: str(row[factor.key]), "label": label, "share": row[label]}
        for row in factor.ordered(part.measured).to_dict("records")
        for label in LABELS
    ]
    shares = require("pandas", "lab").DataFrame(rows)
    drawing = figures.bars_with_intervals(
        shares,
        value="share",
        category=factor.words,
        by="label",
        label="Share of the units",
        look=styles(LABELS),
        share=True,
    )
    means = shares.groupby([factor.words, "label"])["share"].mean()
    alt = "; ".join(f"{key[0]}: {key[1]} {formatted(value, '.1%')}" for key, value in means.items())
    return Picture(
        "shares", drawing, f"Shares of the labels by {factor.words}, with 95 % intervals.", alt, basis, shares
    )


def _tests(part: Part, factor: Factor) -> list[Block]:
    captions = {"accuracy": "Test accuracy", "important": "Share of important units"}
    return [
        block
        for value, caption in captions.items()
        for block in compared(part.measured, factor, value, f"compare-{value}", f"{caption}, paired by seed.")
    ]


def compared(frame: DataFrame, factor: Factor, value: str, name: str, caption: str) -> list[Block]:
    """Return the table of paired tests against the reference; a sentence where there are too few runs for any."""
    caption = f"{caption} Each {factor.words} against {factor.base}."
    # A share is neither good nor bad.
    verdicts = {} if "accuracy" in value else _SHARE
    return paired(frame, name, caption, baseline=factor.base, value=value, by=factor.key, within=(), words=verdicts)


def _changes(part: Part, factor: Factor) -> list[Block]:
    """How the loss changes of all units are spread, the networks of all seeds together."""
    rows = []
    for row in part.measured.to_dict("records"):
        tensors = part.results.store.artefact(row["id"])
        place = list(factor.values).index(row[factor.key])
        # A file of tensors gives them in any order.
        names = [name for name in sorted(tensors) if name.startswith("change.")]
        rows += [{"place": place, "change": 1000 * x} for name in names for x in tensors[name].flatten().tolist()]
    changes = require("pandas", "lab").DataFrame(rows)
    names_ = {place: str(value) for place, value in enumerate(factor.values)}
    # A ridge sorts its groups; the place in front keeps the factor's order whatever its values are.
    wide = max(len(names_) // 10 + 1, 1)
    changes["group"] = [f"{place + 1:0{wide}}. {names_[place]}" for place in changes["place"]]
    low, high = changes["change"].quantile([0.005, 0.995])
    inner = changes[(changes["change"] >= low) & (changes["change"] <= high)]
    label = ("Δ of the training loss, thousandths", factor.words)
    drawing = figures.ridge(inner, group="group", value="change", label=label)
    medians = changes.groupby("place")["change"].median()
    alt = "Median loss change, in thousandths: " + ", ".join(
        f"{names_[p]} {formatted(x, '.3g')}" for p, x in medians.items()
    )
    caption = f"How the loss changes of the units are spread, by {factor.words}; the middle 99 % of all units."
    basis = part.basis(part.measured, "measured on training images")
    return [Picture("changes", drawing, caption, alt, basis, changes)]


def cuts(part: Part, factor: Factor) -> list[Block]:
    """Return the blocks on what cutting costs: a table, the accuracies as bars, and the tests against the controls."""
    columns = [
        *RATED,
        Mean(lambda rows: interval(rows["accuracy"], within=SHARE), Column("95 % of test")),
        Mean("loss", Column("test loss", format=".4f")),
        Mean("parameters", Column("parameters", format=",.0f")),
        Mean("macs", Column("MACs", format=",.0f")),
    ]
    groups = {"value": Column(factor.words), "sparsity": Column("removed", format=".0%"), "method": Column("method")}
    whole = part.measured.assign(sparsity=0.0, method="unpruned")
    both = require("pandas", "lab").concat([whole, part.pruned], ignore_index=True)
    caption = (
        "Networks that were really cut, not retrained: the units of the lowest loss changes over all layers, and as many "
        "of each layer by magnitude (l2) and at random."
    )
    basis = part.basis(part.pruned)
    return [
        grouped(_named(both, factor), "cuts", caption, groups, columns, basis),
        _after(part, factor, basis),
        *controls(part.pruned, factor.key),
    ]


def _after(part: Part, factor: Factor, basis: Basis) -> Picture:
    most = max(part.pruned["sparsity"])
    rows = factor.ordered(pick(part.pruned, sparsity=most))
    rows = rows[[factor.key, "method", "seed", "accuracy"]].astype({factor.key: str})
    drawing = figures.bars_with_intervals(
        rows,
        value="accuracy",
        category=factor.key,
        by="method",
        label="Test accuracy",
        look=styles(METHODS),
        share=True,
    )
    means = rows.groupby("method", sort=False)["accuracy"].mean()
    alt = "Mean test accuracy: " + named(means, ".4f")
    caption = f"Test accuracy with {percent(most)} of the units cut, by {factor.words} and method."
    return Picture("after", drawing, caption, alt, basis, rows)


def controls(frame: DataFrame, *keys: str) -> list[Block]:
    """Return the paired tests of the loss change against its controls, within each value of `keys` and each sparsity."""
    caption = "Test accuracy of the controls against removal by loss change, paired by seed."
    return paired(frame, "compare-methods", caption, baseline=METHODS[0], within=(*keys, "sparsity"))


def _classes(part: Part, factor: Factor) -> list[Block]:
    before, after = (factor.at(frame, factor.base) for frame in (part.measured, part.pruned))
    damage = class_damage(before, after, part.classes, method=METHODS[0], basis=part.basis(after))
    return [f"Where {factor.words} is {factor.base}:", *damage, *_by_factor(part, factor)]


def _by_factor(part: Part, factor: Factor) -> list[Block]:
    """The change of each class's accuracy at the greatest sparsity, by the factor."""
    most = max(part.pruned["sparsity"])
    cut = pick(part.pruned, sparsity=most, method=METHODS[0])
    rows = {}
    for value in factor.values:
        before, after = factor.at(part.measured, value), factor.at(cut, value)
        if len(before) and len(after):
            rows[str(value)] = 100 * class_changes(before, after, part.classes).set_index("class")["change"]
    if not rows:
        return []
    table = require("pandas", "lab").DataFrame(rows).T.reindex(columns=list(part.classes))
    caption = f"Change of each class's test accuracy with {percent(most)} cut by loss change, by {factor.words}."
    alt = f"Heat map; the greatest loss is {{column}} where {factor.words} is {{row}}, {{loss}} points."
    return [change_picture("classes-by-factor", table, caption, alt, part.basis(cut), factor.words)]
