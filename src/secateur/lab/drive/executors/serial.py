"""Cells in this process, one after the other."""

from __future__ import annotations

import time
from dataclasses import replace

from secateur.lab.drive.executors.base import Done, Event, Failed, Setting, Started, compute, overheard
from secateur.lab.keep.environment import environment
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell
from secateur.state import threads

__all__ = ["Serial"]


class Serial:
    """Computes each cell in this process: nothing to start, and a debugger can stop in a cell."""

    name = "serial"
    window = 1

    def __init__(self) -> None:
        self._cell: Cell | None = None
        self._events: list[Event] = []

    def start(self, setting: Setting) -> None:
        """Remember the run's setting."""
        self._setting = setting
        with threads(setting.threads):
            self._environment: dict[str, Json] = dict(environment(executor="serial"))

    def submit(self, cell: Cell) -> None:
        """Take the next cell; `wait` computes it."""
        self._cell = cell
        self._events.append(Started(cell.id, "1"))

    def wait(self, timeout: float | None = None) -> None:
        """Compute the cell, once its start has been told; without one, sleep."""
        if self._events:
            return
        if self._cell is None:
            time.sleep(timeout or 0.0)
            return
        with threads(self._setting.threads):
            self._events.append(self._compute(self._cell))
        self._cell = None

    def collect(self) -> list[Event]:
        """Return what has happened."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Forget the cell."""
        self._cell = None

    def _compute(self, cell: Cell) -> Done | Failed:
        store, options = self._setting.store, self._setting.options
        with overheard() as output:
            event = compute(cell, store, options, "1", self._environment, store.path)
        return replace(event, output=output()) if isinstance(event, Failed) else event
