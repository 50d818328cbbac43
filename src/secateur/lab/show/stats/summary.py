"""A few seeds in, a mean with its interval out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from secateur.checks import check_name, check_number, check_whole
from secateur.files import require
from secateur.lab.show.stats.columns import check_columns, range_of
from secateur.lab.show.words import agreeing
from secateur.types import InputError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Summary", "bootstrap", "describe", "summarise"]

_METHODS = {"bca": "BCa", "percentile": "percentile", "basic": "basic"}
_INTERVALS = ("t", "bootstrap")
# n values have C(2n - 1, n) distinct resamples: 35 when n = 4, too few to have tails; 126 when n = 5.
_ENOUGH = 5


@dataclass(frozen=True)
class Summary:
    """The mean of `n` values, their standard deviation, and a confidence interval of the mean.

    Attributes:
        mean: the arithmetic mean.
        std: the sample standard deviation (divisor n − 1); nan when n = 1.
        low, high: the bounds of the interval; nan when n = 1.
        n: how many values there were.
        interval: how the bounds were found: ``"t"``, or the bootstrap's ``"bca"``, ``"percentile"``, ``"basic"``.
    """

    mean: float
    std: float
    low: float
    high: float
    n: int
    interval: str = "t"

    def __str__(self) -> str:
        mean, low, high = agreeing(self.mean, self.low, self.high)
        return f"{mean} [{low}, {high}] (n = {self.n})"


_NOTHING = Summary(math.nan, math.nan, math.nan, math.nan, 0)


def summarise(
    values: Iterable[float], confidence: float = 0.95, *, within: tuple[float, float] | None = None
) -> Summary:
    """Return the mean of independent values and the confidence interval of that mean.

    The interval is mean ± t · std / √n with Student's t at n − 1 degrees of freedom (Student, 1908): right
    when the values are independent and roughly normal, as results over seeds tend to be. It says where the
    mean lies, not where the next seed will fall. With one value there is no spread to judge by, so std and
    bounds are nan.

    Args:
        values: the values, one a seed. A nan among them (a diverged run) makes the result nan.
        confidence: the interval's coverage, between 0 and 1.
        within: the range that the mean cannot leave, such as (0, 1) for accuracies; the interval ends there.

    Raises:
        InputError: there are no values, or the confidence is out of range.

    >>> print(summarise([0.88, 0.89, 0.90]))
    0.8900 [0.8652, 0.9148] (n = 3)
    >>> print(summarise([0.93, 0.97, 0.99], within=(0, 1)))
    0.9633 [0.8874, 1.0000] (n = 3)
    """
    numbers = [float(value) for value in values]
    if not numbers:
        raise InputError("cannot summarise no values; give at least one")
    check_number("interval", "(0, 1)", "for 95 % give 0.95", confidence=confidence)
    n, mean = len(numbers), sum(numbers) / len(numbers)
    if n == 1:
        return Summary(mean, math.nan, math.nan, math.nan, 1)
    std = math.sqrt(sum((number - mean) ** 2 for number in numbers) / (n - 1))
    half = float(require("scipy.stats", "lab").t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    least, most = within or (-math.inf, math.inf)
    return Summary(mean, std, max(mean - half, least), min(mean + half, most), n)


def bootstrap(
    values: Iterable[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    method: Literal["bca", "percentile", "basic"] = "bca",
    within: tuple[float, float] | None = None,
) -> Summary:
    """Return the mean of independent values with its bootstrap interval, which assumes no normal distribution.

    The values are drawn again and again with replacement, and the interval is read from the means of those
    samples; ``bca`` corrects their bias and skew (Efron, 1987). Fewer than five values have too few distinct
    resamples, and equal values have one: then the bounds are those of `summarise`, and the summary's
    `interval` says ``"t"``. Even from five to ten values the bounds are too narrow (see docs/statistics.md).

    Args:
        values: the values, one a seed. One that is not finite (a diverged run) makes the bounds nan.
        confidence: the interval's coverage, between 0 and 1.
        resamples: how many samples to draw.
        seed: of the draw; the same seed gives the same bounds.
        method: ``"bca"``, ``"percentile"`` or ``"basic"``.
        within: as in `summarise`.

    Raises:
        InputError: there are no values, or the confidence or the number of resamples is out of range.
        UnknownNameError: an unknown method.

    >>> one = bootstrap([0.86, 0.88, 0.89, 0.90, 0.90])
    >>> one.interval, round(one.low, 2), round(one.high, 2)
    ('bca', 0.87, 0.9)
    >>> bootstrap([0.88, 0.89, 0.90]).interval
    't'
    """
    check_name("bootstrap method", method, _METHODS)
    check_whole("bootstrap", 1, "10,000 is usual", resamples=resamples)
    numbers = [float(value) for value in values]
    plain = summarise(numbers, confidence, within=within)
    alike = min(numbers) == max(numbers) or plain.std == 0
    if len(numbers) < _ENOUGH or not math.isfinite(plain.mean) or alike:
        return plain
    # The bounds move and stretch with the values; in units of their spread nothing under- or overflows.
    units = (np.asarray(numbers) - plain.mean) / plain.std
    result = require("scipy.stats", "lab").bootstrap(
        (units,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method=_METHODS[method],
        rng=np.random.default_rng(seed),
    )
    low, high = (plain.mean + plain.std * float(bound) for bound in result.confidence_interval)
    least, most = within or (-math.inf, math.inf)
    return replace(plain, low=max(low, least), high=min(high, most), interval=method)


def describe(
    frame: DataFrame,
    by: Sequence[str],
    values: Sequence[str],
    confidence: float = 0.95,
    *,
    interval: Literal["t", "bootstrap"] = "t",
) -> DataFrame:
    """Return one row a group with, for each value, its mean, spread and interval.

    Args:
        frame: one row a run, as from `Store.frame`.
        by: the columns that tell groups apart, such as method and sparsity; all that differ but the seed.
        values: the columns to summarise; missing entries are left out, and n counts what is there. The interval of an
            accuracy (a column of that name, or ``…_accuracy``) ends at 0 and 1.
        confidence: as in `summarise`.
        interval: ``"t"`` as in `summarise`, or ``"bootstrap"`` as in `bootstrap`.

    Returns:
        The columns of `by`, then ``value``, ``value.std``, ``value.low``, ``value.high`` and ``value.n`` for
        each of `values`; the groups sorted by `by`.

    Raises:
        UnknownNameError: the frame has no such column, or there is no such interval.
        InputError: `by` is empty.

    >>> import pandas
    >>> runs = pandas.DataFrame({"p": [1, 1, 2], "seed": [0, 1, 0], "loss": [0.2, 0.4, 0.5]})
    >>> describe(runs, ["p"], ["loss"])[["p", "loss", "loss.n"]].values.tolist()
    [[1.0, 0.3..., 2.0], [2.0, 0.5, 1.0]]
    """
    check_columns(frame, [*by, *values])
    check_name("interval", interval, _INTERVALS)
    if not by:
        raise InputError("describe needs at least one column in `by` that tells the groups apart")
    rows = [
        dict(zip(by, key, strict=True)) | _described(group, values, confidence, interval)
        for key, group in frame.groupby(list(by), sort=True, dropna=False)
    ]
    return require("pandas", "lab").DataFrame(rows, columns=[*by, *_columns(values)])


def _columns(values: Sequence[str]) -> list[str]:
    return [name + suffix for name in values for suffix in ("", ".std", ".low", ".high", ".n")]


def _described(group: DataFrame, values: Sequence[str], confidence: float, interval: str) -> dict[str, float]:
    row: dict[str, float] = {}
    for name in values:
        summary = _summary(name, group[name].dropna().tolist(), confidence, interval)
        row |= dict(
            zip(_columns([name]), (summary.mean, summary.std, summary.low, summary.high, summary.n), strict=True)
        )
    return row


def _summary(name: str, numbers: Sequence[float], confidence: float, interval: str) -> Summary:
    if not numbers:
        return _NOTHING
    within = range_of(name, numbers)
    if interval == "bootstrap":
        return bootstrap(numbers, confidence=confidence, within=within)
    return summarise(numbers, confidence, within=within)
