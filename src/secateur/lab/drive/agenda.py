"""Which cells may start: those whose needs are finished, in the study's order."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from secateur.lab.plan.study import Cell

__all__ = ["Agenda"]


class Agenda:
    """The cells that are still to be computed, and what waits for what.

    Args:
        cells: what to compute, each after those that it needs.
        finished: ids of cells that are there already, of this list or others.

    >>> from secateur.lab.plan.recipe import Recipe
    >>> first = Cell(Recipe("s", "first"), print)
    >>> second = Cell(Recipe("s", "second", needs=(first.id,)), print)
    >>> agenda = Agenda([first, second], set())
    >>> agenda.next() is first, agenda.next()
    (True, None)
    >>> agenda.finish(first.id)
    >>> agenda.next() is second
    True
    """

    def __init__(self, cells: Sequence[Cell], finished: set[str]) -> None:
        self._cells = cells
        self._missing: dict[int, int] = {}
        self._waiting: dict[str, list[int]] = {}
        self._ready: list[int] = []
        for position, cell in enumerate(cells):
            missing = set(cell.needs) - finished
            for need in missing:
                self._waiting.setdefault(need, []).append(position)
            if missing:
                self._missing[position] = len(missing)
            else:
                self._ready.append(position)

    def next(self) -> Cell | None:
        """Take the first cell that may start, if there is one now."""
        return self._cells[heapq.heappop(self._ready)] if self._ready else None

    def finish(self, identity: str) -> None:
        """Let go those that waited for this cell alone."""
        for position in self._waiting.pop(identity, ()):
            # A cell that was dropped waits for nothing any more.
            if position in self._missing:
                self._missing[position] -= 1
                if not self._missing[position]:
                    del self._missing[position]
                    heapq.heappush(self._ready, position)

    def drop(self, identity: str) -> list[Cell]:
        """Give up those that need a failed cell, or need one that does; return them in the study's order."""
        dropped: set[int] = set()
        failed = [identity]
        while failed:
            waiting = [p for p in self._waiting.pop(failed.pop(), ()) if p in self._missing]
            for position in waiting:
                del self._missing[position]
            dropped.update(waiting)
            failed.extend(self._cells[position].id for position in waiting)
        return [self._cells[position] for position in sorted(dropped)]
