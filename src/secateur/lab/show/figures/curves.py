"""Curves over steps: training, and whatever else goes step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.lab.show.figures.base import canvas, check, finish, legend, looks, percents, whole_ticks
from secateur.lab.show.marks import note, tie
from secateur.lab.show.style import INK, MUTED, PALETTE, Style, drawing
from secateur.lab.show.words import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

__all__ = ["individuals", "learning_curves", "path"]


def learning_curves(
    history: DataFrame,
    *,
    epoch: str = "epoch",
    pairs: Mapping[str, tuple[str, str]] | None = None,
    best: str = "validation_loss",
) -> Figure:
    """Draw training and validation curves over epochs: the mean over runs, and their whole range.

    Args:
        history: one row an epoch of a run, as from `Store.histories`.
        epoch: the column of epochs.
        pairs: the panels: title → (training column, validation column); loss and accuracy by default.
        best: the epoch where the mean of this column is least is marked; "" marks none.

    Raises:
        UnknownNameError: the table has no such column.
        InputError: the table is empty.

    >>> import pandas
    >>> rows = {"epoch": [1, 2], "train_loss": [0.9, 0.5], "validation_loss": [0.8, 0.6]}
    >>> figure = learning_curves(pandas.DataFrame(rows), pairs={"Loss": ("train_loss", "validation_loss")})
    >>> [axes.get_title("left") for axes in figure.axes]
    ['Loss']
    """
    pairs = pairs or {
        "Loss": ("train_loss", "validation_loss"),
        "Accuracy": ("train_accuracy", "validation_accuracy"),
    }
    columns = [column for pair in pairs.values() for column in pair]
    check(history, [epoch, *columns, *([best] if best else [])])
    best_epoch = history.groupby(epoch)[best].mean().idxmin() if best else None
    with drawing():
        figure, panels = canvas(3.3, len(pairs))
        for axes, (title, pair) in zip(panels, pairs.items(), strict=True):
            for column, name, colour in zip(pair, ("training", "validation"), PALETTE, strict=False):
                look = Style(colour, *(("o", "-") if name == "validation" else ("s", "--")))
                _curve(axes, history, epoch, column, name, look, title.lower())
            _mark_epoch(axes, best_epoch)
            finish(axes, "Epoch", title, percent="accuracy" in title.lower(), title=title)
            whole_ticks(axes, history[epoch])
        legend(figure, panels[0])
    return figure


def path(
    frame: DataFrame,
    *,
    step: str = "step",
    value: str = "loss",
    by: str = "method",
    label: tuple[str, str] = ("Step", "Loss"),
    look: Mapping[str, Style] | None = None,
    share: bool = False,
    logarithmic: bool = False,
    beside: tuple[str, float] | None = None,
) -> Figure:
    """Draw a value after each step, one line for each name in `by`: the mean over runs, and their whole range.

    For the loss as one unit after another is removed, or a search's fitness over its generations.

    Args:
        frame: one row a step of a run.
        step, value, by: the columns: the steps, the values, and what tells the lines apart.
        label: the horizontal and the vertical axis.
        look: the style of each line (`styles`).
        share: the values are fractions, shown as per cent.
        logarithmic: for values that differ tenfold.
        beside: the label of a second vertical axis, and by how much its values are greater than the first one's.

    Raises:
        UnknownNameError: the table has no such column, or `look` no such name.
        InputError: the table is empty.

    >>> import pandas
    >>> rows = pandas.DataFrame({"method": ["greedy"] * 3, "step": [0, 1, 2], "loss": [0.5, 0.4, 0.45]})
    >>> path(rows).axes[0].lines[0].get_ydata().tolist()
    [0.5, 0.4, 0.45]
    """
    check(frame, [step, value, by])
    look = looks(frame, look, by)
    with drawing():
        figure, (axes,) = canvas(4.0)
        if logarithmic and (frame[value] > 0).any():
            axes.set_yscale("log")
        for name in dict.fromkeys(frame[by]):
            _curve(axes, frame[frame[by] == name], step, value, name, look[name], label[1].lower(), share=share)
        finish(axes, *label, percent=share)
        whole_ticks(axes, frame[step])
        if beside is not None:
            title, shift = beside
            right = axes.secondary_yaxis("right", functions=(partial(np.add, shift), partial(np.add, -shift)))
            right.set_ylabel(title)
        legend(figure, axes)
    return figure


def individuals(
    frame: DataFrame,
    *,
    step: str,
    values: Mapping[str, str],
    by: str = "individual",
    marked: Mapping[str, int] | None = None,
    shares: Sequence[str] = (),
) -> Figure:
    """Draw one thin line for each individual of a population, a panel for each value; those that are marked stand out.

    Args:
        frame: one row for each individual at each step.
        step, by: the columns of steps and of the individuals' numbers.
        values: the panels: column → title.
        marked: words for the legend → the number of the individual.
        shares: the values that are fractions, shown as per cent.

    Raises:
        UnknownNameError: the table has no such column.
        InputError: the table is empty.

    >>> import pandas
    >>> rows = {"generation": [0, 0, 1, 1], "individual": [0, 1, 0, 1], "fitness": [0.0, -1.0, 0.5, 0.2]}
    >>> figure = individuals(pandas.DataFrame(rows), step="generation", values={"fitness": "Fitness"})
    >>> [line.get_ydata().tolist() for line in figure.axes[0].lines]
    [[0.0, 0.5], [-1.0, 0.2]]
    """
    check(frame, [step, by, *values])
    with drawing():
        figure, panels = canvas(3.4, len(values))
        for axes, (value, title) in zip(panels, values.items(), strict=True):
            table = frame.pivot_table(index=step, columns=by, values=value)
            thin = axes.plot(table.index, table.to_numpy(), color=MUTED, linewidth=0.6, alpha=0.55)
            thin[0].set_label("an individual")
            tie("an individual", *thin)
            for place, (name, number_) in enumerate((marked or {}).items()):
                look = Style((*PALETTE[:2], INK)[place % 3], "", ("-", "--", ":")[place % 3])
                _marked(axes, table[number_], step, name, look, value in shares)
            finish(axes, step.capitalize(), title, title=title)
            whole_ticks(axes, table.index)
            if value in shares:
                axes.yaxis.set_major_formatter(percents())
        legend(figure, panels[0])
    return figure


def _marked(axes: Axes, line: Series, step: str, name: str, look: Style, share: bool) -> None:
    """One individual's line that stands out, with its values at the pointer."""
    tie(name, *axes.plot(line.index, line, color=look.colour, linestyle=look.line, linewidth=2.0, label=name))
    for at, value in line.items():
        note(axes, name, (float(at), float(value)), {step: number(at), name: (percent if share else number)(value)})


def _curve(
    axes: Axes,
    history: DataFrame,
    step: str,
    column: str,
    name: str,
    look: Style,
    title: str,
    *,
    share: bool | None = None,
) -> None:
    # A history without accuracies holds None.
    runs = history.assign(**{column: history[column].astype(float)}).groupby(step)[column]
    mean, least, most, n = runs.mean(), runs.min(), runs.max(), runs.count()
    every = max(1, len(mean) // 40)  # markers on more points would be a thick line
    (line,) = axes.plot(
        mean.index,
        mean,
        color=look.colour,
        linestyle=look.line,
        marker=look.marker,
        markersize=3.5,
        markevery=every,
        label=name,
    )
    band = axes.fill_between(mean.index, least, most, color=look.colour, alpha=0.18, linewidth=0)
    tie(name, line, band)
    show = percent if ("accuracy" in title if share is None else share) else number
    for at in mean.index:
        words = {step: number(at), title: show(mean[at])}
        words |= {"range": f"{show(least[at])} to {show(most[at])}", "runs": f"{n[at]}"} if n[at] > 1 else {}
        note(axes, name, (float(at), float(mean[at])), words)


def _mark_epoch(axes: Axes, epoch: Any) -> None:
    if epoch is not None:
        name = f"best epoch on average ({epoch:g})"
        tie(name, axes.axvline(epoch, color=MUTED, linestyle=":", linewidth=1.4, label=name))
