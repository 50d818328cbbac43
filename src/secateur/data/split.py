"""What a data set is once it is loaded: a tensor of images, a tensor of labels, and their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from secateur.checks import check_whole
from secateur.types import InputError

__all__ = ["BatchView", "Split", "positions"]


@dataclass(frozen=True, eq=False)
class Split:
    """One part (train, validation or test) of a data set, in memory and in a fixed order.

    Attributes:
        images: float32 ``(N, C, H, W)``.
        labels: int64 ``(N,)``, each in ``[0, len(classes))``.
        classes: the name of each class, by label.
        name: the data set's name.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        mean: what was subtracted from each channel; zeros when the images were not normalised.
        std: what each channel was divided by; ones when the images were not normalised.
            So ``images * std + mean`` is always in [0, 1].

    Iterating yields the images and the labels, so that a split can be unpacked.

    >>> part = Split(torch.zeros(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0]), ("a", "b"), "toy", "train")
    >>> images, labels = part
    >>> [len(labels) for images, labels in part.batches(2)]
    [2, 2, 1]
    >>> part.subset([0, 2]).labels
    tensor([0, 0])
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    name: str
    split: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.labels.shape != self.images.shape[:1]:
            raise InputError(
                f"Split: images must be (N, C, H, W) and labels (N,), "
                f"got {tuple(self.images.shape)} and {tuple(self.labels.shape)}"
            )

    def __iter__(self) -> Iterator[Tensor]:
        yield self.images
        yield self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, batch_size: int = 256) -> BatchView:
        """Return the split as batches of (images, labels), in order, the last one perhaps smaller.

        The batches are views: nothing is copied, and they can be iterated again and again.

        Raises:
            InputError: `batch_size` is below 1.
        """
        return BatchView(self.images, self.labels, batch_size)

    def subset(self, indices: Tensor | Sequence[int]) -> Split:
        """Return the split that holds only the images at `indices`, in that order.

        Args:
            indices: positions in ``[0, N)``, or a bool tensor ``(N,)`` that is True where to keep.

        Raises:
            InputError: an index is out of range, or the mask is not of shape ``(N,)``.
        """
        index = positions(torch.as_tensor(indices, device=self.labels.device), len(self), self.name)
        return replace(self, images=self.images[index], labels=self.labels[index])

    def head(self, count: int) -> Tensor:
        """Return the first `count` images."""
        return self.images[:count]


def positions(index: Tensor, count: int, name: str) -> Tensor:
    """Return what a subset of `count` images is asked for as int64 positions.

    Raises:
        InputError: one is out of range, or the mask is not of shape ``(count,)``.
    """
    if index.dtype == torch.bool:
        if tuple(index.shape) != (count,):
            raise InputError(f"subset: the mask has shape {tuple(index.shape)}; give ({count},)")
        return index.nonzero().squeeze(1)
    if index.numel() == 0:
        return index.reshape(0).to(torch.int64)
    if index.is_floating_point() or index.dim() != 1:
        raise InputError(f"subset: give a list of whole numbers, got {index.dtype} {tuple(index.shape)}")
    wrong = index[(index < 0) | (index >= count)]
    if wrong.numel():
        raise InputError(f"subset: index {int(wrong[0])} is out of range; {name} has {count} images")
    return index.to(torch.int64)


@dataclass(frozen=True, eq=False)
class BatchView:
    """Batches of (images, labels) over tensors that stay where they are; a list that takes no memory.

    >>> view = BatchView(torch.zeros(5, 1, 2, 2), torch.arange(5), 2)
    >>> len(view), view[-1][1]
    (3, tensor([4]))
    """

    images: Tensor
    labels: Tensor
    batch_size: int = 256

    def __post_init__(self) -> None:
        check_whole("batches", batch_size=self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        start = range(len(self))[position] * self.batch_size
        stop = start + self.batch_size
        return self.images[start:stop], self.labels[start:stop]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self[position] for position in range(len(self)))
