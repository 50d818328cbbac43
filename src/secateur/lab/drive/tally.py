"""The counts of a run, while it goes on and at its end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from secateur.lab.keep.records import Failure, Record
from secateur.lab.plan.recipe import Recipe
from secateur.lab.plan.study import Cell

__all__ = ["RunSummary", "RunTally", "Running", "clock"]


@dataclass(frozen=True)
class RunSummary:
    """How a run went.

    Attributes:
        done: the cells that this run finished.
        found: the cells that were finished before, or by another run at the same time.
        failed: the cells that raised, with their tracebacks (kept in the store as well).
        failed_before: the cells that failed in an earlier run and were not tried again.
        skipped: the cells that were not tried, since one that they need has failed.
        left: the cells that were not reached, since the run was interrupted.
        interrupted: whether it was (Ctrl-C).
        seconds: time on the clock.
    """

    done: tuple[Recipe, ...] = ()
    found: tuple[Recipe, ...] = ()
    failed: tuple[Failure, ...] = ()
    failed_before: tuple[Failure, ...] = ()
    skipped: tuple[Recipe, ...] = ()
    left: tuple[Recipe, ...] = ()
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when every cell is finished, 130 after Ctrl-C, else 1."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.failed_before or self.skipped else 0

    def counts(self) -> dict[str, int]:
        """Return how many cells of each sort there are."""
        names = ("done", "found", "failed", "failed_before", "skipped", "left")
        return {name: len(getattr(self, name)) for name in names}

    def __str__(self) -> str:
        words = [f"{count} {name.replace('_', ' ')}" for name, count in self.counts().items() if count]
        return f"{'interrupted: ' if self.interrupted else ''}{', '.join(words)} in {clock(self.seconds)}"


@dataclass(frozen=True)
class Running:
    """A cell that is being computed: by whom, and since when (`time.monotonic`)."""

    recipe: Recipe
    worker: str
    since: float


@dataclass(eq=False)
class RunTally:
    """The running counts of a study's cells, what is being computed, and the best result so far.

    Attributes:
        total: how many cells the study has.
        workers: how many cells can be computed at a time.
        best_of: the metric to watch, with ``"max"`` or ``"min"``.
        best: its best value, and the cell that has it.
    """

    cells: Sequence[Cell]
    workers: int = 1
    best_of: tuple[str, Literal["max", "min"]] | None = None
    best: tuple[float, Recipe] | None = None
    done: list[Recipe] = field(default_factory=list)
    found: list[Recipe] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    failed_before: list[Failure] = field(default_factory=list)
    skipped: list[Recipe] = field(default_factory=list)
    running: dict[str, Running] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._left = Counter(cell.recipe.kind for cell in self.cells)
        self._times: dict[str, tuple[int, float]] = {}

    @property
    def total(self) -> int:
        """How many cells the study has."""
        return len(self.cells)

    @property
    def settled(self) -> int:
        """How many cells need no more work."""
        return len(self.done) + len(self.found) + len(self.failed) + len(self.failed_before) + len(self.skipped)

    def start(self, recipe: Recipe, worker: str) -> None:
        """A cell is being computed."""
        self.running[recipe.id] = Running(recipe, worker, time.monotonic())

    def finish(self, record: Record) -> None:
        """A cell was computed and stored."""
        self._settle(record.recipe)
        self.done.append(record.recipe)
        count, seconds = self._times.get(record.recipe.kind, (0, 0.0))
        self._times[record.recipe.kind] = (count + 1, seconds + record.wall_seconds)
        self.rate(record)

    def find(self, recipe: Recipe) -> None:
        """A cell was there already."""
        self._settle(recipe)
        self.found.append(recipe)

    def fail(self, failure: Failure, before: bool = False) -> None:
        """A cell failed, now or `before`."""
        self._settle(failure.recipe)
        (self.failed_before if before else self.failed).append(failure)

    def skip(self, recipe: Recipe) -> None:
        """A cell cannot be computed, since one that it needs failed."""
        self._settle(recipe)
        self.skipped.append(recipe)

    def rate(self, record: Record) -> None:
        """See whether a record is the best one."""
        if self.best_of is None:
            return
        name, way = self.best_of
        value = record.metrics.get(name)
        if isinstance(value, (int, float)) and value == value:
            sign = 1 if way == "max" else -1
            if self.best is None or sign * value > sign * self.best[0]:
                self.best = (value, record.recipe)

    def remaining(self) -> float | None:
        """Estimate the seconds that are left, from the mean time of each kind of cell, since kinds differ by far.

        None when nothing is known yet, or nothing is left.
        """
        # Copies, since the thread that draws asks while the run counts.
        times, kinds, running = dict(self._times), dict(self._left), list(self.running.values())
        left = sum(kinds.values())
        if not left or not times:
            return None
        overall = sum(s for _, s in times.values()) / sum(n for n, _ in times.values())
        means = {kind: seconds / count for kind, (count, seconds) in times.items()}
        work = sum(count * means.get(kind, overall) for kind, count in kinds.items())
        now = time.monotonic()
        past = sum(min(now - cell.since, means.get(cell.recipe.kind, overall)) for cell in running)
        return max(0.0, work - past) / max(1, min(self.workers, left))

    def summary(self, interrupted: bool) -> RunSummary:
        """Return how it went."""
        return RunSummary(
            tuple(self.done),
            tuple(self.found),
            tuple(self.failed),
            tuple(self.failed_before),
            tuple(self.skipped),
            self._not_reached(),
            interrupted,
            time.monotonic() - self.started,
        )

    def _not_reached(self) -> tuple[Recipe, ...]:
        if self.settled == self.total:
            return ()
        failed = [failure.recipe for failure in (*self.failed, *self.failed_before)]
        settled = {recipe.id for recipe in (*self.done, *self.found, *failed, *self.skipped)}
        return tuple(cell.recipe for cell in self.cells if cell.id not in settled)

    def _settle(self, recipe: Recipe) -> None:
        self.running.pop(recipe.id, None)
        self._left[recipe.kind] -= 1


def clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
