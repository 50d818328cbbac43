"""L. Charpentier, 2020, section 3.2: what each unit is worth, and which are important, zero or worse."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf, nan
from time import process_time
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from secateur import data
from secateur.criteria import Base, LossChange, Magnitude, NextLayer, Random, SecondOrder, Taylor, UnitWorth
from secateur.criteria.loss_change.labels import TOLERANCES
from secateur.files import require
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Column, Picture, Section, Table
from secateur.lab.show.class_damage import class_damage
from secateur.lab.show.sections import interval, mean
from secateur.lab.show.words import formatted, percent
from secateur.measure.agree import agreement
from secateur.structure import channels
from secateur.studies.charpentier.common import NETWORKS, SOURCE, WIDTH, bases, options
from secateur.studies.charpentier.measured import LABELS
from secateur.studies.kit.grouped import Mean, grouped, means
from secateur.studies.kit.networks import example, first, loss_of, network, split
from secateur.studies.kit.parts import Part, study
from secateur.types import Criterion, Sites

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY"]

PRACTICAL = ("important", "zero", "worse", "undecided")

FRACTION = 0.1
"""Of all units: whether an estimate finds the lowest of these."""

NOTES = (
    "Δ is the change of the mean loss when one unit alone is removed, measured exactly. A unit is important where Δ lies "
    "above zero beyond chance, worse where it lies below, zero otherwise: by the interval of the paired differences of the "
    "images' losses, with Holm's correction over all units of a network. The text has no test; where it draws its lines is "
    "not printed. So zero says that there is no evidence, and grows where images are few. Beside it stand labels by the same "
    "intervals, all at once, and a practical tolerance, by which a unit that is not known to be harmless is undecided.",
    "The labels and estimates come from training images alone. The same units were measured on the test images too, only to "
    "see whether the labels hold there.",
    "The text gives no sizes for the network of three hidden layers, nor for the convolutional one: 128 nodes each, and "
    "32, 32, 64, 64 filters, are our reading; the width in the options makes the convolutional one narrower.",
)


def _estimates(images: data.Images, loss: str, seed: int) -> dict[str, Criterion]:
    """What is compared with the exact answer: the estimates, and the controls that see no loss."""
    return {
        "first order": Taylor(images, loss),
        "first order, absolute": Taylor(images, loss, sign="absolute"),
        "second order": SecondOrder(images, loss),
        "second order, Fisher": SecondOrder(images, loss, curvature="fisher", seed=seed),
        "next layer": NextLayer(images, loss),
        "magnitude": Magnitude(p=2),
        "random": Random(seed),
    }


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    parameters = {key: settled[key] for key in ("images", "alpha")}
    return [
        cell for base in bases(name, settled) for cell in (base, base.then("importance", importance_cell, parameters))
    ]


def importance_cell(context: Context) -> Outcome:
    """Measure every unit on training and test images, label it, and compare the estimates."""
    model, recipe = network(context)
    sites = channels(model, example(context, recipe))
    images, loss = first(split(context, recipe, "train"), context["images"]), loss_of(recipe)
    since = process_time()
    changes = LossChange(images, loss)(model, sites)
    seconds = process_time() - since
    test = LossChange(split(context, recipe, "test"), loss)(model, sites)
    labels = changes.label(alpha=context["alpha"], reading="significance")
    metrics: dict[str, Json] = {
        "units": sum(site.size for site in sites.values()),
        "train_loss": changes.base.loss,
        "loss": test.base.loss,
        "accuracy": test.base.accuracy,
        "exact_cpu_seconds": seconds,
        "labels": {name: {label: names.count(label) for label in LABELS} for name, names in labels.items()},
        **_on_test(labels, test),
        "test_spearman": agreement(changes, test).spearman,
        "class_accuracy": _without_best(changes, test),
        "estimates": _compared(_estimates(images, loss, context["seed"]), changes, model, sites),
    }
    numbers = {name: torch.tensor([LABELS.index(label) for label in names]) for name, names in labels.items()}
    tensors: dict[str, Mapping[str, torch.Tensor]] = {
        "change": changes,
        "error": changes.error,
        "accuracy": changes.accuracy,
        "test": test,
        "label": numbers,
    }
    return Outcome(metrics, artefact={f"{key}.{name}": x for key, part in tensors.items() for name, x in part.items()})


def _on_test(labels: Mapping[str, list[str]], test: UnitWorth) -> dict[str, Json]:
    """How the units of each label change the loss of the test images, on average; None where there are none."""
    pairs = [pair for name, names in labels.items() for pair in zip(names, test[name].tolist(), strict=True)]
    metrics: dict[str, Json] = {}
    for label in LABELS:
        values = [change for name, change in pairs if name == label]
        metrics[f"{label}_units"] = len(values)
        metrics[f"{label}_test_change"] = sum(values) / len(values) if values else None
    return metrics


def _without_best(changes: UnitWorth, test: UnitWorth) -> list[float]:
    """The accuracy on each class of the test images without the most important unit of the training images."""
    name = max(changes, key=lambda site: float(changes[site].max()))
    return [float(x) for x in test.base.class_accuracy + test.class_accuracy[name][int(changes[name].argmax())]]


def _compared(
    estimates: Mapping[str, Criterion], exact: UnitWorth, model: nn.Module, sites: Sites
) -> dict[str, dict[str, Json]]:
    compared: dict[str, dict[str, Json]] = {}
    for name, criterion in estimates.items():
        since = process_time()
        scores = criterion(model, sites)
        seconds = process_time() - since
        agreed = agreement(scores, exact, fractions=[FRACTION])
        compared[name] = {
            "spearman": agreed.spearman if agreed.spearman == agreed.spearman else None,
            "lowest": agreed.bottom[FRACTION],
            "best": agreed.best,
            "cpu_seconds": seconds,
        }
    return compared


# The report


def _units(part: Part) -> DataFrame:
    """One row a unit: its network, site, changes and label."""
    pandas = require("pandas", "lab")
    rows = []
    for cell in part.kind("importance").to_dict("records"):
        tensors = part.results.store.artefact(cell["id"])
        worth = _worth(cell, tensors)
        practical, images = worth.label(alpha=cell["alpha"]), worth.images(alpha=cell["alpha"])
        for name in cell["labels"]:
            values: dict[str, Any] = {key: tensors[f"{key}.{name}"].numpy() for key in ("change", "error", "test")}
            label = [LABELS[at] for at in tensors[f"label.{name}"].tolist()]
            values |= {"practical": practical[name], "times the images": images[name].numpy() / cell["images"]}
            rows.append(pandas.DataFrame({"seed": cell["seed"], "site": name, "label": label, **values}))
    return pandas.concat(rows, ignore_index=True)


def _worth(cell: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> UnitWorth:
    """The changes as they were stored."""
    nothing = torch.zeros(0)
    worth = UnitWorth(
        Base(cell["train_loss"], nan, nothing, cell["images"], nothing),
        {n: tensors[f"change.{n}"] for n in cell["labels"]},
    )
    worth.error = {name: tensors[f"error.{name}"] for name in cell["labels"]}
    return worth


def _sections(part: Part) -> list[Section]:
    cells, units = part.kind("importance"), _units(part)
    return [
        Section("Important, zero or worse", [*_labels(part, cells, units), *_histograms(part, cells, units)]),
        Section("Do the labels hold on test images?", [_test_table(part, cells), _test_scatter(part, cells, units)]),
        Section("Estimates", [_estimate_table(part, cells)]),
        Section("Classes", _classes(part, cells)),
    ]


def _labels(part: Part, cells: DataFrame, units: DataFrame) -> list[Block]:
    """The labels by significance and by interval and tolerance, a row a site."""
    columns = [
        Mean(lambda rows: len(rows) // rows["seed"].nunique(), Column("units")),
        *(Mean(partial(_count, label=label), Column(f"{label} units", format=".1f")) for label in LABELS),
        Mean(lambda rows: rows["change"].min(), Column("least Δ", format="+.5f")),
        Mean(lambda rows: rows["change"].mean(), Column("mean Δ", format="+.5f")),
        Mean(lambda rows: rows["change"].max(), Column("greatest Δ", format="+.5f")),
    ]
    caption = (
        "How many units of each site have which label by significance, and Δ, the change of the training loss; means over "
        "networks."
    )
    by_interval = [
        *(Mean(partial(_count, label=label, of="practical"), Column(label, format=".1f")) for label in PRACTICAL),
        Mean(partial(_deciding, share=0.5), Column("times the images to decide half", format=".1f")),
        Mean(partial(_deciding, share=0.9), Column("nine in ten", format=".1f")),
    ]
    tolerance = 100 * TOLERANCES["practical"]
    practical = (
        f"The same by intervals and a tolerance of {tolerance:g} % of the training loss: important lies above it, zero within "
        "it, worse below 0; undecided is too wide to say, and how many times as many images would decide."
    )
    basis = part.basis(cells, "training images")
    tables = [("labels", caption, columns), ("practical-labels", practical, by_interval)]
    return [_with_all(grouped(units, n, words, {"site": Column("site")}, c, basis), units, c) for n, words, c in tables]


def _with_all(table: Table, units: DataFrame, columns: list[Mean]) -> Table:
    return replace(table, rows=[*table.rows, ["all", *means(units, columns)]])


def _count(units: DataFrame, label: str, of: str = "label") -> float:
    """How many units of a network have a label, on the mean of the networks."""
    return float((units[of] == label).groupby(units["seed"]).sum().mean())


def _deciding(units: DataFrame, share: float) -> float | None:
    """How many times as many images would decide a share of the undecided units; None where none is, or none would."""
    needed = units[units["practical"] == "undecided"]["times the images"]
    times = float(needed.quantile(share, interpolation="higher")) if len(needed) else inf
    return times if times < inf else None


def _histograms(part: Part, cells: DataFrame, units: DataFrame) -> list[Block]:
    shares = units["label"].value_counts(normalize=True)
    by_label = ", ".join(f"{percent(shares.get(label, 0.0), 0)} {label}" for label in LABELS)
    values = {str(name): rows["change"] for name, rows in units.groupby("site", sort=False)}
    label = "Δ, change of the training loss"
    drawing = figures.histogram(values, label=label, regions=_regions(units), logarithmic=True)
    words = f"Δ of every unit of all networks, by site: {by_label}."
    caption = f"{words} Shaded is where labels are zero or worse."
    return [Picture("changes", drawing, caption, f"Histograms. {words}", part.basis(cells, "training images"), units)]


def _regions(units: DataFrame) -> dict[str, tuple[float, float]]:
    """Where the labels lie: worse up to the greatest such Δ, zero around nothing; each unit has an error of its own."""
    low = float(units["change"].min())
    zero, worse = (units[units["label"] == label]["change"] for label in ("zero", "worse"))
    regions = {}
    if len(zero):
        regions["zero"] = (float(zero.quantile(0.05)), float(zero.quantile(0.95)))
    if len(worse):
        regions["worse"] = (low, min(float(worse.max()), regions["zero"][0] if len(zero) else 0.0))
    return {name: (start, end) for name, (start, end) in regions.items() if start < end}


def _test_table(part: Part, cells: DataFrame) -> Table:
    columns = [Column("label on training images"), Column("units a network", format=".1f")]
    columns += [Column("mean Δ on test images", "10⁻³", format="+.3f"), Column("95 %"), Column("networks with any")]
    rows = []
    for label in LABELS:
        key = f"{label}_test_change"
        values = (1000 * cells[key].dropna()).tolist() if key in cells else []
        measured = [sum(values) / len(values), interval(values, shape="+.3f")] if values else [None, ""]
        rows.append([label, mean(cells, f"{label}_units"), *measured, len(values)])
    rho = mean(cells, "test_spearman")
    caption = f"Units by their label, measured on test images. Spearman correlation of both measurements: {formatted(rho, '.3f')}."
    return Table("on-test", caption, columns, rows, part.basis(cells, "training and test images"))


def _test_scatter(part: Part, cells: DataFrame, units: DataFrame) -> Picture:
    labels = ("Δ on training images", "Δ on test images")
    drawing = figures.scatter(units, x="change", y="test", by="label", label=labels)
    rho = mean(cells, "test_spearman")
    caption = f"Every unit of all networks, measured on training and on test images; Spearman {formatted(rho, '.3f')} within a network."
    return Picture("train-test", drawing, caption, caption, part.basis(cells, "training and test images"), units)


def _estimate_table(part: Part, cells: DataFrame) -> Table:
    columns = [
        Column("estimate"),
        Column("Spearman", format=".3f", best="max"),
        Column("95 %"),
        Column(f"lowest {FRACTION:.0%} shared", format=".0%"),
        Column("lowest unit found"),
        Column("times as fast as exact", format=".1f"),
    ]
    rows = [_estimate(name, cells) for name in cells["estimates"].iloc[0]]
    caption = (
        "How far estimates agree with the exact Δ on the same images, over all units of a network; magnitude and random are "
        "controls. Processor time, in one run."
    )
    return Table("estimates", caption, columns, rows, part.basis(cells, "training images"))


def _estimate(name: str, cells: DataFrame) -> list[Any]:
    """The row of one estimate."""
    runs = [estimates[name] for estimates in cells["estimates"]]
    ranks = [run["spearman"] for run in runs if run["spearman"] is not None]
    speed = [e / max(run["cpu_seconds"], 1e-9) for e, run in zip(cells["exact_cpu_seconds"], runs, strict=True)]
    return [
        name,
        sum(ranks) / len(ranks) if ranks else None,
        interval(ranks, within=(-1, 1), shape=".3f") if ranks else "",
        sum(run["lowest"] for run in runs) / len(runs),
        f"{sum(run['best'] for run in runs)} of {len(runs)}",
        sum(speed) / len(speed) if name not in ("magnitude", "random") else None,
    ]


def _classes(part: Part, cells: DataFrame) -> list[Block]:
    after = cells[["seed", "class_accuracy"]].assign(method="most important unit", sparsity=1 / cells["units"])
    return class_damage(part.trained, after, part.classes, basis=part.basis(cells))


def _words(part: Part) -> list[str]:
    cells = part.kind("importance")
    units = mean(cells, "units")
    by_label = ", ".join(f"{100 * mean(cells, f'{label}_units') / units:.0f} % {label}" for label in LABELS)
    words = f"Of {formatted(units, '.0f')} units {by_label}."
    if mean(cells, "worse_units"):
        change = mean(cells, "worse_test_change")
        sign = "lowers" if change < 0 else "raises"
        words += f" Removing one that is worse on training images {sign} the test loss by {formatted(abs(change), '.5f')} on average."
    ranked = [row for row in _estimate_table(part, cells).rows if row[1] is not None]
    if not ranked:
        return [f"{words} No estimate has a rank correlation with the exact answer: one of both is constant."]
    best = max(ranked, key=lambda row: row[1])
    return [f"{words} The estimate nearest to the exact answer is {best[0]} (Spearman {formatted(best[1], '.3f')})."]


STUDY = study(
    "charpentier-importance",
    "What each unit is worth",
    "The exact loss change of every unit of three networks, the labels important, zero and worse, and the estimates.",
    source=SOURCE,
    options=options(
        Option("images", "count", 10000, "training images to measure on, at most", least=2),
        Option("alpha", "number", 0.05, "the probability of a single wrong label", 0.0001, 0.5),
        model=NETWORKS,
        model_options=WIDTH,
    ),
    cells=_cells,
    sections=_sections,
    words=_words,
    notes=NOTES,
)
