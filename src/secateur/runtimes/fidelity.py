"""Whether a model of fewer bits still answers as the exact one does: by its accuracy, its greatest outputs, or their size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.labelled import are_classes, logits_of
from secateur.types import ExportError

__all__ = ["Fidelity"]

AGREE = 0.98
"""The share of greatest outputs that must be where they were, where there are no labels."""

APART = 0.1
"""How far other outputs may be from the exact ones, as a share of their size (both by their squares)."""

TELLING = 16
"""From so many samples on, the share of greatest outputs that are where they were says something."""


@dataclass
class Fidelity:
    """What two models answered on the same samples.

    Attributes:
        samples: how many.
        right: of those with labels, how many each answered right: exact, other.
        labelled: how many had labels.
        same: how many of the greatest outputs are where they were; None where a model is no classifier.
        squares: Σ(other − exact)² and Σexact² over all outputs.
        greatest: the greatest difference, and the greatest exact output.

    >>> fidelity = Fidelity()
    >>> fidelity.add(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.5]]), torch.tensor([1]))
    >>> fidelity.right, fidelity.same, fidelity.relative
    ([1, 1], 1, 0.25)
    """

    samples: int = 0
    right: list[int] = field(default_factory=lambda: [0, 0])
    labelled: int = 0
    same: int | None = 0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    greatest: list[float] = field(default_factory=lambda: [0.0, 0.0])

    @property
    def relative(self) -> float:
        """The greatest difference over the greatest output."""
        return self.greatest[0] / self.greatest[1] if self.greatest[1] else self.greatest[0]

    def add(self, exact: Any, other: Any, targets: Any) -> None:
        """Count a batch."""
        pairs = list(zip(_floating(exact), _floating(other), strict=True))
        for a, b in pairs:
            self.squares[0] += float((b - a).square().sum())
            self.squares[1] += float(a.square().sum())
            self.greatest[0] = max(self.greatest[0], float((b - a).abs().max()))
            self.greatest[1] = max(self.greatest[1], float(a.abs().max()))
        logits = [logits_of(outputs) for outputs in (exact, other)]
        if not isinstance(logits[0], Tensor) or logits[0].ndim != 2 or logits[0].shape[1] < 2:
            self.same = None
            return
        answers = [x.detach().cpu().argmax(1) for x in logits]
        self.samples += len(answers[0])
        if self.same is not None:
            self.same += int((answers[0] == answers[1]).sum())
        if are_classes(logits[0], targets):
            self.labelled += len(answers[0])
            for place, answer in enumerate(answers):
                self.right[place] += int((answer == targets.cpu()).sum())

    def check(self, runtime: str, points: float) -> None:
        """Require that enough is as it was.

        Raises:
            ExportError: it is not; the message says how far apart the two are.
        """
        problem = self._problem(points)
        if problem:
            raise ExportError(
                f"export: {runtime} {problem}. Give more data for its ranges, train with rounded weights first "
                "(secateur.transforms.Quantize(train=…)), or export to 'onnxruntime'"
            )

    def _problem(self, points: float) -> str | None:
        if self.labelled:
            before, after = (100 * count / self.labelled for count in self.right)
            allowed = max(1.0, points / 100 * self.labelled)
            lost = self.right[0] - self.right[1]
            return (
                f"has an accuracy of {after:.2f} %, torch {before:.2f} %, on {self.labelled:,} samples"
                if lost > allowed
                else None
            )
        if self.same is not None and self.samples >= TELLING:
            share = self.same / self.samples
            return f"agrees with torch on {share:.1%} of {self.samples:,} samples" if share < AGREE else None
        apart = (self.squares[0] / self.squares[1]) ** 0.5 if self.squares[1] else self.squares[0]
        return None if apart <= APART else f"answers {apart:.1%} apart from torch"


def _floating(outputs: Any) -> list[Tensor]:
    leaves = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]
    return [leaf.detach().cpu().to(torch.float64) for leaf in leaves if leaf.is_floating_point()]
