"""MLflow: one experiment a study, one run a cell, in a folder and without a server."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from secateur.files import require
from secateur.lab.drive.trackers.contents import curves, flat, hyperparameters, run_name, started, weights
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Json
from secateur.lab.show.report import Report
from secateur.lab.show.style import PALETTE, drawing
from secateur.types import FileError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MLflow"]

# The limits of MLflow's stores: metrics in a batch, characters of a parameter or tag.
_BATCH, _WORDS = 1000, 5000
# MLflow refuses its file store and reports its use to its makers unless these say otherwise; what a user has
# set himself stays.
_SETTINGS = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


class MLflow:
    """Writes the runs of a study into MLflow.

    Each cell is a run, found again by its tag ``secateur.id``: the recipe's parameters, the metrics, the history
    as metrics ``history/…`` with their epochs, the words among the metrics and the environment as tags, and as
    artefacts ``recipe.json`` and ``weights.png``, the histograms of the weights that it kept (tensors of two and
    more dimensions). The report is the artefact of a run named ``report``. A finished run is left as it is when
    its cell comes again; one that was not finished, or whose cell was computed anew, is deleted (MLflow keeps it
    in its bin) and written anew.

    Args:
        location: a directory, made when missing; or an address that MLflow knows (with ``://``).

    Raises:
        MissingLibraryError: MLflow is not installed.
        FileError: MLflow cannot use the location.
    """

    def __init__(self, location: Path | str) -> None:
        self.address = str(location) if "://" in str(location) else Path(location).resolve().as_uri()
        self._study: str | None = None
        self._experiment = ""
        self._runs: dict[str, Any] = {}
        with _settings():
            mlflow = require("mlflow", "mlflow")
            self._refusal: type[Exception] = mlflow.exceptions.MlflowException
            with self._understood():
                self._client = mlflow.MlflowClient(tracking_uri=self.address)

    def start(self, study: str, options: Mapping[str, Json], /) -> None:
        """Open the study's experiment, and look up the runs that it has.

        Raises:
            FileError: MLflow cannot use the location.
        """
        with self._understood():
            experiment = self._client.get_experiment_by_name(study)
            if experiment is not None and experiment.lifecycle_stage == "deleted":
                self._client.restore_experiment(experiment.experiment_id)
            self._experiment = (
                experiment.experiment_id if experiment is not None else self._client.create_experiment(study)
            )
            for name, value in options.items():
                self._client.set_experiment_tag(self._experiment, f"option.{_name(name)}", json.dumps(value)[:_WORDS])
            self._runs = self._known_runs()
        self._study = study

    def cell(self, record: Record, tensors: Mapping[str, Tensor] | None, /) -> None:
        """Write the run of one cell, unless it is there.

        Raises:
            InputError: no study has been started.
            FileError: MLflow cannot use the location.
        """
        started(self._study, "MLflow")
        with self._understood():
            if not self._is_written(record.id, record.created):
                run = self._new_run(record.id, run_name(record.recipe), record.created, _tags(record))
                self._write(run, record, tensors)
                self._finish(record.id, run)

    def report(self, report: Report, /) -> None:
        """Write the report with all its files as the artefact of the run ``report``, in place of an older one.

        Raises:
            InputError: no study has been started.
            FileError: MLflow cannot use the location.
        """
        started(self._study, "MLflow")
        now = datetime.now().astimezone().isoformat()
        with self._understood(), tempfile.TemporaryDirectory() as scratch:
            self._is_written("report", now)
            run = self._new_run("report", "report", now, {"secateur.kind": "report"})
            report.write(scratch)
            self._client.log_artifacts(run, scratch, "report")
            self._finish("report", run)

    def close(self) -> None:
        """Do nothing: every run is closed when it is written."""

    def _known_runs(self) -> dict[str, Any]:
        runs: dict[str, Any] = {}
        token = None
        while True:
            page = self._client.search_runs([self._experiment], page_token=token)
            runs |= {run.data.tags["secateur.id"]: run for run in page if "secateur.id" in run.data.tags}
            token = page.token
            if not token:
                return runs

    def _is_written(self, identity: str, created: str) -> bool:
        """Say whether a run is there and whole; one that is not makes room."""
        run = self._runs.pop(identity, None)
        if run is None:
            return False
        if run.info.status == "FINISHED" and run.data.tags.get("secateur.created") == created:
            self._runs[identity] = run
            return True
        self._client.delete_run(run.info.run_id)
        return False

    def _new_run(self, identity: str, name: str, created: str, tags: Mapping[str, str]) -> str:
        labels = {"secateur.id": identity, "secateur.created": created, **tags}
        run = self._client.create_run(self._experiment, start_time=_milliseconds(created), tags=labels, run_name=name)
        return str(run.info.run_id)

    def _finish(self, identity: str, run: str) -> None:
        self._client.set_terminated(run)
        self._runs[identity] = self._client.get_run(run)

    def _write(self, run: str, record: Record, tensors: Mapping[str, Tensor] | None) -> None:
        entities = require("mlflow.entities", "mlflow")
        for name, value in hyperparameters(record.recipe).items():
            self._client.log_param(run, _name(name), str(value)[:_WORDS])
        when = _milliseconds(record.created)
        metrics = [entities.Metric(_name(name), value, when, step) for name, value, step in _numbers(record)]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + _BATCH])
        self._client.log_dict(run, record.recipe.to_dict(), "recipe.json")
        # A weight; biases and the numbers of normalisations have ranges of their own.
        matrices = {name: values for name, values in weights(tensors).items() if tensors and tensors[name].ndim > 1}
        if matrices:
            self._client.log_figure(run, _histograms(matrices), "weights.png")

    @contextmanager
    def _understood(self) -> Iterator[None]:
        """Turn MLflow's errors into one line with a remedy."""
        try:
            yield
        except (self._refusal, OSError) as error:
            raise FileError(
                f"MLflow cannot use {self.address}: {' '.join(str(error).split())}; give a directory that can be "
                "written, or the address of a store that this MLflow supports"
            ) from error


def _tags(record: Record) -> dict[str, str]:
    words = flat(record.metrics)[1] | {f"environment.{k}": str(v) for k, v in record.environment.items()}
    return {_name(name): text[:_WORDS] for name, text in words.items()}


def _numbers(record: Record) -> Iterator[tuple[str, float, int]]:
    """Give name, value and step of all that is a number."""
    for name, value in flat(record.metrics)[0].items():
        yield name, value, 0
    for step, row in curves(record):
        for name, value in row.items():
            yield f"history/{name}", value, step


def _name(name: str) -> str:
    """Return a name with the characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", name)[:250]


def _milliseconds(created: str) -> int:
    return round(1000 * datetime.fromisoformat(created).timestamp())


@contextmanager
def _settings() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _SETTINGS}
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                del os.environ[name]


def _histograms(kept: dict[str, Tensor]) -> Figure:
    """Draw one histogram a tensor, each as high as the others, all over one axis: the first on top."""
    with drawing():
        # One pair of axes a tensor would take a tenth of a second each, and a large model has hundreds.
        figure: Figure = require("matplotlib.figure", "lab").Figure((7.2, 0.8 + 0.4 * len(kept)), layout="constrained")
        axes = figure.add_subplot()
        for place, values in enumerate(reversed(kept.values())):
            counts, edges = np.histogram(values.numpy(), bins=60)
            axes.stairs(place + 0.85 * counts / counts.max(), edges, baseline=place, fill=True, color=PALETTE[0])
        axes.set_yticks(range(len(kept)), [*reversed(kept)])
        axes.set_xlabel("Value")
    return figure
