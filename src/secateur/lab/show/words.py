"""Numbers in the words of a report: a true minus, a dash for a missing one."""

from __future__ import annotations

import math
import re

__all__ = ["file_name", "number", "percent", "points"]


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


def _minus(text: str, value: float) -> str:
    return text.replace("-", "−") if math.isfinite(value) else "–"


def file_name(words: str) -> str:
    """Return what names a file after words: small letters, digits and hyphens.

    >>> file_name("taylor weights global, tuned 2 epochs"), file_name("mine:Last")
    ('taylor-weights-global-tuned-2-epochs', 'mine-last')
    """
    return re.sub(r"[^a-z0-9_]+", "-", words.lower()).strip("-")
