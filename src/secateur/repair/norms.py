"""Batch norms: their running statistics estimated anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.calls import usual
from secateur.copies import copied
from secateur.labelled import Samples, batches, check_samples
from secateur.state import device_of, modes_kept
from secateur.structure.graph_parts import GraphPart
from secateur.types import InputError
from secateur.wrappers import check_module

__all__ = ["norms_of", "recalibrate"]


@usual
def recalibrate(model: nn.Module, data: Samples, *, batch_size: int = 256) -> nn.Module:
    """Return a copy of the model whose batch norms have the statistics of `data`.

    Pruning changes what a batch norm sees, and its running mean and variance no longer fit. They are set to the mean
    and the (unbiased) variance of all that passes it, pooled over the batches (Wu & Johnson, 2021), while each batch
    passes with its own statistics, as in training. Nothing else changes: dropout is off, weights stay.

    Args:
        model: left as it is, in its modes; also one that has been cut, or whose weights are masked.
        data: a `Split`, a pair (inputs, targets) or batches of such pairs; the targets are not used.
        batch_size: samples a pass, where the data are in memory; larger is nearer to the whole.

    Raises:
        InputError: there is no batch norm with running statistics, or the data are empty or not finite.

    >>> norm = recalibrate(nn.BatchNorm1d(1), (torch.tensor([[1.0], [2.0], [6.0]]), torch.zeros(3)))
    >>> norm.running_mean.item(), norm.running_var.item()      # mean 3; squares 4 + 1 + 9 = 14, over 3 − 1
    (3.0, 7.0)
    """
    check_module(model, "recalibrate")
    check_samples(data, "recalibrate")
    recalibrated = copied(model)
    norms = norms_of(recalibrated)
    if not norms:
        raise InputError("recalibrate: the model has no batch norm with running statistics, so there is nothing to do")
    device = device_of(recalibrated)
    with modes_kept(recalibrated), _watched(norms) as moments, torch.no_grad():
        recalibrated.eval()
        for norm in norms:
            norm.training = True
        before = {norm: _buffers(norm) for norm in norms}
        for samples in batches(data, batch_size, "recalibrate"):
            samples.to(device).run(recalibrated)
    for norm in norms:
        # Passing in training mode moved the running statistics and the count of batches.
        for buffer, old in before[norm]:
            buffer.copy_(old)
        if norm in moments:
            moments[norm].write(norm)
    return recalibrated


def norms_of(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep running statistics; those of a graph do not run by themselves."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and not isinstance(m, GraphPart)]
    return [norm for norm in norms if norm.running_mean is not None]


def _buffers(norm: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in norm.buffers()]


@dataclass
class _Moments:
    """Sums over all samples and places, by channel."""

    count: int = 0
    total: Tensor | float = 0.0
    squares: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        rows = x.detach().movedim(1, -1).flatten(0, -2).double() if x.ndim > 2 else x.detach().double()
        self.count += len(rows)
        self.total = self.total + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def write(self, norm: _BatchNorm) -> None:
        assert isinstance(self.total, Tensor)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        mean = self.total / self.count
        spread = (self.squares - self.count * mean.square()).clamp_min(0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(spread / max(self.count - 1, 1))


@contextmanager
def _watched(norms: list[_BatchNorm]) -> Iterator[dict[nn.Module, _Moments]]:
    moments: dict[nn.Module, _Moments] = {}

    def look(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        moments.setdefault(module, _Moments()).add(inputs[0])

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield moments
    finally:
        for handle in handles:
            handle.remove()
