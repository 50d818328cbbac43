"""Rows: one sample each without one unit, on their way through the linear layers at the end of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.criteria.loss_change.chain.gemm import product
from secateur.criteria.loss_change.chain.parse import Layer

__all__ = ["Rows", "Sparse"]

WORTH = 0.8  # gathering columns costs a part of what multiplying by them does
STEP = 64  # sizes are whole numbers of this, because oneDNN makes a kernel for each size that it meets


@dataclass(frozen=True, eq=False)
class Rows:
    """What a layer gives on samples without one unit each.

    Attributes:
        values: the layer's outputs, before what follows it, ``(rows, …)``.
        sample: which sample each row is, int64 ``(rows,)``.
        unit: which unit is removed, counted over all sites, int64 ``(rows,)``.
    """

    values: Tensor
    sample: Tensor
    unit: Tensor


class Sparse:
    """Linear layers with exact zeros skipped: where a ReLU shuts a neuron on all rows, its column is left out.

    Args:
        layers: linear layers; what follows each is pointwise.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = layers
        self.by_input = [layer.weight.T.contiguous() for layer in layers]

    def enter(self, number: int, before: Tensor, read: Tensor, sample: Tensor, unit: Tensor) -> Tensor:
        """Return what layer `number` gives without one of the neurons that it reads: ``(rows, outputs)``.

        Args:
            before: what it gives with all of them, ``(samples, outputs)``.
            read: what it reads, ``(samples, inputs)``.
            sample, unit: the samples and the neurons.
        """
        values = self.by_input[number].index_select(0, unit)
        values.mul_(read[sample, unit].neg_()[:, None])
        return values.add_(before if len(before) == 1 else before.index_select(0, sample))

    def forward(self, number: int, parts: Sequence[Tensor]) -> Tensor:
        """Take rows from layer `number` through what follows it and the next layer; `parts` are overwritten."""
        after, following = self.layers[number], self.layers[number + 1]
        if [op.name for op in after.post] != ["relu"]:
            return product(_joined([after.after(part) for part in parts]), following.weight, following.bias)
        parts = [part for part in parts if len(part)]
        if not parts:
            return following.bias.new_empty(0, len(following.bias))
        highest = torch.stack([part.amax(0) for part in parts]).amax(0)
        on = _whole(int((highest > 0).sum()), STEP)
        if on > WORTH * len(highest):
            return product(_joined([part.relu_() for part in parts]), following.weight, following.bias)
        rows = sum(map(len, parts))
        if not on:
            return following.bias.repeat(rows, 1)
        chosen = highest.topk(on).indices
        columns = self._columns(parts, chosen)
        return product(columns, self.by_input[number + 1].index_select(0, chosen).T, following.bias)[:rows]

    def _columns(self, parts: Sequence[Tensor], on: Tensor) -> Tensor:
        """These columns of all parts, below each other, and zeros up to a whole number of steps."""
        rows = sum(map(len, parts))
        columns = parts[0].new_empty(_whole(rows, STEP), len(on))
        start = 0
        for part in parts:
            torch.index_select(part, 1, on, out=columns[start : start + len(part)])
            start += len(part)
        columns[rows:] = 0
        return columns.relu_()


def _whole(count: int, step: int) -> int:
    return -(-count // step) * step


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
