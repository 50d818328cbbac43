"""Run a study's cells: skip the finished ones, keep what fails, and be ready to be killed."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from secateur.lab.environment import environment
from secateur.lab.recipe import Json, Recipe
from secateur.lab.records import Failure, Record
from secateur.lab.store import Store
from secateur.lab.study import Cell, Context, Outcome, Study
from secateur.types import InputError

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["RunSummary", "run_study"]


@dataclass(frozen=True)
class RunSummary:
    """How a run went.

    Attributes:
        done: the cells that this run finished.
        found: the cells that were finished before.
        failed: the cells that raised, with their tracebacks (kept in the store as well).
        skipped: the cells that were not tried, since one that they need is not finished.
        left: the cells that were not reached, since the run was interrupted.
        interrupted: whether it was (Ctrl-C).
        seconds: time on the clock.
    """

    done: tuple[Recipe, ...] = ()
    found: tuple[Recipe, ...] = ()
    failed: tuple[Failure, ...] = ()
    skipped: tuple[Recipe, ...] = ()
    left: tuple[Recipe, ...] = ()
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when every cell is finished, 130 after Ctrl-C, else 1."""
        if self.interrupted:
            return 130
        return 1 if self.failed or self.skipped else 0

    def __str__(self) -> str:
        counts = {
            "done": self.done,
            "found": self.found,
            "failed": self.failed,
            "skipped": self.skipped,
            "left": self.left,
        }
        words = [f"{len(cells)} {name}" for name, cells in counts.items() if cells]
        return f"{', '.join(words)} in {_clock(self.seconds)}{' (interrupted)' if self.interrupted else ''}"


@dataclass
class _Tally:
    """The running counts; cells by what became of them."""

    done: list[Recipe] = field(default_factory=list)
    found: list[Recipe] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    skipped: list[Recipe] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def settled(self) -> int:
        return len(self.done) + len(self.found) + len(self.failed) + len(self.skipped)

    def summary(self, cells: list[Cell], interrupted: bool, seconds: float) -> RunSummary:
        left = tuple(cell.recipe for cell in cells[self.settled() :])
        lists = (tuple(self.done), tuple(self.found), tuple(self.failed), tuple(self.skipped))
        return RunSummary(*lists, left, interrupted, seconds)


def run_study(
    study: Study, store: Store, options: Mapping[str, Json] | None = None, *, progress: bool = True
) -> RunSummary:
    """Compute the cells of a study that the store does not hold yet, in order.

    Whatever ends a run (Ctrl-C, kill -9, a power cut), the next one goes on where it stopped and repeats no
    finished cell. A cell that raises is reported in one line and its traceback is kept in the store
    (`Store.failures`); the cells that need it are skipped, the rest goes on, and the next run tries it again.
    Every cell starts from a random state that its recipe alone decides, and the caller's is left as it was.

    Args:
        study: what to compute.
        store: where the results are kept.
        options: options of the study; see `Study.defaults`.
        progress: show a bar on standard error.

    Returns:
        What was done, found, failed, skipped and left; `RunSummary.exit_code` for a command line.

    Raises:
        UnknownNameError: an unknown option.
        InputError: the study's list of cells is not in order.
        FileError: the store cannot be written; what was finished before stays.
    """
    cells, settled = study.plan(options), study.settle(options)
    finished = store.ids()
    tally, start, interrupted = _Tally(), time.perf_counter(), False
    known = environment()
    with _bar(study, cells, progress) as show:
        try:
            for cell in cells:
                show(cell, tally)
                _settle(cell, store, settled, finished, tally, known)
                show(cell, tally)
        except KeyboardInterrupt:
            interrupted = True
    return tally.summary(cells, interrupted, time.perf_counter() - start)


def _settle(
    cell: Cell,
    store: Store,
    options: Mapping[str, Json],
    finished: set[str],
    tally: _Tally,
    known: Mapping[str, Json],
) -> None:
    """Find, skip or run one cell, and count it."""
    if cell.id in finished:
        tally.found.append(cell.recipe)
    elif not finished.issuperset(cell.needs):
        tally.skipped.append(cell.recipe)
    else:
        result = _compute(cell, store, options, known)
        if isinstance(result, Failure):
            store.fail(result)
            tally.failed.append(result)
        else:
            finished.add(cell.id)
            tally.done.append(cell.recipe)
            tally.seconds.setdefault(cell.recipe.kind, []).append(result.wall_seconds)


def _compute(cell: Cell, store: Store, options: Mapping[str, Json], known: Mapping[str, Json]) -> Record | Failure:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with _own_randomness(cell.recipe):
            outcome = cell.run(Context(cell.recipe, store, options))
        if not isinstance(outcome, Outcome):
            raise InputError(f"a cell must return an Outcome, got {type(outcome).__name__}")
    except Exception as error:  # noqa: BLE001  (whatever a cell raises, the other cells go on)
        return _failure(cell, error)
    times = (time.perf_counter() - wall, time.process_time() - cpu)
    try:
        return store.put(Record(cell.recipe, outcome.metrics, outcome.history, known, *times), outcome.artefact)
    except InputError as error:
        # The cell gave what cannot be kept; a store that cannot be written ends the run.
        return _failure(cell, error)


def _failure(cell: Cell, error: Exception) -> Failure:
    words = " ".join(str(error).split())
    line = f"{type(error).__name__}: {words[:200]}" if words else type(error).__name__
    return Failure(cell.recipe, line, traceback.format_exc())


@contextmanager
def _own_randomness(recipe: Recipe) -> Iterator[None]:
    import torch

    # So that a cell gives the same numbers first or last, in one sitting or after a resume.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(recipe.id[:15], 16))
        yield


class _Show:
    """Draws the bar; a hidden one draws nothing."""

    def __init__(self, progress: Progress, task: TaskID, cells: list[Cell]) -> None:
        self.progress, self.task, self.cells = progress, task, cells
        self.reported = 0

    def __call__(self, cell: Cell, tally: _Tally) -> None:
        for failure in tally.failed[self.reported :]:
            self.progress.console.print(
                f"failed: {failure.recipe}: {failure.error}", markup=False, highlight=False, soft_wrap=True
            )
        self.reported = len(tally.failed)
        left = self.cells[tally.settled() :]
        self.progress.update(
            self.task,
            completed=tally.settled(),
            counts=f"{len(left)} left, {len(tally.failed)} failed",
            remaining=_remaining(left, tally.seconds),
            cell=str(cell.recipe),
        )


@contextmanager
def _bar(study: Study, cells: list[Cell], visible: bool) -> Iterator[_Show]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[counts]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[remaining]}"),
        TextColumn("{task.fields[cell]}", markup=False, style="dim"),
    )
    with Progress(*columns, console=Console(stderr=True, quiet=not visible), disable=not visible) as progress:
        task = progress.add_task(study.name, total=len(cells), counts="", remaining="", cell="")
        yield _Show(progress, task, cells)


def _remaining(left: list[Cell], seconds: Mapping[str, list[float]]) -> str:
    """Estimate what is left from the mean time of each kind of cell, since kinds differ by far."""
    times = [second for kind in seconds.values() for second in kind]
    if not left or not times:
        return ""
    overall = sum(times) / len(times)
    means = {kind: sum(values) / len(values) for kind, values in seconds.items()}
    return f"ETA {_clock(sum(means.get(cell.recipe.kind, overall) for cell in left))}"


def _clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds.

    >>> _clock(3725.4)
    '1:02:05'
    """
    minutes, second = divmod(round(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}"
