"""Loss and accuracy: counts by hand, the same whatever the batches, and what is refused."""

from __future__ import annotations

from math import isnan, log, nan
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.measure import evaluate, predict
from secateur.types import InputError, UnknownNameError

# Answers 0, 1, 1, 2 (the first of equals); of class 3 there is no sample.
OUTPUTS = torch.tensor(
    [[2.0, 0, 0, 0], [0, 2.0, 0, 0], [0, 2.0, 2.0, 0], [0, 0, 2.0, 0]],
)
LABELS = torch.tensor([0, 1, 2, 2])


def test_counts_by_hand() -> None:
    result = evaluate(nn.Identity(), (OUTPUTS, LABELS))
    assert result.count == 4
    assert result.accuracy == 0.75
    assert result.class_accuracy[:3] == (1.0, 1.0, 0.5)
    assert isnan(result.class_accuracy[3])


def test_cross_entropy_by_hand() -> None:
    # Equal outputs for two classes: ln 2 each.
    result = evaluate(nn.Identity(), (torch.zeros(3, 2), torch.tensor([0, 0, 1])))
    assert result.loss == pytest.approx(log(2))
    assert result.class_accuracy == (1.0, 0.0)


def test_batches_of_unequal_lengths_weigh_by_their_samples() -> None:
    whole = evaluate(nn.Identity(), (OUTPUTS, LABELS))
    batches = [(OUTPUTS[:3], LABELS[:3]), (OUTPUTS[3:], LABELS[3:])]
    for parts in (
        evaluate(nn.Identity(), batches),
        evaluate(nn.Identity(), (OUTPUTS, LABELS), batch_size=1),
    ):
        assert parts.loss == pytest.approx(whole.loss)
        assert (parts.accuracy, parts.count) == (whole.accuracy, 4)
        assert parts.class_accuracy == pytest.approx(whole.class_accuracy, nan_ok=True)


def test_regression_has_no_accuracy() -> None:
    result = evaluate(nn.Identity(), (torch.tensor([[1.0], [3.0]]), torch.zeros(2, 1)), "mse")
    assert result.loss == 5.0
    assert isnan(result.accuracy)
    assert result.class_accuracy == ()


def test_a_loss_of_ones_own() -> None:
    result = evaluate(nn.Identity(), (OUTPUTS, LABELS), lambda outputs, targets: outputs.sum() * 0 + 3)
    assert result.loss == 3.0


def test_evaluation_mode_without_gradients_and_modes_put_back() -> None:
    class Look(nn.Dropout):
        def forward(self, x: Tensor) -> Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            return super().forward(x)

    model = nn.Sequential(Look(), nn.BatchNorm1d(4), nn.Identity())
    model[2].eval()
    evaluate(model, (OUTPUTS, LABELS))
    predict(model, OUTPUTS)
    assert [module.training for module in model] == [True, True, False]
    assert model[1].num_batches_tracked == 0


def test_predictions_come_in_order() -> None:
    x = torch.arange(7.0)[:, None]
    for data in (x, (x, torch.zeros(7)), [(x[:2], torch.zeros(2)), (x[2:], torch.zeros(5))]):
        assert predict(nn.Identity(), data, batch_size=3).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6]


def broken(value: float) -> Tensor:
    outputs = OUTPUTS.clone()
    outputs[2, 1] = value
    return outputs


class Constant(nn.Module):
    """Returns what it is told."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Any:
        return self.value


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (nn.Identity(), [], "evaluate: there are no batches"),
        (nn.Identity(), (OUTPUTS[:0], LABELS[:0]), "evaluate: there are no samples"),
        (nn.Identity(), (OUTPUTS, LABELS + 2), "evaluate, batch 1: label 4 is out of range .* 4 outputs"),
        (nn.Identity(), (OUTPUTS, LABELS - 1), "label -1 is out of range"),
        (nn.Identity(), (broken(nan), LABELS), "evaluate: the inputs hold NaN"),
        (Constant(broken(nan)), (OUTPUTS, LABELS), "batch 1: the model's outputs hold NaN"),
        (Constant({"scores": OUTPUTS}), (OUTPUTS, LABELS), "returned a dict, not one tensor"),
        (Constant(OUTPUTS[:2]), (OUTPUTS, LABELS), "do not have one row for each of 4 targets"),
        (nn.Identity(), (OUTPUTS, LABELS[:2]), "one target for each input"),
    ],
)
def test_what_cannot_be_rated(model: nn.Module, data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(model, data)


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (
            nn.Linear(3, 2),
            torch.ones(4, 3).half(),
            "evaluate, batch 1: the model does not take .*float16.*float32: bring both",
        ),
        (
            nn.Linear(3, 2).double(),
            torch.ones(4, 3),
            "does not take .*float32.* its weights are torch.float64: bring both",
        ),
        (nn.Linear(3, 2), torch.ones(4, 3, dtype=torch.int64), "does not take .*int64.*: bring both to one type"),
        (nn.Linear(3, 2), torch.ones(4, 3) > 0, "does not take .*bool.*: bring both to one type"),
        (nn.Linear(3, 2), torch.ones(4, 3).to(torch.cfloat), "does not take .*complex64.*weights are torch.float32"),
        (
            nn.Flatten(),
            torch.ones(4, 3).to(torch.cfloat),
            "the loss does not take outputs of .*complex64",
        ),
        (
            nn.Flatten(),
            torch.ones(4, 3, dtype=torch.int64),
            "the loss does not take outputs of shape .* and torch.int64",
        ),
        (
            nn.Linear(3, 2),
            torch.ones(4, 5),
            "does not take inputs of shape .4, 5. and torch.float32: RuntimeError: [^;]*$",
        ),
    ],
)
def test_types_that_a_model_or_the_loss_does_not_take(model: nn.Module, inputs: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        evaluate(model, (inputs, torch.tensor([0, 1, 0, 1])))
    assert isinstance(raised.value.__cause__, RuntimeError), "torch's own words are the cause"
    if "the loss" not in message:
        with pytest.raises(InputError, match=message.replace("evaluate", "predict")):
            predict(model, inputs)


def test_types_that_fit_are_rated() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        result = evaluate(nn.Linear(3, 2).to(dtype), (torch.ones(4, 3, dtype=dtype), torch.tensor([0, 1, 0, 1])))
        assert result.accuracy == 0.5


def test_what_runs_out_of_memory_is_not_the_inputs_fault() -> None:
    class Greedy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise MemoryError("no more")

    with pytest.raises(MemoryError):
        predict(Greedy(), OUTPUTS)


def test_options_and_names() -> None:
    with pytest.raises(InputError, match="batch_size=0 must be"):
        evaluate(nn.Identity(), (OUTPUTS, LABELS), batch_size=0)
    with pytest.raises(UnknownNameError, match="did you mean 'mse'"):
        evaluate(nn.Identity(), (OUTPUTS, LABELS), "msee")
    with pytest.raises(InputError, match="predict: there are no samples"):
        predict(nn.Identity(), OUTPUTS[:0])
    with pytest.raises(InputError, match="predict, batch 1: the model's outputs hold NaN"):
        predict(Constant(broken(nan)), OUTPUTS)


def test_a_model_without_parameters_and_without_a_right_answer() -> None:
    result = evaluate(Constant(-OUTPUTS), (OUTPUTS, LABELS))
    assert result.accuracy == 0.0
