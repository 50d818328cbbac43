"""S. Janjić, 2018, section 5.2.1: dropout while testing, on VGG-16 whole and with filters pruned by energy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Column, Picture, Section, Table
from secateur.lab.show.sections import mean, pick
from secateur.lab.show.words import formatted, number, percent, points
from secateur.measure import predict
from secateur.randomness import private_draws
from secateur.state import modes_kept
from secateur.structure import mask
from secateur.studies.janjic import filters
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.networks import loaded, network
from secateur.studies.kit.parts import Part, class_section, study
from secateur.studies.kit.pictures import change_heatmap, over_layers
from secateur.studies.kit.published import published
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY", "dropped", "parts"]

_THESIS: dict[float, tuple[float, float]] = published("janjic")["dropout"]

NOTES = (
    "Dropout is switched on while testing, in the fully connected layers, at the rate given; every image has units "
    "dropped of its own, and the mean is over {draws} draws. What is left is scaled by 1 / (1 − "
    "rate), as in training; the text does not say whether its was.",
    "The text's losses at 0 and at 0.5 are both 1.334, with accuracies of 68.14 and 67.84: its table may hold the "
    "network of rate 0.5 twice.",
    "The rates are not chosen here: every one is shown, on test images that nothing was chosen on.",
)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    """One cell a network unpruned, and one for each threshold, which prunes every layer alone."""
    cells = filters.bases(name, settled)
    parameters = {"method": "energy", **{key: settled[key] for key in ("rates", "draws", "layers", "test_images")}}
    for base, threshold in product(list(cells), (0.0, *settled["thresholds"])):
        cells.append(
            base.then("dropout", dropout_cell, {"threshold": threshold, **parameters}, defaults={"layers": "*"})
        )
    return cells


def dropout_cell(context: Context) -> Outcome:
    """Rate a network at every rate of dropout: whole, or with each convolution pruned alone."""
    model, recipe = network(context)
    test = loaded(filters.rated(context, recipe))
    image = test.head(1)
    sites = filters.filters(model, image, context["layers"])
    keep = filters.choose(model, sites, context["threshold"])
    alone = [{name: keep[name]} for name in sites] if context["threshold"] else [{}]
    rows: list[dict[str, Any]] = []
    for place, pruned in enumerate(alone):
        before, after = parts(mask(model, sites, pruned))
        inputs = predict(before, test.images, batch_size=filters.step_size(image))
        layer = next(iter(pruned), "none")
        for rate in context["rates"]:
            seeds = [context["seed"] + 1000 * draw for draw in range(_draws(context, rate))]
            outputs = [dropped(after, inputs, rate, seed) for seed in seeds]
            rows.append({"step": place + bool(pruned), "layer": layer, "rate": rate, **_rated(outputs, test.labels)})
    return Outcome(_metrics(rows, len(test.classes)), [_plain(row) for row in rows])


def _draws(context: Context, rate: float) -> int:
    return int(context["draws"]) if rate else 1


def parts(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return what of a network comes before its classifier, which has no dropout, and the classifier, which has.

    Raises:
        InputError: the network is not of this form.

    >>> from secateur import models
    >>> before, after = parts(models.build("vgg-16", width=0.03125, input_size=32))
    >>> before(torch.zeros(1, 3, 32, 32)).shape
    torch.Size([1, 16])
    """
    features, pool, classifier = (getattr(model, name, None) for name in ("features", "avgpool", "classifier"))
    modules = all(isinstance(module, nn.Module) for module in (features, pool, classifier))
    if not modules or not any(isinstance(m, nn.Dropout) for m in classifier.modules()):  # type: ignore[union-attr]
        raise InputError(
            f"janjic-dropout: {type(model).__name__} is not of VGG's form (features, avgpool, and a classifier with "
            "dropout); set model=vgg-16"
        )
    assert isinstance(features, nn.Module)
    assert isinstance(pool, nn.Module)
    assert isinstance(classifier, nn.Module)
    return nn.Sequential(features, pool, nn.Flatten()), classifier


def dropped(classifier: nn.Module, inputs: Tensor, rate: float, seed: int) -> Tensor:
    """Return a classifier's outputs with dropout switched on: each unit is zero with probability `rate`, anew a sample.

    What is left is scaled by 1 / (1 − rate) (Srivastava et al., 2014), as in training. The classifier is left as it is.

    >>> dropped(nn.Sequential(nn.Dropout(0.5)), torch.ones(1, 4), 0.0, seed=0).tolist()
    [[1.0, 1.0, 1.0, 1.0]]
    >>> sorted(set(dropped(nn.Sequential(nn.Dropout()), torch.ones(1, 99), 0.75, seed=0).flatten().tolist()))
    [0.0, 4.0]
    """
    layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Dropout)]
    usual = [layer.p for layer in layers]
    with modes_kept(classifier), private_draws(seed), torch.no_grad():
        classifier.eval()
        try:
            for layer in layers:
                layer.p = rate
                layer.train()
            outputs: Tensor = classifier(inputs)
        finally:
            for layer, p in zip(layers, usual, strict=True):
                layer.p = p
    return outputs


def _rated(draws: Sequence[Tensor], labels: Tensor) -> dict[str, Any]:
    """Loss and accuracy over the draws: the means, and how far the draws lie apart."""
    losses = [float(cross_entropy(outputs, labels)) for outputs in draws]
    right = torch.stack([outputs.argmax(1) == labels for outputs in draws]).double()
    accuracies = right.mean(1)
    return {
        "loss": sum(losses) / len(losses),
        "accuracy": float(right.mean()),
        "least": float(accuracies.min()),
        "most": float(accuracies.max()),
        "right": right.mean(0),
        "labels": labels,
    }


def _plain(row: Mapping[str, Any]) -> dict[str, Json]:
    return {key: value for key, value in row.items() if key not in ("right", "labels")}


def _metrics(rows: Sequence[Mapping[str, Any]], classes: int) -> dict[str, Json]:
    """Means over the layers without dropout, and the classes' accuracies with none and with the greatest rate."""
    metrics: dict[str, Json] = {}
    rates = sorted({row["rate"] for row in rows})
    for prefix, rate in (("base_", rates[0]), ("", rates[-1])):
        at_rate = [row for row in rows if row["rate"] == rate]
        for name in ("accuracy", "loss"):
            metrics[prefix + name] = sum(row[name] for row in at_rate) / len(at_rate)
        right, labels = torch.stack([row["right"] for row in at_rate]).mean(0), at_rate[0]["labels"]
        by_class = [right[labels == number] for number in range(classes)]
        metrics[f"{prefix}class_accuracy"] = [
            float(class_right.mean()) if len(class_right) else None for class_right in by_class
        ]
    return {**metrics, "base_rate": rates[0], "rate": rates[-1]}


# The report


def _sections(part: Part) -> list[Section]:
    runs = part.kind("dropout")
    if not len(runs):
        return []
    rows = part.lines(runs)
    whole, pruned = pick(rows, threshold=0), rows[rows["threshold"] > 0]
    sections = [Section("The unpruned network", [_unpruned(part, whole, runs)])] if len(whole) else []
    for threshold, layers in pruned.groupby("threshold"):
        basis = part.basis(pick(runs, threshold=threshold), "test images")
        title = f"With {percent(threshold)} of a layer's energy removed"
        sections.append(Section(title, _by_layer(layers, threshold, basis)))
    return [*sections, Section("Which classes it hurts", _classes(part, runs))]


def _unpruned(part: Part, whole: DataFrame, runs: DataFrame) -> Table:
    def theirs(place: int) -> Callable[[DataFrame], float | None]:
        return lambda rows: (_THESIS.get(round(rows["rate"].iloc[0], 2)) or (None, None))[place]

    columns = [
        Mean("accuracy", Column("accuracy", format=".4f"), "95 %"),
        Mean("loss", Column("loss", format=".4f")),
        Mean(lambda r: 100 * float((r["most"] - r["least"]).mean()), Column("draws apart", "points", format=".2f")),
        Mean(theirs(1), Column("accuracy", "%", format=".2f", published=True)),
        Mean(theirs(0), Column("loss", format=".3f", published=True)),
    ]
    caption = (
        "Accuracy and loss with dropout on the fully connected layers while testing, beside Table 5.3 of the text; means "
        "over seeds and draws. The last column of ours is how far the draws of one network lie apart."
    )
    groups = {"rate": Column("dropout", key="rate", format=".2g")}
    return grouped(whole, "unpruned", caption, groups, columns, part.basis(runs, "test images"), sort=True)


def _by_layer(rows: DataFrame, threshold: float, basis: Basis) -> list[Block]:
    """Lines by layer, one for each rate, and the change that dropout makes, as Figures 5.17 and 5.18."""
    none = rows[rows["rate"] == rows["rate"].min()].set_index(["seed", "step"])[["accuracy", "loss"]]
    keys = list(zip(rows["seed"], rows["step"], strict=True))
    changes = rows[["accuracy", "loss"]].to_numpy() - none.loc[keys].to_numpy()
    rows = rows.assign(
        dropout=[f"{rate:g}" for rate in rows["rate"]], change=100 * changes[:, 0], loss_change=changes[:, 1]
    )
    removed, name = percent(threshold), f"{100 * threshold:g}".replace(".", "-")
    words = _gains(rows)
    caption = f"{{label}} with {removed} of the energy of one layer removed, by layer and rate of dropout."
    alt = f"One line for each rate of dropout over the convolutions. {words}"
    measured = [value for value in ("accuracy", "loss") if rows[value].notna().any()]
    lines = [over_layers(rows, value, f"{value}-{name}", (caption, alt), basis, by="dropout") for value in measured]
    return [words, *lines, *_changes(rows, name, removed, words, basis)]


def _changes(rows: DataFrame, name: str, removed: str, words: str, basis: Basis) -> list[Picture]:
    """What dropout changes of accuracy and of loss, by layer and rate."""
    axes = ("Convolution", "Dropout")
    table = rows.pivot_table(index="dropout", columns="step", values="change", sort=False)
    caption = f"What dropout changes of the {{}} of the networks with {removed} removed; blue is a gain."
    alt = f"Heat map. {words}"
    accuracy = Picture(f"change-{name}", change_heatmap(table, axes), caption.format("accuracy"), alt, basis, rows)
    finite = rows[rows["loss_change"].abs() < math.inf]  # not of networks whose loss has no end
    if not len(finite):
        return [accuracy]
    table = finite.pivot_table(index="dropout", columns="step", values="loss_change", sort=False)
    loss = figures.heatmap(
        table, label="Change of loss", axes_labels=axes, diverging=True, falling=True, show=_two_digits
    )
    rate, place = table.stack().idxmin()
    least = f"The loss falls most by {rate} of dropout with convolution {place} pruned: {_two_digits(float(table.min().min()))}."
    return [
        accuracy,
        Picture(f"loss-change-{name}", loss, caption.format("loss"), f"Heat map. {least}", basis, rows),
    ]


def _two_digits(change: float) -> str:
    return number(float(f"{change:.2g}"))


def _gains(rows: DataFrame) -> str:
    """How many layers gain by dropout, in words."""
    means = rows[rows["rate"] > rows["rate"].min()].groupby(["rate", "step"])["change"].mean()
    if not len(means):
        return "No rate of dropout was tried."
    (rate, place), most = means.idxmax(), float(means.max())
    gain = means[means > 0].index.get_level_values("step").nunique()
    return (
        f"{gain} of {means.index.get_level_values('step').nunique()} layers gain at one rate of dropout at least; the most "
        f"is {points(most)} points, convolution {place} at {rate:g}."
    )


def _classes(part: Part, runs: DataFrame) -> list[Block]:
    first, last = runs["base_rate"].min(), runs["rate"].max()
    whole, pruned = runs[runs["threshold"] == 0], runs[runs["threshold"] > 0]
    words = f"Dropout of {last:g} beside {first:g}, on the unpruned networks."
    by_rate, basis = whole.assign(threshold=whole["rate"]), part.basis(runs, "test images")
    blocks = class_section(part, by_rate, basis, "dropout while testing") if len(whole) else []
    means = [
        f"{percent(threshold)}: {formatted(mean(rows, 'base_accuracy'), '.4f')} becomes {formatted(mean(rows, 'accuracy'), '.4f')}"
        for threshold, rows in pruned.groupby("threshold")
    ]
    return [f"{words} With a layer pruned at {', at '.join(means)}." if means else words, *blocks]


def _words(part: Part) -> list[str]:
    runs = part.kind("dropout")
    if not len(runs):
        return ["Nothing has been rated yet."]
    sentences = []
    for threshold, rows in part.lines(runs).groupby("threshold"):
        means = rows.groupby("rate")["accuracy"].mean()
        none, highest = float(means.iloc[0]), means.idxmax()
        name = "Unpruned" if threshold == 0 else f"With {percent(threshold)} of the energy of one layer removed"
        change = (
            f"{points(100 * (float(means.max()) - none))} points" if highest != means.index[0] else "none is higher"
        )
        beside = (
            f"the highest of these test accuracies is at {highest:g} ({change})"
            if len(means) > 1
            else "no other rate was tried"
        )
        sentences.append(f"{name}: {formatted(none, '.4f')} at a rate of {means.index[0]:g}, {beside}.")
    gain = max(accuracy for _, accuracy in _THESIS.values()) - _THESIS[0][1]
    return [*sentences, f"The text finds gains of up to {formatted(gain, '.2f')} points by dropout up to 0.4."]


STUDY = study(
    "janjic-dropout",
    "Dropout while testing, on VGG-16 whole and with filters pruned by energy",
    "The fully connected layers of VGG-16 drop units at 0 to 0.9 while testing; unpruned, and with each convolution pruned.",
    source=filters.SOURCE,
    options=filters.options(
        Option("thresholds", "number", [0.01, 0.1], "shares of a layer's energy to remove", 0, 1, many="list"),
        Option("rates", "number", [float(r) for r in _THESIS], "rates of dropout while testing", 0, 0.99, many="list"),
        Option("draws", "count", 5, "how often to draw the dropped units", least=1),
        model="vgg-16",
        model_options={"width": 0.125},
        epochs=6,
    ),
    cells=_cells,
    sections=_sections,
    words=_words,
    notes=NOTES,
)
