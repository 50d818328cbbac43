"""LossChange: numbers worked by hand, the plain loop for every unit of every kind of model, labels, bad input."""

from __future__ import annotations

from secateur.criteria import LossChange
from secateur.testing.conformance import CriterionConformance
from secateur.types import Batches, Criterion, Loss


class TestLossChange(CriterionConformance):
    def make(self, batches: Batches, loss: Loss) -> Criterion:
        return LossChange(batches, loss)
