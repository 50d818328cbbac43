"""What a study's cells cost besides their work: wall time minus work for each cell, on each executor.

    python benchmarks/executors.py --cells 200 --milliseconds 10

Each cell multiplies matrices for about so many milliseconds at one thread and keeps one metric. `work` is the sum of the
cells' own times, divided by how many ran at a time; `overhead` is what the clock says beyond that, for each cell.
Starting (workers, Ray, importing torch there) is taken apart: a study of one cell a worker runs first.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch

from secateur.lab import Cell, Context, Outcome, Recipe, Report, Store, Study, run_study
from secateur.lab.drive.executors import OnRay, Processes, Serial
from secateur.lab.drive.executors.base import Executor, Setting


def multiply(context: Context) -> Outcome:
    """Work for as long as the recipe says."""
    end = time.perf_counter() + context["milliseconds"] / 1000
    matrix = torch.eye(128)
    while time.perf_counter() < end:
        matrix = matrix @ matrix
    return Outcome({"trace": matrix.trace().item()})


def study(name: str, count: int, milliseconds: float) -> Study:
    """So many cells that need nothing."""
    made = [Cell(Recipe(name, "work", {"n": n, "milliseconds": milliseconds}), multiply) for n in range(count)]
    return Study(name, name, None, "", lambda options: made, lambda results: Report(name))


class Kept:
    """An executor that outlives a run, so that its start can be timed apart."""

    def __init__(self, inner: Executor) -> None:
        self.inner, self.started = inner, False
        self.name, self.submit, self.wait, self.collect = inner.name, inner.submit, inner.wait, inner.collect

    @property
    def window(self) -> int:
        """As many as the inner one wants."""
        return self.inner.window

    def start(self, setting: Setting) -> None:
        """Start once."""
        if not self.started:
            self.inner.start(setting)
        self.started = True

    def stop(self) -> None:
        """Stay."""


def measure(inner: Executor, jobs: int, folder: Path, cells: int, milliseconds: float) -> str:
    """Return one row: milliseconds a cell."""
    executor, store = Kept(inner), Store(folder)
    start = time.perf_counter()
    run_study(study("warm", jobs, milliseconds), store, executor=executor, progress=False)
    starting = time.perf_counter() - start
    start, cpu = time.perf_counter(), time.process_time()
    main = study("main", cells, milliseconds)
    summary = run_study(main, store, executor=executor, progress=False)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    inner.stop()
    assert len(summary.done) == cells
    work = sum(record.wall_seconds for record in store.records(cell.id for cell in main.plan())) / jobs
    each = (1000 * wall / cells, 1000 * work / cells, 1000 * (wall - work) / cells, 1000 * cpu / cells)
    return f"{inner.name:<10} {jobs:>4} {starting:>8.1f} " + " ".join(f"{value:>9.2f}" for value in each)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--milliseconds", type=float, default=10.0)
    parser.add_argument("--on", nargs="+", default=["serial", "processes", "ray"])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", help="where the stores are made; a disk's speed shows in every row")
    given = parser.parse_args()
    makers = {
        "serial": lambda: (Serial(), 1),
        "processes": lambda: (Processes(given.jobs), given.jobs),
        "ray": lambda: (OnRay("local", given.jobs), given.jobs),
    }
    print("executor   jobs  start s  wall ms   work ms   overhead   driver's cpu ms, each a cell")
    for name in given.on:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            executor, jobs = makers[name]()
            print(measure(executor, jobs, Path(folder), given.cells, given.milliseconds), flush=True)


if __name__ == "__main__":
    main()
