"""Parameters drawn anew, so that what is verified does not hang on the values that a model happens to have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod
from zlib import crc32

import torch
from torch import Tensor, nn

__all__ = ["Draw"]

# Prime: no two rows of a weight are the same stretch of the pool.
POOL = 1_000_003


@dataclass(frozen=True)
class Draw:
    """New values for the tensors of a model, in float64, each made when it is asked for, the same each time.

    A weight of two dimensions or more is N(0, gain²/fan in), so that signals keep their size, and attention and gates
    are neither flat nor saturated; a vector (a bias, the scale of a norm) is spread around what it is. A buffer keeps
    its signs, as variances must; those that no cut can touch (tables, masks) are as they are.

    Attributes:
        tensors: the model's own tensors by name.
        drawn: the ids of the buffers that are drawn.
        seed: another seed, other values.
        gain: how much a layer amplifies.
        mild: stay near the values that the model has, for parameters that must not have others.
    """

    tensors: Mapping[str, Tensor]
    drawn: frozenset[int]
    seed: int = 0
    gain: float = 1.0
    mild: bool = False

    def __call__(self, name: str) -> Tensor:
        """Return the new value of the tensor called `name`; one that has two names has one value."""
        name = self._first_names[id(self.tensors[name])]
        tensor = self.tensors[name].detach()
        if not tensor.is_floating_point():
            return tensor.to(torch.complex128) if tensor.is_complex() else tensor
        if not isinstance(self.tensors[name], nn.Parameter):
            return self._near(name, tensor) if id(self.tensors[name]) in self.drawn else tensor.double()
        if self.mild:
            return self._near(name, tensor)
        if tensor.dim() < 2 or tensor.shape[0] == 1:
            return self._noise(name, tensor).mul_(0.5).add_(tensor)
        return self._noise(name, tensor).mul_(self.gain / prod(tensor.shape[1:]) ** 0.5)

    def _near(self, name: str, tensor: Tensor) -> Tensor:
        """t (1 + u/3) with u in (−1, 1), which keeps the sign, and small numbers where t is 0."""
        noise = self._noise(name, tensor)
        value = tensor.double()
        return torch.where(value == 0, 0.1 * noise, value * (1 + noise.tanh() / 3))

    def _noise(self, name: str, tensor: Tensor) -> Tensor:
        """Standard normal numbers: a stretch of the pool that begins where the name says."""
        size, start = tensor.numel(), crc32(name.encode()) % POOL
        pool = _pool(self.seed)
        if start + size > POOL:
            pool = pool.repeat((start + size) // POOL + 1)
        return pool[start : start + size].view(tensor.shape).to(tensor.device, torch.float64, copy=True)

    @cached_property
    def _first_names(self) -> dict[int, str]:
        return {id(tensor): name for name, tensor in reversed(list(self.tensors.items()))}


@lru_cache(maxsize=4)
def _pool(seed: int) -> Tensor:
    return torch.randn(POOL, generator=torch.Generator().manual_seed(seed))
