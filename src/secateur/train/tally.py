"""Loss and exact counts of right answers over one pass; what training and measuring share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.state import device_of, modes_kept
from secateur.train.data import Data, iterate
from secateur.types import InputError, Loss

__all__ = ["Tally", "check_labels", "check_outputs", "tally_pass"]


@dataclass
class Tally:
    """Running sums over the batches of a pass.

    Attributes:
        count: samples so far.
        loss_sum: sum of the samples' losses.
        answers: samples of each class that were answered wrongly, and rightly, int64 ``(2, classes)``; None
            where the targets are not classes.
    """

    count: int = 0
    loss_sum: float = 0.0
    answers: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor, loss: float) -> None:
        """Count a batch with its mean loss."""
        self.count += len(targets)
        self.loss_sum += loss * len(targets)
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


def are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether the targets are class labels ``(N,)`` for outputs ``(N, classes)``."""
    return outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()


def check_outputs(outputs: Any, targets: Tensor, what: str) -> None:
    """Refuse outputs that are not one tensor with a row for each target, or that hold NaN."""
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{what}: the model returned a {type(outputs).__name__}, not one tensor; wrap it in a module that does"
        )
    if outputs.ndim == 0 or len(outputs) != len(targets):
        raise InputError(
            f"{what}: outputs of shape {tuple(outputs.shape)} do not have one row for each of {len(targets)} targets"
        )
    if outputs.isnan().any():
        raise InputError(f"{what}: the model's outputs hold NaN; look for NaN in its weights")
    if are_classes(outputs, targets):
        check_labels(targets, outputs.shape[1], what)


def check_labels(labels: Tensor, classes: int, what: str) -> None:
    """Refuse labels that are not in 0 … classes − 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{what}: label {low if low < 0 else high} is out of range for a model of {classes} outputs; "
            f"labels must be in 0 … {classes - 1}"
        )


def tally_pass(model: nn.Module, data: Data, loss: Loss, batch_size: int, what: str) -> Tally:
    """Run the model over the data in evaluation mode, without gradients, and leave it as it was."""
    device, tally = device_of(model), Tally()
    with modes_kept(model), torch.no_grad():
        model.eval()
        for number, (inputs, targets) in enumerate(iterate(data, batch_size, what), 1):
            targets = targets.to(device)
            outputs = model(inputs.to(device))
            check_outputs(outputs, targets, f"{what}, batch {number}")
            tally.add(outputs, targets, float(loss(outputs, targets)))
    return tally
