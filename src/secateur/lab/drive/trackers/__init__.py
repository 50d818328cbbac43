"""Results shown elsewhere as they arrive, for those who watch their experiments there: TensorBoard, MLflow.

The store is what holds results; a tracker only shows them, and none is used unless it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor

from secateur.checks import check_name
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Json
from secateur.lab.show.report import Report

__all__ = ["TRACKERS", "Tracker", "by_name", "check"]

TRACKERS = ("mlflow", "tensorboard")
"""The names that `by_name` knows."""


class Tracker(Protocol):
    """Somewhere that results are shown: told of a study's start, of each stored cell, and of the report.

    Told of one cell twice (a run that was killed and resumed), it shows it once.
    """

    def start(self, study: str, options: Mapping[str, Json], /) -> None:
        """A run of the study begins; comes before all else."""
        ...

    def cell(self, record: Record, tensors: Mapping[str, Tensor] | None, /) -> None:
        """A cell has been stored, with the tensors that it kept."""
        ...

    def report(self, report: Report, /) -> None:
        """The study's report has been made."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


def check(names: Iterable[str]) -> None:
    """Refuse names of trackers that there are not."""
    for name in names:
        check_name("tracker", name, TRACKERS)


def by_name(name: str, directory: Path | str) -> Tracker:
    """Return a tracker that writes into `directory`.

    Args:
        name: ``"tensorboard"`` or ``"mlflow"``.
        directory: made when missing. For MLflow it may be the address of a store of its own instead, such as
            ``http://localhost:5000`` or ``sqlite:///mlflow.db``.

    Raises:
        UnknownNameError: there is no such tracker.
        MissingLibraryError: its library is not installed.
        FileError: the directory or the address cannot be used.

    >>> by_name("tensorbord", "runs/demo")
    Traceback (most recent call last):
    secateur.types.UnknownNameError: unknown tracker 'tensorbord'; did you mean 'tensorboard'? Known: mlflow, tensorboard
    """
    check([name])
    if name == "tensorboard":
        from secateur.lab.drive.trackers.tensorboard import TensorBoard

        return TensorBoard(directory)
    from secateur.lab.drive.trackers.mlflow import MLflow

    return MLflow(directory)
