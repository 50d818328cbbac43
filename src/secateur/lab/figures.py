"""The figures of a study, each drawn from a table and nothing else.

Every function takes plain numbers and returns a matplotlib figure, which belongs to no window.
Colours follow the method: make one table with `secateur.lab.style.styles` and pass it to every figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.stats import describe
from secateur.lab.style import INK, MUTED, PALETTE, PAPER, Style, drawing, styles
from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["accuracy_by_sparsity", "class_bars", "learning_curves", "loss_by_sparsity", "trade_off"]

_HOLLOW: Mapping[str, Any] = {"markersize": 8.5, "markerfacecolor": "none", "markeredgewidth": 1.4}
_WIDTH = 7.2  # inches; at 700 pixels a page shows 10 points as 13 pixels


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
    _check(history, [epoch, *columns, *([best] if best else [])])
    chosen = history.groupby(epoch)[best].mean().idxmin() if best else None
    with drawing():
        figure, panels = _canvas(3.3, len(pairs))
        for axes, (title, pair) in zip(panels, pairs.items(), strict=True):
            for column, name, colour in zip(pair, ("training", "validation"), PALETTE, strict=False):
                _curve(axes, history, epoch, column, name, colour)
            _mark_epoch(axes, chosen)
            _finish(axes, "Epoch", title, percent="accuracy" in title.lower(), title=title)
            axes.xaxis.set_major_locator(require("matplotlib.ticker", "lab").MaxNLocator(8, integer=True))
        _legend(figure, panels[0])
    return figure


def accuracy_by_sparsity(
    frame: DataFrame,
    *,
    value: str = "accuracy",
    published: DataFrame | None = None,
    baseline: float | None = None,
    look: Mapping[str, Style] | None = None,
    label: str = "Test accuracy",
) -> Figure:
    """Draw accuracy over sparsity, one line a method: the mean over runs and its 95 % confidence band.

    Args:
        frame: one row a run with the columns ``method``, ``sparsity`` (a fraction) and `value` (a fraction).
        value: the column to draw.
        published: the published points, with the same columns; hollow markers.
        baseline: the unpruned model's value; a dashed line.
        look: the style of each method (`styles`).
        label: the vertical axis.

    Raises:
        UnknownNameError: the table has no such column, or `look` no such method.
        InputError: the table is empty.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1"] * 2, "sparsity": [0.2, 0.9], "accuracy": [0.9, 0.5]})
    >>> accuracy_by_sparsity(runs, baseline=0.91).axes[0].get_xlabel()
    'Sparsity: part removed (%)'
    """
    return _sweep(frame, value, published, baseline, look, label, percent=True, logarithmic=False)


def loss_by_sparsity(
    frame: DataFrame,
    *,
    value: str = "loss",
    published: DataFrame | None = None,
    baseline: float | None = None,
    look: Mapping[str, Style] | None = None,
    label: str = "Test loss",
    logarithmic: bool = False,
) -> Figure:
    """Draw loss over sparsity, as `accuracy_by_sparsity` does; `logarithmic` for a wide range."""
    return _sweep(frame, value, published, baseline, look, label, percent=False, logarithmic=logarithmic)


def trade_off(
    frame: DataFrame,
    *,
    cost: str,
    label: str,
    value: str = "accuracy",
    value_label: str = "Test accuracy",
    baseline: tuple[float, float] | None = None,
    look: Mapping[str, Style] | None = None,
    logarithmic: bool = False,
) -> Figure:
    """Draw what accuracy a cost buys: one series a method, each point the mean at one sparsity.

    Args:
        frame: one row a run with the columns ``method``, ``sparsity``, `cost` and `value` (a fraction).
        cost: the column of costs: latency, bytes, MACs, in the unit that `label` names.
        label: the horizontal axis, such as ``"Latency (ms)"``.
        value: the column of accuracies.
        value_label: the vertical axis.
        baseline: the unpruned model's (cost, value).
        look: the style of each method (`styles`).
        logarithmic: for costs that differ tenfold.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1"], "sparsity": [0.5], "ms": [2.0], "accuracy": [0.8]})
    >>> [text.get_text() for text in trade_off(runs, cost="ms", label="Latency (ms)").axes[0].texts]
    ['50 %']
    """
    _check(frame, ["method", "sparsity", cost, value])
    look = _looks(frame, look)
    table = describe(frame, ["method", "sparsity"], [cost, value])
    with drawing():
        figure, (axes,) = _canvas(4.2)
        if logarithmic:
            axes.set_xscale("log")
        for method in dict.fromkeys(frame["method"]):
            group, style = table[table["method"] == method], look[method]
            axes.plot(
                group[cost],
                group[value],
                color=style.colour,
                marker=style.marker,
                linestyle=style.line,
                linewidth=1.2,
                label=method,
            )
        if baseline:
            axes.plot(*baseline, marker="*", markersize=12, color=INK, linestyle="none", label="unpruned")
        _finish(axes, label, value_label, percent=True)
        _annotate(axes, table, cost, value)
        _legend(figure, axes)
    return figure


def class_bars(
    classes: Sequence[str],
    before: Sequence[float],
    after: Sequence[float],
    *,
    names: tuple[str, str] = ("before", "after"),
    label: str = "Test accuracy",
) -> Figure:
    """Draw each class's accuracy before and after, with the change in percentage points.

    Args:
        classes: the classes' names.
        before, after: accuracies as fractions, one a class; nan where a class has no sample.
        names: what the two are called.
        label: the horizontal axis.

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
        figure, (axes,) = _canvas(0.9 + 0.36 * len(classes))
        axes.barh([p - 0.19 for p in places], before, 0.36, label=names[0], color=PAPER, edgecolor=MUTED)
        axes.barh([p + 0.19 for p in places], after, 0.36, label=names[1], color=PALETTE[0])
        for place, old, new in zip(places, before, after, strict=True):
            _change(axes, place, old, new)
        _finish(axes, label, "", percent=False)
        axes.xaxis.set_major_formatter(require("matplotlib.ticker", "lab").PercentFormatter(1.0, symbol=" %"))
        axes.set_yticks(list(places), list(classes))
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlim(0, 1.1)
        axes.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        _legend(figure, axes)
    return figure


def _sweep(
    frame: DataFrame,
    value: str,
    published: DataFrame | None,
    baseline: float | None,
    look: Mapping[str, Style] | None,
    label: str,
    *,
    percent: bool,
    logarithmic: bool,
) -> Figure:
    _check(frame, ["method", "sparsity", value])
    look = _looks(frame, look)
    table = describe(frame, ["method", "sparsity"], [value])
    with drawing():
        figure, (axes,) = _canvas(4.0)
        if baseline is not None:
            axes.axhline(baseline, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.2, label="unpruned")
        for method in dict.fromkeys(frame["method"]):
            _band(axes, table[table["method"] == method], value, method, look[method])
        if published is not None:
            _published(axes, published, value, look)
        _limits(axes, [table[value], [] if published is None else published[value], [baseline]], logarithmic)
        _finish(axes, "Sparsity: part removed (%)", label, percent=percent)
        _legend(figure, axes)
    return figure


def _canvas(height: float, panels: int = 1) -> tuple[Figure, list[Axes]]:
    made = require("matplotlib.figure", "lab").Figure(figsize=(_WIDTH, height), layout="constrained")
    made.get_layout_engine().set(w_pad=0.06, h_pad=0.06, wspace=0.06)
    return made, list(made.subplots(1, panels, squeeze=False)[0])


def _finish(axes: Axes, x: str, y: str, *, percent: bool, title: str = "") -> None:
    axes.set_xlabel(x)
    if title:
        axes.set_title(title)
    else:
        axes.set_ylabel(y)
    axes.tick_params(length=3)
    ticker = require("matplotlib.ticker", "lab")
    if percent:
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1.0, symbol=" %"))
    for axis, scale in ((axes.xaxis, axes.get_xscale()), (axes.yaxis, axes.get_yscale())):
        if scale == "log":
            # Plain numbers at 1, 2, 5: the default spells powers in TeX, and often labels one tick alone.
            axis.set_major_locator(ticker.LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(ticker.FuncFormatter(lambda number, _: f"{number:g}"))
            axis.set_minor_formatter(ticker.NullFormatter())


def _legend(figure: Figure, axes: Axes) -> None:
    table = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    # What is compared first, then what it is compared with, in rows: matplotlib fills column by column.
    names = sorted(table, key=lambda name: (name == "published", name == "unpruned"))
    # As many columns as fit the width: about 96 characters, with seven for each handle.
    columns = max(1, min(5, len(names), 96 // (7 + max(map(len, names), default=0))))
    names = [name for column in range(columns) for name in names[column::columns]]
    handles = [table[name] for name in names]
    figure.legend(handles, names, loc="outside upper left", ncols=columns, handlelength=2.2)


def _curve(axes: Axes, history: DataFrame, epoch: str, column: str, name: str, colour: str) -> None:
    runs = history.groupby(epoch)[column]
    mean = runs.mean()
    axes.fill_between(mean.index, runs.min(), runs.max(), color=colour, alpha=0.18, linewidth=0)
    line, marker = ("-", "o") if name == "validation" else ("--", "s")
    axes.plot(mean.index, mean, color=colour, linestyle=line, marker=marker, markersize=3.5, label=name)


def _mark_epoch(axes: Axes, epoch: float | None) -> None:
    if epoch is not None:
        axes.axvline(epoch, color=MUTED, linestyle=":", linewidth=1.4, label=f"best epoch on average ({epoch:g})")


def _band(axes: Axes, table: DataFrame, value: str, method: str, style: Style) -> None:
    x = 100 * table["sparsity"]
    axes.fill_between(x, table[f"{value}.low"], table[f"{value}.high"], color=style.colour, alpha=0.18, linewidth=0)
    axes.plot(x, table[value], color=style.colour, marker=style.marker, linestyle=style.line, label=method)


def _published(axes: Axes, table: DataFrame, value: str, look: Mapping[str, Style]) -> None:
    _check(table, ["method", "sparsity", value], "published table")
    for method, group in table.groupby("method", sort=False):
        if method not in look:
            raise unknown_name("method in the published table", method, look)
        style = look[method]
        axes.plot(
            100 * group["sparsity"],
            group[value],
            color=style.colour,
            marker=style.marker,
            linestyle="none",
            **_HOLLOW,
        )
    # One entry for all: the colours and shapes are the methods' own.
    axes.plot([], [], color=MUTED, marker="o", linestyle="none", label="published", **_HOLLOW)


def _limits(axes: Axes, columns: Sequence[Any], logarithmic: bool) -> None:
    # By the means and points: with three seeds a band may be many times wider than what it surrounds.
    values = [float(v) for column in columns for v in column if v is not None and math.isfinite(v)]
    if logarithmic:
        axes.set_yscale("log")
        values = [value for value in values if value > 0]
    if not values:
        return
    low, high = min(values), max(values)
    if logarithmic:
        axes.set_ylim(low / 1.15, high * 1.15)
    else:
        room = 0.06 * (high - low) or 0.05
        axes.set_ylim(low - room, high + room)


def _annotate(axes: Axes, table: DataFrame, cost: str, value: str) -> None:
    """Write the sparsity at each point that has room for it."""
    axes.margins(0.08)
    axes.autoscale_view()  # or the transforms below still are those of empty axes
    taken: list[tuple[float, float]] = []
    for x, y, sparsity in zip(table[cost], table[value], table["sparsity"], strict=True):
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        if all(abs(place[0] - a) > 0.075 or abs(place[1] - b) > 0.055 for a, b in taken):
            axes.annotate(
                f"{100 * sparsity:g} %",
                (x, y),
                (6, -3),
                textcoords="offset points",
                fontsize=8.5,
                color=MUTED,
                ha="left",
                va="top",
            )
            taken.append((float(place[0]), float(place[1])))


def _change(axes: Axes, place: int, old: float, new: float) -> None:
    if math.isfinite(old) and math.isfinite(new):
        words = f"{100 * (new - old):+.1f}".replace("-", "−")
        axes.text(max(old, new) + 0.012, place, words, va="center", fontsize=9, color=MUTED)


def _looks(frame: DataFrame, look: Mapping[str, Style] | None) -> Mapping[str, Style]:
    methods = list(dict.fromkeys(frame["method"]))
    look = look or styles(methods)
    for method in methods:
        if method not in look:
            raise unknown_name("method without a style", method, look)
    return look


def _check(frame: DataFrame, columns: Sequence[str], what: str = "table") -> None:
    for column in columns:
        if column not in frame.columns:
            raise unknown_name(f"column of the {what}", column, map(str, frame.columns))
    if not len(frame):
        raise InputError(f"the {what} has no rows, so there is nothing to draw; run some cells first")
