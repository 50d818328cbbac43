"""The report of the sum of two numbers: nodes left, what the losses came to, and what the first steps do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Block, Card, Column, Picture, Section, Table
from secateur.lab.show.sections import pick
from secateur.lab.show.style import styles
from secateur.lab.show.words import formatted, named
from secateur.studies.kit.grouped import Mean, grouped
from secateur.studies.kit.parts import Part
from secateur.studies.kit.published import published

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["NOTES", "OPTIMUM_LOSS", "OPTIMUM_OFF", "at_optimum", "cards", "sections", "words"]

OPTIMUM_LOSS, OPTIMUM_OFF = 1e-6, 0.01
"""The known optimum is reached with a lower loss, one node, and each entry of w₁·w₂ nearer to 1."""

NOTES = (
    "A cycle trains ({epochs} passes over {samples} pairs of numbers between {low} and 1 in batches of {batch_size}), "
    "counts for each node how often it fires on them, and really cuts those that the way's threshold names; the "
    "optimiser's moments go on with the nodes that stay. It ends when nothing was cut (in three cycles on end where "
    "chance has a hand in it), or before a cycle that would leave no node. The text has 1,000,000 pairs and leaves open how "
    "many epochs a cycle has.",
    "Readings. The text names no initialisation of this network; weights are drawn from a standard normal, what the "
    "author's framework drew unless told otherwise, biases are zero; 'small weights' are its other networks': a normal of "
    "0.1, truncated at 0.2. Of the distortion it gives rand(shape) · (1 − var(w)) with values between −1 and 1, and not "
    "what is done with it: both readings, multiplied and added, have a row. Before the first cycle nothing is distorted.",
    "Nor does it say whether biases are disturbed. Left alone they keep a node firing however small its weights become, so "
    "that distortion comes to a stop; 'biases too' disturbs all parameters. Both it and 'patient' wait for twelve cycles "
    "that remove nothing instead of three: what each of the two changes is seen side by side.",
    "With no negative inputs the nodes of which both weights are negative, a quarter, never fire from the beginning; they are "
    "among those that the first cycle cuts.",
    "Where a penalty draws weights to zero, they do not come to rest there but tremble about it by the learning rate, so "
    "activations up to 0.05 count as zero in those ways.",
    "After the cycles every network is trained on without penalty and distortion ({settle} passes, Adam, its rate going "
    "to zero along a cosine); the loss before and after is that on 100,000 fresh pairs of the same range. The known optimum: "
    "one node, a loss below 10⁻⁶, and both entries of w₁·w₂ within 1 % of 1.",
)


def at_optimum(rows: DataFrame) -> DataFrame:
    """Return the rows of networks that are at the known optimum."""
    return rows[(rows["left"] == 1) & (rows["settled_loss"] < OPTIMUM_LOSS) & (rows["off"] < OPTIMUM_OFF)]


def sections(part: Part) -> list[Section]:
    """Return the sections of the report."""
    cells = part.kind("cycle")
    history = part.histories[part.histories["id"].isin(cells["id"])]
    history = history.merge(cells[["id"]], on="id")
    return [
        Section("Nodes left", [_table(part, cells), *_by_cycle(part, cells, pick(history, phase="cycles"))]),
        Section("What kills the nodes", _first_steps(part, cells, pick(history, phase="steps"))),
        Section("Where the gradients point", _gradients(part, cells, history)),
        Section("What is left", [_weights(part, cells)]),
    ]


def _table(part: Part, cells: DataFrame) -> Table:
    first, left = published("calli")["sum"]["first"], published("calli")["sum"]["second"]
    columns = [
        Mean(lambda rows: _spread(rows["first"]), Column("cut by the first cycle")),
        Mean("second", Column("by the second", format=".1f")),
        Mean("cycles_done", Column("cycles", format=".1f")),
        Mean(lambda rows: _spread(rows["left"]), Column("nodes left")),
        Mean(lambda rows: int((rows["left"] == 1).sum()), Column("networks of one node")),
        Mean(lambda rows: len(at_optimum(rows)), Column("at the known optimum")),
        Mean(lambda rows: float(rows["loss"].median()), Column("loss, median", format=".1e")),
        Mean(lambda rows: float(rows["settled_loss"].median()), Column("trained on, median", format=".1e")),
    ]
    caption = (
        f"Of {part.options['hidden']} nodes, {cells['seed'].nunique()} networks a way: median, and least to greatest. The "
        f"text cuts about {first} in the first cycle without distortion, and {left} in the second."
    )
    return grouped(cells, "left", caption, {"way": Column("way")}, columns, part.basis(cells, "fresh samples"))


def _spread(values: DataFrame) -> str:
    if len(values) == 1:
        return formatted(values.iloc[0], ".0f")
    return f"{formatted(values.median(), '.0f')} ({formatted(values.min(), '.0f')} to {formatted(values.max(), '.0f')})"


def _by_cycle(part: Part, cells: DataFrame, history: DataFrame) -> list[Block]:
    if not len(history):
        return []
    drawing = figures.path(
        history, value="nodes", by="way", label=("Cycle", "Nodes left"), look=styles(cells["way"]), logarithmic=True
    )
    ends = cells.groupby("way", sort=False)["left"].median()
    alt = (
        "Nodes by cycle; in the median the ways end at "
        + ", ".join(f"{w}: {formatted(n, '.0f')}" for w, n in ends.items())
        + "."
    )
    caption = "Nodes left after each cycle: mean and range of the networks that got so far."
    return [
        Picture("nodes-by-cycle", drawing, caption, alt, part.basis(cells), history[["way", "seed", "step", "nodes"]])
    ]


def _first_steps(part: Part, cells: DataFrame, history: DataFrame) -> list[Block]:
    history = history[history["way"].isin(["vanilla", "small weights"])]
    if not len(history):
        return []
    blocks: list[Block] = []
    for value, label, words_ in (
        ("nodes", "Nodes that fire anywhere", "How many nodes fire anywhere in the inputs' square"),
        ("largest", "Greatest parameter", "The greatest absolute value among weights and biases"),
    ):
        drawing = figures.path(history, value=value, by="way", label=("Step", label), logarithmic=True)
        last = history[history["step"] == history["step"].max()].groupby("way")[value].mean()
        alt = f"{label} at the last step shown: " + named(last, ".3g") + "."
        caption = f"{words_} after each of the first steps: mean and range."
        data = history[["way", "seed", "step", value]]
        blocks.append(Picture(f"first-steps-{value}", drawing, caption, alt, part.basis(cells), data))
    return blocks


def _gradients(part: Part, cells: DataFrame, history: DataFrame) -> list[Block]:
    steps = pick(history, phase="steps").dropna(subset="positive")
    steps = steps[steps["way"].isin(["vanilla", "small weights"])]
    if not len(steps):
        return []
    drawing = figures.path(steps, value="positive", by="way", label=("Step", "Share that is positive"), share=True)
    means = steps.groupby("way")["positive"].mean()
    alt = "Of the weights' gradients are positive on average: " + named(means, ".0%")
    caption = (
        "The share of positive entries among the gradients of the weights that are not zero, in each of the first steps: "
        "the text saw them mostly in one direction."
    )
    data = steps[["way", "seed", "step", "positive"]]
    return [Picture("gradients", drawing, caption, f"{alt}.", part.basis(cells), data)]


def _weights(part: Part, cells: DataFrame) -> Table:
    single = cells[cells["left"] == 1]
    rows = [
        [
            row["way"],
            row["seed"],
            *_pair(row["w1"]),
            row["b1"],
            row["w2"],
            row["b2"],
            *_pair(row["product"]),
            row["settled_loss"],
        ]
        for row in single.to_dict("records")
    ]
    theirs = published("calli")["sum"]
    rows.insert(
        0,
        ["published, distorted", None, *theirs["w1"], theirs["b1"], theirs["w2"], theirs["b2"], *_times(theirs), None],
    )
    titles = ("way", "seed", "w₁ of i₁", "w₁ of i₂", "b₁", "w₂", "b₂", "w₁·w₂ of i₁", "of i₂")
    columns = [
        *(Column(title, format="" if title in ("way", "seed") else ".4f") for title in titles),
        Column("loss", format=".1e"),
    ]
    return Table(
        "weights",
        "The networks of one node, trained on, and the one that the text prints.",
        columns,
        rows,
        part.basis(single),
    )


def _pair(values: object) -> list[float | None]:
    return list(values) if isinstance(values, list) else [None, None]


def _times(theirs: dict[str, object]) -> list[float]:
    w1, w2 = theirs["w1"], theirs["w2"]
    assert isinstance(w1, list)
    assert isinstance(w2, float)
    return [w * w2 for w in w1]


def words(part: Part) -> list[str]:
    """Return the summary."""
    cells = part.kind("cycle")
    sentences = []
    for way in dict.fromkeys(cells["way"]):
        rows = pick(cells, way=way)
        sentences.append(
            f"{way}: the first cycle cuts {_spread(rows['first'])} of {part.options['hidden']} nodes, the second "
            f"{formatted(rows['second'].mean(), '.1f')}; {_spread(rows['left'])} are left; {int((rows['left'] == 1).sum())} of {len(rows)} "
            f"network{'s' * (len(rows) != 1)} end{'s' * (len(rows) == 1)} at one node, {len(at_optimum(rows))} at the known optimum; median loss {formatted(rows['loss'].median(), '.1e')}, "
            f"trained on {formatted(rows['settled_loss'].median(), '.1e')}."
        )
    return sentences


def cards(part: Part) -> list[Card]:
    """Return the cards."""
    cells = part.kind("cycle")
    best = max(dict.fromkeys(cells["way"]), key=lambda way: len(at_optimum(pick(cells, way=way))))
    rows = pick(cells, way=best)
    optimum = Card("at the known optimum", f"{len(at_optimum(rows))} of {len(rows)}", f"networks, {best}")
    vanilla = pick(cells, way="vanilla")
    return [optimum, *([Card("first cycle, vanilla", _spread(vanilla["first"]), "nodes cut")] if len(vanilla) else [])]
