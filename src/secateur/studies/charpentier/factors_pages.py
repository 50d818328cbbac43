"""Reports on what units are worth under some factor of the training: its labels, its cuts, its classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur import data
from secateur.files import require
from secateur.lab import figures
from secateur.lab.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.classes import class_changes, class_damage
from secateur.lab.judgement import paired
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Results
from secateur.lab.style import styles
from secateur.studies.charpentier.measured import LABELS, METHODS
from secateur.studies.kit.parts import Part, report

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Factor", "compared", "controls", "cuts", "factor_report", "points"]

NOTES = (
    "Units are measured, labelled and chosen on training images alone, and the epoch is chosen on validation images; "
    "the test images are only looked at in the end. Cut networks are not retrained.",
    "The controls remove as many units of each layer as the loss change does, so that all cut networks have one shape.",
)
"""What holds in every study of this kind."""

_SHARE = {"better": "higher", "worse": "lower"}
_RATED = (("accuracy", "test"), ("validation_accuracy", "validation"), ("train_accuracy", "training"))


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
    values: Sequence[Any]

    @property
    def base(self) -> Any:
        """The reference, or the first value where that is not among them."""
        return self.reference if self.reference in self.values else self.values[0]


Further = Callable[[Part], list[Section]]
Said = Callable[[Part], str]


def factor_report(
    results: Results,
    title: str,
    factor: Factor,
    notes: Sequence[str],
    further: Further | None = None,
    said: Said | None = None,
) -> Report:
    """Return the report of a study that changes one thing about the training; it bears with missing cells.

    Args:
        results: of the study.
        title: the report's.
        factor: what was changed.
        notes: how passages of the text were read, and what else a reader must know.
        further: makes sections of the study's own, which stand first.
        said: makes a sentence of the study's own, which stands first in the summary.
    """

    def made(part: Part) -> list[Section]:
        own = further(part) if further and len(part.measured) else []
        return [*own, *sections(part, factor)]

    def summary(part: Part) -> list[str]:
        own = [said(part)] if said and len(part.measured) else []
        return [" ".join([*own, words(part, factor)])] if len(part.measured) else []

    return report(results, title, made, summary, lambda part: _cards(part, factor), [*notes, *NOTES], trained=False)


def points(change: float) -> str:
    """Return a change in percentage points as figures write it.

    >>> points(-1.25)
    '−1.2'
    """
    return f"{change:+.1f}".replace("-", "−")


def _cards(part: Part, factor: Factor) -> list[Card]:
    if not len(part.measured):
        return []
    here = pick(part.measured, **{factor.key: factor.base})
    label = f"important units where {factor.words} is {factor.base}"
    return [Card(label, f"{mean(here, 'important'):.1%}", f"test accuracy {mean(here, 'accuracy'):.4f}")]


def sections(part: Part, factor: Factor) -> list[Section]:
    """Return the sections on labels, on cuts and on classes; none where nothing has been measured."""
    if not len(part.measured):
        return []
    made = [Section("What the units are worth", [*_labels(part, factor), *_changes(part, factor)])]
    if len(part.pruned):
        made.append(Section("What cutting costs", cuts(part, factor)))
        made.append(Section("Which classes a cut hurts", _classes(part, factor)))
    return made


def words(part: Part, factor: Factor) -> str:
    """Return what the labels and accuracies did over the factor, in a sentence or two."""
    seen = [value for value in factor.values if len(pick(part.measured, **{factor.key: value}))]
    rows = {value: pick(part.measured, **{factor.key: value}) for value in seen}
    if len(seen) == 1:
        return (
            f"Where {factor.words} is {seen[0]}, {mean(rows[seen[0]], 'important'):.1%} of the units are important and "
            f"{mean(part.measured, 'worse'):.1%} worse; there is no other value to compare it with."
        )
    most = max(seen, key=lambda value: mean(rows[value], "important"))
    least = min(seen, key=lambda value: mean(rows[value], "important"))
    best = max(seen, key=lambda value: mean(rows[value], "accuracy"))
    return (
        f"The share of important units is greatest where {factor.words} is {most} "
        f"({mean(rows[most], 'important'):.1%}) and least where it is {least} ({mean(rows[least], 'important'):.1%}); worse "
        f"units are {mean(part.measured, 'worse'):.1%} of all. The test accuracy is greatest where it is {best} "
        f"({mean(rows[best], 'accuracy'):.4f})."
    )


def _labels(part: Part, factor: Factor) -> list[Block]:
    columns = [
        Column(factor.words),
        Column("networks", format=".0f"),
        *(Column(f"{words} accuracy", format=".4f") for _, words in _RATED),
        Column("95 % of test"),
        *(Column(label, format=".1%") for label in LABELS),
        Column("95 % of important", "points"),
        Column("mean Δ", format="+.2e"),
        Column("median Δ", format="+.2e"),
    ]
    rows = []
    for value in factor.values:
        runs = pick(part.measured, **{factor.key: value})
        if len(runs):
            spread = [
                interval(runs["accuracy"]),
                *(mean(runs, label) for label in LABELS),
                interval(100 * runs["important"]),
            ]
            means = [mean(runs, key) for key, _ in _RATED]
            rows.append([str(value), len(runs), *means, *spread, mean(runs, "change_mean"), mean(runs, "change_50")])
    images = int(part.measured["images"].iloc[0])
    caption = (
        f"Networks by {factor.words}: accuracy, and the shares of hidden units whose removal raises the "
        "training loss (important), lowers it (worse), or does neither beyond chance (zero); Holm's correction over the "
        "units, level 5 %. Δ is the change of the loss with one unit removed."
    )
    basis = part.basis(
        part.measured, f"units measured on {images:,} training images; training accuracy on these; test set"
    )
    return [Table("labels", caption, columns, rows, basis), _shares(part, factor, basis), *_tests(part, factor)]


def _shares(part: Part, factor: Factor, basis: Basis) -> Picture:
    pandas = require("pandas", "lab")
    rows = [
        {factor.words: str(row[factor.key]), "label": label, "share": row[label]}
        for value in factor.values
        for row in pick(part.measured, **{factor.key: value}).to_dict("records")
        for label in LABELS
    ]
    shown = pandas.DataFrame(rows)
    drawn = figures.bars_with_intervals(
        shown,
        value="share",
        category=factor.words,
        by="label",
        label="Share of the units",
        look=styles(LABELS),
        share=True,
    )
    means = shown.groupby([factor.words, "label"])["share"].mean()
    alt = "; ".join(f"{key[0]}: {key[1]} {value:.1%}" for key, value in means.items())
    return Picture("shares", drawn, f"Shares of the labels by {factor.words}, with 95 % intervals.", alt, basis, shown)


def _tests(part: Part, factor: Factor) -> list[Block]:
    blocks: list[Block] = []
    for value, said in (("accuracy", "test accuracy"), ("important", "share of important units")):
        blocks += compared(part.measured, factor, value, f"compare-{value}", f"{said.capitalize()}, paired by seed.")
    return blocks


def compared(frame: DataFrame, factor: Factor, value: str, name: str, caption: str) -> list[Block]:
    """Return the table of paired tests against the reference; a sentence where there are too few runs for any."""
    caption = f"{caption} Each {factor.words} against {factor.base}."
    # A share is neither good nor bad.
    words = {} if "accuracy" in value else _SHARE
    return paired(frame, name, caption, baseline=factor.base, value=value, by=factor.key, within=(), words=words)


def _changes(part: Part, factor: Factor) -> list[Block]:
    """How the loss changes of all units are spread, the networks of all seeds together."""
    pandas = require("pandas", "lab")
    rows = []
    for row in part.measured.to_dict("records"):
        kept = part.results.store.artefact(row["id"])
        place = list(factor.values).index(row[factor.key])
        # A file of tensors gives them in any order.
        changes = [x for name in sorted(kept) if name.startswith("change.") for x in kept[name].flatten().tolist()]
        rows += [{"place": place, "change": 1000 * change} for change in changes]
    shown = pandas.DataFrame(rows)
    names = {place: str(value) for place, value in enumerate(factor.values)}
    # A ridge sorts its groups; the place in front keeps the factor's order whatever its values are.
    wide = max(len(names) // 10 + 1, 1)
    shown["group"] = [f"{place + 1:0{wide}}. {names[place]}" for place in shown["place"]]
    low, high = shown["change"].quantile([0.005, 0.995])
    inner = shown[(shown["change"] >= low) & (shown["change"] <= high)]
    drawn = figures.ridge(
        inner, group="group", value="change", label=("Δ of the training loss, thousandths", factor.words)
    )
    medians = shown.groupby("place")["change"].median()
    alt = "Median loss change, in thousandths: " + ", ".join(f"{names[p]} {x:.3g}" for p, x in medians.items())
    caption = f"How the loss changes of the units are spread, by {factor.words}; the middle 99 % of all units."
    return [Picture("changes", drawn, caption, alt, part.basis(part.measured, "measured on training images"), shown)]


def cuts(part: Part, factor: Factor) -> list[Block]:
    """Return the blocks on what cutting costs: a table, the accuracies as bars, and the tests against the controls."""
    columns = [
        Column(factor.words),
        Column("removed", format=".0%"),
        Column("method"),
        *(Column(f"{words} accuracy", format=".4f") for _, words in _RATED),
        Column("95 % of test"),
        Column("test loss", format=".4f"),
        Column("parameters", format=",.0f"),
        Column("MACs", format=",.0f"),
    ]
    rows = []
    for value in factor.values:
        base = pick(part.measured, **{factor.key: value})
        for (sparsity, method), runs in [((0.0, "unpruned"), base), *_groups(pick(part.pruned, **{factor.key: value}))]:
            if len(runs):
                rated = [mean(runs, key) for key, _ in _RATED]
                row = [*rated, interval(runs["accuracy"]), *(mean(runs, k) for k in ("loss", "parameters", "macs"))]
                rows.append([str(value), sparsity, method, *row])
    caption = (
        "Networks that were really cut, not retrained: the units of the lowest loss changes over all layers, and as many "
        "of each layer by magnitude (l2) and at random."
    )
    basis = part.basis(part.pruned)
    return [
        Table("cuts", caption, columns, rows, basis),
        _after(part, factor, basis),
        *controls(part.pruned, factor.key),
    ]


def _groups(frame: DataFrame) -> list[tuple[Any, DataFrame]]:
    return list(frame.groupby(["sparsity", "method"], sort=False)) if len(frame) else []


def _after(part: Part, factor: Factor, basis: Basis) -> Picture:
    most = max(part.pruned["sparsity"])
    here = pick(part.pruned, sparsity=most)
    order = [value for value in factor.values if value in set(here[factor.key])]
    shown = require("pandas", "lab").concat([pick(here, **{factor.key: value}) for value in order])
    shown = shown[[factor.key, "method", "seed", "accuracy"]].astype({factor.key: str})
    drawn = figures.bars_with_intervals(
        shown,
        value="accuracy",
        category=factor.key,
        by="method",
        label="Test accuracy",
        look=styles(METHODS),
        share=True,
    )
    means = shown.groupby("method", sort=False)["accuracy"].mean()
    alt = "Mean test accuracy: " + ", ".join(f"{name} {value:.4f}" for name, value in means.items())
    caption = f"Test accuracy with {100 * most:.4g} % of the units cut, by {factor.words} and method."
    return Picture("after", drawn, caption, alt, basis, shown)


def controls(frame: DataFrame, *keys: str) -> list[Block]:
    """Return the paired tests of the loss change against its controls, within each value of `keys` and each sparsity."""
    caption = "Test accuracy of the controls against removal by loss change, paired by seed."
    return paired(frame, "compare-methods", caption, baseline=METHODS[0], within=(*keys, "sparsity"))


def _classes(part: Part, factor: Factor) -> list[Block]:
    names = data.info(part.data).classes
    before, after = (pick(frame, **{factor.key: factor.base}) for frame in (part.measured, part.pruned))
    intro = f"Where {factor.words} is {factor.base}:"
    blocks: list[Block] = [intro, *class_damage(before, after, names, method=METHODS[0], basis=part.basis(after))]
    heat = _by_factor(part, factor, names)
    return [*blocks, heat] if heat is not None else blocks


def _by_factor(part: Part, factor: Factor, names: Sequence[str]) -> Picture | None:
    """The change of each class's accuracy at the greatest sparsity, by the factor."""
    most = max(part.pruned["sparsity"])
    rows = {}
    for value in factor.values:
        before = pick(part.measured, **{factor.key: value})
        after = pick(part.pruned, **{factor.key: value}, sparsity=most, method=METHODS[0])
        if len(before) and len(after):
            found = class_changes(before, after, names)
            rows[str(value)] = 100 * found.set_index("class")["change"]
    if not rows:
        return None
    table = require("pandas", "lab").DataFrame(rows).T.reindex(columns=list(names))
    drawn = figures.heatmap(table, label="Change (points)", axes_labels=("", factor.words), diverging=True, show=points)
    (value, name), worst = table.stack().idxmin(), float(table.min().min())
    caption = f"Change of each class's test accuracy with {100 * most:.4g} % cut by loss change, by {factor.words}."
    alt = f"Heat map; the greatest loss is {name} where {factor.words} is {value}, {points(worst)} points."
    rows_used = pick(part.pruned, sparsity=most, method=METHODS[0])
    return Picture("classes-by-factor", drawn, caption, alt, part.basis(rows_used), table.reset_index())
