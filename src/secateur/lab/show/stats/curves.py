"""Which models are worth having, and whole curves as one number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.files import require
from secateur.lab.show.stats.columns import check_columns, numbers
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["area", "pareto"]

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def pareto(frame: DataFrame, *, maximise: Sequence[str] = (), minimise: Sequence[str] = ()) -> Series[bool]:
    """Say which rows are on the Pareto front: no other row is as good in all columns and better in one.

    Rows that are equal in all columns are on the front together. A row with a missing number is never on it.
    The front is of the numbers as they are: among rows that are single seeds, luck is on it too, so take it
    of means (`describe`).

    Args:
        frame: one row a candidate.
        maximise: the columns of which more is better, such as accuracy.
        minimise: the columns of which less is better, such as latency.

    Returns:
        One bool a row, under the frame's index.

    Raises:
        InputError: no column is given, one is given twice, or one holds no numbers.
        UnknownNameError: the frame has no such column.

    >>> import pandas
    >>> models = pandas.DataFrame({"accuracy": [0.9, 0.8, 0.7], "ms": [3.0, 1.0, 2.0]})
    >>> pareto(models, maximise=["accuracy"], minimise=["ms"]).tolist()
    [True, True, False]
    """
    names = [*maximise, *minimise]
    check_columns(frame, names)
    if not names or len(set(names)) < len(names):
        raise InputError(f"pareto: give each column once, in maximise or in minimise; got {list(names)}")
    # One direction for all: less is better.
    signs = [-1.0] * len(maximise) + [1.0] * len(minimise)
    points = np.stack([sign * numbers(frame, name, "pareto") for sign, name in zip(signs, names, strict=True)], axis=1)
    front: NDArray[np.bool] = np.logical_not(np.isnan(points).any(axis=1))
    rivals = points[front]
    front[front] = [not _beaten(point, rivals) for point in rivals]
    return require("pandas", "lab").Series(front, index=frame.index, name="pareto")


def _beaten(point: NDArray[np.float64], rivals: NDArray[np.float64]) -> bool:
    return bool(((rivals <= point).all(axis=1) & (rivals < point).any(axis=1)).any())


def area(
    frame: DataFrame,
    *,
    x: str = "sparsity",
    y: str = "accuracy",
    by: Sequence[str] = ("method", "seed"),
    low: float | None = None,
    high: float | None = None,
) -> DataFrame:
    """Return the area under each curve of `y` over `x`, divided by the range: the mean of `y` over that range.

    The curve is straight between its points (the trapezoidal rule), and at a bound between two points. Curves
    are comparable over one range only, so all must reach from `low` to `high`.

    Args:
        frame: one row a point of a curve.
        x, y: the columns of the curve.
        by: the columns that tell curves apart.
        low, high: the range of `x`; the curves' own when not given, which must then be the same for all.

    Returns:
        One row a curve: the columns of `by`, ``area`` (in the units of `y`), ``low``, ``high``, and ``points``,
        how many points the curve has. The area is nan where a point within the range is (a diverged run).

    Raises:
        InputError: a curve has fewer than two points, two at one `x`, or does not cover the range; the curves'
            ranges differ and none is given; an `x` is missing; or the range is empty.
        UnknownNameError: the frame has no such column.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": "l1", "seed": 0, "sparsity": [0.0, 0.5, 1.0], "accuracy": [0.9, 0.8, 0.1]})
    >>> area(runs)["area"].round(4).tolist()  # ((0.9 + 0.8) / 2 + (0.8 + 0.1) / 2) · 0.5
    [0.65]
    """
    check_columns(frame, [x, y, *by])
    if not by:
        raise InputError("area needs at least one column in `by` that tells the curves apart")
    curves = {
        key: _curve(group, x, y, _name(by, key)) for key, group in frame.groupby(list(by), sort=True, dropna=False)
    }
    start, end = _range(curves, by, x, low, high)
    rows = [
        [*key, _mean(*_between(curve, start, end, x, _name(by, key))), start, end, len(curve[0])]
        for key, curve in curves.items()
    ]
    return require("pandas", "lab").DataFrame(rows, columns=[*by, "area", "low", "high", "points"])


def _name(by: Sequence[str], key: Sequence[object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in zip(by, key, strict=True))


def _curve(group: DataFrame, x: str, y: str, name: str) -> Curve:
    """Return the points in the order of x, checked."""
    places, heights = numbers(group, x, "area"), numbers(group, y, "area")
    if not np.isfinite(places).all():
        raise InputError(f"area: the curve of {name} has a point without {x}; drop it, or give it one")
    order = np.argsort(places, kind="stable")
    places, heights = places[order], heights[order]
    if len(places) < 2:
        raise InputError(f"area: the curve of {name} has {len(places)} point; two are the least")
    twice = places[1:][np.diff(places) == 0]
    if len(twice):
        raise InputError(
            f"area: the curve of {name} has two points at {x} = {twice[0]:g}; "
            "name the column that tells them apart in `by`"
        )
    return places, heights


def _range(
    curves: dict[tuple[object, ...], Curve], by: Sequence[str], x: str, low: float | None, high: float | None
) -> tuple[float, float]:
    bounds = {key: (float(curve[0][0]), float(curve[0][-1])) for key, curve in curves.items()}
    ends = []
    for side, end in enumerate((low, high)):
        keys = {bound[side]: key for key, bound in bounds.items()}
        if end is None and len(keys) > 1:
            (least, lowest), *_, (most, other) = sorted(keys.items())
            raise InputError(
                f"area: the curves' ranges of {x} differ: {('low', 'high')[side]} is {least:g} for {_name(by, lowest)} "
                f"and {most:g} for {_name(by, other)}; give low and high, a range that all cover"
            )
        ends.append(next(iter(keys), 0.0) if end is None else float(end))
    if curves and not ends[0] < ends[1]:
        raise InputError(f"area: the range of {x} from {ends[0]:g} to {ends[1]:g} is empty; give low < high")
    return ends[0], ends[1]


def _between(curve: Curve, low: float, high: float, x: str, name: str) -> Curve:
    """Return the part of a curve from `low` to `high`."""
    places, heights = curve
    if low < places[0] or high > places[-1]:
        raise InputError(
            f"area: the curve of {name} reaches from {x} = {places[0]:g} to {places[-1]:g}, "
            f"not from {low:g} to {high:g}; give a low and high that all curves cover, or compute its points"
        )
    within = np.concatenate([[low], places[(places > low) & (places < high)], [high]])
    return within, np.interp(within, places, heights)


def _mean(places: NDArray[np.float64], heights: NDArray[np.float64]) -> float:
    return float(np.trapezoid(heights, places) / (places[-1] - places[0]))
