"""The report on filters pruned by energy: what goes at each threshold, what it costs, and what the controls cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section, Table
from secateur.lab.show.judgement import paired
from secateur.lab.show.sections import by_seed, mean, mean_card, pick
from secateur.lab.show.style import styles
from secateur.lab.show.words import percent, points
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part, class_section
from secateur.studies.kit.pictures import change_heatmap, greatest_loss, over_layers

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "cards", "ours", "sections", "words"]

CHEAP = 10
"""Points below which a layer's loss of accuracy has a single digit, as the text counts."""

SPLIT = "test images"

NOTES = (
    "A chirp of the layer's true input size, for images of {size}×{size}, goes through each "
    "convolution with its bias and without its activation; the filters that together hold the given share of the "
    "energy of its answer, the weakest first, are removed. Each layer keeps one filter at least. No data take part in "
    "the choice, so the test images are untouched by it.",
    "Each layer is pruned alone and the network is whole again for the next one. The pruned filters are masked with all "
    "that is tied to them, which is what cutting them computes.",
)

Claim = Mapping[str, Any]
"""A number that a text gives: `words`, `theirs`, its `value`, and of which layers it is (`published.toml`)."""

_THRESHOLD = {"threshold": Column("energy removed", format=".0%")}


def sections(part: Part, claims: Sequence[Claim]) -> list[Section]:
    """Return the sections; none where no layer has been pruned yet."""
    runs = part.kind("layers")
    if not len(runs):
        return []
    # Beside the epochs of trainings, which have no layers, whole numbers came as fractions.
    layers = part.lines(runs).astype({"filters": int})
    energy = pick(layers, method="energy")
    removed = "of a layer's energy removed"
    words = "The accuracy of a class is its mean over the networks of which one layer is pruned."
    return [
        Section("At a glance", [_overview(part, runs)]),
        *(_of_energy(part, pick(runs, method="energy"), energy, claims) if len(energy) else []),
        Section("Against the controls", _controls(part, runs, layers)),
        Section("Which classes it hurts", [words, *class_section(part, runs, part.basis(runs, SPLIT), removed)]),
    ]


def _of_energy(part: Part, runs: DataFrame, energy: DataFrame, claims: Sequence[Claim]) -> list[Section]:
    """The sections on energy alone, as the text has them."""
    rows, basis = energy.assign(energy=[percent(t) for t in energy["threshold"]]), part.basis(runs, SPLIT)
    measured = [value for value in ("accuracy", "loss") if rows[value].notna().any()]
    costs = [*(_by_layer(rows, value, basis) for value in measured), _map(rows, basis)]
    modules = _sawtooth(energy, basis)
    return [
        Section("What goes at each threshold", [_by_layer(rows, "compression", basis), _layer_table(energy, basis)]),
        Section("What it costs", costs),
        Section("Cheap layers", [_cheap(energy, basis)]),
        *([Section("The saw-tooth of the modules", modules)] if modules else []),
        Section("Fitness", _fitness(rows, basis)),
        Section("Beside the published figures", [_claims(energy, runs, claims, basis)]),
    ]


def _overview(part: Part, runs: DataFrame) -> Table:
    columns = [
        Mean("compression", Column("filters removed", format=".2%")),
        Mean("parameters_removed", Column("of all parameters", format=".2%")),
        Mean("accuracy", Column("accuracy", format=".4f")),
        Mean("points", Column("change", "points", format="+.2f"), "95 %"),
        Mean("loss", Column("loss", format=".4f")),
        Mean("fitness", Column("fitness", format="+.2f")),
    ]
    caption = (
        "One layer pruned at a time, the others whole, no retraining: means over the layers that a convolution follows. "
        "The controls remove as many filters of each layer as energy does. Fitness is points + the part of the layer's "
        "filters that is removed."
    )
    groups = {"method": Column("method"), **_THRESHOLD}
    return grouped(runs, "overview", caption, groups, columns, part.basis(runs, SPLIT))


_WORDS = {"compression": "part of the layer's filters removed", "accuracy": "test accuracy", "loss": "test loss"}


def _by_layer(rows: DataFrame, value: str, basis: Basis) -> Picture:
    """One line a threshold over the layers, as Figures 5.15, 5.16, 5.19 and 5.20 of the text."""
    means = rows.groupby(["energy", "step"])[value].mean()
    at = means.idxmin() if value == "accuracy" else means.idxmax()
    end = "Lowest" if value == "accuracy" else "Highest"
    alt = f"Lines of the {_WORDS[value]} over the convolutions, one for each threshold. {end}: convolution {at[1]} at {at[0]}."
    caption = "{label} by layer, one line for each share of the layer's energy; mean and range over seeds."
    return over_layers(rows, value, f"layers-{value}", (caption, alt), basis, by="energy")


def _layer_table(energy: DataFrame, basis: Basis) -> Table:
    columns = [Mean("filters", Column("filters", format=".0f"))]
    rows = energy
    for t in sorted(set(energy["threshold"])):
        at_threshold = energy["threshold"] == t
        rows = rows.assign(**{f"{value} {t}": energy[value].where(at_threshold) for value in ("compression", "points")})
        columns.append(Mean(f"compression {t}", Column(f"removed at {percent(t)}", format=".1%")))
        columns.append(Mean(f"points {t}", Column(f"at {percent(t)}", "points", format="+.2f")))
    caption = (
        "Every layer alone: the part of its filters that energy removes, and what that changes of the test accuracy."
    )
    groups = {"step": Column("convolution"), "layer": Column("layer")}
    return grouped(rows, "layers", caption, groups, columns, basis, sort=True)


def _map(rows: DataFrame, basis: Basis) -> Picture:
    table = rows.pivot_table(index="energy", columns="step", values="points", sort=False)
    threshold, place, loss = greatest_loss(table)
    caption = "Change of test accuracy in percentage points, every layer pruned alone at every threshold."
    alt = f"Heat map of thresholds and layers; the greatest loss is convolution {place} at {threshold}, {loss} points."
    drawing = change_heatmap(table, ("Convolution", "Energy removed"))
    return Picture("layers-map", drawing, caption, alt, basis, rows[["energy", "step", "seed", "points"]])


def _of_layers(energy: DataFrame, threshold: float) -> DataFrame:
    """The layers at one threshold that a convolution follows: the means over seeds, one row a layer."""
    rows = pick(energy, threshold=threshold, counted=True)
    return rows.groupby("step", as_index=False)[["compression", "points", "accuracy", "loss"]].mean()


def _cheap(energy: DataFrame, basis: Basis) -> Table:
    columns = [
        *_THRESHOLD.values(),
        Column("layers", format=".0f"),
        Column("cheap layers", format=".0f"),
        Column("filters removed in them", format=".2%"),
        Column("change by each", "points", format="+.2f"),
    ]
    rows = []
    for threshold in sorted(set(energy["threshold"])):
        layers = _of_layers(energy, threshold)
        cheap = layers[layers["points"] > -CHEAP]
        rows.append([threshold, len(layers), len(cheap), mean(cheap, "compression"), mean(cheap, "points")])
    caption = f"Layers that alone cost less than {CHEAP} points of accuracy, means over seeds."
    return Table("cheap", caption, columns, rows, basis)


def _sawtooth(energy: DataFrame, basis: Basis) -> list[Block]:
    """The first convolution of each module beside the second; nothing where layers do not come in pairs."""
    rows = energy.assign(module=[name.rpartition(".")[0] for name in energy["layer"]])
    sizes = rows.groupby("module")["layer"].nunique()
    if len(sizes) < 2 or set(sizes) != {2}:
        return []
    pairs = rows.groupby(["threshold", "module", "step"])["compression"].mean().groupby(level=["threshold", "module"])
    modules = pairs.agg(first="first", second="last").reset_index()
    columns = [
        Mean("first", Column("first convolution", format=".2%")),
        Mean("second", Column("second convolution", format=".2%")),
        Mean(
            lambda pairs: int((pairs["first"] > pairs["second"]).sum()),
            Column("modules whose first loses more", format=".0f"),
        ),
        Mean(len, Column("modules", format=".0f")),
    ]
    whole = float((modules["first"] > modules["second"]).mean())
    words = f"Over all thresholds the first convolution of a module loses more filters than the second in {percent(whole, 1)} of the cases."
    caption = "The part of the filters that energy removes in the first and in the second convolution of the residual modules."
    return [words, grouped(modules, "sawtooth", caption, _THRESHOLD, columns, basis, sort=True)]


def _fitness(rows: DataFrame, basis: Basis) -> list[Block]:
    """Points against the part removed, over lines of equal fitness, as Figures A.7 and A.8."""
    rows = rows.assign(percent=100 * rows["compression"])
    best = rows.loc[rows["fitness"].idxmax()]
    words = (
        "The fittest of all layers and thresholds, by the test images that fitness is measured on, is convolution "
        f"{best['step']} ({best['layer']}) at {best['energy']}: "
        f"{points(best['points'])} points with {percent(best['compression'], 1)} of its filters removed, a fitness of "
        f"{points(best['fitness'])}. {percent((rows['fitness'] > 0).mean(), 1)} of them have a fitness above zero."
    )
    drawing = figures.scatter(
        rows,
        x="percent",
        y="points",
        by="energy",
        label=("Filters of the layer removed (%)", "Change of accuracy (points)"),
        look=styles(rows["energy"]),
        height=lambda x, y: y + x / 100,
        height_label="fitness",
    )
    caption = "Every layer pruned alone, over lines of equal fitness (points + part removed)."
    numbers = rows[["energy", "layer", "seed", "percent", "points"]]
    return [words, Picture("fitness", drawing, caption, f"Points over contour lines; {words}", basis, numbers)]


_VALUES = {"removed": ("compression", 100), "lost": ("points", -1), "accuracy": ("accuracy", 100), "loss": ("loss", 1)}


def ours(claim: Claim, energy: DataFrame, runs: DataFrame) -> float:
    """Return our number for one of the text's.

    Args:
        claim: its ``value`` is ``layers``, how many there are, or the mean of what is ``removed`` or ``lost``, of the
            ``accuracy`` or the ``loss``; of the unpruned networks, or at a ``threshold``: of all layers that count, of the
            ``cheap`` ones, of ``only`` one or all ``without`` one, or the ``least`` of all layers.
        energy: the layers pruned by energy, one row for each layer, threshold and seed.
        runs: the networks that they were taken from.
    """
    if "threshold" not in claim:
        key, scale = _VALUES[claim["value"]]
        return scale * mean(runs.drop_duplicates("seed"), f"base_{key}")
    layers = _of_layers(energy, claim["threshold"])
    if claim.get("cheap"):
        layers = layers[layers["points"] > -CHEAP]
    if "only" in claim or "without" in claim:
        layers = layers[(layers["step"] == claim.get("only", claim.get("without"))) == ("only" in claim)]
    if claim["value"] == "layers":
        return len(layers)
    key, scale = _VALUES[claim["value"]]
    # Nothing lost is no minus nothing.
    if claim.get("least"):
        return 0.0 + scale * float(layers[key].max()) if len(layers) else float("nan")
    return 0.0 + scale * mean(layers, key)


def _claims(energy: DataFrame, runs: DataFrame, claims: Sequence[Claim], basis: Basis) -> Table:
    columns = [Column("what"), Column("ours", format=".2f"), Column("theirs", format=".2f", published=True)]
    rows = [[claim["words"], ours(claim, energy, runs), claim["theirs"]] for claim in claims]
    caption = "What the text says in numbers, with energy, beside the same of these networks; means over seeds."
    return Table("published", caption, columns, rows, basis)


def _controls(part: Part, runs: DataFrame, layers: DataFrame) -> list[Block]:
    if runs["method"].nunique() < 2 or "energy" not in set(runs["method"]):
        return ["There are no controls to compare energy with."]
    basis = part.basis(runs, SPLIT)
    rows = runs.assign(energy=[percent(t) for t in runs["threshold"]])
    drawing = figures.bars_with_intervals(
        rows,
        value="points",
        category="energy",
        by="method",
        label="Change of accuracy (points)",
        look=styles(runs["method"]),
    )
    words = _cheaper(runs)
    caption = "Mean change of accuracy over the layers, each pruned alone, by method, with as many filters removed in each layer."
    tests = "Each control against energy: mean accuracy over the layers, paired by seed."
    return [
        words,
        Picture("controls", drawing, caption, f"Bars by threshold and method. {words}", basis, rows),
        _wins(layers, basis),
        *paired(runs, "controls-compared", tests, baseline="energy", within=("threshold",)),
    ]


def _cheaper(runs: DataFrame) -> str:
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
    rows = layers.groupby(["threshold", "step", "method"])["loss"].mean().unstack().reset_index()
    columns = []
    for other in [name for name in rows.columns if name not in ("energy", "threshold", "step")]:
        for words, sign in (("better", 1), ("worse", -1)):
            title = f"energy better than {other}" if sign > 0 else f"worse than {other}"
            rows[f"{words} {other}"] = sign * (rows[other] - rows["energy"]) > 0
            columns.append(Mean(_sum_of(f"{words} {other}"), Column(title, format=".0f")))
    caption = "Layers at which energy leaves a lower or a higher mean test loss than a control."
    return grouped(rows, "wins", caption, _THRESHOLD, columns, basis, sort=True)


def _sum_of(column: str) -> Any:
    return lambda rows: int(rows[column].sum())


def words(part: Part) -> list[str]:
    """Return what energy removes at each threshold, the most sensitive layer, and how the controls fare."""
    runs = part.kind("layers")
    if not len(runs):
        return ["No layer has been pruned yet."]
    by_energy = pick(runs, method="energy")
    parts = [
        f"{percent(threshold)} {percent(mean(rows, 'compression'), 1)} ({points(mean(rows, 'points'))} points)"
        for threshold, rows in by_energy.groupby("threshold")
    ]
    sentences = (
        [f"Filters that energy removes of a layer, on average, and what that changes: {', '.join(parts)}."]
        if parts
        else []
    )
    energy = pick(part.lines(runs), method="energy")
    if len(energy):
        least = energy["threshold"].min()
        means = pick(energy, threshold=least).groupby(["step", "layer"])["points"].mean()
        (place, name), lost = means.idxmin(), points(float(means.min()))
        sentences.append(
            f"At {percent(least)} the most sensitive layer is convolution {place} ({name}): {lost} points."
        )
    if runs["method"].nunique() > 1 and len(by_energy):
        sentences.append(_cheaper(runs))
    return sentences


def cards(part: Part) -> list[Card]:
    """Return the accuracy of the unpruned networks, and what goes at the text's thresholds."""
    runs = part.kind("layers")
    if not len(runs):
        return []
    heads = [
        mean_card(
            "unpruned accuracy",
            by_seed(runs, "base_accuracy"),
            f"{runs['seed'].nunique()} networks",
            within=(0, 1),
        )
    ]
    for threshold in (0.01, 0.1):
        rows = pick(runs, method="energy", threshold=threshold)
        if len(rows):
            note = f"{points(mean(rows, 'points'))} points, one layer at a time"
            label, share = f"filters at {percent(threshold)} of the energy", 100 * by_seed(rows, "compression")
            heads.append(mean_card(label, share, note, shape=".1f", unit=" %", within=(0, 100)))
    return heads
