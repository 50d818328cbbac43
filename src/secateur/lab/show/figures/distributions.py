"""Distributions: box plots, ridges and histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.files import require
from secateur.lab.show.figures.base import canvas, check, finish, legend, percents
from secateur.lab.show.marks import note, tie
from secateur.lab.show.style import GRID, INK, MUTED, PALETTE, PAPER, Style, drawing, styles
from secateur.lab.show.words import number, percent
from secateur.types import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["box", "histogram", "ridge"]

_QUARTILES = ("min", "25%", "50%", "75%", "max")


def box(
    frame: DataFrame,
    *,
    x: str,
    value: str,
    label: tuple[str, str] = ("", ""),
    published: DataFrame | None = None,
    share: bool = False,
) -> Figure:
    """Draw the distribution of a value at each `x`: the box holds the middle half, its line is the median.

    Whiskers reach to the least and the greatest value, as the published ones can be drawn no other way.

    Args:
        frame: one row a draw.
        x: the column of groups, drawn side by side in rising order.
        value: the column whose distribution is drawn.
        label: the horizontal and the vertical axis; the columns' names when empty.
        published: one row for each `x`, with the columns ``min``, ``25%``, ``50%``, ``75%``, ``max``, as
            pandas' ``describe`` names them; drawn hollow beside ours.
        share: the values are fractions, shown as per cent.

    Raises:
        UnknownNameError: a table lacks a column.
        InputError: a table is empty.

    >>> import pandas
    >>> draws = pandas.DataFrame({"n": [1, 1, 1, 1, 1], "accuracy": [0.1, 0.2, 0.3, 0.4, 0.9]})
    >>> figure = box(draws, x="n", value="accuracy")
    >>> float(figure.axes[0].lines[0].get_ydata()[0])
    0.3
    """
    check(frame, [x, value])
    ours = frame.groupby(x)[value].describe()
    places = {key: place for place, key in enumerate(ours.index)}
    with drawing():
        figure, (axes,) = canvas(4.0)
        shift = 0.0 if published is None else -0.19
        for key, row in ours.iterrows():
            _box(axes, places[key] + shift, row, "ours", Style(PALETTE[0], "", "-"), f"{key}", share)
        if published is not None:
            check(published, [x, *_QUARTILES], "published table")
            for row in published.to_dict("records"):
                if row[x] in places:
                    look = Style(PALETTE[1], "", "-")
                    _box(axes, places[row[x]] + 0.19, row, "published", look, f"{row[x]}", share)
        axes.set_xticks(list(places.values()), [f"{key:g}" if isinstance(key, float) else str(key) for key in places])
        finish(axes, label[0] or x, label[1] or value, percent=share)
        axes.grid(visible=False, axis="x")
        if published is not None:
            legend(figure, axes)
    return figure


def ridge(
    frame: DataFrame, *, group: str, value: str, label: tuple[str, str] = ("", ""), share: bool = False
) -> Figure:
    """Draw one smooth distribution a group, each a little above the last: how a population moves.

    Densities are Gaussian kernel estimates (Scott, 1992), each drawn to the same height. A group whose
    values are all equal is a line.

    Args:
        frame: one row an individual.
        group: the column of groups, such as generations; the first one stands on top.
        value: the column whose distributions are drawn.
        label: the horizontal and the vertical axis; the columns' names when empty.
        share: the values are fractions, shown as per cent.

    Raises:
        UnknownNameError: the table has no such column.
        InputError: the table is empty.

    >>> import pandas
    >>> rows = pandas.DataFrame({"generation": [0, 0, 0, 1, 1, 1], "fitness": [1.0, 2.0, 3.0, 2.0, 2.0, 2.0]})
    >>> [text.get_text() for text in ridge(rows, group="generation", value="fitness").axes[0].get_yticklabels()]
    ['0', '1']
    """
    check(frame, [group, value])
    groups = list(frame.groupby(group, sort=True)[value])
    low, high = frame[value].min(), frame[value].max()
    room = 0.08 * (high - low) or 0.5
    grid = np.linspace(low - room, high + room, 256)
    show = percent if share else number
    with drawing():
        figure, (axes,) = canvas(max(2.4, 0.9 + 0.24 * len(groups)))
        for place, (key, values) in enumerate(groups):
            tops = place - 1.7 * _density(values.to_numpy(float), grid)
            axes.fill_between(grid, place, tops, color=PALETTE[0], alpha=0.75, linewidth=0, zorder=2 + place)
            axes.plot(grid, tops, color=PAPER, linewidth=1.0, zorder=2 + place)
            words = {group: f"{key:g}" if isinstance(key, float) else f"{key}", "mean": show(values.mean())}
            words |= {"range": f"{show(values.min())} to {show(values.max())}", "values": f"{len(values)}"}
            note(axes, str(label[1] or group), (grid[0], place - 0.9), words, to=(grid[-1], place))
        finish(axes, label[0] or value, label[1] or group)
        if share:
            axes.xaxis.set_major_formatter(percents())
        every = max(1, len(groups) // 25)
        axes.set_yticks(range(0, len(groups), every), [str(key) for key, _ in groups[::every]])
        axes.set_ylim(len(groups) - 0.7, -2.0)
        axes.set_xlim(grid[0], grid[-1])
        axes.grid(visible=False, axis="y")
    return figure


def histogram(
    values: Mapping[str, ArrayLike],
    *,
    label: str,
    bins: int | Sequence[float] = 60,
    counts: bool = False,
    most: float | None = None,
    regions: Mapping[str, tuple[float, float]] | None = None,
    look: Mapping[str, Style] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """Draw several histograms on the same bins, as the share of each one's values or as counts.

    Args:
        values: name → numbers, such as weights before and after.
        label: the horizontal axis.
        bins: how many bins span all values; or their edges, for several figures on one scale.
        counts: how many values a bin holds, in place of their share.
        most: the top of the vertical axis, for several figures on one scale.
        regions: name → from, to: ranges to mark, such as important, zero and worse.
        look: the style of each name (`styles`).
        logarithmic: a logarithmic share, for long tails.

    Raises:
        InputError: there are no values, or one is not finite.

    >>> figure = histogram({"before": [0.1, 0.2, 0.3], "after": [0.0, 0.0, 0.3]}, label="weight", bins=3)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['before', 'after']
    """
    arrays = {name: np.asarray(numbers, dtype=float).ravel() for name, numbers in values.items()}
    pooled = np.concatenate([*arrays.values(), np.empty(0)])
    if not len(pooled) or not np.isfinite(pooled).all():
        raise InputError(f"histogram of {label!r}: {len(pooled)} values, all must be finite; give at least one")
    edges, look = np.histogram_bin_edges(pooled, bins), look or styles(arrays)
    with drawing():
        figure, (axes,) = canvas(3.6)
        for name, numbers in arrays.items():
            _steps(axes, edges, numbers, name, look[name], counts)
        if logarithmic:
            axes.set_yscale("log")
        for name, (start, end) in (regions or {}).items():
            axes.axvspan(start, end, color=GRID, alpha=0.6, linewidth=0, zorder=0)
            middle = (max(start, edges[0]) + min(end, edges[-1])) / 2
            axes.text(
                middle,
                1.0,
                name,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
                fontsize=9,
                color=MUTED,
            )
        axes.set_xlim(edges[0], edges[-1])
        if most is not None:
            axes.set_ylim(top=most)
        finish(axes, label, "Number of values" if counts else "Share of the values", percent=not counts)
        legend(figure, axes)
    return figure


def _box(axes: Axes, place: float, row: Any, series: str, look: Style, key: str, share: bool) -> None:
    low, first, middle, third, high = (float(row[name]) for name in _QUARTILES)
    hollow = series == "published"
    label = series if series not in axes.get_legend_handles_labels()[1] else None
    body = axes.bar(
        [place],
        [third - first],
        0.34,
        bottom=first,
        color=PAPER if hollow else look.colour,
        edgecolor=look.colour,
        alpha=1.0 if hollow else 0.55,
        linewidth=1.2,
        label=label,
    )
    (median,) = axes.plot([place - 0.17, place + 0.17], [middle] * 2, color=INK, linewidth=1.8)
    whiskers = [axes.plot([place] * 2, pair, color=look.colour)[0] for pair in ((low, first), (third, high))]
    caps = [axes.plot([place - 0.08, place + 0.08], [end] * 2, color=look.colour)[0] for end in (low, high)]
    tie(series, *body.patches, median, *whiskers, *caps)
    show = percent if share else number
    words = {"at": key, "median": show(middle), "middle half": f"{show(first)} to {show(third)}"}
    words |= {"range": f"{show(low)} to {show(high)}"}
    words |= {"draws": f"{row['count']:.0f}"} if "count" in row and row["count"] == row["count"] else {}
    note(axes, series, (place - 0.18, low), words, to=(place + 0.18, high))


def _density(values: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """A kernel density on the grid, its greatest value 1; where all values are equal, one narrow peak."""
    spread = values.std()
    if spread <= 1e-9 * max(1.0, abs(float(values.mean()))):
        return np.asarray(np.abs(grid - values[0]) <= (grid[1] - grid[0]), dtype=np.float64)
    density = require("scipy.stats", "lab").gaussian_kde(values)(grid)
    return np.asarray(density / density.max(), dtype=np.float64)


def _steps(
    axes: Axes, edges: NDArray[np.float64], numbers: NDArray[np.float64], name: str, look: Style, counts: bool
) -> None:
    in_bins: Sequence[int] = np.histogram(numbers, edges)[0].tolist()
    shares = [count / max(1, len(numbers)) for count in in_bins]
    heights = in_bins if counts else shares
    filled = axes.stairs(heights, edges, fill=True, color=look.colour, alpha=0.22)
    outline = axes.stairs(heights, edges, color=look.colour, linewidth=1.5, linestyle=look.line, label=name)
    tie(name, filled, outline)
    for place, (count, part) in enumerate(zip(in_bins, shares, strict=True)):
        start, end = float(edges[place]), float(edges[place + 1])
        words = {"from": number(start), "to": number(end), "values": f"{count:,}", "share": percent(part)}
        if count:
            note(axes, name, ((start + end) / 2, heights[place]), words)
