"""How good a model is: its loss, its accuracy, and the accuracy on each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.calls import looking, running
from secateur.checks import check_whole, imported, in_one_line, is_number
from secateur.labelled import Samples, check_samples, unlabelled
from secateur.losses import loss_function
from secateur.rate.whole import answered, tally_pass
from secateur.types import InputError, Loss, Metric, UnknownNameError
from secateur.wrappers import check_module

__all__ = [
    "Evaluation",
    "calibration_error",
    "evaluate",
    "has_learnt",
    "metric_function",
    "metric_value",
    "predict",
    "rated",
]


@dataclass(frozen=True)
class Evaluation:
    """What a model does on labelled data.

    Attributes:
        loss: mean over the samples.
        accuracy: fraction of samples answered rightly; nan where the targets are not classes.
        class_accuracy: the same for each class's samples; nan for a class without any; empty without classes.
        count: samples.
        metric: what a metric that was asked for says; None where none was.
    """

    loss: float
    accuracy: float
    class_accuracy: tuple[float, ...]
    count: int
    metric: float | None = None


@running
def evaluate(
    model: nn.Module,
    data: Samples,
    loss: str | Loss = "cross_entropy",
    *,
    metric: str | Metric | None = None,
    batch_size: int = 256,
) -> Evaluation:
    """Run the model over labelled data, in evaluation mode without gradients, and rate it.

    Accuracy is counted where outputs are ``(N, classes)`` and targets are whole numbers ``(N,)``: the answer
    is the largest output, the first of equals. The counts are exact.

    Args:
        model: on any device; its modes are left as they were.
        data: a `Split`, a pair (inputs, targets), or batches of such pairs; inputs may be several: see `fit`.
        loss: a name that `fit` takes, or a callable of (outputs, targets) that returns the batch's mean; that may take
            what a model of several outputs returns.
        metric: a callable of (outputs, targets), of all samples together, that returns a number; or its import path,
            ``"package.module:name"``. As a loss of one's own it is given all that the model returns. It takes a pass of its own.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: no samples, values that are not finite, outputs that hold NaN, labels out of range.
        UnknownNameError: a loss or a metric of no known name.

    >>> inputs, labels = torch.eye(3), torch.tensor([0, 1, 1])
    >>> result = evaluate(nn.Identity(), (inputs, labels))
    >>> round(result.accuracy, 3), result.class_accuracy, result.count
    (0.667, (1.0, 0.5, nan), 3)
    """
    check_whole("evaluate", batch_size=batch_size)
    check_module(model, "evaluate", compiled=True)
    check_samples(data, "evaluate")
    tally = tally_pass(model, data, loss_function(loss), batch_size, "evaluate")
    accuracy = tally.accuracy
    return Evaluation(
        loss=tally.loss,
        accuracy=nan if accuracy is None else accuracy,
        class_accuracy=_class_accuracy(tally.answers),
        count=tally.count,
        metric=None if metric is None else rated(model, data, metric, batch_size, "evaluate"),
    )


def rated(model: nn.Module, data: Samples, metric: str | Metric, batch_size: int, doing: str) -> float:
    """Return what a metric says of a model's outputs on all samples, and their targets; both are on the CPU.

    Raises:
        InputError: it is no number.
    """
    pair = answered(model, data, batch_size, doing, torch.device("cpu"), whole=True)
    return metric_value(metric_function(metric), *pair, doing)


def metric_value(measure: Metric, outputs: Any, targets: Any, doing: str) -> float:
    """Return what a metric says of outputs and targets.

    Raises:
        InputError: it raises something, which is then the cause, or returns no number.

    >>> metric_value(lambda outputs, targets: outputs, torch.ones(2), None, "evaluate")
    Traceback (most recent call last):
    secateur.types.InputError: evaluate: the metric returned a Tensor of shape (2,); it must return one number, high = good
    """
    try:
        value: Any = measure(outputs, targets)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{doing}: the metric does not take the outputs and targets: {in_one_line(error)}{_named(outputs)}"
        ) from error
    number = value.item() if isinstance(value, Tensor | np.generic) and prod(value.shape) == 1 else value
    if not is_number(number):
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise InputError(
            f"{doing}: the metric returned a {type(value).__name__}{shape}; it must return one number, high = good"
        )
    return float(number)


def _named(outputs: Any) -> str:
    """What a metric takes of outputs that have names, for those who expected a tensor.

    >>> _named({"logits": 1, "aux": 2})
    "; it is given all that the model returns: take what it needs, as outputs['logits']"
    """
    if not isinstance(outputs, Mapping) or not outputs:
        return ""
    name = "logits" if "logits" in outputs else next(iter(outputs))
    return f"; it is given all that the model returns: take what it needs, as outputs[{name!r}]"


def metric_function(metric: str | Metric) -> Metric:
    """Return the metric itself, or what its import path ``"package.module:name"`` names.

    Raises:
        UnknownNameError: there is nothing there.

    >>> metric_function("torch.nn.functional:l1_loss") is torch.nn.functional.l1_loss
    True
    """
    if callable(metric):
        return metric
    if ":" not in str(metric):
        raise UnknownNameError(
            f"there is no metric {metric!r}; give a function of (outputs, targets), or its import path, such as "
            "'package.module:name'"
        )
    return imported(str(metric), f"metric {metric!r}", "metric")


BLIND = 0.1
"""A model that goes less than this part of the way from blind answers to right ones has not learnt."""


@looking
def has_learnt(class_accuracy: Sequence[float]) -> bool:
    """Say whether a classifier does better than blind answers: by the mean of its classes' accuracies.

    One that gives the same answer to everything is right on one class of n, whichever classes are frequent.

    >>> has_learnt([1.0, 0.0, 0.0]), has_learnt([0.9, 0.8, 0.4]), has_learnt([])
    (False, True, True)
    """
    finite = [accuracy for accuracy in class_accuracy if accuracy == accuracy]
    if len(finite) < 2:
        return True
    chance = 1 / len(finite)
    return sum(finite) / len(finite) >= chance + BLIND * (1 - chance)


def _class_accuracy(answers: Tensor | None) -> tuple[float, ...]:
    if answers is None:
        return ()
    return tuple(right / (wrong + right) if wrong + right else nan for wrong, right in answers.T.tolist())


@running
def predict(model: nn.Module, data: Samples, *, batch_size: int = 256) -> Any:
    """Return the model's outputs on all samples, in their order, in evaluation mode without gradients.

    Args:
        model: on any device; its modes are left as they were.
        data: what `evaluate` takes, or inputs alone, such as a tensor.
        batch_size: samples a pass, where the data are in memory.

    Returns:
        The outputs ``(N, …)``, on the model's device, in the form in which the model returns them; the logits of a model
        that names them.

    Raises:
        InputError: no samples, values that are not finite, outputs that hold NaN.

    >>> predict(nn.Flatten(), torch.zeros(5, 2, 3), batch_size=2).shape
    torch.Size([5, 6])
    """
    check_whole("predict", batch_size=batch_size)
    check_module(model, "predict", compiled=True)
    check_samples(data, "predict")
    outputs, _ = answered(model, unlabelled(data), batch_size, "predict")
    return outputs


def calibration_error(outputs: Tensor, targets: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of a classifier (Guo et al., 2017): how far confidence is from accuracy.

    Samples are sorted into equal bins of confidence, the greatest probability that softmax gives; each bin's distance
    between mean confidence and accuracy counts by its share of the samples.

    Args:
        outputs: logits, ``(N, classes)``, as `predict` gives them.
        targets: the classes, ``(N,)``.
        bins: how many.

    Raises:
        InputError: the shapes do not fit.

    >>> sure = torch.tensor([[9.0, -9.0], [9.0, -9.0]])  # twice sure of class 0, once right
    >>> round(calibration_error(sure, torch.tensor([0, 1])), 3)
    0.5
    """
    check_whole("calibration_error", bins=bins)
    if outputs.ndim != 2 or targets.shape != outputs.shape[:1] or not len(targets):
        raise InputError(
            f"calibration_error: outputs are {tuple(outputs.shape)} and targets {tuple(targets.shape)}; give (N, classes) "
            "and (N,)"
        )
    confidence, answer = outputs.double().softmax(1).max(1)
    right = (answer == targets.to(answer.device)).double()
    place = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.double, device=outputs.device).index_add(0, place, confidence - right)
    return float(gaps.abs().sum() / len(targets))
