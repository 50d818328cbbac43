"""TensorBoard: one run a cell, with its curves, metrics, hyper-parameters and histograms of its weights."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from torch import Tensor

from secateur.files import require, write_bytes
from secateur.lab.drive.trackers.contents import curves, flat, hyperparameters, run_name, started, weights
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Json
from secateur.lab.show.blocks import Picture
from secateur.lab.show.report import Report
from secateur.lab.show.style import png

__all__ = ["TensorBoard"]


class TensorBoard:
    """Writes event files for ``tensorboard --logdir DIRECTORY``.

    Each cell is a run of its own, ``<directory>/<study>/<run>``: scalars ``history/…`` by epoch and
    ``metrics/…``, one histogram a tensor that it kept, words as texts, and the recipe's parameters with the
    metrics in the HPARAMS tab, in the same run. The report's figures are the images of the run ``report``. An
    event file is written whole or not at all, under a name that the cell decides, so a repeated cell replaces it.

    Args:
        directory: where to write; made when missing.

    Raises:
        MissingLibraryError: TensorBoard is not installed.
    """

    def __init__(self, directory: Path | str) -> None:
        require("tensorboard", "tensorboard")
        self.directory = Path(directory)
        self._study: str | None = None
        self._options: Mapping[str, Json] = {}

    def start(self, study: str, options: Mapping[str, Json], /) -> None:
        """Take down the study; its cells go into a folder of its name."""
        self._study, self._options = study, dict(options)

    def cell(self, record: Record, tensors: Mapping[str, Tensor] | None, /) -> None:
        """Write the run of one cell.

        Raises:
            InputError: no study has been started.
            FileError: the directory cannot be written.
        """
        when = datetime.fromisoformat(record.created).timestamp()
        self._write(run_name(record.recipe), record.id, lambda writer: _write_cell(writer, record, tensors, when))

    def report(self, report: Report, /) -> None:
        """Write the report's figures as images of the run ``report``.

        Raises:
            InputError: no study has been started.
            FileError: the directory cannot be written.
        """
        self._write("report", "report", lambda writer: _write_report(writer, report, self._options))

    def close(self) -> None:
        """Do nothing: each cell's file is closed when it is written."""

    def _write(self, run: str, identity: str, fill: Callable[[Any], None]) -> None:
        folder = self.directory / started(self._study, "TensorBoard") / run
        with tempfile.TemporaryDirectory() as scratch:
            writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter(scratch)
            fill(writer)
            writer.close()
            (events,) = Path(scratch).glob("*tfevents*")
            write_bytes(folder / f"events.out.tfevents.0.{identity}", events.read_bytes())


def _write_cell(writer: Any, record: Record, tensors: Mapping[str, Tensor] | None, when: float) -> None:
    numbers, words = flat(record.metrics)
    metrics = {f"metrics/{name}": value for name, value in numbers.items()}
    # SummaryWriter.add_hparams writes the same three summaries, but into a second run inside this one.
    hparams = require("torch.utils.tensorboard.summary", "tensorboard").hparams
    for summary in hparams(hyperparameters(record.recipe), metrics):
        writer.file_writer.add_summary(summary, walltime=when)
    for step, row in curves(record):
        for name, value in row.items():
            writer.add_scalar(f"history/{name}", value, step, walltime=when)
    for name, value in metrics.items():
        writer.add_scalar(name, value, 0, walltime=when)
    for name, text in words.items():
        writer.add_text(name, text, 0, walltime=when)
    for name, values in weights(tensors).items():
        writer.add_histogram(name, values, 0, walltime=when)


def _write_report(writer: Any, report: Report, options: Mapping[str, Json]) -> None:
    when = time.time()
    for block in report.blocks():
        if isinstance(block, Picture):
            writer.file_writer.add_summary(_image(block), 0, when)
    writer.add_text("summary", "\n\n".join([report.title, *report.summary]), 0, walltime=when)
    writer.add_text("options", json.dumps(options, indent=2), 0, walltime=when)


def _image(block: Picture) -> Any:
    """Return the figure as it stands in the report; a PNG says its width and height from byte 16 on."""
    data = png(block.figure, dpi=100)
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    summary = require("tensorboard.compat.proto.summary_pb2", "tensorboard").Summary
    image = summary.Image(width=width, height=height, colorspace=4, encoded_image_string=data)
    return summary(value=[summary.Value(tag=block.name, image=image)])
