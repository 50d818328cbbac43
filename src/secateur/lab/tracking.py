"""The trackers of a run: told what happens, and never able to stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from secateur.lab.executors.base import in_one_line
from secateur.lab.recipe import Json
from secateur.lab.records import Record
from secateur.lab.report import Report

__all__ = ["Tracker", "Trackers"]


class Tracker(Protocol):
    """Somewhere else where results are shown, such as TensorBoard."""

    def start(self, study: str, options: Mapping[str, Json], /) -> None:
        """Hear that a run begins."""
        ...

    def cell(self, record: Record, tensors: Mapping[str, Tensor] | None, /) -> None:
        """Hear of a cell that was just stored, with the tensors that it kept."""
        ...

    def report(self, report: Report, /) -> None:
        """Hear of the report at the end."""
        ...

    def close(self) -> None:
        """Write what is still to be written."""
        ...


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
