"""Where the samples and the units lie in what passes a read, and sums over all else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.structure.axes import atoms, positions
from secateur.structure.flow import Read
from secateur.structure.infer import Structure
from secateur.structure.rules import Value

__all__ = ["Places", "over", "samples_of"]


@dataclass(frozen=True, eq=False)
class Places:
    """Which sample and which unit the positions of a read's tensor belong to.

    Attributes:
        read: the read.
        samples: the dimension along which the samples lie, and their positions ``(samples, places)``; None where no
            dimension has them.
    """

    read: Read
    samples: tuple[int, Tensor] | None

    def sums(self, values: Tensor, count: int) -> Tensor:
        """Return the sums of `values` by sample and unit, ``(samples, units)``.

        What belongs to no sample in particular is divided among all evenly.
        """
        dim, index = self.read.dim, self.read.index.to(values.device)
        if self.samples is None:
            rows = over(values, (dim,))[index].sum(1)
            return (rows / count).repeat(count, 1)
        along, places = self.samples[0], self.samples[1].to(values.device)
        if along == dim:
            return _crossed(over(values, (dim,)), places, index)
        table = over(values, (along, dim))
        table = table if places.shape[1] == 1 else table[places].sum(1)
        return table if _is_whole(self.read) else table[:, index].sum(2)


def _is_whole(read: Read) -> bool:
    """Whether the units are all there is along their dimension, in their order."""
    size = int(read.source.meta["val"].shape[read.dim])
    return read.index.shape[1] == 1 and torch.equal(read.index[:, 0], torch.arange(size))


def over(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum over all dimensions but `dims`, which come first and in this order."""
    moved = values.movedim(dims, tuple(range(len(dims))))
    return moved.sum(tuple(range(len(dims), moved.ndim))) if moved.ndim > len(dims) else moved


def _crossed(flat: Tensor, samples: Tensor, units: Tensor) -> Tensor:
    """Sums by sample and unit where both lie along one dimension."""
    sample = _owners(samples, len(flat))
    unit = _owners(units, len(flat))
    has_both = (sample >= 0) & (unit >= 0)
    sums = flat.new_zeros(len(samples), len(units))
    return sums.index_put_((sample[has_both], unit[has_both]), flat[has_both], accumulate=True)


def _owners(index: Tensor, size: int) -> Tensor:
    """For each position the row of `index` that names it, -1 where none does."""
    rows = torch.arange(len(index), device=index.device).unsqueeze(1).expand_as(index)
    return index.new_full((size,), -1).index_put_((index.flatten(),), rows.flatten())


def samples_of(structure: Structure, read: Read, count: int) -> tuple[int, Tensor] | None:
    """Where the samples lie in a read's tensor: the first axis of an input, wherever it went."""
    axes = structure.values[read.source].axes
    for holder in structure.graph.inputs:
        value = structure.values.get(holder)
        batch = next(atoms(value.axes[0]), None) if isinstance(value, Value) and value.axes else None
        for dim, axis in enumerate(axes) if batch is not None and batch.size == count else ():
            sample_positions = positions(axis, batch)  # type: ignore[arg-type]
            if sample_positions is not None:
                return dim, sample_positions
    shape = read.source.meta["val"].shape
    return (0, torch.arange(count).unsqueeze(1)) if shape[0] == count and read.dim else None
