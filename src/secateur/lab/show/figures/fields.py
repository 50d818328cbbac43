"""Two dimensions at once: heat maps, and points over contour lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.files import require
from secateur.lab.show.figures.base import canvas, check, finish, legend, looks
from secateur.lab.show.marks import note, tie
from secateur.lab.show.style import MUTED, Style, drawing
from secateur.lab.show.words import number
from secateur.types import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray
    from pandas import DataFrame

__all__ = ["heatmap", "scatter"]

# Apart in hue for every kind of colour vision, and in lightness. Not the palette's own: those change on a dark page.
_DIVERGING = ("#a34700", "#e9a56a", "#f6f5f2", "#74b1d8", "#00507d")
_RISING = ("#f4f8fb", "#8fbfdd", "#23719f", "#08304d")
_BLANK = "#8d9399"
_LETTERS = 300  # cells; with more, numbers could not be read
_VECTORS = 4000  # cells; with more, the drawing would be larger than an image of it


def heatmap(
    table: DataFrame,
    *,
    label: str,
    axes_labels: tuple[str, str] = ("", ""),
    diverging: bool = False,
    falling: bool = False,
    blank: str = "",
    show: Callable[[float], str] = number,
) -> Figure:
    """Draw a table of numbers as coloured cells, with the numbers in them where they fit.

    Args:
        table: the numbers; its index names the rows, its columns the columns.
        label: what the colours say.
        axes_labels: the horizontal and the vertical axis.
        diverging: colours run both ways from zero; for changes.
        falling: low numbers are the good ones, as of a loss: the colours run the other way.
        blank: what cells without a number are; grey, unlike any number, and named in the legend.
        show: how a number is written.

    Raises:
        InputError: the table is empty, or holds no finite number.

    >>> import pandas
    >>> changes = pandas.DataFrame({"cat": [-0.5, 0.0], "dog": [0.1, 0.2]}, index=["weight", "neuron"])
    >>> [text.get_text() for text in heatmap(changes, label="change", diverging=True).axes[0].texts]
    ['−0.5', '0.1', '0', '0.2']
    """
    numbers = table.to_numpy(dtype=float)
    if not np.isfinite(numbers).any():
        raise InputError(f"heat map of {label!r}: there is no finite number in {numbers.size} cells; nothing to draw")
    most = float(np.nanmax(np.abs(np.where(np.isfinite(numbers), numbers, np.nan)))) or 1.0
    finite = numbers[np.isfinite(numbers)]
    limits = (-most, most) if diverging else (float(finite.min()), float(finite.max()))
    colours = require("matplotlib.colors", "lab").LinearSegmentedColormap.from_list(
        "secateur", (_DIVERGING if diverging else _RISING)[:: -1 if falling else 1]
    )
    colours = colours.with_extremes(bad=_BLANK) if blank else colours
    rows, columns = numbers.shape
    with drawing():
        figure, (axes,) = canvas(min(8.0, max(2.2, 1.3 + 0.36 * rows)))
        axes.grid(visible=False)
        mesh = axes.pcolormesh(
            np.ma.masked_invalid(numbers),
            cmap=colours,
            vmin=limits[0],
            vmax=limits[1],
            edgecolors="none" if numbers.size > _VECTORS else "#ffffff01",
            rasterized=numbers.size > _VECTORS,
        )
        _cells(axes, table, numbers, mesh, show)
        _name_cells(axes, table)
        finish(axes, *axes_labels)
        axes.tick_params(length=0)
        bar = figure.colorbar(mesh, ax=axes, label=label, pad=0.015, fraction=0.05, aspect=18)
        bar.outline.set_visible(False)
        if blank:
            axes.bar([0], [0], color=_BLANK, label=blank)  # for the legend alone
            axes.set_xlim(0, columns)
            legend(figure, axes)
        bar.ax.yaxis.set_major_formatter(require("matplotlib.ticker", "lab").FuncFormatter(lambda v, _: show(v)))
    return figure


def scatter(
    frame: DataFrame,
    *,
    x: str,
    y: str,
    by: str = "method",
    label: tuple[str, str] = ("", ""),
    look: Mapping[str, Style] | None = None,
    height: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]] | None = None,
    height_label: str = "height",
    levels: int | Sequence[float] = 8,
) -> Figure:
    """Draw points of several series, over the contour lines of a function of both axes when one is given.

    For solutions on a fitness landscape: `height` gives the fitness of an accuracy and a compression.

    Args:
        frame: one row a point.
        x, y, by: the columns: where the points lie, and what tells the series apart.
        label: the horizontal and the vertical axis; the columns' names when empty.
        look: the style of each series (`styles`).
        height: from arrays of x and y to an array of heights.
        height_label: what the heights are called at the pointer.
        levels: how many contour lines, or their heights.

    Raises:
        UnknownNameError: the table has no such column, or `look` no such name.
        InputError: the table is empty.

    >>> import pandas
    >>> found = pandas.DataFrame({"method": ["ga", "ga"], "points": [0.5, -1.0], "removed": [10.0, 40.0]})
    >>> figure = scatter(found, x="removed", y="points", height=lambda x, y: x + y)
    >>> figure.axes[0].lines[0].get_xydata().tolist()
    [[10.0, 0.5], [40.0, -1.0]]
    """
    check(frame, [x, y, by])
    look = looks(frame, look, by)
    with drawing():
        figure, (axes,) = canvas(4.4)
        for name in dict.fromkeys(frame[by]):
            group, style = frame[frame[by] == name], look[name]
            (points,) = axes.plot(
                group[x], group[y], color=style.colour, marker=style.marker, linestyle="none", alpha=0.8, label=name
            )
            tie(name, points)
            for row in group.to_dict("records"):
                words = {label[0] or x: number(row[x]), label[1] or y: number(row[y])}
                if height is not None:
                    words[height_label] = number(float(height(np.array(row[x]), np.array(row[y]))))
                note(axes, name, (row[x], row[y]), words)
        axes.margins(0.08)
        if height is not None:
            _contours(axes, height, levels)
        finish(axes, label[0] or x, label[1] or y)
        legend(figure, axes)
    return figure


def _cells(axes: Axes, table: DataFrame, numbers: Any, mesh: Any, show: Callable[[float], str]) -> None:
    if numbers.size > _VECTORS:
        return
    for row, column in np.ndindex(*numbers.shape):
        value = float(numbers[row, column])
        words = {str(table.columns[column]): show(value)}
        note(axes, str(table.index[row]), (column, row), words, to=(column + 1, row + 1))
        if numbers.size <= _LETTERS and value == value:
            # Letters in a colour of their own: the page may change the ink, but not the cell under it.
            dark = float(np.dot(mesh.cmap(mesh.norm(value))[:3], (0.2126, 0.7152, 0.0722))) < 0.45
            colour = "#fefefe" if dark else "#101010"
            axes.text(column + 0.5, row + 0.5, show(value), ha="center", va="center", fontsize=8.5, color=colour)


def _name_cells(axes: Axes, table: DataFrame) -> None:
    """Write the names of rows and columns beside the cells, aslant where they would run into each other."""
    rows, columns = table.shape
    places, titles = _ticks(table.columns, columns)
    axes.set_xticks(places, titles)
    if sum(map(len, titles)) > 60:
        axes.tick_params(axis="x", rotation=40)
        for text in axes.get_xticklabels():
            text.set_horizontalalignment("right")
            text.set_rotation_mode("anchor")
    axes.set_yticks(*_ticks(table.index, rows))
    axes.set_ylim(rows, 0)
    axes.spines[:].set_visible(False)


def _ticks(names: Any, count: int) -> tuple[list[float], list[str]]:
    every = max(1, -(-count // 20))
    return [place + 0.5 for place in range(0, count, every)], [str(name) for name in list(names)[::every]]


def _contours(axes: Axes, height: Callable[..., Any], levels: int | Sequence[float]) -> None:
    axes.autoscale_view()
    across, along = (np.linspace(*limits, 80) for limits in (axes.get_xlim(), axes.get_ylim()))
    grid = np.meshgrid(across, along)
    lines = axes.contour(
        *grid, height(*grid), levels=levels, colors=MUTED, linewidths=0.8, linestyles="solid", alpha=0.8, zorder=1
    )
    axes.clabel(lines, fontsize=8, fmt=lambda value: f"{value:g}".replace("-", "−"))
    axes.grid(visible=False)
