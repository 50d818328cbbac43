"""How good a smaller model is, beside the original, on validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from typing import Any, Self

import torch
from torch import Tensor, nn

from secateur.labelled import Samples, are_classes, logits_of
from secateur.measure.quality import metric_function, metric_value
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
        targets: theirs; None where there are none.
        measure: the metric, of (outputs, targets, the original's outputs).
        tells_classes: whether the targets are classes, and the outputs their logits.
        note: what the reader should know of the metric; empty where there is nothing.
        whole: whether the metric is of all that a model returns, as one's own is; else of its logits, where it names them.
    """

    name: str
    data: Samples
    original: Any
    targets: Any
    measure: Callable[[Any, Any, Any], float]
    tells_classes: bool
    note: str = ""
    whole: bool = False

    @classmethod
    def of(cls, model: nn.Module, data: Samples, metric: str | Metric | None) -> Self:
        """Return the metric that was asked for, or the one that fits the data.

        Raises:
            UnknownNameError: a metric of no known name.
        """
        own = metric is not None and (callable(metric) or ":" in metric)
        original, targets = _answered(model, data, whole=own)
        automatic = metric is None
        classes = are_classes(logits_of(original), targets)
        if metric is None:
            metric = "accuracy" if classes else "fidelity"
        if callable(metric) or ":" in metric:
            measure = _without_original(metric_function(metric))
            return cls(_name(metric), data, original, targets, measure, classes, whole=True)
        if metric not in METRICS:
            raise unknown_name("metric", metric, METRICS)
        note = _unrated(original, targets) if automatic and not classes and targets is not None else ""
        return cls(metric, data, original, targets, METRICS[metric], classes, note)

    @property
    def labelled(self) -> bool:
        """Whether the data have targets."""
        return self.targets is not None

    @cached_property
    def baseline(self) -> float:
        """The metric of the original."""
        return self._rated(self.original, self.targets)

    def __call__(self, model: nn.Module) -> float:
        """Return the metric of a model.

        Raises:
            InputError: it is no finite number.
        """
        return self._rated(*_answered(model, self.data, self.whole))

    def _rated(self, outputs: Any, targets: Any) -> float:
        value = float(self.measure(outputs, targets, self.original))
        if not isfinite(value):
            raise InputError(f"compress: the metric {self.name} is {value}; it must be a finite number, high = good")
        return value


def _name(metric: str | Metric) -> str:
    """What a metric of one's own is called.

    >>> from functools import partial
    >>> _name("pitch:accuracy"), _name(max), _name(lambda outputs, targets: 0.0), _name(partial(max, key=abs))
    ('pitch:accuracy', 'max', 'metric', 'max')
    """
    if isinstance(metric, str):
        return metric
    inner = getattr(metric, "func", metric)  # of a partial
    name = str(getattr(inner, "__name__", type(inner).__name__))
    return "metric" if name == "<lambda>" else name


def _answered(model: nn.Module, data: Samples, whole: bool) -> tuple[Any, Any]:
    return answered(model, data, BATCH, "validation data", torch.device("cpu"), whole=whole)


def _without_original(metric: Metric) -> Callable[[Any, Any, Any], float]:
    return lambda outputs, targets, original: metric_value(metric, outputs, targets, "compress")


def _unrated(outputs: Any, targets: Any) -> str:
    """Why fidelity is rated where there are targets.

    >>> _unrated(torch.zeros(4, 3), torch.zeros(4, 1))
    "the labels are not rated, only how near the outputs stay to the original's (fidelity): outputs of shape (4, 3) and \
targets of shape (4, 1) are not those of classes, (N, classes) and whole numbers (N,); give metric= a function of (outputs, targets)"
    """
    shapes = [
        f"of shape {tuple(part.shape)}" if isinstance(part, Tensor) else f"in a {type(part).__name__}"
        for part in (outputs, targets)
    ]
    return (
        "the labels are not rated, only how near the outputs stay to the original's (fidelity): outputs "
        f"{shapes[0]} and targets {shapes[1]} are not those of classes, (N, classes) and whole numbers (N,); give "
        "metric= a function of (outputs, targets)"
    )
