"""Sums over samples of what models answer: their losses, and exact counts of right answers by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from secateur.labelled import SampleBatch, are_classes
from secateur.losses import check_answers
from secateur.rate.samples import SampleLoss
from secateur.trees import Packing
from secateur.types import InputError, Loss, Sites

__all__ = ["MaskTally", "Sums", "Tally", "UnitTally", "right_by_class"]


@dataclass
class Tally:
    """Sums for one model, over the batches of a pass.

    Attributes:
        count: samples so far.
        loss_sum: sum of the samples' losses.
        answers: samples of each class that were answered wrongly, and rightly, int64 ``(2, classes)``; None
            where the targets are not classes.
    """

    count: int = 0
    loss_sum: float = 0.0
    answers: Tensor | None = None

    def add(self, outputs: Any, targets: Any, loss_sum: float, count: int) -> None:
        """Take in a batch of `count` samples with the sum of their losses."""
        self.count += count
        self.loss_sum += loss_sum
        if are_classes(outputs, targets):
            classes = outputs.shape[1]
            right = outputs.detach().argmax(1) == targets
            # One count for both halves: this runs in every step of a training.
            answers = (targets + classes * right).cpu().bincount(minlength=2 * classes).view(2, classes)
            self.answers = answers if self.answers is None else self.answers + answers

    @property
    def loss(self) -> float:
        """Mean loss of a sample."""
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float | None:
        """Fraction of samples answered rightly; None where the targets are not classes."""
        return None if self.answers is None else int(self.answers[1].sum()) / self.count


@dataclass(eq=False)
class Sums:
    """Sums for several models, one row each: under masks, or without a unit.

    Attributes:
        loss: of the samples' losses, or of their changes δ, float64 ``(rows,)``.
        square: of δ², float64 ``(rows,)``; zeros where losses are summed.
        count: over how many samples, int64 ``(rows,)``.
        right: right answers of each class, int64 ``(rows, classes)``; None where the targets are not classes.
    """

    loss: Tensor
    square: Tensor
    count: Tensor
    right: Tensor | None = None

    @classmethod
    def of(cls, rows: int) -> Sums:
        """Return sums over nothing yet."""
        loss, square = torch.zeros(2, rows, dtype=torch.float64)
        return cls(loss, square, torch.zeros(rows, dtype=torch.int64))

    def add(
        self, rows: Tensor | slice, count: int, loss: Tensor, square: Tensor | None = None, right: Tensor | None = None
    ) -> None:
        """Take in what was summed over `count` samples for some of the rows, of the shapes of the attributes."""
        self.loss[rows] += loss.double().cpu()
        self.count[rows] += count
        if square is not None:
            self.square[rows] += square.double().cpu()
        if right is not None:
            if self.right is None:
                self.right = torch.zeros(len(self.loss), right.shape[1], dtype=torch.int64)
            self.right[rows] += right.cpu()


def right_by_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return how many samples of each class each model answers rightly, int64 ``(rows, classes)``.

    Args:
        outputs: logits ``(rows, samples, classes)``; the answer is the greatest, the first of equals.
        targets: the classes ``(samples,)``.

    >>> right_by_class(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]]), torch.tensor([0, 1, 1]))
    tensor([[1, 1]])
    """
    # Exact: a float32 counts to 16,777,216, more than a batch has samples.
    classes = one_hot(targets.long(), outputs.shape[2]).float()
    return (_right(outputs, targets).float() @ classes).long()


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the greatest output, the first of equals, is the target's: ``(rows, samples)``."""
    # A tenth of the time of argmax where the samples lie innermost; of NaN and of equals it would not know the first.
    greatest = outputs == outputs.amax(2, keepdim=True)
    if int(torch.count_nonzero(greatest)) != greatest.shape[0] * greatest.shape[1]:
        return outputs.argmax(2) == targets
    return greatest.gather(2, targets.long().expand(len(outputs), -1).unsqueeze(2)).squeeze(2)


class MaskTally:
    """Sums for a model under each of several masks, of which each sees every batch.

    Args:
        masks: how many.
        loss: of (outputs, targets); the mean of its samples' losses.
        doing: who asks, for the errors.
    """

    def __init__(self, masks: int, loss: Loss, doing: str) -> None:
        self.loss, self.each, self.sums, self.doing = loss, SampleLoss(loss, doing), Sums.of(masks), doing
        self.asked: Tensor | None = None  # samples of each class

    def add(self, first: int, outputs: Tensor, batch: SampleBatch, packing: Packing | None = None) -> None:
        """Count the outputs ``(masks, samples, …)`` of the masks from `first` on, on a batch.

        Several outputs come as one tensor ``(masks, samples, numbers)``, with how they lie in it.
        """
        targets, whole = batch.targets, outputs[0] if packing is None else packing.unpack(outputs[0])
        self.each = self.each.of_packed(packing)
        if first == 0:
            check_answers(whole, targets, self.loss, self.doing)
        losses = self.each.of_units(outputs, targets)
        if first == 0:
            self.each.check(losses[0], outputs[0], targets)
        right = None
        if are_classes(whole, targets):
            right = right_by_class(outputs, targets)
            if first == 0:
                asked = targets.bincount(minlength=outputs.shape[2]).cpu()
                self.asked = asked if self.asked is None else self.asked + asked
        rows = slice(first, first + len(outputs))
        self.sums.add(rows, len(batch), losses.sum(1, dtype=torch.float64), right=right)


@dataclass(eq=False)
class UnitTally:
    """Sums for a model without each of its units, against the whole: losses are paired by sample.

    An engine calls `start` with each block of samples, and `add` or `add_outputs` with each block of units.

    Args:
        loss: of (outputs, targets); the mean of its samples' losses.
        sites: whose units are measured.
        units: which units of each site, int64; all where it is None.
    """

    loss: Loss
    sites: Sites
    units: Mapping[str, Tensor] | None = None
    whole: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self.each = SampleLoss(self.loss, "LossChange")
        self.chosen = {name: torch.arange(site.size) for name, site in self.sites.items()} | dict(self.units or {})
        self.sums = {name: Sums.of(site.size) for name, site in self.sites.items()}

    def start(self, outputs: Tensor, targets: Any, packing: Packing | None = None, doing: str = "LossChange") -> None:
        """Take the outputs ``(samples, …)`` of the whole model on the next block of samples.

        Several outputs come as one tensor ``(samples, numbers)``, here and in `add_outputs`, with how they lie in it.
        """
        whole = outputs if packing is None else packing.unpack(outputs)
        check_answers(whole, targets, self.loss, doing)
        outputs, self.each = outputs.float(), self.each.of_packed(packing)
        self.targets, self.losses = targets, self.each(outputs, targets)
        self.each.check(self.losses, outputs, targets)
        self.whole.add(whole, targets, float(self.losses.double().sum()), len(outputs))

    def add_outputs(self, name: str, units: Tensor | slice, outputs: Tensor) -> None:
        """Take the outputs ``(units, samples, …)`` without each of some units of a site."""
        outputs = outputs.float()
        changes = (self.each.of_units(outputs, self.targets) - self.losses).double()
        right = None if self.whole.answers is None else right_by_class(outputs, self.targets)
        self.add(name, units, changes.sum(1), changes.square().sum(1), right)

    def add(self, name: str, units: Tensor | slice, change: Tensor, square: Tensor, right: Tensor | None) -> None:
        """Take what the block's samples sum up to: δ and δ² ``(units,)``, and right answers ``(units, classes)``."""
        self.sums[name].add(units, len(self.losses), change, square, right)

    def check(self) -> None:
        """See that every chosen unit was measured on every sample.

        Raises:
            InputError: there were no samples.
        """
        if not self.whole.count:
            raise InputError("LossChange: there are no samples; give at least one batch")
        for name, sums in self.sums.items():
            assert bool((sums.count[self.chosen[name]] == self.whole.count).all()), f"units of {name} were left out"
