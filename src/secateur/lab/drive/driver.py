"""Run a study's cells: skip the finished ones, keep what fails, and be ready to be killed."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import current_process
from typing import Any

from secateur.checks import check_whole, in_one_line
from secateur.files import write_text
from secateur.lab.drive.agenda import Agenda
from secateur.lab.drive.executors import Executor, by_name, suited
from secateur.lab.drive.executors.base import Done, Event, Failed, Setting, Started
from secateur.lab.drive.interrupts import Interrupts
from secateur.lab.drive.locks import Locks
from secateur.lab.drive.progress import Notice, Watcher, watcher
from secateur.lab.drive.tally import RunSummary, RunTally
from secateur.lab.drive.trackers import Tracker
from secateur.lab.drive.trackers.relay import Trackers
from secateur.lab.keep import paths
from secateur.lab.keep.records import Failure, Record
from secateur.lab.keep.store import Store
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Planned, Study
from secateur.lab.show.build import build_report
from secateur.types import InputError

__all__ = ["RunSummary", "run_study"]

_POLL = 0.2
"""Seconds between two looks at the cells that another run computes."""


def run_study(
    study: Study | Planned,
    store: Store,
    options: Mapping[str, Json] | None = None,
    *,
    executor: str | Executor | None = None,
    jobs: int | None = None,
    threads: int = 1,
    retry_failed: bool = False,
    progress: bool | Watcher = True,
    trackers: Sequence[Tracker] = (),
) -> RunSummary:
    """Compute the cells of a study that the store does not hold yet.

    Whatever ends a run (Ctrl-C, kill -9, a power cut), the next one goes on where it stopped and repeats no
    finished cell. Two runs on one store share the work. A cell that raises is reported in one line; its traceback
    is kept in the store (`Store.failures`) and, with what it printed, in ``logs/<id>.log``. The cells that need it
    are skipped, the rest goes on. Every cell starts from a random state that its recipe alone decides, and the
    caller's is left as it was; the numbers are the same whatever the executor.

    Args:
        study: what to compute.
        store: where the results are kept; only this process writes to it.
        options: options of the study; see `Study.defaults`; None where it is planned with them already.
        executor: where to compute: an executor or a name (`secateur.lab.drive.executors.by_name`). None takes worker
            processes when there are enough cells to gain, else this process.
        jobs: how many cells at a time; one a core when None.
        threads: how many threads torch takes for a cell.
        retry_failed: try again the cells that failed in an earlier run.
        progress: show on standard error how it goes; or a watcher of one's own.
        trackers: told of every cell that is stored and of the report; one that raises is dropped.

    Returns:
        What was done, found, failed, skipped and left; `RunSummary.exit_code` for a command line.

    Raises:
        UnknownNameError: an unknown option or executor.
        InputError: the study's list of cells is not in order, or a number is out of range.
        FileError: the store cannot be written; what was finished before stays.
    """
    check_whole("run_study", threads=threads)
    check_whole("run_study", or_none=True, jobs=jobs)
    _check_not_a_worker()
    planned = Planned.of(study, options)
    driver = _Driver(planned, store, retry_failed)
    where = driver.choose(executor, jobs)
    with watcher(progress) as watch:
        relay = Trackers(
            trackers, lambda words: watch(Notice("warning", planned.study.name, driver.tally, words=words))
        )
        return driver.run(where, threads, watch, relay)


def _check_not_a_worker() -> None:
    """Refuse to run in a worker that is reading the script that started it: it would wait for its own driver."""
    if getattr(current_process(), "_inheriting", False):
        raise InputError(
            "run_study: this script runs a study when it is imported, and worker processes import it; put its calls "
            "under `if __name__ == '__main__':`, or use executor='serial'"
        )


class _Driver:
    """Walks through a study's cells: hands them to the executor, and stores what comes back."""

    def __init__(self, planned: Planned, store: Store, retry_failed: bool) -> None:
        self.tally = RunTally(planned.cells, best_of=planned.study.best)
        self._planned, self._name, self._store = planned, planned.study.name, store
        store.sweep()
        self._known = {failure.recipe.id: failure for failure in store.failures()}
        self._locks = Locks(store.path)
        self._in_flight: dict[str, Cell] = {}
        self._elsewhere: dict[str, Cell] = {}
        self._looked = 0.0
        self._todo, self._agenda = self._sort(planned.cells, {} if retry_failed else self._known)

    def choose(self, executor: str | Executor | None, jobs: int | None) -> Executor:
        if executor is None:
            return suited(self._todo, jobs)
        if isinstance(executor, str):
            return by_name(executor, jobs)
        if jobs is not None:
            raise InputError(f"jobs is {jobs}, but the executor is given; give the number to the executor itself")
        return executor

    def run(self, executor: Executor, threads: int, watch: Watcher, trackers: Trackers) -> RunSummary:
        self._executor, self._watch, self._trackers = executor, watch, trackers
        interrupted = False
        self._write_plan()
        self._tell("begin")
        trackers.tell("start", self._name, self._planned.options)
        with ExitStack() as stack:
            interrupts = stack.enter_context(Interrupts())
            stack.callback(self._locks.give_back_all)
            stack.callback(executor.stop)
            stack.callback(interrupts.hush)
            try:
                self._compute(Setting(self._store, self._planned.options, threads), interrupts)
            except KeyboardInterrupt:
                interrupts.hush()
                interrupted = True
                self._hear(executor.collect())
        self._track_report(interrupted)
        summary = self.tally.summary(interrupted)
        self._tell("end", summary=summary)
        return summary

    def _write_plan(self) -> None:
        """Say what is to be computed, for those who watch the store and for reports that are written again."""
        cells = {cell.id: cell.recipe.short for cell in self._planned.cells}
        file = self._planned.study.file
        plan = {"study": self._name, "options": self._planned.options, "cells": cells}
        plan |= {"file": str(file.resolve())} if file is not None else {}
        write_text(paths.plan_file(self._store.path, self._name), json.dumps(plan))

    def _sort(self, cells: Sequence[Cell], failed: Mapping[str, Failure]) -> tuple[list[Cell], Agenda]:
        """Count what is finished or has failed before, and return the rest."""
        finished = self._store.ids()
        self._locks.sweep(finished)
        rest: list[Cell] = []
        for cell in cells:
            if cell.id in finished:
                self.tally.find(cell.recipe)
            elif cell.id in failed:
                self.tally.fail(failed[cell.id], before=True)
            else:
                rest.append(cell)
        agenda = Agenda(rest, finished)
        for failure in self.tally.failed_before:
            for cell in agenda.drop(failure.recipe.id):
                self.tally.skip(cell.recipe)
        if self.tally.best_of is not None:
            for record in self._store.records(recipe.id for recipe in self.tally.found):
                self.tally.rate(record)
        return rest, agenda

    def _compute(self, setting: Setting, interrupts: Interrupts) -> None:
        if self._todo:
            self._executor.start(setting)
            self.tally.workers = getattr(self._executor, "jobs", None) or self._executor.window
        while self._hand_over():
            with interrupts.heard():
                self._executor.wait(_POLL if self._elsewhere else None)
            self._hear(self._executor.collect())

    def _hand_over(self) -> bool:
        """Give the executor as many cells as it wants; False when there is nothing left to wait for."""
        self._look_elsewhere()
        while len(self._in_flight) < self._executor.window and (cell := self._agenda.next()):
            if self._locks.take(cell.id):
                self._submit(cell, set())
            else:
                self._elsewhere[cell.id] = cell
        return bool(self._in_flight or self._elsewhere)

    def _look_elsewhere(self) -> None:
        """See what has become of the cells that another run was computing."""
        if not self._elsewhere or time.monotonic() - self._looked < _POLL:
            return
        self._looked = time.monotonic()
        free = [cell for cell in self._elsewhere.values() if self._locks.take(cell.id)]
        failed = {failure.recipe.id: failure for failure in self._store.failures()} if free else {}
        for cell in free:
            del self._elsewhere[cell.id]
            self._submit(cell, failed)

    def _submit(self, cell: Cell, failed: Mapping[str, Failure] | set[str]) -> None:
        """Hand over a cell that is locked, unless it was settled while another run had the lock."""
        if self._store.has(cell.id):
            self.tally.find(cell.recipe)
            self._settled(cell)
        elif isinstance(failed, Mapping) and cell.id in failed:
            self._give_up(failed[cell.id], cell)
        else:
            self._in_flight[cell.id] = cell
            self._executor.submit(cell)

    def _hear(self, events: Sequence[Event]) -> None:
        # What came together is stored together: the disk is asked once, however many workers there are.
        finished = [event for event in events if isinstance(event, Done)]
        results = [(self._result(event), event.outcome.artefact) for event in finished]
        stored = dict(
            zip((event.id for event in finished), self._store.put_all(results) if results else (), strict=True)
        )
        for event in events:
            cell = self._in_flight[event.id]
            if isinstance(event, Started):
                self.tally.start(cell.recipe, event.worker)
                self._tell("started", cell.recipe, worker=event.worker)
            elif isinstance(event, Done):
                self._keep(event, cell, stored[event.id])
            else:
                self._fail(event, cell)

    def _result(self, event: Done) -> Record:
        environment = {**event.environment, "executor": self._executor.name}
        outcome, times = event.outcome, (event.wall_seconds, event.cpu_seconds)
        return Record(self._in_flight[event.id].recipe, outcome.metrics, outcome.history, environment, *times)

    def _keep(self, event: Done, cell: Cell, record: Record | InputError) -> None:
        if isinstance(record, InputError):
            # The cell gave what cannot be kept; a store that cannot be written ends the run.
            self._fail(Failed(cell.id, event.worker, in_one_line(record)), cell)
            return
        outcome = event.outcome
        del self._in_flight[cell.id]
        self.tally.finish(record)
        self._settled(cell)
        self._tell("done", cell.recipe, worker=event.worker, record=record)
        self._trackers.tell("cell", record, outcome.artefact)

    def _fail(self, event: Failed, cell: Cell) -> None:
        failure = Failure(cell.recipe, _whole(event.error), _whole(event.traceback or event.error))
        self._store.fail(failure)
        write_text(paths.log_file(self._store.path, cell.id), _log(failure, event))
        del self._in_flight[cell.id]
        self._give_up(failure, cell, event.worker)

    def _give_up(self, failure: Failure, cell: Cell, worker: str = "") -> None:
        self.tally.fail(failure)
        self._locks.give_back(cell.id)
        self._tell("failed", cell.recipe, worker=worker, words=failure.error)
        for other in self._agenda.drop(cell.id):
            self.tally.skip(other.recipe)
            self._tell("skipped", other.recipe, words=f"it needs {cell.id}, which failed")

    def _settled(self, cell: Cell) -> None:
        """A cell is in the store: let go of it, and let those that need it start."""
        if cell.id in self._known:
            with suppress(OSError):
                paths.log_file(self._store.path, cell.id).unlink(missing_ok=True)
        self._store.forget_checkpoint(cell.id)
        self._locks.give_back(cell.id)
        self._agenda.finish(cell.id)

    def _track_report(self, interrupted: bool) -> None:
        if self._trackers and not interrupted:
            try:
                self._trackers.tell("report", build_report(self._planned, self._store))
            except Exception as error:  # noqa: BLE001  (a report that cannot be made is told, and stops nothing)
                self._tell("warning", words=f"the trackers get no report: {in_one_line(error)}")
        self._trackers.tell("close")

    def _tell(self, what: Any, recipe: Recipe | None = None, **facts: Any) -> None:
        self._watch(Notice(what, self._name, self.tally, recipe, **facts))


def _whole(text: str) -> str:
    """A text that a file can hold: names of files that are not UTF-8 bring half characters into errors."""
    return text.encode("utf-8", "replace").decode()


def _log(failure: Failure, event: Failed) -> str:
    parts = [f"{failure.recipe}\n{failure.error}\n", failure.traceback]
    return "\n".join([*parts, f"What it printed:\n\n{_whole(event.output)}"] if event.output else parts)
