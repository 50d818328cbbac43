"""Goals in words and numbers: what a budget allows of a measure."""

from __future__ import annotations

import re
from typing import Any

from secateur.checks import is_whole
from secateur.types import InputError

__all__ = ["UnreachableError", "allowed"]

SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


class UnreachableError(InputError):
    """A budget is below what is left when all is removed that may be.

    Attributes:
        least: what is left then, as a fraction of the whole.
    """

    def __init__(self, message: str, least: float) -> None:
        super().__init__(message)
        self.least = least


def allowed(measure: str, value: Any, whole: float) -> float:
    """Return the cost that a goal allows: a fraction of the whole, a whole number, or for a latency a time in words.

    Raises:
        InputError: it is none of these.

    >>> allowed("macs", 0.5, 300), allowed("macs", 120, 300), allowed("latency", "2.5 ms", 0.01)
    (150.0, 120.0, 0.0025)
    """
    if isinstance(value, float) and 0 < value <= 1:
        return value * whole
    if measure == "latency":
        cost, other = _seconds(value), "a time, such as '2.5 ms'"
    else:
        cost, other = float(value) if is_whole(value) else 0.0, "a whole number"
    if cost > 0:
        return cost
    raise InputError(
        f"budget: {measure}={value!r} must be a fraction of the unpruned model's in (0, 1], such as 0.5, or {other}"
    )


def _seconds(value: Any) -> float:
    words = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?(s|ms|us|µs)", value.strip()) if isinstance(value, str) else None
    return float(words[1]) * SECONDS[words[2]] if words is not None else 0.0
