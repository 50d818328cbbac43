"""Bars: each class before and after, and means with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from secateur.lab.show.figures.base import canvas, check, finish, interval, legend, looks, percents
from secateur.lab.show.marks import note, tie
from secateur.lab.show.stats import describe
from secateur.lab.show.style import MUTED, PALETTE, PAPER, Style, drawing
from secateur.lab.show.words import number, percent, points
from secateur.types import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["bars_with_intervals", "class_bars"]


def class_bars(
    classes: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    *,
    names: tuple[str, str] = ("before", "after"),
    label: str = "Test accuracy",
    notes: Sequence[str] = (),
) -> Figure:
    """Draw each class's accuracy before and after, with the change in percentage points.

    Args:
        classes: the classes' names.
        before, after: accuracies as fractions, one a class; nan where a class has no sample.
        names: what the two are called.
        label: the horizontal axis.
        notes: words on each class's change, such as its interval, shown at the pointer.

    Raises:
        InputError: the three lengths differ, or are zero.

    >>> figure = class_bars(["cat", "dog"], [0.9, 0.8], [0.85, 0.82])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['−5.0', '+2.0']
    """
    if not len(classes) == len(before) == len(after) or not len(classes):
        raise InputError(
            f"one value a class is needed, got {len(classes)} classes, {len(before)} before and {len(after)} after"
        )
    places = range(len(classes))
    with drawing():
        figure, (axes,) = canvas(0.9 + 0.36 * len(classes))
        old = axes.barh([p - 0.19 for p in places], before, 0.36, label=names[0], color=PAPER, edgecolor=MUTED)
        new = axes.barh([p + 0.19 for p in places], after, 0.36, label=names[1], color=PALETTE[0])
        tie(names[0], *old.patches)
        tie(names[1], *new.patches)
        for place, values in enumerate(zip(classes, before, after, strict=True)):
            _class(axes, place, values, names, notes[place] if notes else "")
        finish(axes, label, "")
        axes.xaxis.set_major_formatter(percents())
        _rows(axes, classes)
        axes.set_xlim(0, 1.1)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        legend(figure, axes)
    return figure


def bars_with_intervals(
    frame: DataFrame,
    *,
    value: str,
    category: str = "method",
    by: str | None = None,
    label: str = "",
    look: Mapping[str, Style] | None = None,
    share: bool = False,
) -> Figure:
    """Draw the mean of each category with its 95 % interval, one bar for each name in `by`.

    Args:
        frame: one row a run.
        value: the column whose means are drawn.
        category: the column that names the rows, in the order of the table.
        by: the column that tells the bars of one row apart; one bar a row when None.
        label: the horizontal axis; `value` when empty.
        look: the style of each name in `by` (`styles`).
        share: the values are fractions, shown as per cent.

    Raises:
        UnknownNameError: the table has no such column, or `look` no such name.
        InputError: the table is empty.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1", "l1", "l2"], "loss": [0.4, 0.6, 0.7]})
    >>> [float(bar.get_width().round(2)) for bar in bars_with_intervals(runs, value="loss").axes[0].patches]
    [0.5, 0.7]
    """
    check(frame, [category, value, *([by] if by else [])])
    key = by or category
    look = looks(frame, look, key) if by else {name: Style(PALETTE[0], "o", "-") for name in frame[category]}
    table = describe(frame, list(dict.fromkeys([category, key])), [value])
    rows, names = list(dict.fromkeys(frame[category])), list(dict.fromkeys(frame[key])) if by else [None]
    with drawing():
        figure, (axes,) = canvas(0.9 + max(0.36, 0.2 * len(names) + 0.1) * len(rows))
        for position, name in enumerate(names):
            series_rows = table if name is None else table[table[key] == name]
            shift = (position - (len(names) - 1) / 2) * 0.8 / len(names)
            for row in series_rows.to_dict("records"):
                _bar(
                    axes,
                    rows.index(row[category]) + shift,
                    0.72 / len(names),
                    row,
                    value,
                    (row[key], look[row[key]]),
                    share,
                )
        finish(axes, label or value, "")
        if share:
            axes.xaxis.set_major_formatter(percents())
        _rows(axes, [str(row) for row in rows])
        if by:
            legend(figure, axes)
    return figure


def _class(axes: Axes, place: int, values: tuple[str, float, float], names: tuple[str, str], words: str) -> None:
    title, old, new = values
    change = ""
    if math.isfinite(old) and math.isfinite(new):
        change = points(100 * (new - old), 1)
        axes.text(max(old, new) + 0.012, place, change, va="center", fontsize=9, color=MUTED)
    for name, value, middle in ((names[0], old, place - 0.19), (names[1], new, place + 0.19)):
        facts = {"class": title, "accuracy": percent(value), "change": f"{change} points {words}".strip()}
        note(axes, name, (0.0, middle - 0.18), facts, to=(value, middle + 0.18))


def _bar(
    axes: Axes,
    place: float,
    height: float,
    row: Mapping[str, float],
    value: str,
    named: tuple[object, Style],
    share: bool,
) -> None:
    mean, high, series = row[value], row[f"{value}.high"], str(named[0])
    label = series if series not in axes.get_legend_handles_labels()[1] else None
    bar = axes.barh([place], [mean], height, color=named[1].colour, label=label)
    tie(series, *bar.patches)
    if high == high:
        _line, caps, bars = axes.errorbar([mean], [place], xerr=[high - mean], fmt="none", ecolor=MUTED, capsize=3)
        tie(series, *caps, *bars)
    words = {"value": series} | interval(row, value, percent if share else number)
    note(axes, series, (min(0.0, mean), place - height / 2), words, to=(max(0.0, mean), place + height / 2))


def _rows(axes: Axes, titles: Sequence[str]) -> None:
    axes.set_yticks(list(range(len(titles))), list(titles))
    axes.set_ylim(len(titles) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
