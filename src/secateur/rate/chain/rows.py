"""Rows: one sample each without one unit, on their way through the linear layers at the end of a chain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.rate.chain.gemm import product
from secateur.rate.chain.parse import ChainLayer

__all__ = ["Rows", "Sparse", "joined", "whole"]

WORTH = 0.8  # gathering columns costs a part of what multiplying by them does


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

    def __init__(self, layers: Sequence[ChainLayer]) -> None:
        self.layers = layers
        self.by_input = [layer.weight.T.contiguous() for layer in layers]

    def enter(self, number: int, before: Tensor, read: Tensor, sample: Tensor, unit: Tensor) -> Tensor:
        """Return what layer `number` gives without one of the neurons that it reads: ``(rows, outputs)``.

        Args:
            before: what it gives with all of them, ``(samples, outputs)``.
            read: what it reads, ``(samples, inputs)``.
            sample, unit: the samples and the neurons.
        """
        # y − h_u w_u: a linear layer is a sum over what it reads.
        values = self.by_input[number].index_select(0, unit)
        values.mul_(read[sample, unit].neg_()[:, None])
        return values.add_(before if len(before) == 1 else before.index_select(0, sample))

    def forward(self, number: int, parts: Sequence[Tensor]) -> Tensor:
        """Take rows from layer `number` through what follows it and the next layer; `parts` are overwritten."""
        after, following = self.layers[number], self.layers[number + 1]
        rows = sum(map(len, parts))
        if not rows:
            return following.bias.new_empty(0, len(following.bias))
        if [op.name for op in after.post] != ["relu"]:
            return product(after.after(joined(parts)), following.weight, following.bias)[:rows]
        parts = [part for part in parts if len(part)]
        highest = torch.stack([part.amax(0) for part in parts]).amax(0)
        on = whole(int((highest > 0).sum()))
        if on > WORTH * len(highest):
            return product(joined(parts).relu_(), following.weight, following.bias)[:rows]
        if not on:
            return following.bias.repeat(rows, 1)
        open_columns = highest.topk(on).indices
        columns = joined(parts, open_columns).relu_()
        return product(columns, self.by_input[number + 1].index_select(0, open_columns).T, following.bias)[:rows]


def joined(parts: Sequence[Tensor], columns: Tensor | None = None) -> Tensor:
    """Return all rows below each other, or some of their columns, and zeros up to a whole number of steps."""
    rows = sum(map(len, parts))
    whole_rows = parts[0].new_empty(whole(rows), parts[0].shape[1] if columns is None else len(columns))
    start = 0
    for part in parts:
        into = whole_rows[start : start + len(part)]
        into.copy_(part) if columns is None else torch.index_select(part, 1, columns, out=into)
        start += len(part)
    whole_rows[rows:] = 0
    return whole_rows


def whole(count: int) -> int:
    """Return a size rounded up to steps: oneDNN makes a kernel for each size that it meets, which takes milliseconds.

    >>> whole(65), whole(1025)
    (128, 1280)
    """
    step = 64 if count <= 1024 else 256
    return -(-count // step) * step
