"""How far the outputs of a smaller model are from those of the one that it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.labelled import SampleBatch
from secateur.randomness import private_draws
from secateur.state import evaluating
from secateur.structure.difference import compared_tensors

__all__ = ["OutputChange", "output_change"]

UNRECOGNISABLE = 0.9
"""From this relative change on, the original's mean in the place of its outputs would be hardly farther from them."""

FEW_AGREE = 0.5
"""With fewer of the greatest outputs where they were, most answers of a classifier are others."""

TELLING = 16
"""From so many samples on, the share of greatest outputs that are where they were says something."""


@dataclass(frozen=True)
class OutputChange:
    """How far a smaller model's outputs are from the original's, in evaluation mode.

    Attributes:
        relative: ‖smaller − original‖ / ‖original − its mean‖, each output tensor about its own mean, all together: 0
            where nothing changed, about 1 where the outputs tell no more than their mean does. Its square is the part
            of the variance that is lost.
        agreement: the share of samples whose greatest output is where it was; None unless the outputs are one tensor of
            ``(samples, several)``, and of 16 samples or more.
        samples: how many were looked at.
        inputs: ``"example"`` or ``"data"``.
    """

    relative: float
    agreement: float | None
    samples: int
    inputs: str

    @property
    def is_beyond_recognition(self) -> bool:
        """Whether the outputs tell little of what they told."""
        return not self.relative < UNRECOGNISABLE or (self.agreement is not None and self.agreement < FEW_AGREE)

    def __str__(self) -> str:
        same = "" if self.agreement is None else f", {self.agreement:.0%} of the greatest are where they were"
        of = f"{self.samples:,} sample{'s' if self.samples > 1 else ''} of the {self.inputs}"
        return f"outputs changed by {self.relative:.0%} of their spread on {of}{same}"


def output_change(original: nn.Module, smaller: nn.Module, batch: SampleBatch, inputs: str) -> OutputChange:
    """Run both models on some samples, and compare what they answer.

    Args:
        original: the unpruned model.
        smaller: the pruned one.
        batch: the samples; targets are not looked at.
        inputs: what they are: ``"example"`` or ``"data"``.

    >>> double = nn.Linear(1, 1, bias=False)
    >>> double.weight.data = torch.full((1, 1), 2.0)
    >>> change = output_change(nn.Identity(), double, SampleBatch(torch.tensor([[-1.0], [1.0]])), "data")
    >>> change.relative, change.is_beyond_recognition
    (1.0, True)
    """
    answers = []
    for model in (original, smaller):
        with private_draws(0), evaluating(model):  # what both draw is alike
            answers.append([tensor.double() for tensor in map(_real, compared_tensors(batch.run(model)))])
    before, after = answers
    if [tensor.shape for tensor in before] != [tensor.shape for tensor in after]:
        return OutputChange(float("inf"), None, len(batch), inputs)
    return OutputChange(_relative(before, after), _agreement(before, after), len(batch), inputs)


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _relative(before: list[Tensor], after: list[Tensor]) -> float:
    """The tensors beside each other, each by its own spread where it has one, else by its size."""
    parts = []
    for expected, answer in zip(before, after, strict=True):
        finite = torch.isfinite(expected)  # masks of attention are infinite by intent
        expected, answer = expected[finite], answer[finite]
        if not expected.numel():
            continue
        spread = float((expected - expected.mean()).norm()) or float(expected.norm())
        apart = float((answer - expected).norm())
        parts.append(apart / spread if spread else float(apart > 0))
    return (sum(part**2 for part in parts) / len(parts)) ** 0.5 if parts else 0.0


def _agreement(before: list[Tensor], after: list[Tensor]) -> float | None:
    if len(before) != 1 or before[0].ndim != 2 or before[0].shape[1] < 2 or len(before[0]) < TELLING:
        return None
    return float((before[0].argmax(1) == after[0].argmax(1)).double().mean())
