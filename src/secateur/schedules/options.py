"""Checks of the options that schedules share."""

from __future__ import annotations

from math import isfinite

from secateur.labelled import Data, check_data
from secateur.losses import loss_function
from secateur.types import InputError, Loss

__all__ = ["check_fraction", "check_number", "check_rating", "check_whole"]


def check_rating(schedule: str, data: Data | None, loss: str | Loss) -> None:
    """Refuse data that cannot be read again and again, and a loss of no known name."""
    if data is not None:
        check_data(data, schedule)
    loss_function(loss)


def check_number(schedule: str, name: str, value: object, least: float = 0.0) -> None:
    """Refuse what is no finite number of at least this."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not isfinite(value) or value < least:
        raise InputError(f"{schedule}: {name}={value!r} must be a number, {least:g} or more")


def check_fraction(schedule: str, name: str, value: object) -> None:
    """Refuse what is no fraction."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"{schedule}: {name}={value!r} must be the fraction removed, in [0, 1]")


def check_whole(schedule: str, name: str, value: object, least: int) -> None:
    """Refuse what is no whole number of at least this."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{schedule}: {name}={value!r} must be a whole number, {least} or more")
