"""Blocks and sections that any study's report can use: training, sweeps over sparsity, trade-offs.

A study's pages choose the rows, call these, and write the words that are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Block, Card, Column, Picture, Section, Table, Tone
from secateur.lab.show.published import Published
from secateur.lab.show.stats import summarise
from secateur.lab.show.stats.columns import range_of
from secateur.lab.show.style import Style
from secateur.lab.show.words import counted, formatted, spread

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = [
    "by_seed",
    "interval",
    "mean",
    "mean_card",
    "pick",
    "several",
    "sweep",
    "sweep_table",
    "trade_offs",
    "training",
]


def pick(frame: DataFrame, **where: object) -> DataFrame:
    """Return the rows whose columns have these values.

    >>> import pandas
    >>> pick(pandas.DataFrame({"method": ["l1", "l2"], "seed": [0, 0]}), method="l2").index.tolist()
    [1]
    """
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def several(rows: DataFrame) -> bool:
    """Return whether there are runs of more than one seed, so that there are means and intervals of them.

    >>> import pandas
    >>> several(pandas.DataFrame({"seed": [0, 1]})), several(pandas.DataFrame({"seed": [0, 0]}))
    (True, False)
    """
    return "seed" in rows and rows["seed"].nunique() > 1


def mean(frame: DataFrame, column: str) -> float:
    """Return the mean of a column, nan where the column or its values are missing.

    >>> import pandas
    >>> mean(pandas.DataFrame({"loss": [1.0, 2.0]}), "loss"), mean(pandas.DataFrame(), "loss")
    (1.5, nan)
    """
    return float(frame[column].mean()) if column in frame and frame[column].notna().any() else float("nan")


def interval(values: Any, *, within: tuple[float, float] | None = None, shape: str = ".4f") -> str:
    """Return the 95 % interval of a mean in words: its half width; empty where one value shows no spread.

    Args:
        values: one a run.
        within: the range that the mean cannot leave, such as (0, 1) for accuracies; an interval that would pass its end
            ends there, and has both ends.
        shape: the Python format of the mean beside which it stands, so that their digits agree.

    >>> interval([0.88, 0.89, 0.90]), interval([0.88]), interval([0.93, 0.97, 0.99], within=(0, 1), shape=".2f")
    ('± 0.0248', '', '0.89 to 1.00')
    """
    summary = summarise(values, within=within)
    return spread(summary.mean, summary.low, summary.high, shape)


def by_seed(rows: DataFrame, column: str) -> Any:
    """Return the mean of a column for each network, so that an interval is over networks."""
    return rows.groupby("seed")[column].mean()


def mean_card(
    label: str,
    values: Any,
    note: str = "",
    *,
    shape: str = ".4f",
    unit: str = "",
    within: tuple[float, float] | None = None,
) -> Card:
    """Return the card of a mean with its interval; a change whose interval leaves out zero is coloured good or bad.

    Args:
        label, note: as `Card` has them.
        values: one a run; greater is better.
        shape: the Python format; with a sign it is a change.
        unit: what follows the number.
        within: the range that the mean cannot leave.

    >>> card = mean_card("half removed", [-3.0, -3.5, -4.0], shape="+.2f", unit=" points")
    >>> card.value, card.interval, card.tone
    ('−3.50 points', '± 1.24', 'bad')
    >>> mean_card("accuracy", [0.9]).interval
    'one run, no interval'
    """
    summary = summarise(values, within=within)
    words = spread(summary.mean, summary.low, summary.high, shape) if summary.n > 1 else "one run, no interval"
    tone: Tone = ""
    if shape.startswith("+"):
        tone = "good" if summary.low > 0 else "bad" if summary.high < 0 else ""
    return Card(label, f"{formatted(summary.mean, shape)}{unit}", note, words, tone)


def training(
    trained: DataFrame, histories: DataFrame, basis: str | Basis, *, published: Published | None = None
) -> Section:
    """Return the section on the trained networks: one row a seed, their mean where there are several, and learning curves.

    Args:
        trained: one row a network, with ``seed``, ``best_epoch``, ``accuracy``, ``loss`` and ``parameters``.
        histories: their epochs; those of other cells are left out.
        basis: what they were rated on.
        published: a publication, whose unpruned network gets a row.
    """
    columns = [
        Column("seed"),
        Column("best epoch", key="best_epoch"),
        Column("accuracy", format=".4f"),
        Column("loss", format=".4f"),
        Column("parameters", format=",.0f"),
    ]
    caption = "The trained networks, unpruned, at the epoch of lowest validation loss."
    rows = [list(row) for row in Table.of(trained, "baselines", caption, columns).rows]
    if several(trained):
        rows.append(["mean", None, mean(trained, "accuracy"), mean(trained, "loss"), None])
    if published is not None and published.baseline[0] is not None:
        rows.append(["published", None, *published.baseline, None])
    blocks: list[Block] = [Table("baselines", caption, columns, rows, basis)]
    if len(histories):
        blocks += _curves(trained, histories[histories["id"].isin(trained["id"])], basis)
    return Section("Training", blocks)


def sweep(
    frame: DataFrame,
    unpruned: Mapping[str, Mapping[str, float]],
    basis: Basis,
    *,
    look: Mapping[str, Style],
    beside: Mapping[str, str],
    published: Published | None = None,
    training: str = "no retraining",
) -> list[Block]:
    """Return the figures of accuracy and loss over sparsity, with published points hollow beside ours.

    Args:
        frame: one row a run, with ``method``, ``sparsity``, ``seed``, ``accuracy`` and ``loss``.
        unpruned: accuracy and loss of unpruned networks, by what they are called.
        basis: what the values were computed from.
        look: the style of each method.
        beside: method → the name of the unpruned network that it is held against.
        published: the publication's points.
        training: whether there was any after the pruning, in words.
    """
    points = frame[["method", "sparsity", "seed", "accuracy", "loss"]]
    theirs = [None if published is None else published.frame(*which) for which in ((0, "accuracy"), (1, "loss"))]
    hollow = "; hollow markers are the published figures" if published is not None and published.points else ""
    lines = {key: {name: rating[key] for name, rating in unpruned.items()} for key in ("accuracy", "loss")}
    accuracy = figures.accuracy_by_sparsity(points, published=theirs[0], baseline=lines["accuracy"], look=look)
    loss = figures.loss_by_sparsity(points, published=theirs[1], baseline=lines["loss"], look=look, logarithmic=True)
    reach = _said(points, {method: lines["accuracy"][name] for method, name in beside.items()})
    basis = basis.also("mean and 95 % interval of the mean" if several(frame) else "one run, no interval")
    return [
        Picture("accuracy", accuracy, f"Test accuracy by the part removed, {training}{hollow}.", reach, basis, points),
        Picture(
            "loss",
            loss,
            f"Test loss by the part removed, {training}{hollow}.",
            f"Loss by sparsity. {reach}",
            basis,
            points,
        ),
    ]


def sweep_table(
    frame: DataFrame,
    name: str,
    caption: str,
    basis: str | Basis,
    *,
    theirs: Mapping[float, Sequence[float | None]] | None,
) -> Table:
    """Return the table of one method: accuracy and loss at each sparsity, with intervals and published figures.

    Args:
        frame: one row a run of the method.
        name, caption, basis: the table's.
        theirs: sparsity → published accuracy and loss; no such columns when None.
    """
    columns = [
        Column("removed", format=".0%"),
        Column("parameters removed", format=".1%"),
        Column("accuracy", format=".4f"),
        Column("95 %"),
        Column("loss", format=".4f"),
        Column("95 % of loss"),
    ]
    if theirs is not None:
        columns += [Column("accuracy", format=".4f", published=True), Column("loss", format=".4f", published=True)]
    rows = []
    for sparsity, runs in frame.groupby("sparsity"):
        row: list[Any] = [sparsity, mean(runs, "parameters_removed")]
        for value in ("accuracy", "loss"):
            row += [mean(runs, value), interval(runs[value], within=range_of(value, runs[value]))]
        rows.append(row + ([] if theirs is None else list(theirs.get(sparsity) or (None, None))))
    return Table(name, caption, columns, rows, basis)


def trade_offs(
    frame: DataFrame,
    costs: Mapping[str, tuple[str, float, str]],
    accuracy: float,
    basis: str | Basis,
    *,
    look: Mapping[str, Style],
    caption: str = "Points say which part of the units was cut.",
) -> list[Block]:
    """Return one figure for each cost: what accuracy it buys.

    Args:
        frame: one row a run, with ``method``, ``sparsity``, ``accuracy`` and the columns of `costs`.
        costs: column → label of the axis, cost of the unpruned network, name of the figure.
        accuracy: the unpruned network's.
        basis: what the values were computed from.
        look: the style of each method.
        caption: what the points are.
    """
    blocks: list[Block] = []
    for column, (label, before, name) in costs.items():
        drawing = figures.trade_off(
            frame, cost=column, label=label, baseline=(before, accuracy), look=look, logarithmic=True
        )
        words = f"{label[0].lower()}{label[1:]}"
        alt = f"Accuracy against {words}, one line a method; the unpruned network has accuracy {formatted(accuracy, '.4f')} at {before:,.4g}."
        full_caption = f"What accuracy costs: {words}. {caption}"
        blocks.append(Picture(f"trade-off-{name}", drawing, full_caption, alt, basis, frame))
    return blocks


def _curves(trained: DataFrame, history: DataFrame, basis: str | Basis) -> list[Block]:
    if not len(history):
        return []
    drawn = ", mean and range" if several(trained) else ""
    least = "least mean validation loss" if several(trained) else "least validation loss"
    seeds = f"{counted(len(trained), 'seed')}; training and validation images{drawn}"
    where = Basis(seeds, basis.query, basis.cells) if isinstance(basis, Basis) else seeds
    best = history.groupby("epoch")["validation_loss"].mean()
    return [
        Picture(
            "learning-curves",
            figures.learning_curves(history),
            f"Training and validation loss and accuracy by epoch; the dotted line is the epoch of the {least}.",
            f"Line charts of loss and accuracy over {counted(len(best), 'epoch')}; the {least} is that of epoch {best.idxmin()}.",
            where,
            history,
        )
    ]


def _said(frame: DataFrame, bases: Mapping[str, float]) -> str:
    """What the curves show, for those who cannot see them: how far each method goes at a cost of one point."""
    parts = []
    for method in dict.fromkeys(frame["method"]):
        means = frame[frame["method"] == method].groupby("sparsity")["accuracy"].mean()
        means = means[means.index > 0]
        good = means[(means >= bases[method] - 0.01).cummin()]  # as far as no smaller part costs more
        parts.append(f"{method} {formatted(100 * good.index.max(), '.4g')} %" if len(good) else f"{method} none")
    return f"The greatest part that can be removed at a cost of at most one point of accuracy: {', '.join(parts)}."
