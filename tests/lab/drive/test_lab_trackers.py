"""What the trackers write, read back with the trackers' own libraries."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.lab.drive.trackers import TRACKERS, by_name
from secateur.lab.drive.trackers.contents import run_name, weights
from secateur.lab.drive.trackers.mlflow import MLflow
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Recipe
from secateur.lab.show.blocks import Picture, Section
from secateur.lab.show.report import Report
from secateur.lab.show.style import drawing
from secateur.types import FileError, InputError, MissingLibraryError, UnknownNameError

CREATED = "2026-11-21T07:31:03+00:00"
RECIPE = Recipe("toy", "prune", {"seed": 2, "method": "neuron 50 %", "sparsity": 0.5, "cut": True, "sizes": [3, 4]})
RECORD = Record(
    RECIPE,
    {"accuracy": 0.75, "class_accuracy": [0.5, 1.0], "kept": {"fc1": 3}, "note": "not cut", "best_epoch": None},
    [{"epoch": 1, "loss": 0.5, "lr": 0.1}, {"epoch": 2, "loss": math.nan, "lr": 0.1}],
    {"torch": "2.13.0"},
    created=CREATED,
)
TENSORS = {
    "fc1.weight": torch.tensor([[0.0, 1.0], [2.0, math.inf]]),
    "fc1.bias": torch.tensor([1.0, -1.0], dtype=torch.bfloat16),
    "steps": torch.tensor(7),
    "empty": torch.zeros(0, 3),
}
METRICS = {"accuracy": 0.75, "class_accuracy/0": 0.5, "class_accuracy/1": 1.0, "kept/fc1": 3.0}


def report() -> Report:
    from matplotlib.figure import Figure

    with drawing():
        figure = Figure((3.0, 2.0))
        figure.add_subplot().plot([0, 1], [1, 0])
    picture = Picture("trade-off", figure, "A line.", "A line that falls.")
    return Report("Toy", ("It falls.",), sections=[Section("Results", [picture])])


@pytest.fixture(params=TRACKERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filled(tracker: Any, tensors: Mapping[str, Tensor] | None = None) -> Any:
    tracker.start("toy", {"seeds": 2})
    tracker.cell(RECORD, TENSORS if tensors is None else tensors)
    tracker.report(report())
    tracker.close()
    return tracker


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"tensors": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


def test_run_names_are_readable_files_of_their_own() -> None:
    assert run_name(RECIPE) == f"prune_seed=2_method=neuron-50_sparsity=0.5_cut=True_{RECIPE.id[:8]}"
    long = Recipe("toy", "train", {"text": "x/" * 200})
    assert "/" not in run_name(long)
    assert len(run_name(long)) < 100
    assert run_name(long) != run_name(Recipe("toy", "train", {"text": "x/" * 201}))


def test_weights_are_the_finite_numbers() -> None:
    found = weights(TENSORS)
    assert {name: values.tolist() for name, values in found.items()} == {
        "fc1.weight": [0.0, 1.0, 2.0],
        "fc1.bias": [1.0, -1.0],
    }
    assert weights(None) == {}


def test_tensorboard_scalars(tmp_path: Path) -> None:
    filled(by_name("tensorboard", tmp_path))
    found = events(tmp_path / "toy" / run_name(RECIPE))
    assert set(found.Tags()["scalars"]) == {f"metrics/{name}" for name in METRICS} | {"history/loss", "history/lr"}
    for name, value in METRICS.items():
        (event,) = found.Scalars(f"metrics/{name}")
        assert (event.value, event.step) == (value, 0)
        assert event.wall_time == 1795246263.0  # when the cell was finished, 2026-11-21 07:31:03 UTC
    rates = [(event.step, event.value) for event in found.Scalars("history/lr")]
    assert rates == [(1, pytest.approx(0.1)), (2, pytest.approx(0.1))]
    assert math.isnan(found.Scalars("history/loss")[1].value)


def test_tensorboard_histograms(tmp_path: Path) -> None:
    filled(by_name("tensorboard", tmp_path))
    found = events(tmp_path / "toy" / run_name(RECIPE))
    assert sorted(found.Tags()["histograms"]) == ["fc1.bias", "fc1.weight"]
    (event,) = found.Histograms("fc1.weight")
    shape = event.histogram_value
    assert (shape.min, shape.max, shape.num, shape.sum, shape.sum_squares) == (0, 2, 3, 3, 5)


def test_tensorboard_hyperparameters_are_in_the_same_run(tmp_path: Path) -> None:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    filled(by_name("tensorboard", tmp_path))
    folder = tmp_path / "toy" / run_name(RECIPE)
    assert [path.name for path in folder.iterdir()] == [f"events.out.tfevents.0.{RECIPE.id}"]
    content = events(folder).SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    given = HParamsPluginData.FromString(content).session_start_info.hparams
    numbers = {name: value.number_value for name, value in given.items() if value.HasField("number_value")}
    words = {name: value.string_value for name, value in given.items() if value.HasField("string_value")}
    assert numbers == {"seed": 2, "sparsity": 0.5}
    assert words == {"kind": "prune", "method": "neuron 50 %", "cut": "true", "sizes": "[3,4]"}
    content = events(folder).SummaryMetadata("_hparams_/experiment").plugin_data.content
    shown = {info.name.tag for info in HParamsPluginData.FromString(content).experiment.metric_infos}
    assert shown == {f"metrics/{name}" for name in METRICS}


def test_tensorboard_shows_the_words_and_the_figures(tmp_path: Path) -> None:
    filled(by_name("tensorboard", tmp_path))
    texts = events(tmp_path / "toy" / run_name(RECIPE)).Tensors("note/text_summary")
    assert texts[0].tensor_proto.string_val[0] == b"not cut"
    found = events(tmp_path / "toy" / "report")
    (image,) = found.Images("trade-off")
    assert (image.width, image.height) == (300, 200)
    assert image.encoded_image_string.startswith(b"\x89PNG")
    assert b'"seeds": 2' in found.Tensors("options/text_summary")[0].tensor_proto.string_val[0]


def test_tensorboard_shows_a_repeated_cell_once(tmp_path: Path) -> None:
    filled(by_name("tensorboard", tmp_path))
    again = filled(by_name("tensorboard", tmp_path))
    again.cell(Record(RECIPE, {"accuracy": 0.25}, created=CREATED), None)
    found = events(tmp_path / "toy" / run_name(RECIPE))
    assert [event.value for event in found.Scalars("metrics/accuracy")] == [0.25]
    assert found.Tags()["histograms"] == []


def client(tracker: MLflow) -> Any:
    return tracker._client


def runs(tracker: MLflow) -> dict[str, Any]:
    """The study's runs by name, read anew."""
    experiment = client(tracker).get_experiment_by_name("toy")
    found = client(tracker).search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def test_mlflow_run(tmp_path: Path) -> None:
    tracker = filled(MLflow(tmp_path / "deep" / "mlflow"))
    found = runs(MLflow(tmp_path / "deep" / "mlflow"))
    assert set(found) == {run_name(RECIPE), "report"}
    run = found[run_name(RECIPE)]
    assert run.info.status == "FINISHED"
    assert run.info.start_time == 1795246263000
    assert run.data.params == {
        "kind": "prune", "seed": "2", "method": "neuron 50 %", "sparsity": "0.5", "cut": "true", "sizes": "[3,4]",
    }  # fmt: skip
    history = {"history/loss", "history/lr"}
    assert {name: value for name, value in run.data.metrics.items() if name not in history} == METRICS
    assert set(run.data.metrics) == set(METRICS) | history
    rates = client(tracker).get_metric_history(run.info.run_id, "history/lr")
    assert [(one.step, one.value) for one in rates] == [(1, 0.1), (2, 0.1)]
    tags = {"secateur.id": RECIPE.id, "secateur.created": CREATED, "note": "not cut", "environment.torch": "2.13.0"}
    assert tags.items() <= run.data.tags.items()


def test_mlflow_artefacts(tmp_path: Path) -> None:
    tracker = filled(MLflow(tmp_path))
    run = runs(tracker)[run_name(RECIPE)].info
    assert sorted(item.path for item in client(tracker).list_artifacts(run.run_id)) == ["recipe.json", "weights.png"]
    kept = Path(client(tracker).download_artifacts(run.run_id, "recipe.json"))
    assert Recipe.from_dict(json.loads(kept.read_text())) == RECIPE
    page = runs(tracker)["report"].info.run_id
    assert "report/report.html" in [item.path for item in client(tracker).list_artifacts(page, "report")]
    experiment = client(tracker).get_experiment_by_name("toy")
    assert experiment.tags["option.seeds"] == "2"


def test_mlflow_draws_one_histogram_a_weight(tmp_path: Path) -> None:
    from secateur.lab.drive.trackers.mlflow import _histograms

    (axes,) = _histograms({"a": torch.tensor([0.0, 0.0, 1.0]), "b": torch.full((4,), 2.0)}).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "a"]
    a = axes.patches[1].get_data()
    # Two zeros and a one, above the line of "a" (1): the higher bar is 0.85, the other half of it.
    assert (a.values[0], a.values[-1], a.values[30], a.baseline) == (1.85, 1.425, 1, 1)


def test_mlflow_leaves_what_is_written(tmp_path: Path) -> None:
    filled(MLflow(tmp_path))
    before = runs(MLflow(tmp_path))
    tracker = filled(MLflow(tmp_path))
    after = runs(tracker)
    assert set(after) == set(before)
    assert after[run_name(RECIPE)].info.run_id == before[run_name(RECIPE)].info.run_id
    rates = client(tracker).get_metric_history(after[run_name(RECIPE)].info.run_id, "history/lr")
    assert len(rates) == 2


def test_mlflow_replaces_what_was_cut_short_or_computed_anew(tmp_path: Path) -> None:
    tracker = MLflow(tmp_path)
    tracker.start("toy", {})
    half = tracker._new_run(RECIPE.id, "half", CREATED, {})
    filled(MLflow(tmp_path))
    found = runs(tracker)
    assert half not in {run.info.run_id for run in found.values()}
    again = filled(MLflow(tmp_path))
    again.cell(Record(RECIPE, {"accuracy": 0.25}, created="2026-11-22T07:31:03+00:00"), None)
    run = runs(again)[run_name(RECIPE)]
    assert run.data.metrics == {"accuracy": 0.25}
    assert client(again).list_artifacts(run.info.run_id)[0].path == "recipe.json"


def test_mlflow_takes_a_deleted_experiment_up_again(tmp_path: Path) -> None:
    tracker = filled(MLflow(tmp_path))
    client(tracker).delete_experiment(tracker._experiment)
    assert RECIPE.id in {run.data.tags["secateur.id"] for run in runs(filled(MLflow(tmp_path))).values()}


def test_mlflow_takes_any_name_and_many_numbers(tmp_path: Path) -> None:
    tracker = MLflow(tmp_path)
    tracker.start("toy", {})
    values = [float(k) for k in range(1200)]
    recipe = Recipe("toy", "count", {"größe (%)": "x" * 9000})
    tracker.cell(Record(recipe, {"50 % & more": 1.0, "values": values}), None)
    run = runs(tracker)[run_name(recipe)]
    assert run.data.metrics["50 _ _ more"] == 1.0
    assert [run.data.metrics[f"values/{k}"] for k in range(1200)] == values
    assert len(run.data.params["größe ___"]) == 5000


def test_mlflow_leaves_the_environment_alone(tmp_path: Path) -> None:
    before = dict(os.environ)
    filled(MLflow(tmp_path))
    changed = {name for name in before.keys() | os.environ.keys() if before.get(name) != os.environ.get(name)}
    assert not {name for name in changed if name.startswith("MLFLOW")}


def test_a_cell_without_history_or_tensors(name: str, tmp_path: Path) -> None:
    filled(by_name(name, tmp_path), {})


def test_nothing_before_start(name: str, tmp_path: Path) -> None:
    tracker = by_name(name, tmp_path)
    for call in (lambda: tracker.cell(RECORD, None), lambda: tracker.report(report())):
        with pytest.raises(InputError, match=r"knows no study yet; call start\(study, options\) first"):
            call()


def test_an_unknown_name() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown tracker 'wandb'\. Known: mlflow, tensorboard"):
        by_name("wandb", "runs")


def test_a_missing_library_names_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingLibraryError, match=rf"this needs {name}, .* pip install 'secateur\[{name}\]'"):
        by_name(name, tmp_path)


def test_a_place_that_cannot_be_written(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match=r"cannot (write|use)"):
        filled(by_name(name, tmp_path / "file"))


def test_an_address_that_mlflow_does_not_know() -> None:
    with pytest.raises(FileError, match="MLflow cannot use foo://bar"):
        MLflow("foo://bar")
