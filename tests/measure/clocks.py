"""A clock that stands still but for what models say that they take."""

from __future__ import annotations


class Clock:
    """A clock that moves only when a model runs."""

    now = 0.0

    def __call__(self) -> float:
        return self.now
