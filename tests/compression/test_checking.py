"""What a compression says at once of models, data, losses and metrics that do not fit, before anything is done."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.compression import Compression, CompressOptions, steps
from secateur.compression import work as trainings
from secateur.train.options import TrainOptions

SHORT = TrainOptions(epochs=1, lr=0.001)
QUICK: dict[str, Any] = {"runtime": "eager", "steps": 1, "retries": 1, "train": SHORT, "finish": None, "round_to": 1}
X = torch.randn(120, 8, generator=torch.Generator().manual_seed(0))
Y = X[:, :3].argmax(1)
NAN = X.clone()
NAN[3, 2] = float("nan")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.fixture
def nothing_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """No unit is scored, and nothing trained."""

    def work(*args: Any, **more: Any) -> Any:
        raise AssertionError("work was begun")

    monkeypatch.setattr(steps, "chosen", work)
    monkeypatch.setattr(trainings, "distill", work)


def compressed(model: nn.Module, data: Any = (X, Y), validation: Any = (X, Y), **changes: Any) -> sc.Result:
    example = changes.pop("example", X[:4])
    return sc.compress(model, example, {"macs": 0.5}, data, validation, **{**QUICK, **changes})


def broken(outputs: Any, targets: Any) -> Any:
    raise KeyError("mine")


@pytest.mark.usefixtures("nothing_done")
@pytest.mark.parametrize("role", ["training data", "validation data"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "got a NoneType"),
        ((X[:0], Y[:0]), "no samples"),
        ([], "no batches"),
        ((NAN, Y), "the inputs hold NaN"),
        ([(X, Y), (NAN, Y)], "batch 2: the inputs hold NaN"),
        ((X[:, :5], Y), "does not take inputs of shape"),
        ((X, Y[:-1]), "do not have one target for each input"),
        ((X, Y + 1), "label 3 is out of range"),
        ((X, Y - 1), "label -1 is out of range"),
        ([(X, Y), (X, Y + 1)], "label 3 is out of range"),
        (X.numpy(), "numpy array; .*torch.from_numpy"),
        ((X.numpy(), Y.numpy()), "the inputs are a numpy array; .*torch.from_numpy"),
        ((X, Y.numpy()), "the targets are a numpy array; .*torch.from_numpy"),
        ([(X.numpy(), Y)], "batch 1: the inputs are a numpy array"),
        ({"input": X.numpy(), "labels": Y}, "inputs 'input' are a numpy array"),
        ((X, ["cat"] * 120), "the targets are text; number the classes"),
        ((X, np.array(["cat"] * 120)), "the targets are text; number the classes"),
        ((X, Y.tolist()), "the targets are a list of numbers; .*torch.tensor"),
    ],
)
def test_data_that_do_not_fit(model: nn.Module, role: str, data: Any, words: str) -> None:
    with pytest.raises(sc.InputError, match=f"^{role}.*{words}"):
        compressed(model, **{"data" if role == "training data" else "validation": data})


@pytest.mark.usefixtures("nothing_done")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"epochs": 1}}, "train=.*TrainOptions"),
        ({"train": 1}, "train=1 .*TrainOptions"),
        ({"finish": 1}, "finish=1 .*TrainOptions"),
        (
            {"train": TrainOptions(epochs=1, loss="mse")},
            r"train=TrainOptions\(loss='mse'\) is not .*give it to compress itself",
        ),
        ({"finish": TrainOptions(epochs=1, loss=broken)}, "finish=TrainOptions.*broken.* is not .*as loss="),
        ({"train": TrainOptions(loss="mse"), "loss": "l1"}, r"train=TrainOptions\(loss='mse'\) is not"),
        ({"options": {"steps": 1}}, "options=.*CompressOptions"),
        ({"options": SHORT}, "options=.*CompressOptions"),
        ({"example": X[:4, :5]}, r"failed on the example inputs \(4, 5\)"),
        ({"example": X[:4].long()}, "failed on the example inputs .*Long"),
        ({"metric": 3}, "metric=3"),
        ({"metric": lambda outputs, targets: None}, "returned a NoneType"),
        ({"metric": lambda outputs, targets: outputs[:, 0]}, r"returned a Tensor of shape \(120,\)"),
        ({"metric": lambda outputs, targets: "good"}, "returned a str"),
        ({"metric": broken}, "metric .*KeyError: 'mine'"),
        ({"loss": broken}, "loss .*KeyError: 'mine'"),
        ({"loss": broken, "data": X}, "loss .*KeyError: 'mine'"),
        ({"loss": lambda outputs, targets: None}, "must return a scalar"),
        ({"data": (X, Y.float())}, "the loss is cross-entropy, and targets are floats"),
    ],
)
def test_options_and_functions_that_do_not_fit(model: nn.Module, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(sc.InputError, match=words) as caught:
        compressed(model, **changes)
    assert "\n" not in str(caught.value)
    if broken in (changes.get("loss"), changes.get("metric")):
        assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.usefixtures("nothing_done")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda model: model.bfloat16(), r"bfloat16, which is not supported; use \.float\(\)"),
        (lambda model: model.half(), r"float16, which is not supported; use \.float\(\)"),
        (lambda model: model.requires_grad_(False), r"requires a gradient.*requires_grad_\(True\)"),
        (lambda model: nn.Linear(8, 3), "nothing of this model can be removed .*: .*the model's output"),
    ],
)
def test_models_that_cannot_be_compressed(model: nn.Module, change: Callable[[Any], nn.Module], words: str) -> None:
    with pytest.raises(sc.InputError, match=words):
        compressed(change(deepcopy(model)))


def test_frozen_parameters_are_not_trained(model: nn.Module) -> None:
    frozen = deepcopy(model).requires_grad_(False)
    result = compressed(frozen, train=TrainOptions(epochs=0), max_drop=1.0)
    assert result.history.reached
    frozen[0].requires_grad_(True)
    result = compressed(frozen, max_drop=1.0)
    assert [parameter.requires_grad for parameter in result.model.parameters()] == [True] * 2 + [False] * 4


class Pair(nn.Module):
    """Adds what two layers make of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        total: Tensor = self.head((self.left(left) + self.right(right)).relu())
        return total


@pytest.mark.parametrize("data", [(X, X), ((X, X),), X, [(X, X)]])
def test_several_inputs_without_labels(data: Any) -> None:
    call: dict[str, Any] = {"example": (X[:4], X[:4]), "max_drop": 1.0}
    with pytest.raises(sc.InputError, match=r"takes 2 inputs.*\(\(x1, x2\), None\)"):
        compressed(Pair(), data, ((X, X), None), **call)
    assert compressed(Pair(), ((X, X), None), [((X, X), None)], **call).history.reached


@pytest.mark.parametrize("labels", [Y[:, None], nn.functional.one_hot(Y).float(), nn.functional.one_hot(Y)])
def test_labels_that_are_not_rated_are_warned_of(
    model: nn.Module, labels: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    history: Compression = compressed(model, (X, labels), (X, labels), progress=True).history
    assert history.metric == "fidelity"
    for text in (capsys.readouterr().err, str(history)):
        assert sum("WARNING: the labels are not rated" in line for line in text.splitlines()) == 1
    assert "not rated" not in str(compressed(model, (X, labels), (X, labels), metric="fidelity").history)


class Named(nn.Module):
    """Names its output as nobody else does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.inner(x)}


def test_labels_beside_a_named_output_are_not_rated_and_warned_of(model: nn.Module) -> None:
    assert "not rated" in str(compressed(Named(deepcopy(model))).history)


@pytest.mark.parametrize("targets", [X[:, 0].sin(), X[:, :1].sin(), (10 * X[:, 0]).long()])
def test_targets_of_a_regression_are_those_of_the_one_column(targets: Tensor) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1))
    sc.fit(model, (X, targets), epochs=100, lr=0.01, loss="mse")
    before = sc.evaluate(model, (X, targets), "mse").loss
    train = TrainOptions(epochs=40, lr=0.01)
    result = compressed(model, (X, targets), (X, targets), loss="mse", train=train, max_drop=1.0)
    assert result.history.metric == "fidelity"
    assert result.history.best.metric > 0.8
    assert sc.evaluate(result.model, (X, targets), "mse").loss < before + 0.2 * float(targets.float().var())


def test_what_was_not_cut_says_so_and_what_to_do(model: nn.Module, tmp_path: Path) -> None:
    result = sc.compress(
        model, X[:4], {"macs": 0.02}, X, X, CompressOptions(**QUICK), folder=tmp_path, max_drop=0.0, retries=0
    )
    assert "by hand" not in str(result.report)
    assert str(result.report).startswith("nothing removed: all 40 units are kept")
    (trial,) = result.history.trials
    assert "give a greater fraction" in trial.why
    assert "table" not in trial.why
    assert repr(result) == "<Result: Sequential, 40 of 40 channels kept, parameters 667 → 667>"
    assert "no file for the runtime: eager has none" in (tmp_path / "report.txt").read_text(encoding="utf-8")
