"""A layer's output as a product of a matrix of inputs with its weights, and the least-squares change of those."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["Normal", "input_rows", "output_rows"]

CHUNK = 2**24
"""How many numbers of a convolution's input matrix are held at once."""


def input_rows(x: Tensor, weight: Tensor, given: Mapping[str, Any]) -> Iterator[tuple[slice, Tensor]]:
    """Yield the samples of each part of `x`, and their input matrix ``(rows, groups, channels in a group × kernel)``.

    A linear layer has one row a sample and position; a convolution one for each place of its output.

    >>> x = torch.arange(4.0).view(1, 1, 4)
    >>> weight = torch.zeros(1, 1, 2)
    >>> options = {"stride": [1], "padding": [0], "dilation": [1], "groups": 1}
    >>> [rows[:, 0].tolist() for _, rows in input_rows(x, weight, options)]
    [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]
    """
    if weight.ndim == 2:
        yield slice(None), x.reshape(-1, 1, weight.shape[1])
        return
    kernel = weight.shape[2:]
    stride, dilation = (_each(given[name], len(kernel)) for name in ("stride", "dilation"))
    padded = pad(x, _padding(given["padding"], kernel, dilation))
    sample = padded[0].numel() * kernel.numel()
    step = max(1, CHUNK // max(sample, 1))
    for start in range(0, len(x), step):
        part = padded[start : start + step]
        for at, (size, hop, gap) in enumerate(zip(kernel, stride, dilation, strict=True)):
            part = _windows(part, 2 + at, size, hop, gap)
        places = part.movedim(1, 1 + len(kernel)).flatten(0, len(kernel))  # (rows, channels, *kernel)
        yield slice(start, start + step), places.reshape(len(places), int(given["groups"]), -1)


def output_rows(y: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return a layer's outputs as ``(rows, groups, outputs in a group)``, the rows as in `input_rows`."""
    last = y if weight.ndim == 2 else y.movedim(1, -1)
    rows: Tensor = last.reshape(-1, groups, weight.shape[0] // groups)
    return rows


def _windows(x: Tensor, dim: int, size: int, stride: int, dilation: int) -> Tensor:
    """Put the windows along `dim` into a new last dimension."""
    places = (x.shape[dim] - dilation * (size - 1) - 1) // stride + 1
    index = torch.arange(places)[:, None] * stride + torch.arange(size) * dilation
    picked = x.index_select(dim, index.flatten().to(x.device))
    windows: Tensor = picked.unflatten(dim, (places, size)).movedim(dim + 1, -1)  # type: ignore[no-untyped-call]
    return windows


def _each(value: Any, dims: int) -> list[int]:
    found = list(value) if isinstance(value, Sequence) else [value]
    return found * dims if len(found) == 1 else found


def _padding(value: Any, kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """What `pad` takes: before and after, from the last dimension on."""
    if isinstance(value, str):
        whole = [gap * (size - 1) if value == "same" else 0 for size, gap in zip(kernel, dilation, strict=True)]
        sides = [(total // 2, total - total // 2) for total in whole]
    else:
        sides = [(one, one) for one in _each(value, len(kernel))]
    return [side for both in reversed(sides) for side in both]


@dataclass
class Normal:
    """The normal equations of one group of a layer: inputs' products with each other, and with what is missing.

    Args:
        intercept: whether a column of ones, the bias, stands behind the inputs.
    """

    intercept: bool
    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0

    def add(self, inputs: Tensor, missing: Tensor) -> None:
        """Take in rows of inputs ``(rows, columns)`` with what is missing of the outputs ``(rows, outputs)``."""
        columns = inputs.double()
        if self.intercept:
            columns = torch.cat([columns, columns.new_ones(len(columns), 1)], 1)
        self.gram = self.gram + columns.T @ columns
        self.cross = self.cross + columns.T @ missing.double()

    def solve(self, ridge: float) -> Tensor:
        """Return the change of the weights ``(columns, outputs)`` that leaves the least squares missing.

        `ridge` times the mean square of the inputs is what a change costs; with 0, of all best changes the smallest.
        """
        assert isinstance(self.gram, Tensor)
        assert isinstance(self.cross, Tensor)
        count = len(self.gram) - self.intercept
        scale = self.gram.diagonal()[:count].mean() if count else self.gram.new_zeros(())
        if not ridge or not float(scale):
            least: Tensor = torch.linalg.pinv(self.gram, hermitian=True, rtol=1e-12) @ self.cross
            return least
        dear = torch.full_like(self.gram.diagonal(), float(ridge * scale))
        dear[count:] = 0  # the bias may change as it likes
        change: Tensor = torch.linalg.solve(self.gram + torch.diag(dear), self.cross)
        return change
