"""S. Janjić, 2018, section 5.2.1: dropout while testing, on VGG-16 whole and with filters pruned by energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.lab import figures
from secateur.lab.basis import Origins
from secateur.lab.blocks import Basis, Block, Column, Picture, Section, Table
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.report import Report
from secateur.lab.sections import interval, mean, pick
from secateur.lab.study import Cell, Context, Outcome, Results, Study
from secateur.lab.style import styles
from secateur.measure import predict
from secateur.randomness import private_draws
from secateur.state import modes_kept
from secateur.structure import mask
from secateur.studies.janjic import filters
from secateur.studies.janjic.filter_pages import class_section, networks_section, points
from secateur.studies.kit.networks import network
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["PUBLISHED", "STUDY", "dropped", "parts"]

PUBLISHED: dict[float, tuple[float, float]] = {
    0.0: (1.334, 68.14),
    0.1: (1.188, 70.74),
    0.2: (1.207, 70.45),
    0.3: (1.234, 69.88),
    0.4: (1.268, 69.31),
    0.5: (1.334, 67.84),
    0.6: (1.430, 66.32),
    0.7: (1.622, 63.05),
    0.8: (2.137, 55.77),
    0.9: (4.998, 31.45),
}
"""Table 5.3: rate of dropout → loss and accuracy in per cent of the unpruned network."""

DEFAULTS = filters.options(
    Option("thresholds", "number", [0.01, 0.1], "shares of a layer's energy to remove", 0, 1, many="list"),
    Option("rates", "number", list(PUBLISHED), "rates of dropout while testing", 0, 0.99, many="list"),
    Option("draws", "count", 5, "how often to draw the dropped units", least=1),
    model="vgg-16",
    model_options={"width": 0.125},
    epochs=6,
)


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    """One cell a network unpruned, and one for each threshold, which prunes every layer alone."""
    study = STUDY.name
    filters.check(study, settled, DEFAULTS)
    made = filters.bases(study, settled)
    known = {key: settled[key] for key in ("data", "model")}
    kept = {key: settled[key] for key in ("rates", "draws", "layers", "test_images")}
    for base in list(made):
        for threshold in (0.0, *settled["thresholds"]):
            what = {"seed": base.recipe.seed, "method": "energy", "threshold": threshold, **kept, **known}
            made.append(Cell(Recipe(study, "dropout", what, (base.id,), {"layers": "*", **known}), dropout_cell))
    return made


def dropout_cell(context: Context) -> Outcome:
    """Rate a network at every rate of dropout: whole, or with each convolution pruned alone."""
    model, recipe = network(context)
    test = filters.rated(context, recipe)
    image = test.images[:1]
    sites = filters.filters(model, image, context["layers"])
    keep = filters.choose(model, sites, context["threshold"])
    alone = [{name: keep[name]} for name in sites] if context["threshold"] else [{}]
    rows: list[dict[str, Any]] = []
    for place, one in enumerate(alone):
        masked = mask(model, sites, one)
        before, after = parts(masked)
        inputs = predict(before, test.images, batch_size=filters.step_size(image))
        for rate in context["rates"]:
            tried = [
                dropped(after, inputs, rate, context["seed"] + 1000 * draw) for draw in range(_draws(context, rate))
            ]
            layer = next(iter(one), "none")
            rows.append({"step": place + bool(one), "layer": layer, "rate": rate, **_rated(tried, test.labels)})
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
    known = all(isinstance(one, nn.Module) for one in (features, pool, classifier))
    if not known or not any(isinstance(one, nn.Dropout) for one in classifier.modules()):  # type: ignore[union-attr]
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
    layers = [one for one in classifier.modules() if isinstance(one, nn.Dropout)]
    usual = [one.p for one in layers]
    with modes_kept(classifier), private_draws(seed), torch.no_grad():
        classifier.eval()
        try:
            for one in layers:
                one.p = rate
                one.train()
            outputs: Tensor = classifier(inputs)
        finally:
            for one, p in zip(layers, usual, strict=True):
                one.p = p
    return outputs


def _rated(tried: Sequence[Tensor], labels: Tensor) -> dict[str, Any]:
    """Loss and accuracy over the draws: the means, and how far the draws lie apart."""
    losses = [float(cross_entropy(outputs, labels)) for outputs in tried]
    right = torch.stack([outputs.argmax(1) == labels for outputs in tried]).double()
    each = right.mean(1)
    return {
        "loss": sum(losses) / len(losses),
        "accuracy": float(right.mean()),
        "least": float(each.min()),
        "most": float(each.max()),
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
        chosen = [row for row in rows if row["rate"] == rate]
        for name in ("accuracy", "loss"):
            metrics[prefix + name] = sum(row[name] for row in chosen) / len(chosen)
        right, labels = torch.stack([row["right"] for row in chosen]).mean(0), chosen[0]["labels"]
        found = [float(right[labels == one].mean()) if bool((labels == one).any()) else None for one in range(classes)]
        metrics[f"{prefix}class_accuracy"] = found
    return {**metrics, "base_rate": rates[0], "rate": rates[-1]}


def _pages(results: Results) -> Report:
    """Return the report; a study that has not finished yet shows what there is."""
    runs = pick(results.frame, kind="dropout")
    origins, split = Origins.among(results), f"test images of {results.options['data']}"
    networks = networks_section(results, origins, split)
    if not len(runs):
        return Report(STUDY.title, ["Nothing has been rated yet."], sections=[networks])
    rows = results.histories[results.histories["id"].isin(runs["id"])].astype({"step": int})
    whole, pruned = pick(rows, threshold=0), rows[rows["threshold"] > 0]
    basis = origins.of(runs, split)
    sections = [Section("The unpruned network", _unpruned(whole, basis))] if len(whole) else []
    for threshold, group in pruned.groupby("threshold"):
        own = origins.of(pick(runs, threshold=threshold), split)
        sections.append(Section(f"With {100 * threshold:g} % of a layer's energy removed", _one(group, threshold, own)))
    return Report(
        STUDY.title,
        _summary(rows),
        sections=[
            *sections,
            Section("Which classes it hurts", _classes(results, runs, basis)),
            networks,
            Section("How it was done", [*_how(results)]),
        ],
    )


def _unpruned(whole: DataFrame, basis: Basis) -> list[Block]:
    columns = [
        Column("dropout", key="rate", format=".2g"),
        Column("accuracy", format=".4f"),
        Column("95 %"),
        Column("loss", format=".4f"),
        Column("draws apart", "points", format=".2f"),
        Column("accuracy", "%", format=".2f", published=True),
        Column("loss", format=".3f", published=True),
    ]
    lines: list[list[Any]] = []
    for rate, group in whole.groupby("rate"):
        loss, accuracy = PUBLISHED.get(round(rate, 2), (None, None))
        apart = 100 * float((group["most"] - group["least"]).mean())
        row = [rate, mean(group, "accuracy"), interval(group["accuracy"]), mean(group, "loss"), apart]
        lines.append([*row, accuracy, loss])
    caption = (
        "Accuracy and loss with dropout on the fully connected layers while testing, beside Table 5.3 of the text; means "
        "over seeds and draws. The last column of ours is how far the draws of one network lie apart."
    )
    return [Table("unpruned", caption, columns, lines, basis)]


def _one(group: DataFrame, threshold: float, basis: Basis) -> list[Block]:
    """Lines by layer, one for each rate, and the change that dropout makes, as Figures 5.17 and 5.18."""
    named = group.assign(dropout=[f"{rate:g}" for rate in group["rate"]])
    none = group[group["rate"] == group["rate"].min()].set_index(["seed", "step"])
    keys = list(zip(named["seed"], named["step"], strict=True))
    named["change"] = 100 * (named["accuracy"].to_numpy() - none.loc[keys, "accuracy"].to_numpy())
    label, name = f"{100 * threshold:g} %", f"{100 * threshold:g}".replace(".", "-")
    blocks: list[Block] = []
    for value, words in (("accuracy", "Test accuracy"), ("loss", "Test loss")):
        drawn = figures.path(
            named,
            step="step",
            value=value,
            by="dropout",
            label=("Convolution", words),
            look=styles(named["dropout"]),
            share=value == "accuracy",
            logarithmic=value == "loss",
        )
        caption = f"{words} with {label} of the energy of one layer removed, by layer and rate of dropout."
        alt = f"One line for each rate of dropout over the convolutions. {_gains(named)}"
        data = named[["dropout", "step", "seed", value]]
        blocks.append(Picture(f"{value}-{name}", drawn, caption, alt, basis, data))
    table = named.pivot_table(index="dropout", columns="step", values="change", sort=False)
    drawn = figures.heatmap(
        table,
        label="Change (points)",
        axes_labels=("Convolution", "Dropout"),
        diverging=True,
        show=lambda value: f"{round(value, 1) + 0.0:+.1f}".replace("-", "−"),
    )
    caption = f"What dropout changes of the accuracy of the networks with {label} removed; blue is a gain."
    said = _gains(named)
    return [said, *blocks, Picture(f"change-{name}", drawn, caption, f"Heat map. {said}", basis, named)]


def _gains(named: DataFrame) -> str:
    """How many layers gain by dropout, in words."""
    means = named[named["rate"] > named["rate"].min()].groupby(["rate", "step"])["change"].mean()
    if not len(means):
        return "No rate of dropout was tried."
    (rate, place), most = means.idxmax(), float(means.max())
    gain = means[means > 0].index.get_level_values("step").nunique()
    return (
        f"{gain} of {means.index.get_level_values('step').nunique()} layers gain at one rate of dropout at least; the most "
        f"is {points(most)} points, convolution {place} at {rate:g}."
    )


def _classes(results: Results, runs: DataFrame, basis: Basis) -> list[Block]:
    first, last = runs["base_rate"].min(), runs["rate"].max()
    whole, named = runs[runs["threshold"] == 0], runs[runs["threshold"] > 0]
    said = f"Dropout of {last:g} beside {first:g}, on the unpruned networks."
    rated = whole.assign(threshold=whole["rate"])
    blocks = class_section(results, rated, basis, "dropout while testing") if len(whole) else []
    more = [
        f"{100 * t:g} %: {mean(g, 'base_accuracy'):.4f} becomes {mean(g, 'accuracy'):.4f}"
        for t, g in named.groupby("threshold")
    ]
    return [f"{said} With a layer pruned at {', at '.join(more)}." if more else said, *blocks]


def _summary(rows: DataFrame) -> list[str]:
    words = []
    for threshold, group in rows.groupby("threshold"):
        means = group.groupby("rate")["accuracy"].mean()
        none, best = float(means.iloc[0]), means.idxmax()
        name = "Unpruned" if threshold == 0 else f"With {100 * threshold:g} % of the energy of one layer removed"
        change = f"{points(100 * (float(means.max()) - none))} points" if best != means.index[0] else "none is better"
        beside = f"the best rate is {best:g} ({change})" if len(means) > 1 else "no other rate was tried"
        words.append(f"{name}: {none:.4f} at a rate of {means.index[0]:g}, {beside}.")
    words.append(
        f"The text finds gains of up to {max(a for _, a in PUBLISHED.values()) - PUBLISHED[0.0][1]:.2f} points by dropout "
        "up to 0.4."
    )
    return words


def _how(results: Results) -> list[str]:
    return [
        "Dropout is switched on while testing, in the fully connected layers, at the rate given; every image has units "
        f"dropped of its own, and the mean is over {results.options['draws']} draws. What is left is scaled by 1 / (1 − "
        "rate), as in training; the text does not say whether its was.",
        "The text's losses at 0 and at 0.5 are both 1.334, with accuracies of 68.14 and 67.84: its table may hold the "
        "network of rate 0.5 twice.",
        "The rates are not chosen here: every one is shown, on test images that nothing was chosen on.",
    ]


STUDY = Study(
    name="janjic-dropout",
    title="Dropout while testing, on VGG-16 whole and with filters pruned by energy",
    source=filters.SOURCE,
    summary="The fully connected layers of VGG-16 drop units at 0 to 0.9 while testing; unpruned, and with each convolution pruned.",
    cells=_cells,
    pages=_pages,
    defaults=DEFAULTS,
)
