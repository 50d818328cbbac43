"""Checks of the options that schedules share."""

from __future__ import annotations

from secateur.labelled import Samples, check_samples
from secateur.losses import loss_function
from secateur.types import Loss

__all__ = ["check_rating"]


def check_rating(schedule: str, data: Samples | None, loss: str | Loss) -> None:
    """Refuse data that cannot be read again and again, and a loss of no known name."""
    if data is not None:
        check_samples(data, schedule)
    loss_function(loss)
