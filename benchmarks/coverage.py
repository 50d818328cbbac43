"""How many models can be cut: secateur beside Torch-Pruning, each model in a process of its own.

    python benchmarks/coverage.py --only torchvision --no-peer
    python benchmarks/coverage.py --only segmentation --sample 36
    python benchmarks/coverage.py --match 'swin*' --again all
    python benchmarks/coverage.py --table --markdown

Rows go to a JSON-lines file as they arrive; a rerun skips what is there. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

import torch

import coverage_models
import coverage_table
import coverage_worker
from coverage_models import Case
from isolated import append_rows, read_rows, row_in_child

Row = dict[str, Any]


def main() -> None:
    """Run what is asked for, and print the table."""
    options = _options()
    done = _read(options.results)
    torch.set_num_threads(1)
    suites = [options.only] if options.only else list(coverage_models.SUITES)
    if not options.table:
        work = [w for suite in suites for w in _work(suite, options, done)]
        _warm_up(options.peer)
        _run(work, options)
    rows = [row for row in _read(options.results).values() if row["suite"] in suites]
    print(coverage_table.table(rows, markdown=options.markdown))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=coverage_models.SUITES, help="one suite instead of all")
    parser.add_argument("--sample", type=int, metavar="N", help="only N models of a suite, drawn by --seed")
    parser.add_argument("--seed", type=int, default=0, help="what draws the sample")
    parser.add_argument("--match", default="*", metavar="PATTERN", help="models by name, such as 'resnet*'")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True, help="run Torch-Pruning as well")
    parser.add_argument("--ours", action=argparse.BooleanOptionalAction, default=True, help="run secateur")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time, one thread each")
    parser.add_argument("--seconds", type=int, default=60, help="CPU seconds for each model and tool")
    parser.add_argument("--gigabytes", type=float, default=14, help="address space for each model and tool")
    parser.add_argument("--again", choices=("failed", "graph", "all"), help="run these again although they have a row")
    parser.add_argument("--results", type=Path, default=Path("coverage.jsonl"), help="where the rows go")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args()


def _key(row: Row) -> tuple[str, str, str]:
    return row["suite"], row["model"], row["side"]


def _read(path: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of a file; of a model that ran twice the later one. A last line that was cut off is left out."""
    return {_key(row): row for row in read_rows(path)}


def _work(suite: str, options: argparse.Namespace, done: dict[tuple[str, str, str], Row]) -> Iterable[tuple[Case, str]]:
    sides = ["ours"] * options.ours + ["peer"] * options.peer
    for case in coverage_models.sample(suite, options.sample, options.seed):
        for side in sides:
            row = done.get((case.suite, case.name, side))
            if fnmatchcase(case.name, options.match) and (row is None or _wanted_again(row, options.again)):
                yield case, side


def _wanted_again(row: Row, again: str | None) -> bool:
    """Whether a model that has a row runs once more; "graph" are those that failed or came back as a graph."""
    failed, graph = not row["passed"], row.get("form") == "graph"
    return again == "all" or (again in {"failed", "graph"} and failed) or (again == "graph" and graph)


def _warm_up(peer: bool) -> None:
    """Import what every child would import, so that forking gives it to them for nothing."""
    if peer:
        import torch_pruning  # noqa: F401

    from secateur.structure import channels

    channels(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)), torch.zeros(1, 2))


def _run(work: list[tuple[Case, str]], options: argparse.Namespace) -> None:
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = pool.map(lambda w: _in_child(w[0], w[1], options), work)
        append_rows(options.results, rows, len(work), coverage_table.line)


def _in_child(case: Case, side: str, options: argparse.Namespace) -> Row:
    """Run one model in a child that is killed at its limits; what it reported last is the row."""
    row: Row = {"suite": case.suite, "family": case.family, "model": case.name, "side": side, "passed": False}
    work = partial(coverage_worker.run_case, case, side)
    return row_in_child(work, row, options.seconds, options.gigabytes)


if __name__ == "__main__":
    main()
