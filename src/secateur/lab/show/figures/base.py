"""What all figures share: the canvas, the axes' finish, the legend, and the check of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.show import marks
from secateur.lab.show.style import Style, styles
from secateur.lab.show.words import agreeing, number, percent
from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["canvas", "check", "finish", "interval", "legend", "looks", "percents", "plain", "whole_ticks"]

_WIDTH = 7.2  # inches; at 700 pixels a page shows 10 points as 13 pixels
_ENTRY = 0.19
"""Inches of a line of a legend."""


def canvas(height: float, panels: int = 1, *, share: bool = False) -> tuple[Figure, list[Axes]]:
    """Return a figure of the page's width and `height` inches, with its axes side by side."""
    figure = require("matplotlib.figure", "lab").Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.06)
    return figure, list(figure.subplots(1, panels, squeeze=False, sharey=share)[0])


def finish(axes: Axes, x: str, y: str, *, percent: bool = False, title: str = "") -> None:
    """Label the axes; a title stands in place of the vertical label."""
    axes.set_xlabel(x)
    if title:
        axes.set_title(title)
    else:
        axes.set_ylabel(y)
    axes.tick_params(length=3)
    ticker = require("matplotlib.ticker", "lab")
    if percent:
        axes.yaxis.set_major_formatter(percents())
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            # Plain numbers at 1, 2, 5: the default spells powers in TeX, and often labels one tick alone.
            axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(ticker.FuncFormatter(lambda tick, _: plain(tick)))
            axis.set_minor_formatter(ticker.NullFormatter())


def percents() -> Any:
    """Return the formatter that writes fractions as per cent."""
    return require("matplotlib.ticker", "lab").PercentFormatter(1.0, symbol=" %")


def plain(number: float) -> str:
    """Return a number of an axis in few letters, without an exponent.

    >>> plain(0.05), plain(2000), plain(50_000), plain(2_000_000)
    ('0.05', '2000', '50 k', '2 M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= max(size, 1e4):
            return f"{number / size:g} {letter}"
    return f"{number:g}"


def legend(figure: Figure, *panels: Axes) -> None:
    """Put the legend of one or several axes above the figure; its entries can be switched on the page."""
    table: dict[str, Any] = {}
    for axes in panels:
        table |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # What is compared first, then what it is compared with, in rows: matplotlib fills column by column.
    names = sorted(table, key=lambda name: (name == "published", name == "unpruned"))
    for columns in range(max(1, min(5, len(names))), 0, -1):
        in_rows = [name for column in range(columns) for name in names[column::columns]]
        handles = [table[name] for name in in_rows]
        box = figure.legend(handles, in_rows, loc="outside upper left", ncols=columns, handlelength=2.2)
        # A page's letters may be a little wider than those measured here.
        if columns == 1 or box.get_window_extent().width <= 0.95 * figure.bbox.width:
            break
        box.remove()
    # Many entries take no room from what is drawn.
    lines = -(-len(names) // columns)
    figure.set_figheight(figure.get_figheight() + _ENTRY * max(0, lines - 2))
    marks.legend(box)


def whole_ticks(axes: Axes, steps: Iterable[float]) -> None:
    """Put whole numbers at the ticks of the horizontal axis where all steps are whole, as generations are."""
    if all(float(step).is_integer() for step in steps):
        axes.xaxis.set_major_locator(
            require("matplotlib.ticker", "lab").MaxNLocator(8, integer=True, steps=[1, 2, 5, 10])
        )


def interval(row: Mapping[str, Any], value: str, show: Any = number) -> dict[str, str]:
    """Return the words for a mean of `describe`: its interval, in the same digits, where there is one, and how many runs."""
    numbers = (row[value], row[f"{value}.low"], row[f"{value}.high"])
    mean, low, high = [percent(number_, 2) for number_ in numbers] if show is percent else agreeing(*numbers)
    words = {value: mean}
    if numbers[1] == numbers[1]:
        words["95 %"] = f"{low} to {high}"
    return words | {"runs": f"{row[f'{value}.n']:.0f}"}


def looks(frame: DataFrame, look: Mapping[str, Style] | None, by: str = "method") -> Mapping[str, Style]:
    """Return the style of each of the names in column `by`; refuse a name that `look` lacks."""
    names = list(dict.fromkeys(frame[by]))
    look = look or styles(names)
    for name in names:
        if name not in look:  # a name may be a number, as a sparsity is
            raise unknown_name(f"{by} without a style", str(name), map(str, look))
    return look


def check(frame: DataFrame, columns: Sequence[str], what: str = "table") -> None:
    """Refuse a table that lacks a column, or has no rows."""
    for column in columns:
        if column not in frame.columns:
            raise unknown_name(f"column of the {what}", column, map(str, frame.columns))
    if not len(frame):
        raise InputError(f"the {what} has no rows, so there is nothing to draw; run some cells first")
