"""The report on layer after layer pruned: the fall without retraining, and what retraining and repairs save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Column, Picture, Section, Table
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.words import formatted, percent, points
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part, class_section
from secateur.studies.kit.pictures import over_layers

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "sections", "words"]

NAMES = {
    "none": "nothing",
    "each": "retrained after each layer",
    "end": "retrained once at the end",
    "norms": "norms re-estimated",
    "bias": "biases corrected",
    "least-squares": "least squares",
}

NOTES = (
    "Layers that alone lose less than {tolerance:g} points (the text: 2) at the threshold are pruned front to "
    "back. Which these are is found on validation images; the figures are of test images. How many filters go is found "
    "on the whole network; a layer that follows a pruned one is scored anew, with the inputs that it has left.",
    "Retraining after each layer is one pass over {retrain_images} training images that no layer before it "
    "had, at a learning rate of {retrain_lr:g}; retraining at the end sees all of these images, once. "
    "Repairs use {calibration} training images and no labels: batch norms' statistics taken anew, biases of the "
    "layers that lost inputs corrected, or their weights by least squares; the last two take norms' statistics anew too.",
    "All networks are really cut, and each cut is compared with the masked network.",
    "Whether pruned networks can be retrained the text leaves open (section 8).",
)

_THRESHOLD = {"threshold": Column("energy removed", format=".0%")}


def sections(part: Part) -> list[Section]:
    """Return the sections; none where no network has been pruned yet."""
    runs = _runs(part)
    if not len(runs):
        return []
    rows = part.lines(runs)
    rows = rows.assign(after=_named(rows))
    basis = part.basis(runs, "test images")
    by_name = runs.drop(columns="method").rename(columns={"after": "method"})
    return [
        Section("At a glance", [_overview(runs, basis)]),
        *(_steps(threshold, layers, basis) for threshold, layers in rows.groupby("threshold")),
        Section("What saves it", _compared(runs, basis)),
        *_scanned(part),
        Section("Which classes it hurts", class_section(part, by_name, basis, "of each layer's energy removed")),
    ]


def _runs(part: Part) -> DataFrame:
    """One row a pruned network, with what follows a layer and the change of accuracy in points."""
    runs = part.kind("iterate")
    if not len(runs):
        return runs
    return runs.assign(after=_named(runs), change=100 * (runs["accuracy"] - runs["base_accuracy"]))


def _named(frame: DataFrame) -> list[str]:
    """What follows a layer, with the criterion where that is not energy."""
    pairs = zip(frame["method"], frame["mode"], strict=True)
    return [NAMES[mode] if method == "energy" else f"{method}, {NAMES[mode]}" for method, mode in pairs]


def _overview(runs: DataFrame, basis: Basis) -> Table:
    columns = [
        Mean("layers_pruned", Column("layers", format=".1f")),
        Mean("parameters_removed", Column("parameters removed", format=".1%")),
        Mean("macs", Column("MACs", format=",.0f")),
        Mean("base_accuracy", Column("unpruned", format=".4f")),
        Mean("accuracy", Column("accuracy", format=".4f")),
        Mean("change", Column("change", "points", format="+.2f"), "95 %"),
        Mean("loss", Column("loss", format=".4f")),
    ]
    caption = (
        "All layers that lose little alone, cut one after another; means over seeds. The controls remove as many filters "
        "of the same layers."
    )
    return grouped(runs, "overview", caption, {**_THRESHOLD, "after": Column("after a layer")}, columns, basis)


def _steps(threshold: float, rows: DataFrame, basis: Basis) -> Section:
    name = f"{100 * threshold:g}".replace(".", "-")
    caption = (
        f"{{label}} after each layer, with {percent(threshold)} of its energy removed; the step after the last is the "
        "retraining at the end."
    )
    words = caption, f"One line for each thing that follows a layer. {_fall(rows)}"
    blocks = [
        over_layers(rows, value, f"{value}-{name}", words, basis, by="after", steps="Layers pruned")
        for value in ("accuracy", "loss")
    ]
    return Section(f"Layer after layer at {percent(threshold)} of the energy", [_fall(rows), *blocks])


def _fall(rows: DataFrame) -> str:
    """How far accuracy falls without retraining, in words."""
    plain = pick(rows, method="energy", mode="none")
    if not len(plain):
        return "Nothing was pruned by energy without retraining."
    means = plain.groupby("step")["accuracy"].mean()
    ended = plain.sort_values("step").groupby("seed").tail(1)["accuracy"]
    single = means[means < 0.1]
    when = f"after {single.index[0]} layers it is below 10 %" if len(single) else "it never falls below 10 %"
    return (
        f"Without retraining the accuracy goes from {percent(means.iloc[0], 1)} to {percent(ended.mean(), 1)}; {when}. The text "
        "finds a single digit after a few layers."
    )


def _compared(runs: DataFrame, basis: Basis) -> list[Block]:
    drawing = figures.bars_with_intervals(
        runs.assign(energy=[percent(threshold) for threshold in runs["threshold"]]),
        value="change",
        category="after",
        by="energy",
        label="Change of accuracy (points)",
    )
    means = runs.groupby("after", sort=False)["change"].mean()
    most, least = (f"“{name}” ({points(float(means[name]))} points)" for name in (means.idxmin(), means.idxmax()))
    words = f"Least is lost with {least}, most with {most}."
    if len(means) < 2:
        words = f"Only {least} was tried, so there is nothing beside it."
    caption = "Change of test accuracy when all cheap layers are pruned, by what follows each; mean and 95 % interval over seeds."
    numbers = runs[["after", "threshold", "seed", "change"]]
    tests = "Each against energy with nothing after it, paired by seed."
    return [
        words,
        Picture("saved", drawing, caption, f"Bars. {words}", basis, numbers),
        *paired(runs, "saved-compared", tests, by="after", baseline=NAMES["none"], within=("threshold",)),
    ]


def _scanned(part: Part) -> list[Section]:
    """Which layers lose little alone."""
    scans = part.kind("scan")
    if not len(scans):
        return []
    columns = [*_THRESHOLD.values(), Column("layer"), Column("filters removed", format=".1f")]
    columns += [Column("lost alone", "points", format="+.2f"), Column("pruned in"), Column("networks")]
    rows: list[list[Any]] = []
    for threshold, networks in scans.groupby("threshold"):
        for name in networks["lost"].iloc[0]:
            removed, lost = (
                sum(by_layer[name] for by_layer in networks[key]) / len(networks) for key in ("removed", "lost")
            )
            rows.append(
                [threshold, name, removed, lost, sum(name in cheap for cheap in networks["chosen"]), len(networks)]
            )
    caption = (
        f"Every layer pruned alone: what it loses on validation images. Layers that lose less than {part.options['tolerance']:g} "
        "points, and lose a filter at all, are pruned one after another."
    )
    return [Section("Which layers", [Table("scan", caption, columns, rows, part.basis(scans, "validation images"))])]


def words(part: Part) -> list[str]:
    """Return how much went, and what it changed by what follows each layer."""
    runs = _runs(part)
    if not len(runs):
        return ["No network has been pruned yet."]
    sentences = []
    for threshold, networks in runs.groupby("threshold"):
        changes = networks.groupby("after", sort=False)["change"].mean()
        parts = [f"{name} {points(change)}" for name, change in changes.items()]
        sentences.append(
            f"{formatted(mean(networks, 'layers_pruned'), '.1f')} layers pruned one after another at {percent(threshold)} of the energy, "
            f"change of accuracy in points by what follows each: {', '.join(parts)}."
        )
    return sentences
