"""What an executor is, and what each of them does with one cell."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from secateur.checks import in_one_line
from secateur.lab.keep import paths
from secateur.lab.keep.store import Store
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Needed, Outcome
from secateur.randomness import seeded
from secateur.types import InputError

__all__ = [
    "Done",
    "Event",
    "Executor",
    "Failed",
    "Setting",
    "Started",
    "compute",
    "overheard",
]

_OUTPUT = 64_000
"""How many characters of a cell's output are kept, the last ones."""


@dataclass(frozen=True)
class Setting:
    """What is the same for all cells of a run.

    Attributes:
        store: where the cells that others need are found; only the driver writes to it.
        options: the study's options.
        threads: how many threads torch takes for a cell. Sums are taken in another order with another number,
            so results can differ in their last bits; that is why it is one number for all executors.
    """

    store: Store
    options: Mapping[str, Json] = field(default_factory=dict)
    threads: int = 1


@dataclass(frozen=True)
class Started:
    """A worker has begun a cell."""

    id: str
    worker: str


@dataclass(frozen=True, eq=False)
class Done:
    """A worker has finished a cell; nothing is stored yet."""

    id: str
    worker: str
    outcome: Outcome
    wall_seconds: float
    cpu_seconds: float
    environment: Mapping[str, Json]


@dataclass(frozen=True)
class Failed:
    """A cell raised, or its worker died: the error in one line, the traceback, and what the cell printed."""

    id: str
    worker: str
    error: str
    traceback: str = ""
    output: str = ""


Event = Started | Done | Failed


class Executor(Protocol):
    """Where cells are computed.

    The driver hands over no more than `window` cells at a time, waits, and collects what has happened. Only
    `wait` blocks for long, so Ctrl-C need be heard only there.
    """

    @property
    def name(self) -> str:
        """The executor's name, which the records keep."""
        ...

    @property
    def window(self) -> int:
        """How many cells it wants at a time, running ones included."""
        ...

    def start(self, setting: Setting) -> None:
        """Get ready for a run."""
        ...

    def submit(self, cell: Cell) -> None:
        """Take a cell, all of whose needs are in the store."""
        ...

    def wait(self, timeout: float | None = None) -> None:
        """Return when something has happened, or after `timeout` seconds."""
        ...

    def collect(self) -> list[Event]:
        """Return what has happened since the last call: a `Started` and then a `Done` or `Failed` for each cell."""
        ...

    def stop(self) -> None:
        """End at once; what is running is lost. Can be called twice."""
        ...


def compute(
    cell: Cell,
    needed: Needed,
    options: Mapping[str, Json],
    worker: str,
    environment: Mapping[str, Json],
    folder: Path | None,
) -> Done | Failed:
    """Run a cell from the random state that its recipe decides; whatever it raises becomes a `Failed`.

    Its checkpoint lies in `folder`, the store's, where this process sees it.
    """
    checkpoint = None if folder is None else paths.checkpoint_file(folder, cell.id)
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        with _own_randomness(cell.recipe):
            outcome = _checked(cell.recipe, cell.run(Context(cell.recipe, needed, options, checkpoint)))
    except (Exception, SystemExit) as error:  # noqa: BLE001  (whatever a cell raises, the other cells go on)
        return Failed(cell.id, worker, in_one_line(error), traceback.format_exc())
    times = (time.perf_counter() - wall, time.process_time() - cpu)
    return Done(cell.id, worker, outcome, *times, environment)


@contextmanager
def overheard() -> Iterator[Callable[[], str]]:
    """Keep what is printed, and let it through; the function that is given returns the last of it.

    >>> with overheard() as heard:
    ...     print("hello")
    hello
    >>> heard()
    'hello\\n'
    """
    lines: list[str] = []
    with redirect_stdout(_Tee(sys.stdout, lines)), redirect_stderr(_Tee(sys.stderr, lines)):
        yield lambda: "".join(lines)[-_OUTPUT:]


class _Tee:
    """A stream that also keeps what is written to it."""

    def __init__(self, stream: Any, kept: list[str]) -> None:
        self._stream, self._kept = stream, kept

    def write(self, text: str) -> int:
        self._kept.append(text)
        if len(self._kept) > 1000:
            self._kept[:] = ["".join(self._kept)[-_OUTPUT:]]
        self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _own_randomness(recipe: Recipe) -> Iterator[None]:
    import torch

    # So that a cell gives the same numbers first or last, here or elsewhere, in one sitting or after a resume.
    seed = int(recipe.id[:15], 16)
    with seeded(torch.device("cpu"), seed):
        torch.cuda.manual_seed_all(seed)
        yield


def _checked(recipe: Recipe, outcome: object) -> Outcome:
    """Return the outcome when it can be kept; the same is refused in the driver and far from it."""
    if not isinstance(outcome, Outcome):
        raise InputError(f"a cell must return an Outcome, got {type(outcome).__name__}")
    try:
        json.dumps([dict(outcome.metrics), [dict(row) for row in outcome.history]])
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the results of cell {recipe} cannot be kept: {error}; give plain numbers (.item() or .tolist())"
        ) from error
    for name, tensor in (outcome.artefact or {}).items():
        if not isinstance(tensor, Tensor):
            raise InputError(
                f"the artefact of cell {recipe} cannot be kept: {name!r} is a {type(tensor).__name__}; give tensors"
            )
    return outcome
