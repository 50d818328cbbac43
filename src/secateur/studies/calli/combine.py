"""E. Çallı, 2017, the closing question: the smallest network for an accuracy, by combining the ways to make one smaller."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING

from secateur.compression import compress
from secateur.compression.options import Step
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.lab.show import figures
from secateur.lab.show.blocks import Card, Column, Picture, Section, Table
from secateur.lab.show.sections import mean_card, pick
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted
from secateur.lab.show.words import points as change
from secateur.measure import evaluate
from secateur.pruning import Prune
from secateur.studies.calli.common import SOURCE
from secateur.studies.kit.networks import OPTIONS, bases, example, network, split
from secateur.studies.kit.parts import Part, study
from secateur.train import TrainOptions
from secateur.transforms import LowRank, Quantize, Share

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STUDY", "front", "steps_of"]

KIND = "combined"
AXES = ("channels", "low_rank", "weights", "share", "quantise")
"""The options whose values are combined, in the order of the steps; 0 leaves a step out."""

FRONT, OTHERS = "on the front", "others"

TABLE = (
    *OPTIONS,
    Option("channels", "number", [0.0, 0.5], "shares of the channels that are cut", least=0.0, most=0.99, many="list"),
    Option(
        "low_rank", "number", [0.0, 0.5], "shares of the MACs that low rank leaves", least=0.0, most=0.99, many="list"
    ),
    Option("weights", "number", [0.0, 0.8], "shares of the weights that are zeros", least=0.0, most=0.99, many="list"),
    Option("share", "count", [0, 3, 5], "bits of shared weights", least=0, most=8, many="list"),
    Option("quantise", "count", [0, 6], "bits of a weight", least=0, most=8, many="list"),
    Option(
        "drops",
        "number",
        [0.005, 0.01, 0.02],
        "by how much the accuracy may be lower",
        least=0.0,
        most=0.99,
        many="list",
    ),
    Option("train_images", "count", 4000, "training images, the first ones", least=1),
    Option("tune", "count", 2, "passes over the training images after each step", least=1),
)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    return list(_each(name, settled))


def _each(name: str, settled: Mapping[str, Json]) -> Iterator[Cell]:
    shared = {key: settled[key] for key in ("tune", "batch_size")}
    combinations = [dict(zip(AXES, values, strict=True)) for values in product(*(settled[axis] for axis in AXES))]
    for base in bases(name, settled):
        yield base
        for amounts in combinations:
            yield base.then(KIND, combined_cell, {**shared, **amounts})


def steps_of(amounts: Mapping[str, Json]) -> list[Step]:
    """Return the steps of a combination, in the order in which what one did outlives the next.

    >>> [step.kind for step in steps_of({"channels": 0.5, "low_rank": 0, "weights": 0.8, "share": 4, "quantise": 0})]
    ['prune', 'prune', 'share']
    """
    steps: list[Step] = []
    if amounts["channels"]:
        steps.append(Prune("l2", amounts["channels"], scope="layer", round_to=1))
    if amounts["low_rank"]:
        steps.append(LowRank(macs=amounts["low_rank"]))
    if amounts["weights"]:
        steps.append(Prune("magnitude", amounts["weights"], unit="weights", scope="global"))
    if amounts["share"]:
        steps.append(Share(amounts["share"], coder="lzma"))
    if amounts["quantise"]:  # a scale for each channel would make several values of a shared one
        steps.append(Quantize(amounts["quantise"], per="tensor" if amounts["share"] else "channel", coder="lzma"))
    return steps


def combined_cell(context: Context) -> Outcome:
    """Do the steps of one combination to a network, each trained back, and rate what is left."""
    model, recipe = network(context)
    splits = {name: split(context, recipe, name) for name in ("train", "validation", "test")}
    steps, settled = steps_of({axis: context[axis] for axis in AXES}), {"done": 0, "macs_left": 1.0, "bytes_left": 1.0}
    if steps:
        tuning = TrainOptions(epochs=context["tune"], batch_size=context["batch_size"], lr=5e-4)
        result = compress(
            model,
            example(context, recipe),
            None,
            splits["train"],
            splits["validation"],
            steps=steps,
            max_drop=1.0,
            train=tuning,
            finish=tuning,
            runtime="eager",
            seed=context["seed"],
        )
        model, report = result.model, result.report
        macs = report.macs or (1, 1)
        done = sum(step.accepted for step in result.history.steps)
        settled = {"done": done, "macs_left": macs[1] / macs[0], "bytes_left": report.bytes[1] / report.bytes[0]}
    accuracies = {name: evaluate(model, splits[name], batch_size=500).accuracy for name in ("validation", "test")}
    return Outcome(
        {
            "accuracy": accuracies["test"],
            "validation_accuracy": accuracies["validation"],
            "asked": len(steps),
            **settled,
        }
    )


def front(points: DataFrame) -> DataFrame:
    """Return the rows that no other beats in both bytes and accuracy on validation images, by bytes.

    >>> import pandas
    >>> points = pandas.DataFrame({"bytes_left": [0.1, 0.2, 0.3], "validation_accuracy": [0.8, 0.7, 0.9]})
    >>> list(front(points)["bytes_left"])
    [0.1, 0.3]
    """
    ordered = points.sort_values(["bytes_left", "validation_accuracy"], ascending=[True, False])
    earlier = ordered["validation_accuracy"].cummax().shift(fill_value=-1.0)
    return ordered[ordered["validation_accuracy"] > earlier]


def _means(part: Part) -> DataFrame:
    """A row for each combination: the means over networks."""
    rows = part.kind(KIND)
    values = ["accuracy", "validation_accuracy", "macs_left", "bytes_left"]
    points = rows.groupby(list(AXES), sort=False)[values].mean().reset_index()
    return points.assign(combination=[_in_words(row) for row in points.to_dict("records")])


def _in_words(amounts: Mapping[str, Json]) -> str:
    words = {
        "channels": f"{amounts['channels']:.0%} of channels",
        "low_rank": f"low rank to {amounts['low_rank']:.0%}",
        "weights": f"{amounts['weights']:.0%} of weights",
        "share": f"{amounts['share']:.0f} bits shared",
        "quantise": f"{amounts['quantise']:.0f} bits rounded",
    }
    return ", ".join(words[axis] for axis in AXES if amounts[axis]) or "unchanged"


def _smallest(part: Part) -> list[tuple[float, dict[str, Json]]]:
    """For each allowance the combination of the fewest bytes, by accuracy on validation images."""
    points = _means(part)
    before = float(part.trained["accuracy"].mean())
    whole = points[points["combination"] == "unchanged"]
    level = float((whole if len(whole) else points)["validation_accuracy"].max())
    smallest = []
    for drop in part.options["drops"]:
        able = points[points["validation_accuracy"] >= level - drop]
        if len(able):
            best = able.sort_values("bytes_left").iloc[0].to_dict()
            smallest.append((drop, {**best, "lost": before - best["accuracy"]}))
    return smallest


def _table(
    part: Part, name: str, caption: str, first_column: Column, rows: list[tuple[Json, Mapping[str, Json]]]
) -> Table:
    columns = [
        first_column,
        Column("combination"),
        Column("bytes left", format=".2%"),
        Column("MACs left", format=".1%"),
        Column("validation", format=".4f"),
        Column("test", format=".4f"),
    ]
    keys = ("combination", "bytes_left", "macs_left", "validation_accuracy", "accuracy")
    cells = [[head, *(row[key] for key in keys)] for head, row in rows]
    return Table(name, caption, columns, cells, part.basis(part.kind(KIND)))


def _sections(part: Part) -> list[Section]:
    if not len(part.kind(KIND)):
        return []
    points = _means(part)
    best = front(points)
    series = [FRONT if name in set(best["combination"]) else OTHERS for name in points["combination"]]
    points_drawn = points.assign(series=series, left=100 * points["bytes_left"], percent=100 * points["accuracy"])
    label = ("Bytes left (%)", "Test accuracy (%)")
    drawing = figures.scatter(
        points_drawn, x="left", y="percent", by="series", label=label, look=styles(points_drawn["series"])
    )
    alt = f"{len(points)} combinations, {len(best)} of them on the front of bytes and accuracy."
    table = points_drawn[["combination", "series", "left", "percent"]]
    caption = "Combinations by bytes and test accuracy; the front is that of the accuracy on validation images."
    picture = Picture("front", drawing, caption, alt, part.basis(part.kind(KIND)), table)
    numbered = list(enumerate(best.to_dict("records"), 1))
    on_front = _table(part, "front-table", "The front, by bytes.", Column("number"), numbered)
    smallest = _table(
        part,
        "smallest",
        "The fewest bytes for an accuracy: chosen on validation images.",
        Column("may be lower by", format=".1%"),
        list(_smallest(part)),
    )
    return [Section("The smallest network for an accuracy", [smallest, picture, on_front])]


def _words(part: Part) -> list[str]:
    if not len(part.kind(KIND)):
        return []
    points = _means(part)
    sentences = [
        f"For {100 * drop:g} points of accuracy: {row['combination']}, {formatted(1 / row['bytes_left'], '.0f')} times smaller, "
        f"test accuracy {formatted(row['accuracy'], '.1%')} ({change(-100 * row['lost'], 1)} points)."
        for drop, row in _smallest(part)
    ]
    single = [n for n, row in enumerate(points[list(AXES)].to_dict("records")) if sum(map(bool, row.values())) == 1]
    on_front = set(front(points).index)
    some = len(on_front & set(single))
    return [*sentences, f"Of the {len(on_front)} combinations on the front, {some} take a single step."]


def _cards(part: Part) -> list[Card]:
    rows = part.kind(KIND)
    cards = []
    for drop, row in _smallest(part) if len(rows) else []:
        times = 1 / pick(rows, **{axis: row[axis] for axis in AXES})["bytes_left"]
        label, note = f"{100 * drop:g} points", f"smaller: {row['combination']}"
        cards.append(mean_card(label, times, note, shape=".0f", unit=" ×"))
    return cards


STUDY = study(
    "calli-combine",
    "The smallest network for an accuracy",
    "Channels cut, low rank, weights pruned, shared and rounded, in all combinations: bytes, multiply–accumulates and accuracy, "
    "the front of them, and the smallest network for each accuracy.",
    source=SOURCE,
    options=Options(TABLE).changed(seeds=2, epochs=8, batch_size=64, validation=2000, model="lenet-300-100"),
    cells=_cells,
    sections=_sections,
    words=_words,
    cards=_cards,
    notes=(
        "Networks are trained for {epochs} passes over the first {train_images} training images. Each step of a combination is "
        "followed by {tune} passes (Adam, rate 0.0005), with what was done held. Bytes are those of the tensors on disk, indices "
        "coded by lzma. What is smallest, and the front, are chosen by the mean accuracy on validation images; the test accuracy "
        "is told beside.",
        "The text ends with the question what is the smallest network for an accuracy when its ways are combined.",
    ),
)
