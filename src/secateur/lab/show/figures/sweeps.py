"""Accuracy and loss over sparsity, and what accuracy a cost buys."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from secateur.checks import check_name
from secateur.files import require
from secateur.lab.show.figures.base import canvas, check, finish, interval, legend, looks
from secateur.lab.show.marks import note, tie
from secateur.lab.show.stats import describe
from secateur.lab.show.style import INK, MUTED, Style, drawing
from secateur.lab.show.words import number, percent
from secateur.types import InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["accuracy_by_sparsity", "accuracy_panels", "loss_by_sparsity", "trade_off"]

_Show = Callable[[float], str]
Baseline = float | Mapping[str, float] | None
_DASHES = ((4, 3), (1, 2), (6, 2, 1, 2))
_HOLLOW: Mapping[str, Any] = {"markersize": 8.5, "markerfacecolor": "none", "markeredgewidth": 1.4}


def accuracy_by_sparsity(
    frame: DataFrame,
    *,
    value: str = "accuracy",
    published: DataFrame | None = None,
    baseline: Baseline = None,
    look: Mapping[str, Style] | None = None,
    label: str = "Test accuracy",
    density: bool = False,
) -> Figure:
    """Draw accuracy over sparsity, one line a method: the mean over runs and its 95 % confidence band.

    Args:
        frame: one row a run with the columns ``method``, ``sparsity`` (a fraction) and `value` (a fraction).
        value: the column to draw.
        published: the published points, with the same columns; hollow markers.
        baseline: the unpruned model's value, or several by what they are called; dashed lines.
        look: the style of each method (`styles`).
        label: the vertical axis.
        density: draw it over the part that is left, from all of it to the least on a logarithmic axis: for sparsities
            that differ beyond 90 %.

    Raises:
        UnknownNameError: the table has no such column, or `look` no such method.
        InputError: the table is empty.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1"] * 2, "sparsity": [0.2, 0.9], "accuracy": [0.9, 0.5]})
    >>> accuracy_by_sparsity(runs, baseline=0.91).axes[0].get_xlabel()
    'Sparsity: part removed (%)'
    """
    return _sweep(frame, value, published, baseline, look, label, share=True, density=density)


def accuracy_panels(
    frames: Mapping[str, DataFrame], baselines: Mapping[str, Baseline], *, look: Mapping[str, Style] | None = None
) -> Figure:
    """Draw accuracy over sparsity as `accuracy_by_sparsity` does, a panel for each network, with the same axis.

    Args:
        frames: title → one row a run with the columns ``method``, ``sparsity`` and ``accuracy``.
        baselines: title → the unpruned model's accuracy, where it is known; several by what they are called.
        look: the style of each method (`styles`).

    Raises:
        InputError: there is no panel, or one without rows.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1"] * 2, "sparsity": [0.2, 0.9], "accuracy": [0.9, 0.5]})
    >>> [axes.get_title("left") for axes in accuracy_panels({"small": runs, "large": runs}, {}).axes]
    ['small', 'large']
    """
    if not frames:
        raise InputError("accuracy_panels: there is nothing to draw; give at least one table")
    whole = require("pandas", "lab").concat(frames, names=["panel", None]).reset_index("panel")
    look = looks(whole, look)
    with drawing():
        figure, panels = canvas(3.6 if len(frames) > 1 else 4.0, len(frames), share=True)
        for axes, (title, frame) in zip(panels, frames.items(), strict=True):
            _panel(axes, frame, baselines.get(title), look)
            finish(axes, "Sparsity: part removed (%)", "", percent=True, title=title)
        means = whole.groupby(["panel", "method", "sparsity"])["accuracy"].mean()
        _limits(panels[0], [means, *(_named(value).values() for value in baselines.values())], logarithmic=False)
        legend(figure, *panels)
    return figure


def _panel(axes: Axes, frame: DataFrame, baseline: Baseline, look: Mapping[str, Style]) -> None:
    check(frame, ["method", "sparsity", "accuracy"])
    table = describe(frame, ["method", "sparsity"], ["accuracy"])
    _lines(axes, baseline)
    for method in dict.fromkeys(frame["method"]):
        _band(axes, table[table["method"] == method], "accuracy", method, look[method], percent, density=False)


def loss_by_sparsity(
    frame: DataFrame,
    *,
    value: str = "loss",
    published: DataFrame | None = None,
    baseline: Baseline = None,
    look: Mapping[str, Style] | None = None,
    label: str = "Test loss",
    logarithmic: bool = False,
) -> Figure:
    """Draw loss over sparsity, as `accuracy_by_sparsity` does; `logarithmic` for a wide range."""
    return _sweep(frame, value, published, baseline, look, label, share=False, logarithmic=logarithmic)


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
    check(frame, ["method", "sparsity", cost, value])
    look = looks(frame, look)
    table = describe(frame, ["method", "sparsity"], [cost, value])
    with drawing():
        figure, (axes,) = canvas(4.2)
        if logarithmic:
            axes.set_xscale("log")
        for method in dict.fromkeys(frame["method"]):
            group, style = table[table["method"] == method], look[method]
            (line,) = axes.plot(
                group[cost],
                group[value],
                color=style.colour,
                marker=style.marker,
                linestyle=style.line,
                linewidth=1.2,
                label=method,
            )
            tie(method, line)
            for row in group.to_dict("records"):
                words = {"removed": percent(row["sparsity"]), label: number(row[cost])} | interval(row, value, percent)
                note(axes, method, (row[cost], row[value]), words)
        if baseline:
            star = axes.plot(*baseline, marker="*", markersize=12, color=INK, linestyle="none", label="unpruned")
            tie("unpruned", *star)
            note(axes, "unpruned", baseline, {label: number(baseline[0]), value: percent(baseline[1])})
        finish(axes, label, value_label, percent=True)
        _annotate(axes, table, cost, value)
        legend(figure, axes)
    return figure


def _sweep(
    frame: DataFrame,
    value: str,
    published: DataFrame | None,
    baseline: Baseline,
    look: Mapping[str, Style] | None,
    label: str,
    *,
    share: bool,
    logarithmic: bool = False,
    density: bool = False,
) -> Figure:
    check(frame, ["method", "sparsity", value])
    look = looks(frame, look)
    table = describe(frame, ["method", "sparsity"], [value])
    show = percent if share else number
    with drawing():
        figure, (axes,) = canvas(4.0)
        _lines(axes, baseline)
        for method in dict.fromkeys(frame["method"]):
            _band(axes, table[table["method"] == method], value, method, look[method], show, density=density)
        if published is not None:
            _published(axes, published, value, look, show, density=density)
        _limits(
            axes, [table[value], [] if published is None else published[value], _named(baseline).values()], logarithmic
        )
        if density:
            axes.set_xscale("log")
            axes.invert_xaxis()
        finish(axes, "Density: part left (%)" if density else "Sparsity: part removed (%)", label, percent=share)
        legend(figure, axes)
    return figure


def _named(baseline: Baseline) -> Mapping[str, float]:
    """The values of unpruned models by what they are called."""
    if isinstance(baseline, Mapping):
        return baseline
    return {} if baseline is None else {"unpruned": baseline}


def _lines(axes: Axes, baseline: Baseline) -> None:
    """A line across for each unpruned model, each dashed in its own way."""
    for (name, value), dashes in zip(_named(baseline).items(), cycle(_DASHES)):
        tie(name, axes.axhline(value, color=MUTED, linestyle=(0, dashes), linewidth=1.2, label=name))


def _across(sparsity: Any, density: bool) -> Any:
    """Where a sparsity stands on the horizontal axis."""
    return 100 * (1 - sparsity) if density else 100 * sparsity


def _band(axes: Axes, table: DataFrame, value: str, method: str, style: Style, show: _Show, *, density: bool) -> None:
    x, y = _across(table["sparsity"], density), table[value]
    band = axes.fill_between(
        x, table[f"{value}.low"], table[f"{value}.high"], color=style.colour, alpha=0.18, linewidth=0
    )
    (line,) = axes.plot(x, y, color=style.colour, marker=style.marker, linestyle=style.line, label=method)
    tie(method, band, line)
    for row in table.to_dict("records"):
        words = {"removed": percent(row["sparsity"])} | interval(row, value, show)
        note(axes, method, (_across(row["sparsity"], density), row[value]), words)


def _published(
    axes: Axes, table: DataFrame, value: str, look: Mapping[str, Style], show: _Show, *, density: bool
) -> None:
    check(table, ["method", "sparsity", value], "published table")
    for method, group in table.groupby("method", sort=False):
        check_name("method in the published table", method, look)
        style, x = look[method], _across(group["sparsity"], density)
        (points,) = axes.plot(x, group[value], color=style.colour, marker=style.marker, linestyle="none", **_HOLLOW)
        tie((method, "published"), points)
        for sparsity, number_ in zip(group["sparsity"], group[value], strict=True):
            words = {"removed": percent(sparsity), value: show(number_)}
            note(axes, (method, "published"), (_across(sparsity, density), number_), words)
    # One entry for all: the colours and shapes are the methods' own.
    axes.plot([], [], color=MUTED, marker="o", linestyle="none", label="published", **_HOLLOW)


def _limits(axes: Axes, columns: Sequence[Any], logarithmic: bool) -> None:
    # By the means and points: with three seeds a band may be many times wider than what it surrounds.
    values = [float(v) for column in columns for v in column if v is not None and math.isfinite(v)]
    values = [value for value in values if value > 0 or not logarithmic]
    if not values:
        return
    low, high = min(values), max(values)
    if logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.15, high * 1.15)
    else:
        room = 0.06 * (high - low) or 0.05
        axes.set_ylim(low - room, high + room)


def _annotate(axes: Axes, table: DataFrame, cost: str, value: str) -> None:
    """Write the sparsity at each point that has room for it."""
    axes.margins(0.08)
    axes.autoscale_view()  # or the transforms below still are those of empty axes
    places: list[tuple[float, float]] = []
    for x, y, sparsity, method in zip(*(table[name] for name in (cost, value, "sparsity", "method")), strict=True):
        place = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
        if all(abs(place[0] - a) > 0.075 or abs(place[1] - b) > 0.055 for a, b in places):
            words = axes.annotate(
                f"{100 * sparsity:g} %",
                (x, y),
                (6, -3),
                textcoords="offset points",
                fontsize=8.5,
                color=MUTED,
                ha="left",
                va="top",
            )
            tie(method, words)
            places.append((float(place[0]), float(place[1])))
