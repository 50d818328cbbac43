"""The trackers of a run: told what happens, and never able to stop it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from secateur.checks import in_one_line
from secateur.lab.drive.trackers import Tracker

__all__ = ["Trackers"]


class Trackers:
    """Tells several trackers; one that raises is reported once and told nothing more.

    Args:
        trackers: whom to tell.
        warn: what to do with the one line about a tracker that failed.
    """

    def __init__(self, trackers: Sequence[Tracker], warn: Callable[[str], None]) -> None:
        self._trackers, self._warn = list(trackers), warn

    def __bool__(self) -> bool:
        return bool(self._trackers)

    def tell(self, method: str, *values: Any) -> None:
        """Call a method of each."""
        for tracker in list(self._trackers):
            try:
                getattr(tracker, method)(*values)
            except Exception as error:  # noqa: BLE001  (results are in the store, whatever a tracker does)
                self._trackers.remove(tracker)
                self._warn(f"tracker {type(tracker).__name__} failed and was dropped: {in_one_line(error)}")
