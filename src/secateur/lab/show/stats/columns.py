"""What every statistic asks of the table that it is given."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["SHARE", "check_columns", "numbers", "range_of"]

SHARE = (0.0, 1.0)
"""What a share of something, such as an accuracy, cannot leave."""

_AMOUNTS = {"bytes", "loss", "macs", "ms", "nonzero", "parameters", "seconds", "speedup"}
"""Words in the names of columns whose values are amounts: there is no less than none."""


def check_columns(frame: DataFrame, names: Iterable[str]) -> None:
    """Refuse a table that lacks one of the columns."""
    for name in names:
        if name not in frame.columns:
            raise unknown_name("column", name, map(str, frame.columns))


def range_of(name: object, values: Iterable[float]) -> tuple[float, float] | None:
    """Return the range that no mean can leave, known by a column's name: an accuracy is a share, a loss an amount.

    Values outside it are no accuracies but changes of them, in points or not, and have none.

    >>> range_of("validation_accuracy", [0.9]), range_of("accuracy", [-0.1]), range_of("loss", [0.9])
    ((0.0, 1.0), None, (0.0, inf))
    """
    words, present = str(name).split("_"), [value for value in values if value == value]
    if words[-1] in ("accuracy", "removed", "sparsity") and all(0 <= value <= 1 for value in present):
        return SHARE
    if _AMOUNTS & set(words) and all(value >= 0 for value in present):
        return 0.0, inf
    return None


def numbers(frame: DataFrame, column: str, doing: str) -> NDArray[np.float64]:
    """Return a column as numbers, what is missing as nan; refuse one of words or lists."""
    try:
        return np.asarray(frame[column].astype(float).to_numpy(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{doing}: column {column!r} holds no plain numbers ({error}); give one that does") from error
