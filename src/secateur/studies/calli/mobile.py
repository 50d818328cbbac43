"""E. Çallı, 2017, sections 1.8 and 2.3: networks before and after pruning in the runtimes of mobile devices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from secateur.data import Images
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show.blocks import Card, Column, Section
from secateur.lab.show.sections import mean, mean_card, pick
from secateur.lab.show.words import formatted
from secateur.measure import Bench, bench, evaluate
from secateur.pruning import prune
from secateur.runtimes import RUNTIMES, Int8, Runtime, is_installed
from secateur.studies.calli.common import SOURCE
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.networks import OPTIONS, bases, drawn, example, first, network, split
from secateur.studies.kit.parts import Part, study
from secateur.train import TrainOptions, fit

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch import Tensor

__all__ = ["STUDY"]

KIND = "mobile"
THREAD = [1]
TUNED = TrainOptions(epochs=1, lr=5e-4)

TABLE = (
    *OPTIONS,
    Option(
        "runtimes",
        "text",
        list(RUNTIMES),
        "where networks are run; those that are not installed are left out",
        allowed=tuple(RUNTIMES),
        many="list",
    ),
    Option("sparsities", "part", [0.5, 0.75], "shares of each layer's channels that are cut", many="list"),
    Option("train_images", "count", 3000, "training images, the first ones", least=1),
    Option("rated", "count", 1000, "test images, the first ones", least=1),
    Option("few", "count", 300, "training images that give the ranges of 8 bits, drawn by the seed", least=1),
    Option("repeats", "count", 25, "turns in which both networks are timed", least=3),
)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    return list(_each(name, settled))


def _each(name: str, settled: Mapping[str, Json]) -> Iterator[Cell]:
    shared = {key: settled[key] for key in ("rated", "few", "repeats", "batch_size")}
    for base in bases(name, settled):
        yield base
        for sparsity in settled["sparsities"]:
            for runtime in filter(is_installed, settled["runtimes"]):
                yield base.then(KIND, mobile_cell, {**shared, "sparsity": sparsity, "runtime": runtime})


def mobile_cell(context: Context) -> Outcome:
    """Cut a network, train it on, and run it beside the whole one in one runtime."""
    before, recipe = network(context)
    train, image = split(context, recipe, "train"), example(context, recipe)
    test = first(split(context, recipe, "test"), context["rated"])
    after = _cut(before, image, context["sparsity"], train, context["seed"])
    few = drawn(train, context["few"], context["seed"])
    measured = bench(
        before,
        after,
        image,
        runtimes=[_runtime(context["runtime"], few)],
        threads=THREAD,
        memory=False,
        repeats=context["repeats"],
    )
    accuracies = [evaluate(model, test, batch_size=500).accuracy for model in (before, after)]
    return Outcome({"accuracy_before": accuracies[0], "accuracy": accuracies[1], **_figures(measured)})


def _cut(model: nn.Module, image: Tensor, sparsity: float, train: Images, seed: int) -> nn.Module:
    cut = prune(model, image, "l2", sparsity=sparsity, scope="layer", latency=False, round_to=1).model
    fit(cut, train, options=TUNED, seed=seed)
    return cut.eval()


def _runtime(name: str, few: Images) -> Runtime:
    kind: Any = RUNTIMES[name]
    return kind(data=few) if issubclass(kind, Int8) else name


def _figures(measured: Bench) -> dict[str, Json]:
    (row,) = measured.rows
    figures: dict[str, Json] = {"macs_ratio": measured.macs[0] / measured.macs[1], "problem": row.problem}
    if row.problem:
        return figures
    pairs = {
        "ms": [1e3 * (number or 0) for number in row.seconds],
        "kilobytes": [1e-3 * (number or 0) for number in row.bytes],
    }
    for name, (before, after) in pairs.items():
        figures |= {f"{name}_before": before, f"{name}_after": after}
    return {**figures, "speedup": row.ratio, "faster": row.is_faster}


def _rows(part: Part) -> tuple[DataFrame, DataFrame]:
    """The rows of networks that ran, and of those that a runtime did not take."""
    rows = part.kind(KIND)
    if not len(rows):
        return rows, rows
    return rows[rows["problem"] == ""], rows[rows["problem"] != ""]


def _sections(part: Part) -> list[Section]:
    rows, _ = _rows(part)
    if not len(rows):
        return []
    columns = [
        *(
            Mean(name, Column(title, format=form))
            for name, title, form in (
                ("ms_before", "ms before", ".3f"),
                ("ms_after", "ms after", ".3f"),
                ("speedup", "speedup", ".2f"),
                ("macs_ratio", "MACs before ÷ after", ".2f"),
                ("kilobytes_before", "KB before", ",.1f"),
                ("kilobytes_after", "KB after", ",.1f"),
                ("accuracy_before", "accuracy before", ".4f"),
                ("accuracy", "after", ".4f"),
            )
        ),
        Mean(len, Column("networks")),
    ]
    caption = "One image at a time on one thread: medians over turns, means over networks."
    groups = {"sparsity": Column("cut", format=".0%"), "runtime": Column("runtime")}
    table = grouped(rows, "mobile", caption, groups, columns, part.basis(rows, "test images"))
    return [Section("Before and after, by runtime", [table])]


def _words(part: Part) -> list[str]:
    rows, refused = _rows(part)
    sentences = []
    for sparsity in dict.fromkeys(rows["sparsity"]) if len(rows) else ():
        some = pick(rows, sparsity=sparsity)
        speedups = [
            f"{name} {formatted(mean(pick(some, runtime=name), 'speedup'), '.2f')}"
            for name in dict.fromkeys(some["runtime"])
        ]
        head = f"{sparsity:.0%} of the channels cut, {formatted(mean(some, 'macs_ratio'), '.2f')} times fewer MACs"
        sentences.append(f"{head}: times as fast in {', '.join(speedups)}.")
        slow = [name for name in dict.fromkeys(some["runtime"]) if not pick(some, runtime=name)["faster"].any()]
        sentences += [f"Pruning did NOT make it faster in {', '.join(slow)}."] if slow else []
    sentences += [
        f"{name}: {why}." for name, why in dict.fromkeys(zip(refused["runtime"], refused["problem"], strict=True))
    ]
    absent = [name for name in part.options["runtimes"] if name not in set(part.kind(KIND)["runtime"])]
    return sentences + ([f"Not measured, as it is not installed here: {', '.join(absent)}."] if absent else [])


def _cards(part: Part) -> list[Card]:
    rows, _ = _rows(part)
    if not len(rows):
        return []
    best = str(rows.groupby("runtime")["speedup"].mean().idxmax())
    values = pick(rows, runtime=best)["speedup"]
    return [mean_card(f"most felt: {best}", values, "times as fast, over the networks measured", shape=".2f", unit="×")]


STUDY = study(
    "calli-mobile",
    "Before and after pruning in the runtimes of mobile devices",
    "A convolutional network with half and three quarters of its channels cut, run beside the whole one in every runtime that is "
    "installed, in floating point and in 8 bits: time, bytes, multiply–accumulates, accuracy.",
    source=SOURCE,
    options=Options(TABLE).changed(
        seeds=2, epochs=4, batch_size=64, validation=1000, model="conv-4", model_options={"width": 0.5}
    ),
    cells=_cells,
    sections=_sections,
    words=_words,
    cards=_cards,
    notes=(
        "Networks are trained for {epochs} passes over the first {train_images} training images. The channels of the least l2 norm "
        "go, as many of every layer; one pass of training follows. Both networks are exported, compared with torch, and timed in "
        "turns. Files of 8 bits take their ranges from {few} training images, on which they may lose half a point.",
        "The text measures on a telephone; `secateur bench --bundle` makes a folder for one.",
    ),
)
