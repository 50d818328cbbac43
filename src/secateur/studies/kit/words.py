"""Numbers in the words of a report."""

from __future__ import annotations

__all__ = ["percent", "points", "share"]


def points(change: float, digits: int = 2) -> str:
    """Return a change in percentage points with its sign.

    >>> points(-3.234), points(-0.04, 1)
    ('−3.23', '−0.0')
    """
    return f"{change:+.{digits}f}".replace("-", "−")


def percent(fraction: float) -> str:
    """Return a fraction as per cent, with one decimal.

    >>> percent(0.0983)
    '9.8 %'
    """
    return f"{100 * fraction:.1f} %"


def share(fraction: float) -> str:
    """Return a part of the units as a study's options name it.

    >>> share(0.5), share(0.125)
    ('50 %', '12.5 %')
    """
    return f"{100 * fraction:.4g} %"
