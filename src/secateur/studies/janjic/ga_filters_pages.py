"""The report on filters that are evolved away: what each fitness finds for as many evaluations, and what it is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.judgement import judged
from secateur.lab.show.sections import by_seed, mean, mean_card, pick
from secateur.lab.show.words import formatted, percent, points
from secateur.studies.janjic.evolution_pages import progress
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "cards", "sections", "words"]

WHOLE = "all images"

NOTES = (
    "The text proposes the algorithm over filters (chapter 8), where rating an individual is dear, and to approximate "
    "the fitness for some or all evaluations: by a Taylor expansion in the place of accuracy, or by a random part of the "
    "images. It gives no figures. Fitness is α · change of accuracy + part of the filters removed, with α = {alpha:g}.",
    "The approximations: {share:g} of the {images} images; or the sum of the scores of what is removed, Taylor's or of second "
    "order, scaled to points by least squares on 20 masks rated in full. Those {again:g} of the candidates that look best "
    "are rated again on all images; only such a one can be the result, and the others go on with their estimate.",
    "Every search may spend as many evaluations; rating on a part of the images costs that part, an estimate nothing, its "
    "making 20 masks and a gradient, which counts as three. So a cheap fitness goes on for more generations.",
    "Searched is on validation images. The test images chose nothing. The networks are really cut. The controls remove as "
    "many filters of each layer, by energy, by L2 norm and at random.",
)


def sections(part: Part) -> list[Section]:
    """Return the sections: what each fitness finds, what other choices of as many filters are worth, and the classes."""
    rows = part.kind("evolve")
    if not len(rows):
        return []
    best = _fittest(rows)
    removed = rows.groupby("method")["compression"].transform("mean").round(3)
    damage = class_damage(
        part.trained,
        rows.assign(sparsity=removed),
        part.classes,
        method=best,
        sparsity=float(removed[rows["method"] == best].iloc[0]),
        basis=part.basis(rows),
    )
    return [
        Section("What each fitness finds", _by_fitness(part, rows)),
        Section("Against as many filters by other choices", [_controls(part, rows)]),
        Section("Classes", damage),
    ]


def _fittest(rows: DataFrame) -> str:
    """The fitness whose solutions are best on the images searched on."""
    return str(rows.groupby("method", sort=False)["fitness"].mean().idxmax())


def _by_fitness(part: Part, rows: DataFrame) -> list[Block]:
    basis = part.basis(rows)
    bars = figures.bars_with_intervals(rows, value="untouched_fitness", label="Fitness on untouched test images")
    means = rows.groupby("method", sort=False)["untouched_fitness"].mean()
    alt = f"Bars; {means.idxmax()} is highest with {formatted(means.max(), '.3f')}, {means.idxmin()} lowest with {formatted(means.min(), '.3f')}."
    caption = "Fitness on the untouched test images of what was found for as many evaluations: mean and 95 % interval."
    methods = [method for method in dict.fromkeys(rows["method"]) if method != WHOLE]
    return [
        _table(part, rows),
        Picture("fitnesses", bars, caption, alt, basis, rows[["method", "seed", "untouched_fitness"]]),
        *progress(part, rows),
        *judged(rows, {WHOLE: methods}, basis, value="untouched_fitness", within=()),
    ]


def _table(part: Part, rows: DataFrame) -> Table:
    columns = [
        Mean("untouched_fitness", Column("fitness", "untouched", format=".3f"), "95 %"),
        Mean("untouched_change", Column("change", "points, untouched", format="+.2f")),
        Mean("compression", Column("filters removed", format=".1%")),
        Mean("parameters_removed", Column("parameters removed", format=".1%")),
        Mean("macs_removed", Column("MACs removed", format=".1%")),
        Mean("fitness", Column("fitness", "searched on", format=".3f")),
        Mean("change", Column("change", "points, searched on", format="+.2f")),
        Mean("accuracy", Column("test", format=".4f")),
        Mean("generations", Column("generations", format=".0f")),
        Mean("spent", Column("evaluations", format=",.0f")),
    ]
    caption = "The best solution by each fitness, really cut: means over the networks."
    return grouped(rows, "evolved-filters", caption, {"method": Column("rated by")}, columns, part.basis(rows))


def _controls(part: Part, rows: DataFrame) -> Table:
    choices = {"untouched": "evolved", "energy": "by energy", "magnitude": "by L2 norm", "random": "at random"}
    columns = [
        Mean(f"{name}_change", Column(words, "points", format="+.2f"), "95 %" if name == "untouched" else "")
        for name, words in choices.items()
    ]
    caption = (
        "Change of test accuracy where as many filters of each layer go by other choices: means over the networks."
    )
    return grouped(rows, "other-choices", caption, {"method": Column("rated by")}, columns, part.basis(rows))


def words(part: Part) -> list[str]:
    """Return what each fitness finds, and the other choices of as many filters."""
    rows = part.kind("evolve")
    return [
        f"Rated by {method}: {percent(mean(runs, 'compression'), 1)} of the filters go, {points(mean(runs, 'untouched_change'))} "
        f"points on untouched images, a fitness of {formatted(mean(runs, 'untouched_fitness'), '.2f')} ({formatted(mean(runs, 'fitness'), '.2f')} on the "
        f"images searched on, {formatted(mean(runs, 'generations'), '.0f')} generations); as many by energy "
        f"{points(mean(runs, 'energy_change'))} points, by L2 norm {points(mean(runs, 'magnitude_change'))}, at random "
        f"{points(mean(runs, 'random_change'))}."
        for method, runs in rows.groupby("method", sort=False)
    ]


def cards(part: Part) -> list[Card]:
    """Return the fitness of what was found with all images, and with the best of the approximations."""
    rows = part.kind("evolve")
    cheap = rows[rows["method"] != WHOLE]
    names = [WHOLE] * (WHOLE in set(rows["method"])) + ([_fittest(cheap)] if len(cheap) else [])
    return [
        mean_card(
            f"{name}, untouched fitness",
            by_seed(pick(rows, method=name), "untouched_fitness"),
            "as many evaluations",
            shape=".2f",
        )
        for name in names
    ]
