"""The report on filters pruned by energy: what goes at each threshold, what it costs, and what the controls cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from secateur.lab import figures
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.judgement import paired
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Results
from secateur.lab.style import styles
from secateur.studies.janjic.filter_pages import class_section, networks_section, percent, points

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Claim", "Layers", "pages"]

CHEAP = 10
"""Points below which a layer's loss of accuracy has a single digit, as the text counts."""


CLASSES = "The accuracy of a class is its mean over the networks of which one layer is pruned."


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers pruned by energy, one row for each layer, threshold and seed, and the unpruned networks.

    Attributes:
        frame: the rows.
        unpruned: the networks that they were taken from, rated on the same images.
    """

    frame: DataFrame
    unpruned: DataFrame

    def at(self, threshold: float) -> Layers:
        """Those at one threshold that a convolution follows: the means over seeds, one row a layer."""
        chosen = pick(self.frame, threshold=threshold)
        values = ["compression", "points", "accuracy", "loss"]
        return replace(self, frame=pick(chosen, counted=True).groupby("step", as_index=False)[values].mean())

    def only(self, place: int) -> Layers:
        """The layer at a place."""
        return replace(self, frame=pick(self.frame, step=place))

    def without(self, place: int) -> Layers:
        """All layers but the one at a place."""
        return replace(self, frame=self.frame[self.frame["step"] != place])

    def cheap(self) -> Layers:
        """The layers that lose less than ten points."""
        return replace(self, frame=self.frame[self.frame["points"] > -CHEAP])

    def mean(self, value: str) -> float:
        """The mean of the layers; nan where there are none."""
        return mean(self.frame, value)

    def most(self, value: str) -> float:
        """The greatest of the layers; nan where there are none."""
        return float(self.frame[value].max()) if len(self.frame) else float("nan")

    def base(self, value: str) -> float:
        """The mean of the unpruned networks."""
        return mean(self.unpruned, f"base_{value}")


@dataclass(frozen=True)
class Claim:
    """A number that a text gives, and how ours is got.

    Attributes:
        words: what it is, with its unit.
        theirs: the text's number.
        ours: from our layers to our number.
    """

    words: str
    theirs: float
    ours: Callable[[Layers], float]


def pages(results: Results, title: str, published: Sequence[Claim], notes: Sequence[str]) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    runs = pick(results.frame, kind="layers")
    origins, split = Origins.among(results), f"test images of {results.options['data']}"
    sections = [networks_section(results, origins, split)]
    if not len(runs):
        return Report(title, ["No layer has been pruned yet."], sections=sections)
    # Beside the epochs of trainings, which have no layers, whole numbers came as fractions.
    layers = results.histories[results.histories["id"].isin(runs["id"])].astype({"step": int, "filters": int})
    energy = pick(layers, method="energy")
    basis, own = origins.of(runs, split), origins.of(pick(runs, method="energy"), split)
    found = Layers(energy, runs.drop_duplicates("seed"))
    sections = [
        *([Section("At a glance", [_overview(runs, basis)])] if len(runs) else []),
        *(_of_energy(energy, own, found, published) if len(energy) else []),
        Section("Against the controls", _controls(runs, layers, basis)),
        Section(
            "Which classes it hurts", [CLASSES, *class_section(results, runs, basis, "of a layer's energy removed")]
        ),
        *sections,
        Section("How it was done", [*_how(results), *notes]),
    ]
    return Report(title, _summary(runs, energy), _cards(runs), sections)


def _of_energy(energy: DataFrame, basis: Basis, found: Layers, published: Sequence[Claim]) -> list[Section]:
    """The sections on energy alone, as the text has them."""
    rows = energy.assign(energy=[f"{100 * t:g} %" for t in energy["threshold"]])
    blocks = _sawtooth(energy, basis)
    return [
        Section("What goes at each threshold", [_by_layer(rows, "compression", basis), _layer_table(energy, basis)]),
        Section(
            "What it costs", [_by_layer(rows, "accuracy", basis), _by_layer(rows, "loss", basis), _map(rows, basis)]
        ),
        Section("Cheap layers", [_cheap(found, energy, basis)]),
        *([Section("The saw-tooth of the modules", blocks)] if blocks else []),
        Section("Fitness", _fitness(rows, basis)),
        Section("Beside the published figures", [_claims(found, published, basis)]),
    ]


def _overview(runs: DataFrame, basis: Basis) -> Table:
    columns = [
        Column("method"),
        Column("energy removed", format=".0%"),
        Column("filters removed", format=".2%"),
        Column("of all parameters", format=".2%"),
        Column("accuracy", format=".4f"),
        Column("change", "points", format="+.2f"),
        Column("95 %"),
        Column("loss", format=".4f"),
        Column("fitness", format="+.2f"),
    ]
    rows: list[list[Any]] = []
    for (method, threshold), group in runs.groupby(["method", "threshold"], sort=False):
        means = [mean(group, name) for name in ("compression", "parameters_removed", "accuracy", "points")]
        rows.append([method, threshold, *means, interval(group["points"]), mean(group, "loss"), mean(group, "fitness")])
    caption = (
        "One layer pruned at a time, the others whole, no retraining: means over the layers that a convolution follows. "
        "The controls remove as many filters of each layer as energy does. Fitness is points + the part of the layer's "
        "filters that is removed."
    )
    return Table("overview", caption, columns, rows, basis)


_WORDS = {
    "compression": ("Filters removed", "part of the layer's filters removed"),
    "accuracy": ("Test accuracy", "test accuracy"),
    "loss": ("Test loss", "test loss"),
}


def _by_layer(rows: DataFrame, value: str, basis: Basis) -> Picture:
    """One line a threshold over the layers, as Figures 5.15, 5.16, 5.19 and 5.20 of the text."""
    label, words = _WORDS[value]
    share = value != "loss"
    drawn = figures.path(
        rows, step="step", value=value, by="energy", label=("Convolution", label), share=share, logarithmic=not share
    )
    worst = rows.groupby(["energy", "step"])[value].mean()
    at = worst.idxmin() if value == "accuracy" else worst.idxmax()
    end = "Lowest" if value == "accuracy" else "Highest"
    alt = f"Lines of the {words} over the convolutions, one for each threshold. {end}: convolution {at[1]} at {at[0]}."
    caption = f"{label} by layer, one line for each share of the layer's energy; mean and range over seeds."
    shown = rows[["energy", "step", "layer", "seed", value]]
    return Picture(f"layers-{value}", drawn, caption, alt, basis, shown)


def _layer_table(energy: DataFrame, basis: Basis) -> Table:
    thresholds = sorted(set(energy["threshold"]))
    columns = [Column("convolution"), Column("layer"), Column("filters", format=".0f")]
    for threshold in thresholds:
        columns += [
            Column(f"removed at {100 * threshold:g} %", format=".1%"),
            Column(f"at {100 * threshold:g} %", "points", format="+.2f"),
        ]
    rows: list[list[Any]] = []
    for (place, name), group in energy.groupby(["step", "layer"]):
        row: list[Any] = [place, name, mean(group, "filters")]
        for threshold in thresholds:
            row += [mean(pick(group, threshold=threshold), value) for value in ("compression", "points")]
        rows.append(row)
    caption = (
        "Every layer alone: the part of its filters that energy removes, and what that changes of the test accuracy."
    )
    return Table("layers", caption, columns, rows, basis)


def _map(rows: DataFrame, basis: Basis) -> Picture:
    table = rows.pivot_table(index="energy", columns="step", values="points", sort=False)
    (threshold, place), lost = table.stack().idxmin(), float(table.min().min())
    caption = "Change of test accuracy in percentage points, every layer pruned alone at every threshold."
    alt = f"Heat map of thresholds and layers; the greatest loss is convolution {place} at {threshold}, {points(lost)} points."
    drawn = figures.heatmap(
        table,
        label="Change (points)",
        axes_labels=("Convolution", "Energy removed"),
        diverging=True,
        show=lambda value: f"{round(value, 1) + 0.0:+.1f}".replace("-", "−"),
    )
    return Picture("layers-map", drawn, caption, alt, basis, rows[["energy", "step", "seed", "points"]])


def _cheap(found: Layers, energy: DataFrame, basis: Basis) -> Table:
    columns = [
        Column("energy removed", format=".0%"),
        Column("layers", format=".0f"),
        Column("cheap layers", format=".0f"),
        Column("filters removed in them", format=".2%"),
        Column("change by each", "points", format="+.2f"),
    ]
    rows = []
    for threshold in sorted(set(energy["threshold"])):
        all_layers = found.at(threshold)
        cheap = all_layers.cheap()
        rows.append(
            [threshold, len(all_layers.frame), len(cheap.frame), cheap.mean("compression"), cheap.mean("points")]
        )
    caption = f"Layers that alone cost less than {CHEAP} points of accuracy, means over seeds."
    return Table("cheap", caption, columns, rows, basis)


def _sawtooth(energy: DataFrame, basis: Basis) -> list[Block]:
    """The first convolution of each module beside the second; nothing where layers do not come in pairs."""
    rows = energy.assign(module=[name.rpartition(".")[0] for name in energy["layer"]])
    sizes = rows.groupby("module")["layer"].nunique()
    if len(sizes) < 2 or set(sizes) != {2}:
        return []
    means = rows.groupby(["threshold", "module", "step"])["compression"].mean().unstack("module")
    columns = [
        Column("energy removed", format=".0%"),
        Column("first convolution", format=".2%"),
        Column("second convolution", format=".2%"),
        Column("modules whose first loses more", format=".0f"),
        Column("modules", format=".0f"),
    ]
    lines = []
    for threshold, group in means.groupby(level="threshold"):
        first, second = (group.apply(lambda one, at=at: one.dropna().iloc[at]) for at in (0, 1))
        lines.append([threshold, first.mean(), second.mean(), int((first > second).sum()), len(first)])
    whole = sum(row[3] for row in lines) / sum(row[4] for row in lines)
    said = f"Over all thresholds the first convolution of a module loses more filters than the second in {percent(whole)} of the cases."
    caption = "The part of the filters that energy removes in the first and in the second convolution of the residual modules."
    return [said, Table("sawtooth", caption, columns, lines, basis)]


def _fitness(rows: DataFrame, basis: Basis) -> list[Block]:
    """Points against the part removed, over lines of equal fitness, as Figures A.7 and A.8."""
    shown = rows.assign(percent=100 * rows["compression"])
    best = shown.loc[shown["fitness"].idxmax()]
    said = (
        f"The fittest of all layers and thresholds is convolution {best['step']} ({best['layer']}) at {best['energy']}: "
        f"{points(best['points'])} points with {percent(best['compression'])} of its filters removed, a fitness of "
        f"{best['fitness']:+.2f}. {percent((rows['fitness'] > 0).mean())} of them have a fitness above zero."
    ).replace("-", "−")
    drawn = figures.scatter(
        shown,
        x="percent",
        y="points",
        by="energy",
        label=("Filters of the layer removed (%)", "Change of accuracy (points)"),
        look=styles(shown["energy"]),
        height=lambda x, y: y + x / 100,
        height_label="fitness",
    )
    caption = "Every layer pruned alone, over lines of equal fitness (points + part removed)."
    alt = f"Points over contour lines; {said}"
    return [
        said,
        Picture("fitness", drawn, caption, alt, basis, shown[["energy", "layer", "seed", "percent", "points"]]),
    ]


def _claims(found: Layers, published: Sequence[Claim], basis: Basis) -> Table:
    columns = [Column("what"), Column("ours", format=".2f"), Column("theirs", format=".2f", published=True)]
    rows = [[claim.words, claim.ours(found), claim.theirs] for claim in published]
    caption = "What the text says in numbers, with energy, beside the same of these networks; means over seeds."
    return Table("published", caption, columns, rows, basis)


def _controls(runs: DataFrame, layers: DataFrame, basis: Basis) -> list[Block]:
    if runs["method"].nunique() < 2 or "energy" not in set(runs["method"]):
        return ["There are no controls to compare energy with."]
    named = runs.assign(energy=[f"{100 * t:g} %" for t in runs["threshold"]])
    drawn = figures.bars_with_intervals(
        named,
        value="points",
        category="energy",
        by="method",
        label="Change of accuracy (points)",
        look=styles(runs["method"]),
    )
    said = _verdict(runs)
    caption = "Mean change of accuracy over the layers, each pruned alone, by method, with as many filters removed in each layer."
    words = "Each control against energy: mean accuracy over the layers, paired by seed."
    return [
        said,
        Picture("controls", drawn, caption, f"Bars by threshold and method. {said}", basis, named),
        _wins(layers, basis),
        *paired(runs, "controls-compared", words, baseline="energy", within=("threshold",)),
    ]


def _verdict(runs: DataFrame) -> str:
    """Which control costs less than energy, and where, in words."""
    table = runs.groupby(["threshold", "method"])["points"].mean().unstack()
    parts = []
    for method in [name for name in table.columns if name != "energy"]:
        gaps = (table["energy"] - table[method]).dropna()
        if len(gaps):
            better = f"{int((gaps > 0).sum())} of {len(gaps)} thresholds"
            parts.append(f"{method} at {better} ({points(float(gaps.mean()))} points on average)")
    if not parts:
        return "Energy and its controls have no threshold in common yet."
    return f"Removing by energy costs less than removing as many filters by {', by '.join(parts)}."


def _wins(layers: DataFrame, basis: Basis) -> Table:
    table = layers.groupby(["threshold", "step", "method"])["loss"].mean().unstack()
    columns = [Column("energy removed", format=".0%")]
    others = [name for name in table.columns if name != "energy"]
    for other in others:
        columns += [Column(f"energy better than {other}", format=".0f"), Column(f"worse than {other}", format=".0f")]
    rows = []
    for threshold, group in table.groupby(level="threshold"):
        row: list[Any] = [threshold]
        for other in others:
            row += [int((group["energy"] < group[other]).sum()), int((group["energy"] > group[other]).sum())]
        rows.append(row)
    return Table(
        "wins", "Layers at which energy leaves a lower or a higher mean test loss than a control.", columns, rows, basis
    )


def _summary(runs: DataFrame, energy: DataFrame) -> list[str]:
    parts = []
    for threshold in sorted(set(runs["threshold"])):
        rows = pick(runs, method="energy", threshold=threshold)
        if len(rows):
            parts.append(
                f"{100 * threshold:g} % {percent(mean(rows, 'compression'))} ({points(mean(rows, 'points'))} points)"
            )
    words = (
        [f"Filters that energy removes of a layer, on average, and what that changes: {', '.join(parts)}."]
        if parts
        else []
    )
    if len(energy):
        means = pick(energy, threshold=energy["threshold"].min()).groupby(["step", "layer"])["points"].mean()
        (place, name), lost = means.idxmin(), float(means.min())
        words.append(
            f"At {100 * energy['threshold'].min():g} % the most sensitive layer is convolution {place} ({name}): {points(lost)} points."
        )
    if runs["method"].nunique() > 1 and "energy" in set(runs["method"]):
        words.append(_verdict(runs))
    return words


def _cards(runs: DataFrame) -> list[Card]:
    cards = [Card("unpruned accuracy", f"{mean(runs, 'base_accuracy'):.4f}", f"{runs['seed'].nunique()} networks")]
    for threshold in (0.01, 0.1):
        rows = pick(runs, method="energy", threshold=threshold)
        if len(rows):
            note = f"{points(mean(rows, 'points'))} points, one layer at a time"
            cards.append(
                Card(f"filters at {100 * threshold:g} % of the energy", percent(mean(rows, "compression")), note)
            )
    return cards


def _how(results: Results) -> list[str]:
    chosen = results.options
    return [
        f"A chirp of the layer's true input size, for images of {chosen['size']}×{chosen['size']}, goes through each "
        "convolution with its bias and without its activation; the filters that together hold the given share of the "
        "energy of its answer, the weakest first, are removed. Each layer keeps one filter at least. No data take part in "
        "the choice, so the test images are untouched by it.",
        "Each layer is pruned alone and the network is whole again for the next one. The pruned filters are masked with all "
        "that is tied to them, which is what cutting them computes.",
    ]
