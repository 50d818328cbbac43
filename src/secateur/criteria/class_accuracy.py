"""Class accuracy: what chosen classes need, or what only they need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.checks import is_whole
from secateur.criteria.base import DataCriterion
from secateur.criteria.loss_change import LossChange, UnitWorth
from secateur.labelled import SampleBatch, Samples, batches
from secateur.losses import loss_function
from secateur.trees import joined
from secateur.types import InputError, Loss, Sites

__all__ = ["ClassAccuracy"]


@dataclass(frozen=True)
class ClassAccuracy(DataCriterion):
    """Scores every unit by what its removal takes from the accuracy on chosen classes; equals are told apart by loss.

    Both are measured by `LossChange`, on the samples of those classes alone. So what is removed is what the chosen classes
    do not need (Charpentier, 2020, asks it of each class). With `forget` it is the other way round: a unit's score is what
    the other classes lose with it less what the chosen ones lose, and units that serve the chosen classes go first.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        classes: the chosen classes, as numbers.
        forget: remove what serves the chosen classes, instead of keeping it.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch; it decides
            between units of equal accuracy only.
        batch_size: samples a pass.

    Raises:
        InputError: no classes, or none but these with `forget`; no samples of a class; unfit batches.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> for parameter in model.parameters():
    ...     parameter.data = torch.eye(2)                           # each class has a unit of its own
    >>> data = torch.eye(2), torch.tensor([0, 1])
    >>> sites = channels(model, data[0])
    >>> [round(score, 2) for score in ClassAccuracy(data, classes=[1])(model, sites)["0"].tolist()]
    [0.0, 1.14]
    >>> [round(score, 2) for score in ClassAccuracy(data, classes=[1], forget=True)(model, sites)["0"].tolist()]
    [0.14, -1.14]
    """

    classes: Sequence[int]
    forget: bool = False
    loss: str | Loss = "cross_entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        loss_function(self.loss)
        class_numbers = list(self.classes) if isinstance(self.classes, Sequence) else []
        if not class_numbers or not all(is_whole(number, 0) for number in class_numbers):
            raise InputError(f"ClassAccuracy: classes={self.classes!r} must be numbers of classes, such as [3, 5]")

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep, float64; each has its site's shape."""
        worth_in_classes = self._measured(model, sites, inside=True)
        if not self.forget:
            gap = 1 / worth_in_classes.base.count
            return {name: -worth_in_classes.accuracy[name] + _tie(worth_in_classes[name], gap) for name in sites}
        worth_elsewhere = self._measured(model, sites, inside=False)
        gap = 1 / worth_in_classes.base.count / worth_elsewhere.base.count
        return {
            name: worth_in_classes.accuracy[name]
            - worth_elsewhere.accuracy[name]
            + _tie(worth_elsewhere[name] - worth_in_classes[name], gap)
            for name in sites
        }

    def _measured(self, model: nn.Module, sites: Sites, inside: bool) -> UnitWorth:
        samples = _Samples(self.data, tuple(self.classes), inside, self.batch_size)
        return LossChange(samples, self.loss, batch_size=self.batch_size)(model, sites)


def _tie(loss: Tensor, gap: float) -> Tensor:
    """The loss change, squeezed into less than half the least difference between two accuracies."""
    change = loss.double()
    return change / (1 + change.abs()) * gap / 2


@dataclass(frozen=True)
class _Samples:
    """The samples of some classes, or of all others, in batches of one size that can be iterated again."""

    data: Samples
    classes: tuple[int, ...]
    inside: bool
    size: int

    def __iter__(self) -> Iterator[SampleBatch]:
        waiting: list[SampleBatch] = []
        present_by_label = dict.fromkeys(self.classes, False) if self.inside else {-1: False}
        for batch in batches(self.data, self.size, "ClassAccuracy"):
            targets, sample_mask = batch.targets, self._picked(batch.targets)
            for label in present_by_label:
                present_by_label[label] = present_by_label[label] or bool(
                    (targets == label).any() if self.inside else sample_mask.any()
                )
            waiting.append(batch.rows(sample_mask))
            if sum(map(len, waiting)) >= self.size:
                whole: SampleBatch = joined(waiting)
                yield whole.rows(slice(self.size))
                waiting = [whole.rows(slice(self.size, None))]
        missing = [label for label, present in present_by_label.items() if not present]
        if missing:
            which = f"of class {missing[0]}" if self.inside else f"of classes other than {list(self.classes)}"
            raise InputError(f"ClassAccuracy: there is no sample {which} among the batches; give data that have some")
        rest: SampleBatch = joined(waiting)
        if len(rest):
            yield rest

    def _picked(self, targets: Any) -> Tensor:
        if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
            which = (
                f"targets of shape {tuple(targets.shape)} and type {targets.dtype}"
                if isinstance(targets, Tensor)
                else f"targets of type {type(targets).__name__}"
            )
            raise InputError(f"ClassAccuracy: {which} are not classes; give whole numbers, one a sample")
        in_classes = torch.isin(targets, torch.tensor(self.classes, device=targets.device))
        return in_classes if self.inside else ~in_classes
