"""Cells in worker processes on this machine."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from secateur.checks import check_whole
from secateur.lab.drive.executors import worker as worker_process
from secateur.lab.drive.executors.base import Event, Failed, Setting, Started
from secateur.lab.drive.executors.wire import unpack
from secateur.lab.plan.study import Cell
from secateur.types import InputError

__all__ = ["Processes", "can_be_sent", "cores"]

_TAIL = 64_000
_STILLBORN = 5
"""After so many workers in a row that left before they were ready, it is no accident."""
_TRIES = 5
_ORPHANED = 255
"""What multiprocessing says of a process whose fork server is gone, dead or not."""
_STRUCK = 100
"""Likewise of workers that something killed: whoever did it may stop."""


def cores() -> int:
    """Return how many processors this process may use.

    >>> cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def can_be_sent(cell: Cell) -> bool:
    """Say whether another process can be told what to compute: not a lambda, nor a function inside another."""
    try:
        pickle.dumps(cell.run)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


@dataclass(eq=False)
class _Worker:
    """A worker process, what it is doing, and the last that it printed."""

    name: str
    process: ForkServerProcess
    messages: Connection
    output: Connection
    cell: Cell | None = None
    ready: bool = False
    tail: bytearray = field(default_factory=bytearray)

    def send(self, cell: Cell) -> None:
        self.tail.clear()
        self.cell = cell
        # A worker that has died meanwhile is noticed by its sentinel.
        with suppress(OSError):
            self.messages.send_bytes(cell.id.encode())
            self.messages.send_bytes(_pickled(cell))

    def hear(self) -> None:
        """Take in what it printed."""
        with suppress(OSError):
            while text := os.read(self.output.fileno(), 65536):
                self.tail += text
                del self.tail[:-_TAIL]

    def receive(self) -> list[bytes]:
        """Return the messages that are there: none, `READY`, or the two of a finished cell.

        Raises:
            EOFError: it is dead, and no whole answer came before.
        """
        alive = self.process.is_alive()  # asked first, since it may die between the two questions
        try:
            if not self.messages.poll(0):
                if alive:
                    return []
                raise EOFError
            first = self.messages.recv_bytes()
            return [first] if first == worker_process.READY else [first, self.messages.recv_bytes()]
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """End it: an idle worker leaves when its connection closes, a busy one is killed."""
        self.messages.close()
        if self.cell is not None or not self.ready:
            self.process.kill()
        self.process.join(2.0)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.output.close()
        self.process.close()


class Processes:
    """Computes cells in worker processes, each at one torch thread unless told otherwise.

    A worker that dies (kill -9, the system's lack of memory, a crash in native code) costs its own cell alone: the
    cell is tried again `retries` times and then fails with the reason. Workers end by themselves when the driver
    is gone. What cells print is not shown; the log of a failed cell has it.

    Args:
        jobs: how many workers; one a core when None.
        retries: how often a cell is tried again when its worker dies.

    Raises:
        InputError: fewer than one worker, or a negative number of retries.
    """

    name = "processes"

    def __init__(self, jobs: int | None = None, *, retries: int = 1) -> None:
        check_whole(self, or_none=True, jobs=jobs)
        check_whole(self, 0, retries=retries)
        self.jobs, self.retries = jobs or cores(), retries
        self._workers: list[_Worker] = []
        self._queue: deque[Cell] = deque()
        self._events: list[Event] = []
        self._deaths: Counter[str] = Counter()
        self._stillborn = 0

    @property
    def window(self) -> int:
        """Two cells a worker: one to compute and one to go on with at once."""
        return 2 * self.jobs

    def start(self, setting: Setting) -> None:
        """Remember the run's setting; workers start with the first cells."""
        self._setting = setting

    def submit(self, cell: Cell) -> None:
        """Give the cell to a free worker, or let it wait for one."""
        self._queue.append(cell)
        self._feed()

    def wait(self, timeout: float | None = None) -> None:
        """Return when a worker has something to say."""
        if not self._events:
            of_all = ((w.messages, w.output, w.process.sentinel) for w in self._workers)
            wait([thing for of_one in of_all for thing in of_one], timeout)

    def collect(self) -> list[Event]:
        """Return what has happened, and keep the workers busy."""
        for worker in list(self._workers):
            worker.hear()
            try:
                self._take(worker, worker.receive())
            except EOFError:
                self._bury(worker)
        self._feed()
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """End all workers."""
        self._queue.clear()
        while self._workers:
            self._workers.pop().close()

    def _take(self, one: _Worker, parts: list[bytes]) -> None:
        if len(parts) == 1:
            one.ready, self._stillborn = True, 0
        elif parts:
            event = unpack(parts[0], parts[1], self._setting.store.path)
            one.hear()
            printed = one.tail.decode(errors="replace")
            one.cell = None
            self._events.append(_with_output(event, printed) if isinstance(event, Failed) else event)

    def _bury(self, one: _Worker) -> None:
        """Take leave of a dead worker; its cell is tried again, or fails."""
        self._workers.remove(one)
        one.process.join()
        one.hear()
        code, cell, printed = one.process.exitcode, one.cell, one.tail.decode(errors="replace")
        why = _cause(code)
        one.close()
        if cell is None or not one.ready:
            self._count_stillborn(one.ready, why, printed, code)
            self._queue.extendleft([cell] if cell else [])
            return
        self._deaths[cell.id] += 1
        # Who kills a fork server costs cells that did nothing wrong, and may do it more than once.
        if self._deaths[cell.id] <= self.retries + (_TRIES if code == _ORPHANED else 0):
            self._queue.appendleft(cell)
            return
        times = "once" if self._deaths[cell.id] == 1 else f"{self._deaths[cell.id]} times"
        self._events.append(Failed(cell.id, one.name, f"the worker process died {times}: {why}", "", printed))

    def _count_stillborn(self, began: bool, why: str, printed: str, code: int | None) -> None:
        self._stillborn += not began
        if self._stillborn >= (_STRUCK if code is not None and code < 0 else _STILLBORN):
            last = printed.strip().splitlines()[-1:] or [why]
            raise InputError(
                f"the worker processes do not start: {last[0]}; a script that runs a study in processes needs "
                "`if __name__ == '__main__':` around its calls; the serial executor (--jobs 1) needs no processes"
            )

    def _feed(self) -> None:
        while self._queue:
            free = next((worker for worker in self._workers if worker.cell is None and worker.process.is_alive()), None)
            if free is None and len(self._workers) >= self.jobs:
                return
            worker = free or self._hire()
            cell = self._queue.popleft()
            worker.send(cell)
            self._events.append(Started(cell.id, worker.name))

    def _hire(self) -> _Worker:
        context = get_context("forkserver")
        # All that cells use is imported once, before the workers are forked.
        context.set_forkserver_preload([worker_process.__name__, "secateur.compression"])
        messages, their_messages = context.Pipe()
        output, their_output = context.Pipe(duplex=False)
        os.set_blocking(output.fileno(), False)
        numbers = {int(worker.name) for worker in self._workers}
        name = str(min(set(range(1, self.jobs + 1)) - numbers))
        with _pinned(self._setting.threads):
            process = _started(context, name, (their_messages, their_output, name, self._setting))
        their_messages.close()
        their_output.close()
        self._workers.append(_Worker(name, process, messages, output))
        return self._workers[-1]


def _started(context: ForkServerContext, name: str, arguments: tuple[object, ...]) -> ForkServerProcess:
    """Start a worker, from another fork server where somebody killed the one that there was."""
    for number in range(_TRIES):
        time.sleep(0.1 * number)  # the system may not know yet that it is dead
        process = context.Process(target=worker_process.work, args=arguments, name=f"secateur-{name}")
        try:
            process.start()
        except (ConnectionError, EOFError, BrokenPipeError, FileNotFoundError) as error:
            reason = error
        else:
            return process
    raise InputError(
        f"the worker processes do not start: their fork server was killed {_TRIES} times ({type(reason).__name__}); the "
        "serial executor (--jobs 1) needs no processes"
    )


@contextmanager
def _pinned(threads: int) -> Iterator[None]:
    """Let the process that starts here find its number of threads before it imports torch."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(threads)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _pickled(cell: Cell) -> bytes:
    if not can_be_sent(cell):
        raise InputError(
            f"cell {cell.recipe} cannot be sent to another process: its function {cell.run!r} is no module's own; "
            "define it at the top of a module, or use the serial executor (--jobs 1)"
        )
    return pickle.dumps(cell)


def _with_output(event: Failed, printed: str) -> Failed:
    return Failed(event.id, event.worker, event.error, event.traceback, printed)


def _cause(code: int | None) -> str:
    """Say how a process ended.

    >>> _cause(-9)
    'killed by SIGKILL, perhaps since memory ran out'
    >>> _cause(3)
    'it left with exit code 3'
    """
    if code == _ORPHANED:
        return "it left with exit code 255, or the fork server that it came of was killed"
    if code is None or code >= 0:
        return f"it left with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"killed by {name}" + (", perhaps since memory ran out" if name == "SIGKILL" else "")
