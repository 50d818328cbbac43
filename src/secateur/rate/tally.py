"""Running sums of what an engine yields: the samples' losses with each unit removed, against those with none removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from secateur.labelled import are_classes
from secateur.losses import check_answers
from secateur.rate.samples import SampleLoss
from secateur.types import InputError, Loss, Sites

__all__ = ["Sums", "Tally"]


@dataclass(eq=False)
class Sums:
    """Sums over the samples, one row a unit.

    Attributes:
        change: of the losses' changes δ, float64 ``(units,)``.
        square: of δ², float64 ``(units,)``.
        right: right answers of each class, int64 ``(units, classes)``; None where the targets are not classes.
        count: how many samples each unit was measured on, int64 ``(units,)``.
    """

    change: Tensor
    square: Tensor
    count: Tensor
    right: Tensor | None = None


@dataclass(eq=False)
class Tally:
    """Sums over all samples; an engine calls `start` with each block of samples, and `add` with each block of units.

    Args:
        loss: of (outputs, targets); the mean of its samples' losses.
        sites: whose units are measured.
        units: which units of each site, int64; all where it is None.
    """

    loss: Loss
    sites: Sites
    units: Mapping[str, Tensor] | None = None
    count: int = 0
    total: float = 0.0
    answers: Tensor | None = None  # (2, classes): samples of each class, and those of them that were answered rightly
    sums: dict[str, Sums] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.each = SampleLoss(self.loss)
        self.chosen = {name: torch.arange(site.size) for name, site in self.sites.items()} | dict(self.units or {})
        for name, site in self.sites.items():
            change, square = torch.zeros(2, site.size, dtype=torch.float64)
            self.sums[name] = Sums(change, square, torch.zeros(site.size, dtype=torch.int64))

    def start(self, outputs: Tensor, targets: Tensor, what: str = "LossChange") -> None:
        """Take the outputs ``(samples, …)`` of the whole model on the next block of samples."""
        check_answers(outputs, targets, self.loss, what)
        outputs = outputs.float()
        self.targets, self.losses = targets, self.each(outputs, targets)
        self.each.check(self.losses, outputs, targets)
        self.classes = outputs.shape[1] if are_classes(outputs, targets) else None
        self.count += len(targets)
        self.total += float(self.losses.double().sum())
        if self.classes is not None:
            right = (outputs.argmax(1) == targets)[None]
            answers = torch.cat([self._by_class(torch.ones_like(right)), self._by_class(right)])
            self.answers = answers if self.answers is None else self.answers + answers

    def add(self, name: str, units: Tensor | slice, losses: Tensor, right: Tensor | None = None) -> None:
        """Take what the block gives without each of some units of a site.

        Args:
            name: the site's.
            units: which of its units, int64 or a slice; each unit once for each block of samples.
            losses: the samples' losses without the unit, ``(units, samples)``.
            right: whether the samples are answered rightly, bool ``(units, samples)``; where targets are classes.
        """
        changes = (losses - self.losses).double()
        answers = None if right is None else self._by_class(right)
        self.add_sums(name, units, changes.sum(1), changes.square().sum(1), answers, len(self.losses))

    def add_outputs(self, name: str, units: Tensor | slice, outputs: Tensor) -> None:
        """Take the outputs ``(units, samples, …)`` without each unit."""
        outputs = outputs.float()
        losses = self.each.of_units(outputs, self.targets)
        right = None if self.classes is None else outputs.argmax(2) == self.targets
        self.add(name, units, losses, right)

    def add_sums(
        self, name: str, units: Tensor | slice, change: Tensor, square: Tensor, right: Tensor | None, count: int
    ) -> None:
        """Take sums over `count` samples: of δ and of δ² ``(units,)``, and of right answers ``(units, classes)``."""
        sums = self.sums[name]
        sums.change[units] += change.double().cpu()
        sums.square[units] += square.double().cpu()
        sums.count[units] += count
        if right is not None:
            if sums.right is None:
                sums.right = torch.zeros(len(sums.change), right.shape[1], dtype=torch.int64)
            sums.right[units] += right.cpu()

    def _by_class(self, right: Tensor) -> Tensor:
        """Right answers ``(units, samples)`` counted by class, int64 ``(units, classes)``."""
        assert self.classes is not None
        counts = torch.zeros(len(right), self.classes, device=right.device)
        # A float32 is exact up to 16,777,216, more than a block of samples.
        return counts.index_add_(1, self.targets.long(), right.float()).long().cpu()

    def check(self) -> None:
        """See that every chosen unit was measured on every sample.

        Raises:
            InputError: there were no samples.
        """
        if not self.count:
            raise InputError("LossChange: there are no samples; give at least one batch")
        for name, sums in self.sums.items():
            assert bool((sums.count[self.chosen[name]] == self.count).all()), f"units of {name} were left out"
