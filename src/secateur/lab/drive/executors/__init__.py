"""Where cells are computed: in this process, in worker processes, or on a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence

from secateur.lab.drive.executors.base import Done, Event, Executor, Failed, Setting, Started
from secateur.lab.drive.executors.processes import Processes, can_be_sent, cores
from secateur.lab.drive.executors.ray import OnRay
from secateur.lab.drive.executors.serial import Serial
from secateur.lab.plan.study import Cell
from secateur.types import InputError, unknown_name

__all__ = [
    "JOBS_VARIABLE",
    "Done",
    "Event",
    "Executor",
    "Failed",
    "OnRay",
    "Processes",
    "Serial",
    "Setting",
    "Started",
    "by_name",
    "suited",
]

JOBS_VARIABLE = "SECATEUR_JOBS"
"""The environment variable that says how many cells to compute at a time where nothing else does."""

_GAIN = 4
"""From so many cells on, starting processes (some seconds) is worth its time, unless all of them are tiny."""


def by_name(name: str, jobs: int | None = None) -> Executor:
    """Return the executor of that name.

    Args:
        name: ``"serial"``, ``"processes"``, ``"ray"`` (``$RAY_ADDRESS``, or this machine), ``"ray:auto"`` (the cluster
            that runs on this machine), ``"ray:host:port"``, or ``"ray://host:port"`` (as a client).
        jobs: how many cells at a time.

    Raises:
        UnknownNameError: there is none of that name.
        InputError: `jobs` is below 1, or not 1 for ``"serial"``.
        MissingLibraryError: Ray is not installed.

    >>> by_name("processes", 2).window
    4
    """
    if name.startswith("ray://"):
        return OnRay(name, jobs)
    kind, _, address = name.partition(":")
    if kind == "ray":
        return OnRay(address or None, jobs)
    if name == "processes":
        return Processes(jobs)
    if name == "serial":
        if jobs not in (None, 1):
            raise InputError(f"the serial executor does 1 cell at a time, not {jobs}; use processes")
        return Serial()
    raise unknown_name("executor", name, ["serial", "processes", "ray", "ray:auto", "ray://host:port"])


def suited(cells: Sequence[Cell], jobs: int | None = None) -> Executor:
    """Return the executor that suits so many cells on this machine: worker processes where they can gain.

    Args:
        cells: what is to be computed.
        jobs: how many cells at a time; ``$SECATEUR_JOBS``, else one a core, when None.

    Raises:
        InputError: `jobs` or ``$SECATEUR_JOBS`` is not 1 or more.
    """
    if jobs is not None:
        return Serial() if jobs == 1 else Processes(jobs)
    usual = _usual_jobs()
    worth = usual > 1 and len(cells) >= _GAIN
    # One cell for each function; there are few functions and many cells.
    if worth and all(can_be_sent(cell) for cell in {cell.run: cell for cell in cells}.values()):
        return Processes(usual)
    return Serial()


def _usual_jobs() -> int:
    text = os.environ.get(JOBS_VARIABLE)
    if not text:
        return cores()
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"${JOBS_VARIABLE} is {text!r}; give 1 or more")
    return int(text)
