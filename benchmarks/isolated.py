"""Work in a process of its own that is killed at its limits; and rows of JSON lines that a rerun goes on from."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

__all__ = ["append_rows", "read_rows", "row_in_child"]

Row = dict[str, Any]
Work = Callable[[Callable[[Row], None]], None]


def row_in_child(work: Work, row: Row, seconds: int, gigabytes: float) -> Row:
    """Return the last row that `work` reported from a child with limits; `row` is what there is before the first.

    A row whose ``stage`` is not "done" and that has no ``error`` gets one that says how the child died.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(work, sender, seconds, gigabytes))
    began = time.monotonic()
    child.start()
    sender.close()
    try:
        while True:
            row = receiver.recv()
    except EOFError:
        child.join()
    if row.get("stage") != "done" and "error" not in row:
        row.update(error_type="Limit", error=_death(child.exitcode, seconds))
    return {**row, "wall_s": round(time.monotonic() - began, 1)}


def _death(code: int | None, seconds: int) -> str:
    if code == -signal.SIGXCPU:
        return f"over {seconds} CPU seconds"
    return f"the process ended with {signal.Signals(-code).name if code and code < 0 else code}"


def _child(work: Work, sender: Connection, seconds: int, gigabytes: float) -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (lives as long as the child)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    limit = int(gigabytes * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    work(sender.send)
    sender.close()


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines; a last line that was cut off is left out."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def append_rows(path: Path, rows: Iterable[Row], total: int, line: Callable[[Row], str]) -> None:
    """Write rows to a file as they arrive, and print a line about each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for number, row in enumerate(rows, start=1):
            file.write(json.dumps(row) + "\n")
            file.flush()
            print(f"[{number}/{total}] {line(row)}", flush=True)
