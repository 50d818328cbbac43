"""What every statistic asks of the table that it is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["check_columns", "numbers"]


def check_columns(frame: DataFrame, names: Iterable[str]) -> None:
    """Refuse a table that lacks one of the columns."""
    for name in names:
        if name not in frame.columns:
            raise unknown_name("column", name, map(str, frame.columns))


def numbers(frame: DataFrame, column: str, doing: str) -> NDArray[np.float64]:
    """Return a column as numbers, what is missing as nan; refuse one of words or lists."""
    try:
        return np.asarray(frame[column].astype(float).to_numpy(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{doing}: column {column!r} holds no plain numbers ({error}); give one that does") from error
