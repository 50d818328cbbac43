"""Parameters drawn anew, so that what is verified does not hang on the values that a model happens to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import log2, prod
from zlib import crc32

import torch
from torch import Tensor, nn

__all__ = ["Draw"]

# Prime: no two rows of a weight are the same stretch of the pool.
POOL = 1_000_003


@dataclass(frozen=True)
class Draw:
    """New values for the tensors of a model, each made when it is asked for, the same each time.

    A weight of two dimensions or more is N(0, gain²/fan in), so that signals keep their size, and attention and gates
    are neither flat nor saturated; a vector (a bias, the scale of a norm) is spread around what it is. A buffer keeps
    its signs, as variances must; those that no cut can touch (tables, masks) are as they are.

    Attributes:
        tensors: the model's own tensors by name.
        drawn_buffers: the ids of the buffers that are drawn.
        seed: another seed, other values.
        gain: how much a layer amplifies.
        mild: stay near the values that the model has, for parameters that must not have others.
    """

    tensors: Mapping[str, Tensor]
    drawn_buffers: frozenset[int]
    seed: int = 0
    gain: float = 1.0
    mild: bool = False

    def __call__(self, name: str) -> Tensor:
        """Return the new value of the tensor called `name`; one that has two names has one value. It is only read."""
        name = self._first_names[id(self.tensors[name])]
        tensor = self.tensors[name].detach()
        if not tensor.is_floating_point():
            return tensor.to(torch.complex128) if tensor.is_complex() else tensor
        if not isinstance(self.tensors[name], nn.Parameter):
            return self._near(name, tensor) if id(self.tensors[name]) in self.drawn_buffers else tensor.double()
        if self.mild:
            return self._near(name, tensor)
        if tensor.dim() < 2 or tensor.shape[0] == 1:
            return self._noise(name, tensor, 0.5) + tensor.double()
        return self._noise(name, tensor, self.gain / prod(tensor.shape[1:]) ** 0.5)

    def _near(self, name: str, tensor: Tensor) -> Tensor:
        """t (1 + u/3) with u in (−1, 1), which keeps the sign, and small numbers where t is 0: those of a buffer above 0.

        A norm that was set to the statistics of a masked model has variances of 0.
        """
        noise, value = self._noise(name, tensor), tensor.double()
        small = noise if isinstance(self.tensors[name], nn.Parameter) else noise.abs()
        return torch.where(value == 0, 0.1 * small, value * (1 + noise.tanh() / 3))

    def _noise(self, name: str, tensor: Tensor, deviation: float = 1.0) -> Tensor:
        """Normal numbers: a stretch of the pool that begins where the name and the seed say."""
        pool, start = _pool(round(log2(deviation))), crc32(f"{self.seed} {name}".encode())
        size, rows = tensor.numel(), len(tensor) if tensor.dim() else 1
        columns = size // max(rows, 1)
        step = columns if size <= POOL else (POOL - columns) // rows
        if step > 0:  # a view costs nothing; where the pool is too small for all rows, they overlap
            start %= POOL - (rows - 1) * step - columns + 1
            strides = [prod(tensor.shape[dim + 1 :]) for dim in range(1, tensor.dim())]
            noise = pool.as_strided(tensor.shape, (step, *strides) if tensor.dim() else (), start)
        else:
            noise = pool.roll(start % POOL).repeat(size // POOL + 1)[:size].view(tensor.shape)
        return noise.to(tensor.device)

    @cached_property
    def _first_names(self) -> dict[int, str]:
        return {id(tensor): name for name, tensor in reversed(list(self.tensors.items()))}


@lru_cache(maxsize=16)
def _pool(exponent: int) -> Tensor:
    """Normal numbers with a standard deviation of 2 to the `exponent`: few distinct ones, so that they are soon copied."""
    if exponent:
        return _pool(0) * 2.0**exponent
    # In float64 they would be other numbers, and a pool is made anew whenever it is asked for after it was forgotten.
    return torch.randn(POOL, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
