"""A few seeds in, a mean with its interval out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from secateur.files import require
from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Summary", "describe", "summarise"]


@dataclass(frozen=True)
class Summary:
    """The mean of `n` values, their standard deviation, and a confidence interval of the mean.

    Attributes:
        mean: the arithmetic mean.
        std: the sample standard deviation (divisor n − 1); nan when n = 1.
        low, high: the bounds of the interval; nan when n = 1.
        n: how many values there were.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}] (n = {self.n})"


_NOTHING = Summary(math.nan, math.nan, math.nan, math.nan, 0)


def summarise(values: Iterable[float], confidence: float = 0.95) -> Summary:
    """Return the mean of independent values and the confidence interval of that mean.

    The interval is mean ± t · std / √n with Student's t at n − 1 degrees of freedom (Student, 1908): right
    when the values are independent and roughly normal, as results over seeds tend to be. It says where the
    mean lies, not where the next seed will fall. With one value there is no spread to judge by, so std and
    bounds are nan.

    Args:
        values: the values, one a seed. A nan among them (a diverged run) makes the result nan.
        confidence: the interval's coverage, between 0 and 1.

    Raises:
        InputError: there are no values, or the confidence is out of range.

    >>> print(summarise([0.88, 0.89, 0.90]))
    0.89 [0.8652, 0.9148] (n = 3)
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise InputError("cannot summarise no values; give at least one")
    if not 0.0 < confidence < 1.0:
        raise InputError(f"confidence must lie between 0 and 1, got {confidence}; for 95 % give 0.95")
    n, mean = len(numbers), sum(numbers) / len(numbers)
    if n == 1:
        return Summary(mean, math.nan, math.nan, math.nan, 1)
    std = math.sqrt(sum((number - mean) ** 2 for number in numbers) / (n - 1))
    half = float(require("scipy.stats", "lab").t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(mean, std, mean - half, mean + half, n)


def describe(frame: DataFrame, by: Sequence[str], values: Sequence[str], confidence: float = 0.95) -> DataFrame:
    """Return one row a group with, for each value, its mean, spread and interval.

    Args:
        frame: one row a run, as from `Store.frame`.
        by: the columns that tell groups apart, such as method and sparsity; all that differ but the seed.
        values: the columns to summarise; missing entries are left out, and n counts what is there.
        confidence: as in `summarise`.

    Returns:
        The columns of `by`, then ``value``, ``value.std``, ``value.low``, ``value.high`` and ``value.n`` for
        each of `values`; the groups sorted by `by`.

    Raises:
        UnknownNameError: the frame has no such column.

    >>> import pandas
    >>> runs = pandas.DataFrame({"p": [1, 1, 2], "seed": [0, 1, 0], "loss": [0.2, 0.4, 0.5]})
    >>> describe(runs, ["p"], ["loss"])[["p", "loss", "loss.n"]].values.tolist()
    [[1.0, 0.3..., 2.0], [2.0, 0.5, 1.0]]
    """
    for name in [*by, *values]:
        if name not in frame.columns:
            raise unknown_name("column", name, map(str, frame.columns))
    if not by:
        raise InputError("describe needs at least one column in `by` that tells the groups apart")
    rows = [
        dict(zip(by, key, strict=True)) | _described(group, values, confidence)
        for key, group in frame.groupby(list(by), sort=True, dropna=False)
    ]
    return require("pandas", "lab").DataFrame(rows, columns=[*by, *_columns(values)])


def _columns(values: Sequence[str]) -> list[str]:
    return [name + suffix for name in values for suffix in ("", ".std", ".low", ".high", ".n")]


def _described(group: DataFrame, values: Sequence[str], confidence: float) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in values:
        numbers = group[name].dropna().tolist()
        one = summarise(numbers, confidence) if numbers else Summary(math.nan, math.nan, math.nan, math.nan, 0)
        row |= dict(zip(_columns([name]), (one.mean, one.std, one.low, one.high, one.n), strict=True))
    return row
