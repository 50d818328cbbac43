"""What a large run costs its driver: work and memory for each cell, and the store's size, as the number of cells grows.

    python benchmarks/many_cells.py 1000 10000 100000

Cells of one simulated second on simulated workers that take no time: the executor gives each cell back as done at the next
look, with ten metrics, so all that the clock shows is the driver (planning, locks, agenda, store, progress). The driver
keeps up with as many workers as cells' seconds fit into its own work for a cell: `workers` is that number for cells of 1 s.
The last columns are for a second run of the same study, which finds all done, and for reading two columns of all records.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from secateur.lab import Cell, Context, Outcome, Recipe, Report, Store, Study, run_study
from secateur.lab.drive.executors.base import Done, Event, Setting, Started

SEEDS = 100
"""Networks: each is a cell, and the others build upon them."""


def simulated(context: Context) -> Outcome:
    """Never called."""
    raise NotImplementedError


class AtOnce:
    """So many simulated workers, whose cells are done at the next look."""

    name, window = "simulated", 512

    def __init__(self) -> None:
        self._events: list[Event] = []

    def start(self, setting: Setting) -> None:
        """Nothing is to start."""

    def submit(self, cell: Cell) -> None:
        """Do the cell."""
        metrics = {f"measure_{k}": k / 7 for k in range(9)} | {"accuracy": 0.5}
        self._events += [Started(cell.id, "1"), Done(cell.id, "1", Outcome(metrics), 1.0, 1.0, {"python": "3"})]

    def wait(self, timeout: float | None = None) -> None:
        """Something has always happened."""

    def collect(self) -> list[Event]:
        """Return it."""
        events, self._events = self._events, []
        return events

    def stop(self) -> None:
        """Nothing runs."""


def cells(options: Mapping[str, Any]) -> list[Cell]:
    """A network for each seed, and its share of the rest."""
    each, planned = options["cells"] // SEEDS, []
    for seed in range(SEEDS):
        base = Cell(Recipe("many", "train", {"seed": seed, "data": "d"}), simulated, lookup={"data": "d"})
        rest = (base.then("prune", simulated, {"method": "l1", "sparsity": n / each}) for n in range(1, each))
        planned += [base, *rest]
    return planned


STUDY = Study("many", "Many", None, "", cells, lambda results: Report("Many"), {"cells": 1000})


def memory() -> float:
    """Resident megabytes now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def measure(count: int, folder: Path) -> dict[str, float]:
    """Run the study; milliseconds of the processor and of the clock for each cell."""
    store, before, cpu, wall = Store(folder), memory(), time.process_time(), time.perf_counter()
    planned = STUDY.planned({"cells": count})
    row = {"plan ms": 1000 * (time.process_time() - cpu) / count}
    cpu, wall = time.process_time(), time.perf_counter()
    summary = run_study(planned, store, executor=AtOnce(), progress=False)
    assert len(summary.done) == count
    row |= {
        "run cpu ms": 1000 * (time.process_time() - cpu) / count,
        "clock ms": 1000 * (time.perf_counter() - wall) / count,
    }
    row |= {"workers": 1000 / row["clock ms"], "KB memory": 1000 * (memory() - before) / count}
    row["KB store"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1000 / count
    row["files"] = sum(1 for file in folder.rglob("*") if file.is_file())
    cpu = time.process_time()
    run_study(planned, store, executor=AtOnce(), progress=False)
    row["again ms"] = 1000 * (time.process_time() - cpu) / count
    cpu = time.process_time()
    store.query(columns=["sparsity", "accuracy"])
    row["read ms"] = 1000 * (time.process_time() - cpu) / count
    return row


def main() -> None:
    """Print one row for each number of cells, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("counts", type=int, nargs="*", default=[1000, 10_000, 100_000])
    parser.add_argument("--folder", help="where the stores are made; a disk's speed shows in the clock's column")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    for count in asked.counts:
        with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
            if asked.one:
                print(json.dumps(measure(count, Path(folder))))
                return
            words = [
                sys.executable,
                __file__,
                str(count),
                "--one",
                *(["--folder", asked.folder] if asked.folder else []),
            ]
            row = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
        if count == asked.counts[0]:
            print(f"{'cells':>9}" + "".join(f"{name:>12}" for name in row) + "   (ms and KB: for each cell)")
        print(f"{count:>9,}" + "".join(f"{value:>12.3g}" for value in row.values()), flush=True)


if __name__ == "__main__":
    main()
