"""The author's pictures of an evolution (S. Janjić, 2018, figures 5.1 to 5.14), drawn for one network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.files import require
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Table
from secateur.lab.show.words import formatted
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "EvolutionRun",
    "contour",
    "evolution",
    "final_populations",
    "kurtosis",
    "overlap",
    "solutions",
    "trials",
    "weights_before",
    "zero_fitness",
]

Floats = NDArray[np.float64]
ALPHAS = (1, 2, 5, 10, 100)
"""Weights of accuracy, as a fraction, beside a weight of compression of 1."""

LABELS = {
    "fitness": "Fitness",
    "accuracy": "Change of accuracy (points)",
    "compression": "Removed",
}


@dataclass(frozen=True, eq=False)
class EvolutionRun:
    """One evolution of one network's layer, read from the store.

    Attributes:
        row: the cell's row.
        rated: ``fitness``, ``accuracy``, ``compression``: ``(generations, individuals)`` each.
        lineages: the ancestors of the fittest and of the most accurate in every generation, ``(2, generations)``.
        weights: the layer's weights, flat.
        begun, genes: what the ancestor of the fittest began with, and what the fittest ended with; True = kept.
    """

    row: dict[str, Any]
    rated: dict[str, Floats]
    lineages: NDArray[np.int64]
    weights: Floats
    begun: NDArray[np.bool_]
    genes: NDArray[np.bool_]

    @property
    def damage(self) -> str:
        """The initial damage rate, as it is written."""
        return f"{100 * self.row['damage']:g} %"

    @property
    def name(self) -> str:
        """The initial damage rate, as names of files have it."""
        return f"{100 * self.row['damage']:g}".replace(".", "-")


def trials(part: Part, rows: DataFrame) -> list[EvolutionRun]:
    """Return the evolutions of these rows."""
    store, evolutions = part.results.store, []
    for row in rows.to_dict("records"):
        arrays: dict[str, NDArray[Any]] = {name: t.numpy() for name, t in store.artefact(row["id"]).items()}
        base = store.artefact(store.get(row["id"]).recipe.needs[0])
        ratings = {name: arrays[name].astype(np.float64) for name in LABELS}
        layer = base[f"{row['layer']}.weight"].flatten().double().numpy()
        evolutions.append(EvolutionRun(row, ratings, arrays["lineages"], layer, arrays["begun"], arrays["genes"]))
    return evolutions


def kurtosis(values: Floats) -> float:
    """Return the excess kurtosis: 0 for a normal distribution, −1.2 for an even one.

    >>> kurtosis(np.array([-1.0, 1.0]))
    -2.0
    """
    deviations = values - values.mean()
    return float((deviations**4).mean() / (deviations**2).mean() ** 2 - 3)


def weights_before(layers: list[Floats], theirs: Mapping[str, Any] | None, basis: Any) -> list[Block]:
    """Return the histogram of the first network's weights, and what the text says of his beside all of ours."""
    first = layers[0]
    drawing = figures.histogram({"weights": first}, label="Weight", **_scale(first))
    words = (
        f"The weights of the layer before pruning, first network; excess kurtosis {formatted(kurtosis(first), '.2f')}"
    )
    alt = f"Histogram of {first.size} weights from {formatted(first.min(), '.3f')} to {formatted(first.max(), '.3f')}."
    table = require("pandas", "lab").DataFrame({"weight": first})
    quantities = {
        "excess kurtosis": [kurtosis(layer) for layer in layers],
        "least": [layer.min() for layer in layers],
        "greatest": [layer.max() for layer in layers],
        "part below a tenth of the greatest magnitude": [_bottom(layer) for layer in layers],
    }
    text = [theirs["kurtosis"], *theirs["low"], theirs["bottom"]] if theirs else [None] * len(quantities)
    means = [[title, float(np.mean(values))] for title, values in quantities.items()]
    rows = [[*row, number] for row, number in zip(means, text, strict=True)]
    columns = [Column("of the weights"), Column("ours", format=".4f"), Column("text", format=".4f", published=True)]
    caption = "The layer before pruning, means over networks."
    return [
        Picture("weights-before", drawing, f"{words}.", alt, basis, table),
        Table("layer-before", caption, columns, rows, basis),
    ]


def _scale(layer: Floats) -> dict[str, Any]:
    """The bins and the height of all histograms of one layer's weights, as counts."""
    edges = np.histogram_bin_edges(layer, 60)
    return {"bins": edges.tolist(), "counts": True, "most": 1.05 * float(np.histogram(layer, edges)[0].max())}


def _bottom(values: Floats) -> float:
    return float((np.abs(values) < 0.1 * np.abs(values).max()).mean())


def individuals(trial: EvolutionRun) -> DataFrame:
    """Return one row for each individual of each generation."""
    generations, size = trial.rated["fitness"].shape
    numbers = {
        "generation": np.repeat(np.arange(generations), size),
        "individual": np.tile(np.arange(size), generations),
    }
    frame: DataFrame = require("pandas", "lab").DataFrame(
        numbers | {name: values.flatten() for name, values in trial.rated.items()}
    )
    return frame


def evolution(trial: EvolutionRun, basis: Any) -> list[Block]:
    """Return how a population moves: its fitness by generation, then each quantity over time, with every individual."""
    frame, fitness = individuals(trial), trial.rated["fitness"]
    drawing = figures.ridge(frame, group="generation", value="fitness", label=("Fitness", "Generation"))
    caption = f"Fitness of the population by generation, initial damage {trial.damage}."
    ends = [
        f"from {formatted(function(fitness[0]), '.3f')} to {formatted(function(fitness[-1]), '.3f')}"
        for function in (np.mean, np.max)
    ]
    alt = f"Ridges; the mean goes {ends[0]}, the best {ends[1]}."
    ridge = Picture(f"ridge-{trial.name}", drawing, caption, alt, basis, frame)
    return [ridge, *(_over_time(trial, frame, value, basis) for value in LABELS), _individuals(trial, frame, basis)]


def _individuals(trial: EvolutionRun, frame: DataFrame, basis: Any) -> Picture:
    """Every individual's fitness, accuracy and compression over the generations, as Figures A.1 to A.6."""
    fittest = int(trial.lineages[0][-1])
    marked = {"the fittest at the end": fittest, "began undamaged": 0}
    titles = {**LABELS, "accuracy": "Accuracy (points)"}
    drawing = figures.individuals(frame, step="generation", values=titles, marked=marked, shares=["compression"])
    above = int((trial.rated["fitness"][-1] > 0).sum())
    size = len(trial.rated["fitness"][-1])
    caption = f"Every individual by generation, initial damage {trial.damage}; an individual is the line of its number."
    began = ", which began undamaged" if fittest == 0 else ""
    alt = f"{size} lines in three panels; {above} end with a fitness above 0. The fittest at the end is number {fittest}{began}."
    return Picture(f"individuals-{trial.name}", drawing, caption, alt, basis, frame)


def _over_time(trial: EvolutionRun, frame: DataFrame, value: str, basis: Any) -> Picture:
    pandas = require("pandas", "lab")
    series = [frame[["generation", value]].assign(series="population, mean and range")]
    steps = np.arange(len(trial.rated[value]))
    fittest, accurate = trial.lineages
    lines = {"lineage of the fittest": fittest, "lineage of the most accurate": accurate}
    if (fittest == accurate).all():
        lines = {"lineage of the fittest and most accurate": fittest}
    for name, line in lines.items():
        series.append(pandas.DataFrame({"generation": steps, value: trial.rated[value][steps, line], "series": name}))
    rows = pandas.concat(series, ignore_index=True)
    label, share = ("Generation", LABELS[value]), value == "compression"
    drawing = figures.path(rows, step="generation", value=value, by="series", label=label, share=share)
    ends = trial.rated[value][-1]
    alt = f"Lines over generations; at the end the population has mean {formatted(ends.mean(), '.3f')}, from {formatted(ends.min(), '.3f')} to {formatted(ends.max(), '.3f')}."
    caption = f"{LABELS[value]} by generation, initial damage {trial.damage}."
    return Picture(f"{value}-{trial.name}", drawing, caption, alt, basis, rows)


def overlap(evolutions: list[EvolutionRun]) -> float:
    """Return the fraction of the weights that the best solutions of all trials removed in common."""
    return float((~np.stack([trial.genes for trial in evolutions])).all(axis=0).mean())


def solutions(evolutions: list[EvolutionRun], theirs: Mapping[str, Any] | None, basis: Any) -> list[Block]:
    """Return the heat map of the final weights across damage rates, and each solution's histograms."""
    table = require("pandas", "lab").DataFrame(
        {trial.damage: np.where(trial.genes, trial.weights, np.nan) for trial in evolutions}
    )
    common = float(np.stack([trial.genes for trial in evolutions]).all(axis=0).mean())
    text = f" (the text has {formatted(theirs['common'], '.2%')})" if theirs and "common" in theirs else ""
    caption = (
        "The weights of the best solution of each initial damage rate; what was removed is grey, near zero is white. "
        f"{formatted(overlap(evolutions), '.2%')} were removed in common{text}, {formatted(common, '.2%')} kept in common."
    )
    axes = ("Initial damage", "Weight number")
    drawing = figures.heatmap(table, label="Weight", axes_labels=axes, diverging=True, blank="removed")
    alt = f"Heat map of {len(table)} weights and {len(evolutions)} damage rates. {caption}"
    heatmap = Picture("weights-kept", drawing, caption, alt, basis, table)
    return [heatmap, *(_histograms(trial, basis) for trial in evolutions)]


def _histograms(trial: EvolutionRun, basis: Any) -> Picture:
    parts = {"at the start": trial.weights[trial.begun], "at the end": trial.weights[trial.genes]}
    series = {name: values for name, values in parts.items() if len(values)} or {"layer": trial.weights}
    caption = f"Weights left in the ancestor of the best solution and in the solution, initial damage {trial.damage}."
    alt = f"Histograms of {trial.begun.sum()} weights at the start and {trial.genes.sum()} at the end."
    table = require("pandas", "lab").DataFrame(
        {"weight": trial.weights, "at the start": trial.begun, "at the end": trial.genes}
    )
    drawing = figures.histogram(series, label="Weight", **_scale(trial.weights))
    return Picture(f"weights-{trial.name}", drawing, caption, alt, basis, table)


def final_populations(evolutions: list[EvolutionRun], basis: Any) -> Picture:
    """Return all individuals of the last generations on the lines of equal fitness, as Figures 5.7 and 5.14."""
    pandas = require("pandas", "lab")
    columns = [
        {
            "damage": trial.damage,
            "removed": 100 * trial.rated["compression"][-1],
            "change": trial.rated["accuracy"][-1],
            "fitness": trial.rated["fitness"][-1],
        }
        for trial in evolutions
    ]
    rows = pandas.concat([pandas.DataFrame(column) for column in columns], ignore_index=True)
    drawing = figures.scatter(
        rows,
        x="removed",
        y="change",
        by="damage",
        label=("Removed (%)", LABELS["accuracy"]),
        height=lambda x, y: y + x / 100,
        height_label="fitness",
    )
    above = ", ".join(f"{int((trial.rated['fitness'][-1] > 0).sum())} at {trial.damage}" for trial in evolutions)
    size = len(evolutions[0].rated["fitness"][-1])
    caption = (
        "The final populations of all initial damage rates on the lines of equal fitness, where they were evolved."
    )
    alt = f"Points over contour lines. Individuals of {size} with a fitness above 0: {above}."
    return Picture("final-populations", drawing, f"{caption} {alt.partition('. ')[2]}", alt, basis, rows)


def zero_fitness(base: float, basis: Any) -> Picture:
    """Return the lines of zero fitness for several weights α of accuracy, with β = 1, as Figure 4.1.

    Args:
        base: the unpruned network's accuracy in per cent, for the axis on the right.
        basis: of the picture.
    """
    removed = np.linspace(0, 100, 11)
    lines = [
        {"removed": at, "change": -at / alpha, "alpha": f"α = {alpha}" + " (here)" * (alpha == 100)}
        for alpha in ALPHAS
        for at in removed
    ]
    rows = require("pandas", "lab").DataFrame(lines)
    drawing = figures.path(
        rows,
        step="removed",
        value="change",
        by="alpha",
        label=("Removed (%)", LABELS["accuracy"]),
        beside=("Accuracy (%)", base),
    )
    caption = (
        "Where fitness α · change of accuracy + β · part removed is zero, for β = 1: solutions above a line are worth more "
        "than the unpruned layer. The searches take α = 100, a point of accuracy for the whole layer."
    )
    alt = "Lines that fall from zero: the greater α, the less accuracy may be lost for what is removed."
    return Picture("zero-fitness", drawing, caption, alt, basis, rows)


def contour(rows: DataFrame, basis: Any) -> Picture:
    """Return the best solutions on the lines of equal fitness, on the data that they were evolved on."""
    points = rows[["method", "searched_change", "compression"]].assign(removed=100 * rows["compression"])
    drawing = figures.scatter(
        points,
        x="removed",
        y="searched_change",
        label=("Removed (%)", LABELS["accuracy"]),
        height=lambda x, y: y + x / 100,
        height_label="fitness",
    )
    best = rows.loc[rows["searched_fitness"].idxmax()]
    alt = f"Points over contour lines; the fittest, {best['method']}, has fitness {formatted(best['searched_fitness'], '.3f')}."
    caption = "The best solutions of all networks on the lines of equal fitness, on the data that they were evolved on."
    return Picture("solutions", drawing, caption, alt, basis, points)
