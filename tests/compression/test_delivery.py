"""What a finished compression leaves in its folder, what its history says, and what is said while it goes on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.compression import Compression, CompressOptions, Goal, Trial, costs, steps
from secateur.compression.clock import Stopwatch
from secateur.train.options import TrainOptions
from secateur.types import ExportError

X = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
SHORT = TrainOptions(epochs=1, lr=0.01)
LOOSE: dict[str, Any] = {"train": SHORT, "finish": SHORT, "round_to": 1, "max_drop": 10.0}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))


def compressed(model: nn.Module, **changes: Any) -> sc.Result:
    return sc.compress(model, X[:4], {"macs": 0.5}, X, X[:50], **{**LOOSE, "runtime": "eager", **changes})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_gets_the_model_and_the_report(model: nn.Module, tmp_path: Path) -> None:
    result = compressed(model, folder=tmp_path)
    loaded = sc.load(tmp_path / "model", model)
    assert torch.equal(loaded(X), result.model(X))
    text = (tmp_path / "report.txt").read_text(encoding="utf-8")
    assert text.startswith(str(result.history))
    assert str(result.report) in text
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert record["report"]["units_removed"] == result.report.units_removed
    assert record["compression"]["settings"]["options"]["seed"] == 0
    assert "torch" in record["compression"]["versions"]
    assert "file" not in record  # eager PyTorch has none


def test_the_same_call_again_rewrites_nothing(model: nn.Module, tmp_path: Path) -> None:
    first = compressed(model, folder=tmp_path)
    before = contents(tmp_path)
    again = compressed(model, folder=tmp_path)
    assert contents(tmp_path) == before
    assert str(again.report) == str(first.report)
    assert str(again.history) == str(first.history)


def test_with_more_time_it_goes_on(model: nn.Module, tmp_path: Path) -> None:
    short = compressed(model, folder=tmp_path, time_limit=1e-6)
    assert not short.history.reached
    assert torch.equal(sc.load(tmp_path / "model", model)(X), model(X))
    before = contents(tmp_path)
    compressed(model, folder=tmp_path, time_limit=1e-6)
    assert contents(tmp_path) == before
    longer = compressed(model, folder=tmp_path)
    assert longer.history.reached
    assert torch.equal(sc.load(tmp_path / "model", model)(X), longer.model(X))


def test_what_is_missing_is_written_again(model: nn.Module, tmp_path: Path) -> None:
    compressed(model, folder=tmp_path)
    before = contents(tmp_path)
    for name in ("report.json", "report.txt"):
        (tmp_path / name).unlink()
    compressed(model, folder=tmp_path)
    assert contents(tmp_path) == before


def test_the_file_for_the_runtime_computes_what_the_model_does(model: nn.Module, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    result = compressed(model, folder=tmp_path, runtime="onnxruntime")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    (outputs,) = session.run(None, {session.get_inputs()[0].name: X[:4].numpy()})
    assert torch.allclose(torch.from_numpy(outputs), result.model.eval()(X[:4]), atol=1e-5)
    record = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert record["file"]["name"] == "model.onnx"
    assert record["file"]["difference"] < 1e-4


def test_the_units_of_all_cuts_are_counted_from_the_start(model: nn.Module) -> None:
    result = compressed(model)
    layers = result.model[0], result.model[2]
    assert len(result.edits) == 2
    assert result.report.units == 24 + 16
    assert result.report.units_removed == 24 + 16 - sum(layer.out_features for layer in layers)
    assert result.report.latency is not None


def test_a_runtime_that_does_not_take_the_model_is_refused_before_anything_is_done(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = costs.latency

    def refuse(*args: Any, runtime: str, **more: Any) -> Any:
        if runtime == "onnxruntime":
            raise ExportError("not this one")
        return real(*args, runtime=runtime, **more)

    monkeypatch.setattr(costs, "latency", refuse)
    with monkeypatch.context() as patch:
        patch.setattr(steps, "smaller", None)
        with pytest.raises(ExportError, match="not this one"):
            compressed(model, runtime="onnxruntime")
    assert compressed(model, runtime=None).history.runtime == "eager"  # nobody asked for another


def nearness(outputs: Tensor, targets: Any) -> float:
    return -float(outputs.square().mean())


def test_settings_are_the_same_in_every_process(model: nn.Module, tmp_path: Path) -> None:
    assert "0x" not in json.dumps(
        CompressOptions(
            metric=nearness, loss=nn.functional.mse_loss, train=TrainOptions(optimizer=partial(torch.optim.SGD, lr=0.1))
        ).identity()
    )
    compressed(model, folder=tmp_path)
    with pytest.raises(sc.FileError, match="options"):
        compressed(model, folder=tmp_path, steps=3)


def test_a_damaged_model_on_the_way_is_refused(model: nn.Module, tmp_path: Path) -> None:
    compressed(model, folder=tmp_path)
    manifest = tmp_path / "trial-2" / "secateur.json"
    record = json.loads(manifest.read_text(encoding="utf-8"))
    record["history"] = {}
    manifest.write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(sc.FileError):
        compressed(model, folder=tmp_path)


TRIALS = (
    Trial(1, 0, 0.7, 0.68, 0.95, 0.90, True, "good enough", 3.0),
    Trial(2, 1, 0.5, 0.5, 0.89, 0.6, False, "accuracy fell below 0.93", 4.0),
    Trial(3, 1, 0.58, None, None, None, False, "no such widths", 1.0),
    Trial(4, 1, 0.63, 0.6, 0.96, 0.93, True, "good enough", 3.0),
)


def test_the_front_and_what_was_rejected() -> None:
    history = Compression(Goal("macs", 0.5), "accuracy", "eager", 0.94, TRIALS, False, "the goal cannot be had", {}, {})
    assert history.points == ((1.0, 0.94), (0.68, 0.95), (0.5, 0.89), (0.6, 0.96))
    assert history.front == ((0.6, 0.96), (0.5, 0.89))
    assert [trial.number for trial in history.rejected] == [2, 3]
    lines = str(history).splitlines()
    assert lines[2] == (
        "trial 2 on trial 1: macs 68.0% → 50.0%, accuracy 0.9500 → 0.8900 (0.6000 untrained), "
        "taken back: accuracy fell below 0.93; 4 s"
    )
    assert lines[3] == "trial 3 on trial 1: macs 58.0% cannot be had: no such widths; 1 s"
    assert json.loads(json.dumps(history.to_dict()))["front"] == [[0.6, 0.96], [0.5, 0.89]]


def test_the_time_that_is_left() -> None:
    options = CompressOptions(steps=2, train=TrainOptions(epochs=3), finish=TrainOptions(epochs=10), runtime="eager")
    clock = Stopwatch(options, 0.25, visible=False)
    clock.seconds, clock.counts = {"cut": 20.0, "epoch": 6.0}, {"cut": 2, "epoch": 3}
    assert clock.left() == pytest.approx(2 * 10 + (2 * 3 + 10) * 2)
    clock.trials = [Trial(1, 0, 0.5, 0.49, 1.0, 1.0, True, "good enough", 1.0)]
    assert clock.left() == pytest.approx(10 + (3 + 10) * 2)
    limited = Stopwatch(CompressOptions(time_limit=5.0, runtime="eager"), 0.25, visible=False)
    limited.seconds, limited.counts = clock.seconds, clock.counts
    left = limited.left()
    assert left is not None
    assert left <= 5.0


def test_progress_says_what_is_tried_and_how_long_it_takes(
    model: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    compressed(model, progress=True)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("compress: ")]
    assert said[0] == "compress: trial 1: to 70.7% of the macs"
    assert said[2] == "compress: trial 2: to 50.0% of the macs; less than a minute left"
