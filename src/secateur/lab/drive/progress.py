"""What a run shows while it goes on: a live picture on a terminal, lines elsewhere, or JSON for machines."""

from __future__ import annotations

import json
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Protocol, Self

from secateur.lab.drive.tally import Running, RunSummary, RunTally, clock
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Json, Recipe

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.progress import Progress

__all__ = ["JsonLines", "Lines", "Notice", "Screen", "Silence", "Watcher", "watcher"]

_SHOWN = 8
"""So many running cells have a line of their own."""


@dataclass(frozen=True, eq=False)
class Notice:
    """Something that happened in a run.

    Attributes:
        what: which; ``"warning"`` is a word to the user that concerns no cell.
        study: the study's name.
        tally: the counts after it.
        recipe: the cell, if it concerns one.
        worker: who computes it.
        record: what it left, when it is done.
        words: the error in one line, or why it was skipped.
        summary: at the end.
    """

    what: Literal["begin", "started", "done", "failed", "skipped", "warning", "end"]
    study: str
    tally: RunTally
    recipe: Recipe | None = None
    worker: str = ""
    record: Record | None = None
    words: str = ""
    summary: RunSummary | None = None


class Watcher(AbstractContextManager["Watcher"], Protocol):
    """What is told everything that happens in a run, between entering and leaving."""

    def __call__(self, notice: Notice) -> None:
        """Hear of one thing."""
        ...


def watcher(progress: bool | Watcher) -> Watcher:
    """Return what shows a run: a picture or lines on standard error, nothing, or the caller's own."""
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return Silence()
    from rich.console import Console

    console = Console(stderr=True)
    return Screen(console) if console.is_terminal else Lines(sys.stderr)


class _Plain:
    """A watcher that has nothing to open and nothing to close."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        return None


class Silence(_Plain):
    """Shows nothing."""

    def __call__(self, notice: Notice) -> None:
        """Hear and say nothing."""


class Lines(_Plain):
    """Writes a line now and then, for logs and pipes; failures at once.

    Args:
        stream: where to.
        every: seconds between two lines.
    """

    def __init__(self, stream: IO[str], every: float = 30.0) -> None:
        self._stream, self._every, self._last = stream, every, 0.0

    def __call__(self, notice: Notice) -> None:
        """Write a line, if it is time for one."""
        trouble = _trouble(notice)
        if trouble:
            self._say(trouble)
        if notice.what in ("begin", "end") or time.monotonic() - self._last > self._every:
            self._last = time.monotonic()
            self._say(" ".join(_state(notice)))

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class JsonLines(_Plain):
    """Writes one JSON object for each thing that happens, one a line.

    Args:
        stream: where to; standard output when None.
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream

    def __call__(self, notice: Notice) -> None:
        """Write it."""
        tally = notice.tally
        event: dict[str, Json] = {"event": {"end": "summary"}.get(notice.what, notice.what), "study": notice.study}
        if notice.recipe is not None:
            cell = notice.recipe
            event |= {"id": cell.id, "kind": cell.kind, "parameters": dict(cell.parameters)}
        event |= {"worker": notice.worker} if notice.worker else {}
        if notice.record is not None:
            event |= {"metrics": dict(notice.record.metrics), "seconds": notice.record.wall_seconds}
        event |= {"words": notice.words} if notice.words else {}
        event |= {"settled": tally.settled, "total": tally.total, "seconds_left": tally.remaining()}
        if notice.summary is not None:
            ended = notice.summary
            event |= {**ended.counts(), "interrupted": ended.interrupted, "seconds": ended.seconds}
        print(json.dumps(event), file=self._stream or sys.stdout, flush=True)


class Screen:
    """Draws the run on a terminal: a bar, the best result, and a line for each cell that is being computed."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._console = console
        self._notice: Notice | None = None
        self._bar, self._task = _bar(console)
        self._live: Live = Live(console=console, get_renderable=self._draw, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, notice: Notice) -> None:
        """Draw what has changed; a failure is told in a line of its own that stays."""
        self._notice = notice
        trouble = _trouble(notice)
        if trouble:
            self._console.print(trouble, markup=False, highlight=False, soft_wrap=True)
        if notice.what == "end":
            self._live.refresh()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        if self._notice is None:
            return Text("")
        tally = self._notice.tally
        words = _state(self._notice)
        self._bar.update(
            self._task, description=words[0], total=tally.total, completed=tally.settled, state="  ".join(words[2:])
        )
        best = [Text(f"  {_best(tally)}", style="green", no_wrap=True, overflow="ellipsis")] if tally.best else []
        return Group(self._bar.get_renderable(), *best, *_running(tally))


def _state(notice: Notice) -> list[str]:
    """The name, the count, and what else is to be said: failures, what is left to wait."""
    tally = notice.tally
    failed = len(tally.failed) + len(tally.failed_before)
    remaining = tally.remaining()
    parts = [
        notice.study,
        f"{tally.settled}/{tally.total}",
        f"{failed} failed" if failed else "",
        f"{len(tally.skipped)} skipped" if tally.skipped else "",
        f"ETA {clock(remaining)}" if remaining is not None else "",
    ]
    return [part for part in parts if part]


def _trouble(notice: Notice) -> str:
    """What must not be overlooked, in one line."""
    if notice.what == "warning":
        return notice.words
    if notice.what != "failed" or notice.recipe is None:
        return ""
    return f"failed: {notice.recipe}: {notice.words} (secateur runs show {notice.recipe.id})"


def _best(tally: RunTally) -> str:
    if tally.best is None or tally.best_of is None:
        return ""
    (name, way), (value, recipe) = tally.best_of, tally.best
    return f"{'highest' if way == 'max' else 'lowest'} {name} so far {value:.4g}: {recipe.short}"


def _bar(console: Console) -> tuple[Progress, Any]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    # The last column takes what is left of the line and is cut at its end.
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False, table_column=rest),
    )
    bar = Progress(*columns, console=console, expand=True, auto_refresh=False)
    return bar, bar.add_task("", total=1, state="")


def _running(tally: RunTally) -> list[RenderableType]:
    from rich.text import Text

    running = sorted(tally.running.values(), key=lambda cell: (len(cell.worker), cell.worker))
    lines = [_one(cell) for cell in running[:_SHOWN]]
    if len(running) > _SHOWN:
        lines.append(f"  … and {len(running) - _SHOWN} more")
    return [Text(line, style="dim", no_wrap=True, overflow="ellipsis") for line in lines]


def _one(running: Running) -> str:
    return f"  {running.worker:>3}  {clock(time.monotonic() - running.since)}  {running.recipe.short}"
