"""Loss and exact counts of right answers over one pass; what training and measuring share."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from secateur.labelled import Data, are_classes, iterate
from secateur.losses import check_answers
from secateur.state import device_of, evaluating
from secateur.types import Loss

__all__ = ["Tally", "tally_pass"]


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


def tally_pass(model: nn.Module, data: Data, loss: Loss, batch_size: int, what: str) -> Tally:
    """Run the model over the data in evaluation mode, without gradients, and leave it as it was."""
    device, tally = device_of(model), Tally()
    with evaluating(model):
        for number, (inputs, targets) in enumerate(iterate(data, batch_size, what), 1):
            targets = targets.to(device)
            outputs = model(inputs.to(device))
            check_answers(outputs, targets, loss, f"{what}, batch {number}")
            tally.add(outputs, targets, float(loss(outputs, targets)))
    return tally
