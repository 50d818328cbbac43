"""Checks of the options that schedules share."""

from __future__ import annotations

from typing import Protocol

from secateur.checks import check_whole
from secateur.labelled import Samples, check_samples
from secateur.losses import loss_function
from secateur.types import Loss

__all__ = ["check_rating"]


class _Rated(Protocol):
    """What all schedules have."""

    @property
    def data(self) -> Samples | None: ...
    @property
    def loss(self) -> str | Loss: ...
    @property
    def minimum(self) -> int: ...


def check_rating(schedule: _Rated) -> None:
    """Refuse data that cannot be read again and again, a loss of no known name, and a negative minimum."""
    if schedule.data is not None:
        check_samples(schedule.data, type(schedule).__name__)
    loss_function(schedule.loss)
    check_whole(schedule, 0, "the units that every site keeps", minimum=schedule.minimum)
