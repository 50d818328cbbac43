"""The report on layer after layer pruned: the fall without retraining, and what retraining and repairs save."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from secateur.lab import figures
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Block, Column, Picture, Section, Table
from secateur.lab.judgement import paired
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Results
from secateur.lab.style import styles
from secateur.studies.janjic.filter_pages import class_section, networks_section, percent, points

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["pages"]

NAMES = {
    "none": "nothing",
    "each": "retrained after each layer",
    "end": "retrained once at the end",
    "norms": "norms re-estimated",
    "bias": "biases corrected",
    "least-squares": "least squares",
}


def pages(results: Results, title: str) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    runs = pick(results.frame, kind="iterate")
    origins, split = Origins.among(results), f"test images of {results.options['data']}"
    networks = networks_section(results, origins, split)
    if not len(runs):
        return Report(title, ["No network has been pruned yet."], sections=[networks])
    runs = runs.assign(after=_named(runs), change=100 * (runs["accuracy"] - runs["base_accuracy"]))
    rows = results.histories[results.histories["id"].isin(runs["id"])].astype({"step": int})
    rows = rows.assign(after=_named(rows))
    basis = origins.of(runs, split)
    sections = [
        Section("At a glance", [_overview(runs, basis)]),
        *(_steps(threshold, group, basis) for threshold, group in rows.groupby("threshold")),
        Section("What saves it", _compared(runs, basis)),
        *_scanned(results, origins),
        Section("Which classes it hurts", _classes(results, runs, basis)),
        networks,
        Section("How it was done", _how(results)),
    ]
    return Report(title, _summary(runs, rows), sections=sections)


def _named(frame: DataFrame) -> list[str]:
    """What follows a layer, with the criterion where that is not energy."""
    pairs = zip(frame["method"], frame["mode"], strict=True)
    return [NAMES[mode] if method == "energy" else f"{method}, {NAMES[mode]}" for method, mode in pairs]


def _overview(runs: DataFrame, basis: Basis) -> Table:
    columns = [
        Column("energy removed", format=".0%"),
        Column("after a layer"),
        Column("layers", format=".1f"),
        Column("parameters removed", format=".1%"),
        Column("MACs", format=",.0f"),
        Column("unpruned", format=".4f"),
        Column("accuracy", format=".4f"),
        Column("change", "points", format="+.2f"),
        Column("95 %"),
        Column("loss", format=".4f"),
    ]
    rows: list[list[Any]] = []
    for (threshold, after), group in runs.groupby(["threshold", "after"], sort=False):
        sizes = [mean(group, name) for name in ("layers_pruned", "parameters_removed", "macs", "base_accuracy")]
        found = [mean(group, "accuracy"), mean(group, "change"), interval(group["change"]), mean(group, "loss")]
        rows.append([threshold, after, *sizes, *found])
    caption = (
        "All layers that lose little alone, cut one after another; means over seeds. The controls remove as many filters "
        "of the same layers."
    )
    return Table("overview", caption, columns, rows, basis)


def _steps(threshold: float, rows: DataFrame, basis: Basis) -> Section:
    name = f"{100 * threshold:g}".replace(".", "-")
    blocks: list[Block] = []
    for value, label in (("accuracy", "Test accuracy"), ("loss", "Test loss")):
        drawn = figures.path(
            rows,
            step="step",
            value=value,
            by="after",
            label=("Layers pruned", label),
            look=styles(rows["after"]),
            share=value == "accuracy",
            logarithmic=value == "loss",
        )
        caption = f"{label} after each layer, with {100 * threshold:g} % of its energy removed; the step after the last is the retraining at the end."
        alt = f"One line for each thing that follows a layer. {_fall(rows)}"
        blocks.append(
            Picture(f"{value}-{name}", drawn, caption, alt, basis, rows[["after", "step", "layer", "seed", value]])
        )
    return Section(f"Layer after layer at {100 * threshold:g} % of the energy", [_fall(rows), *blocks])


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
        f"Without retraining the accuracy goes from {percent(means.iloc[0])} to {percent(ended.mean())}; {when}. The text "
        "finds a single digit after a few layers."
    )


def _compared(runs: DataFrame, basis: Basis) -> list[Block]:
    drawn = figures.bars_with_intervals(
        runs.assign(energy=[f"{100 * t:g} %" for t in runs["threshold"]]),
        value="change",
        category="after",
        by="energy",
        label="Change of accuracy (points)",
    )
    means = runs.groupby("after", sort=False)["change"].mean()
    said = f"Least is lost with “{means.idxmax()}” ({points(float(means.max()))} points), most with “{means.idxmin()}” ({points(float(means.min()))} points)."
    if len(means) < 2:
        said = (
            f"Only “{means.index[0]}” was tried ({points(float(means.iloc[0]))} points), so there is nothing beside it."
        )
    blocks: list[Block] = [said]
    caption = "Change of test accuracy when all cheap layers are pruned, by what follows each; mean and 95 % interval over seeds."
    blocks.append(
        Picture("saved", drawn, caption, f"Bars. {said}", basis, runs[["after", "threshold", "seed", "change"]])
    )
    tests = "Each against energy with nothing after it, paired by seed."
    return blocks + paired(runs, "saved-compared", tests, by="after", baseline=NAMES["none"], within=("threshold",))


def _scanned(results: Results, origins: Origins) -> list[Section]:
    """Which layers lose little alone."""
    scans = pick(results.frame, kind="scan")
    if not len(scans):
        return []
    columns = [Column("energy removed", format=".0%"), Column("layer"), Column("filters removed", format=".1f")]
    columns += [Column("lost alone", "points", format="+.2f"), Column("pruned in"), Column("networks")]
    lines: list[list[Any]] = []
    for threshold, group in scans.groupby("threshold"):
        for name in group["lost"].iloc[0]:
            removed = sum(one[name] for one in group["removed"]) / len(group)
            lost = sum(one[name] for one in group["lost"]) / len(group)
            lines.append([threshold, name, removed, lost, sum(name in one for one in group["chosen"]), len(group)])
    caption = (
        f"Every layer pruned alone: what it loses on validation images. Layers that lose less than {results.options['tolerance']:g} "
        "points, and lose a filter at all, are pruned one after another."
    )
    split = f"validation images of {results.options['data']}"
    return [Section("Which layers", [Table("scan", caption, columns, lines, origins.of(scans, split))])]


def _classes(results: Results, runs: DataFrame, basis: Basis) -> list[Block]:
    own = runs.drop(columns="method").rename(columns={"after": "method"})
    return class_section(results, own, basis, "of each layer's energy removed")


def _summary(runs: DataFrame, rows: DataFrame) -> list[str]:
    words = []
    for threshold, group in runs.groupby("threshold"):
        means = group.groupby("after", sort=False)["change"].mean()
        parts = [f"{name} {points(change)}" for name, change in means.items()]
        words.append(
            f"{mean(group, 'layers_pruned'):.1f} layers pruned one after another at {100 * threshold:g} % of the energy, "
            f"change of accuracy in points by what follows each: {', '.join(parts)}."
        )
    return words


def _how(results: Results) -> list[str]:
    chosen = results.options
    return [
        f"Layers that alone lose less than {chosen['tolerance']:g} points (the text: 2) at the threshold are pruned front to "
        "back. Which these are is found on validation images; the figures are of test images. How many filters go is found "
        "on the whole network; a layer that follows a pruned one is scored anew, with the inputs that it has left.",
        f"Retraining after each layer is one pass over {chosen['retrain_images']} training images that no layer before it "
        f"had, at a learning rate of {chosen['retrain_lr']:g}; retraining at the end sees all of these images, once. "
        f"Repairs use {chosen['calibration']} training images and no labels: batch norms' statistics taken anew, biases of the "
        "layers that lost inputs corrected, or their weights by least squares; the last two take norms' statistics anew too.",
        "All networks are really cut, and each cut is compared with the masked network.",
        "Whether pruned networks can be retrained the text leaves open (section 8).",
    ]
