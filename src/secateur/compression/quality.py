"""How good a smaller model is, beside the original, on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any, Self

import torch
from torch import Tensor, nn

from secateur.labelled import Samples, are_classes
from secateur.measure.quality import metric_function
from secateur.rate.whole import answered
from secateur.trees import numbers_within
from secateur.types import InputError, Metric, unknown_name

__all__ = ["METRICS", "Quality"]

BATCH = 256


def accuracy(outputs: Any, targets: Any, original: Any) -> float:
    """Return the share of samples whose greatest output is the target's."""
    if not (isinstance(outputs, Tensor) and isinstance(targets, Tensor) and are_classes(outputs, targets)):
        raise InputError(
            "compress: accuracy needs outputs (N, classes) and whole numbers (N,) as targets; give metric='fidelity', or "
            "a function of (outputs, targets)"
        )
    return float((outputs.argmax(1) == targets).double().mean())


def agreement(outputs: Any, targets: Any, original: Any) -> float:
    """Return the share of samples whose greatest output is the original's; the least over several outputs."""
    pairs = zip(numbers_within(outputs), numbers_within(original), strict=True)
    return min(float((ours.argmax(-1) == theirs.argmax(-1)).double().mean()) for ours, theirs in pairs)


def fidelity(outputs: Any, targets: Any, original: Any) -> float:
    """Return the share of the variance of the original's outputs that is met, 1 − Σ(y − y₀)² / Σ(y₀ − ȳ₀)²; the least
    over several outputs.

    >>> fidelity(torch.tensor([[1.0], [3.0]]), None, torch.tensor([[1.0], [3.0]]))
    1.0
    """
    return min(_explained(*pair) for pair in zip(numbers_within(outputs), numbers_within(original), strict=True))


def _explained(outputs: Tensor, original: Tensor) -> float:
    outputs, original = outputs.double(), original.double()
    spread = float((original - original.mean(0)).square().sum())
    error = float((outputs - original).square().sum())
    return 1 - error / spread if spread else float(error == 0)


METRICS: Mapping[str, Callable[[Any, Any, Any], float]] = {
    "accuracy": accuracy,
    "agreement": agreement,
    "fidelity": fidelity,
}
"""The metrics that have a name, of (outputs, targets, the original's outputs)."""


@dataclass(frozen=True, eq=False)
class Quality:
    """Rates models by one metric on the validation data.

    Attributes:
        name: of the metric.
        data: the validation data.
        original: what the original answers on them.
        measure: the metric, of (outputs, targets, the original's outputs).
        labelled: whether the data have targets.
        tells_classes: whether the targets are classes, and the outputs their logits.
    """

    name: str
    data: Samples
    original: Any
    measure: Callable[[Any, Any, Any], float]
    labelled: bool
    tells_classes: bool

    @classmethod
    def of(cls, model: nn.Module, data: Samples, metric: str | Metric | None) -> Self:
        """Return the metric that was asked for, or the one that fits the data.

        Raises:
            UnknownNameError: a metric of no known name.
        """
        original, targets = _answered(model, data)
        classes = isinstance(original, Tensor) and isinstance(targets, Tensor) and are_classes(original, targets)
        facts = (targets is not None, classes)
        if metric is None:
            metric = "accuracy" if classes else "fidelity"
        if callable(metric) or ":" in metric:
            name = metric if isinstance(metric, str) else getattr(metric, "__name__", repr(metric))
            return cls(name, data, original, _without_original(metric_function(metric)), *facts)
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        return cls(metric, data, original, METRICS[metric], *facts)

    def __call__(self, model: nn.Module) -> float:
        """Return the metric of a model.

        Raises:
            InputError: it is no finite number.
        """
        value = float(self.measure(*_answered(model, self.data), self.original))
        if not isfinite(value):
            raise InputError(f"compress: the metric {self.name} is {value}; it must be a finite number, high = good")
        return value


def _answered(model: nn.Module, data: Samples) -> tuple[Any, Any]:
    return answered(model, data, BATCH, "validation data", torch.device("cpu"))


def _without_original(metric: Metric) -> Callable[[Any, Any, Any], float]:
    return lambda outputs, targets, original: metric(outputs, targets)
