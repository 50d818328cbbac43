"""Where the lab's files live: the one module that knows their names.

A store is one directory (``runs/<study>`` unless told otherwise)::

    runs/fathollahi/
      records.sqlite               one row a finished cell
      records.witness              how many transactions there have been, so that a lost log shows
      artefacts/<id>.safetensors   the tensors that a cell kept
      checkpoints/<id>.safetensors how far the training of a cell has come that is not finished
      arrivals/<id>.safetensors    the tensors of a cell that a worker has finished and the driver not yet stored
      presence                     a text by which another machine sees that this folder is the same there
      logs/<id>.log                the traceback and the output of a cell that failed
      locks/<id>.lock              held by the process that has a cell computed
      report/report.html, report.md, figures/*.svg|png, tables/*.csv
      tensorboard/, mlflow/        what a tracker writes, if one is asked for
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = [
    "RUNS_VARIABLE",
    "arrival_file",
    "artefact_file",
    "artefacts_dir",
    "checkpoint_file",
    "comparison_dir",
    "database_file",
    "figure_file",
    "html_file",
    "lock_file",
    "log_file",
    "markdown_file",
    "plan_file",
    "presence_file",
    "report_dir",
    "runs_dir",
    "store_dir",
    "table_file",
    "tracker_dir",
    "witness_file",
]

RUNS_VARIABLE = "SECATEUR_RUNS"
"""The environment variable that moves the runs elsewhere."""


def runs_dir() -> Path:
    """Return the directory that holds the stores: ``$SECATEUR_RUNS``, or ``runs`` where one stands."""
    return Path(os.environ.get(RUNS_VARIABLE) or "runs")


def store_dir(study: str) -> Path:
    """Return the default store of a study.

    >>> store_dir("fathollahi").name
    'fathollahi'
    """
    return runs_dir() / study


def database_file(store: Path) -> Path:
    """Return the database of a store."""
    return store / "records.sqlite"


def witness_file(database: Path) -> Path:
    """Return the file beside a database that says how many transactions there have been."""
    return database.with_suffix(".witness")


def artefacts_dir(store: Path) -> Path:
    """Return the directory of a store's artefacts."""
    return store / "artefacts"


def artefact_file(store: Path, identity: str) -> Path:
    """Return the artefact of one cell."""
    return artefacts_dir(store) / f"{identity}.safetensors"


def checkpoint_file(store: Path, identity: str) -> Path:
    """Return the checkpoint of a cell that is being computed."""
    return store / "checkpoints" / f"{identity}.safetensors"


def arrival_file(store: Path, identity: str) -> Path:
    """Return where a worker leaves the tensors of a finished cell for the driver to store."""
    return store / "arrivals" / f"{identity}.safetensors"


def presence_file(store: Path) -> Path:
    """Return the file by which another machine sees that it has the same folder."""
    return store / "presence"


def log_file(store: Path, identity: str) -> Path:
    """Return the log of a cell that failed."""
    return store / "logs" / f"{identity}.log"


def lock_file(store: Path, identity: str) -> Path:
    """Return the file that is locked while a cell is being computed."""
    return store / "locks" / f"{identity}.lock"


def plan_file(store: Path, study: str) -> Path:
    """Return the file that says which cells the last run of a study was to compute."""
    return store / "plans" / f"{study}.json"


def comparison_dir(names: Sequence[str]) -> Path:
    """Return the default directory of a report on several runs.

    >>> comparison_dir(["demo", "mine"]).name
    'demo-mine'
    """
    return runs_dir() / "comparisons" / "-".join(names)


def report_dir(store: Path) -> Path:
    """Return the default directory of a store's report."""
    return store / "report"


def html_file(report: Path) -> Path:
    """Return the page of a report."""
    return report / "report.html"


def markdown_file(report: Path) -> Path:
    """Return the plain-text form of a report."""
    return report / "report.md"


def figure_file(report: Path, name: str, suffix: str) -> Path:
    """Return a report's figure; `suffix` is ``svg`` or ``png``."""
    return report / "figures" / f"{name}.{suffix}"


def table_file(report: Path, name: str) -> Path:
    """Return a report's table, or the numbers behind a figure, as comma-separated values."""
    return report / "tables" / f"{name}.csv"


def tracker_dir(store: Path, name: str) -> Path:
    """Return the default directory of a tracker, such as ``tensorboard``."""
    return store / name
