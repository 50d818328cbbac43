"""Numbers in the words of a report: a true minus, a dash for a missing one, and a mean and its interval in the same digits."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import Series

__all__ = ["agreeing", "bounds", "counted", "file_name", "formatted", "named", "number", "percent", "points", "spread"]


def number(value: float) -> str:
    """Return a number with four digits.

    >>> number(-0.123456), number(float("nan")), number(2386000)
    ('−0.1235', '–', '2,386,000')
    """
    return _minus(f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}", value)


def percent(fraction: float, digits: int | None = None) -> str:
    """Return a fraction as per cent: as it is named, or with so many decimals.

    >>> percent(0.05), percent(0.8827), percent(0.0983, 1)
    ('5 %', '88.27 %', '9.8 %')
    """
    return _minus(f"{100 * fraction:{'.4g' if digits is None else f'.{digits}f'}} %", fraction)


def points(change: float, digits: int = 2) -> str:
    """Return a change in percentage points with its sign; no minus before a zero.

    >>> points(-3.234), points(-0.04, 1)
    ('−3.23', '+0.0')
    """
    return _minus(f"{round(change, digits) + 0.0:+.{digits}f}", change)


def formatted(value: float, shape: str) -> str:
    """Return a number in a Python format, as reports write it.

    >>> formatted(-0.5, "+.2f"), formatted(0.25, ".1%"), formatted(float("nan"), "+.2f")
    ('−0.50', '25.0\\xa0%', '–')
    """
    return _minus(format(value, shape), value).replace("%", "\N{NO-BREAK SPACE}%")


def named(values: Mapping[str, float] | Series, shape: str = ".3g") -> str:
    """Return names with their numbers in a Python format.

    >>> named({"l2": 0.91, "random": float("nan")}, ".1%")
    'l2 91.0\\xa0%, random –'
    """
    return ", ".join(f"{name} {formatted(value, shape)}" for name, value in values.items())


def bounds(low: float, high: float, shape: str = "+.2f") -> str:
    """Return both ends of an interval; a dash where there is none.

    >>> bounds(-0.5, 1), bounds(float("nan"), float("nan"))
    ('−0.50 to +1.00', '–')
    """
    return f"{formatted(low, shape)} to {formatted(high, shape)}" if high == high else "–"


def spread(mean: float, low: float, high: float, shape: str = ".4f") -> str:
    """Return the interval of a mean in the digits that the mean is shown in; empty where one value shows no spread.

    Its half width where it is as wide below as above, else both ends: one that ends where the values do is not.

    >>> spread(0.9, 0.88, 0.92), spread(0.96, 0.89, 1.0), spread(-3.2, -4.2, -2.2, "+.1f")
    ('± 0.0200', '0.8900 to 1.0000', '± 1.0')
    """
    if high != high:
        return ""
    if math.isclose(mean - low, high - mean, rel_tol=1e-9):
        return f"± {formatted(high - mean, shape.replace('+', ''))}"
    return bounds(low, high, shape)


def agreeing(mean: float, *others: float) -> list[str]:
    """Return a mean with four digits, and its bounds with as many decimals; what is missing is a dash.

    >>> agreeing(0.85, 0.2147, 1.0), agreeing(123456.0, 120000.0)
    (['0.8500', '0.2147', '1.0000'], ['123,456', '120,000'])
    """
    size = math.floor(math.log10(abs(mean))) if mean and math.isfinite(mean) else 0
    if size < -4:  # in plain decimals it would be a row of zeros
        return [number(value) for value in (mean, *others)]
    return [_minus(f"{value:,.{max(0, 3 - size)}f}", value) for value in (mean, *others)]


def counted(count: int, noun: str) -> str:
    """Return a number of things.

    >>> counted(1, "network"), counted(1200, "network")
    ('1 network', '1,200 networks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _minus(text: str, value: float) -> str:
    return text.replace("-", "−") if math.isfinite(value) else "–"


def file_name(words: str) -> str:
    """Return what names a file after words: small letters, digits and hyphens.

    >>> file_name("taylor weights global, tuned 2 epochs"), file_name("mine:Last")
    ('taylor-weights-global-tuned-2-epochs', 'mine-last')
    """
    return re.sub(r"[^a-z0-9_]+", "-", words.lower()).strip("-")
