"""Whether cut models compute what they should, on weights and inputs that the cut has not seen, in float64.

    python benchmarks/survey.py                          # the zoo and all transformers families
    python benchmarks/survey.py --match 'DeBERTa*' --again all
    python benchmarks/survey.py --table

Rows go to a JSON-lines file as they arrive; a rerun skips what is there. The exit status is 1 if any model was
returned as verified and is wrong, or its original was changed. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
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
import survey_worker
from coverage_models import Case
from isolated import append_rows, read_rows, row_in_child

Row = dict[str, Any]
SUITES = ("zoo", "transformers")
BROKEN = ("wrong", "touched")


def main() -> None:
    """Survey what is asked for, print the table, and say by the exit status whether the promise holds."""
    options = _options()
    torch.set_num_threads(1)
    suites = options.only or SUITES
    rows = {(row["suite"], row["model"]): row for row in read_rows(options.results)}
    if not options.table:
        work = [case for suite in suites for case in _work(suite, options, rows)]
        found = (_in_child(case, options) for case in work)
        append_rows(options.results, found, len(work), line)
        rows = {(row["suite"], row["model"]): row for row in read_rows(options.results)}
    shown = [row for row in rows.values() if row["suite"] in suites]
    print(markdown(shown) if options.markdown else table(shown))
    sys.exit(any(row["verdict"] in BROKEN for row in shown))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", choices=coverage_models.SUITES, nargs="+", help="suites (default: the zoo, transformers)"
    )
    parser.add_argument("--match", default=["*"], nargs="+", metavar="PATTERN", help="names, such as 'DeBERTa*'")
    parser.add_argument("--scores", choices=("random", "l2"), default="random", help="which 30%% of every site go")
    parser.add_argument("--seconds", type=int, default=300, help="CPU seconds for each model")
    parser.add_argument("--gigabytes", type=float, default=14, help="address space for each model")
    parser.add_argument("--again", choices=("failed", "all"), help="run these again although they have a row")
    parser.add_argument("--results", type=Path, default=Path("survey.jsonl"), help="where the rows go")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that are there")
    parser.add_argument("--markdown", action="store_true", help="print every model as a row of a Markdown table")
    return parser.parse_args()


def _work(suite: str, options: argparse.Namespace, rows: dict[tuple[str, str], Row]) -> Iterator[Case]:
    for case in coverage_models.cases(suite):
        row = rows.get((case.suite, case.name))
        again = row is None or options.again == "all" or (options.again == "failed" and row["verdict"] != "right")
        if again and any(fnmatchcase(case.name, pattern) for pattern in options.match):
            yield case


def _in_child(case: Case, options: argparse.Namespace) -> Row:
    row: Row = {"suite": case.suite, "model": case.name, "verdict": "failed"}
    work = partial(survey_worker.survey, case, options.scores)
    return row_in_child(work, row, options.seconds, options.gigabytes)


def line(row: Row) -> str:
    """Return one row as a line: what came of it, and why.

    >>> line({"suite": "zoo", "model": "unet", "verdict": "right", "difference": 1e-14, "form": "module"})
    'right   zoo/unet: module, 1e-14 apart'
    """
    head = f"{row['verdict']:<7} {row['suite']}/{row['model']}: "
    if "difference" not in row:
        return head + f"{row.get('stage', 'start')}: {row.get('error_type', '')}: {row.get('error', '')}"[:300]
    said = [row["form"] + " of these shapes alone" * row.get("own_shapes", False), f"{row['difference']:.0e} apart"]
    return head + ", ".join(said) + (f"; {row['error']}"[:300] if row.get("error") else "")


def table(rows: list[Row]) -> str:
    """Return how many models came out how, by suite, and the list of all that are not right."""
    order = {v: i for i, v in enumerate(survey_worker.VERDICTS)}
    left = sorted((r for r in rows if r["verdict"] != "right"), key=lambda r: order[r["verdict"]])
    return "\n".join([*_counts(rows), "", *map(line, left)])


def _counts(rows: list[Row]) -> Iterator[str]:
    for suite in dict.fromkeys(row["suite"] for row in rows):
        own = [row for row in rows if row["suite"] == suite]
        counts = {v: sum(row["verdict"] == v for row in own) for v in survey_worker.VERDICTS}
        yield f"{suite}: {len(own)} models; " + ", ".join(f"{n} {v}" for v, n in counts.items() if n)


def markdown(rows: list[Row]) -> str:
    """Return the counts and a row for every model: what came of it, its form, what is gone, the greatest difference."""
    head = ["| model | verdict | form | parameters gone | greatest difference |", "|---|---|---|---|---|"]
    return "\n".join([*(f"- {count}" for count in _counts(rows)), "", *head, *map(_markdown_row, rows)])


def _markdown_row(row: Row) -> str:
    if "difference" not in row:
        return f"| {row['model']} | {row['verdict']} | {row.get('error', '')[:160].replace('|', '/')} | | |"
    form = row["form"] + ", of these shapes alone" * row.get("own_shapes", False)
    return f"| {row['model']} | {row['verdict']} | {form} | {row['removed']:.0%} | {row['difference']:.0e} |"


if __name__ == "__main__":
    main()
