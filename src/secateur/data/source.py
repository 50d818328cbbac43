"""The one form that every data set takes before it is loaded: labels, and a way to read the images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.types import DataError

__all__ = ["Source", "in_turn", "of_bytes"]


@dataclass(frozen=True, eq=False)
class Source:
    """A part of a data set whose images have not been read yet.

    Attributes:
        labels: int64 ``(N,)``.
        classes: the name of each class, by label.
        read: gives the images at the positions that it is handed, int64 ``(n,)``; they are new tensors,
            float32 ``(n, C, H, W)`` in [0, 1].
    """

    labels: Tensor
    classes: tuple[str, ...]
    read: Callable[[Tensor], Tensor]


def of_bytes(images: Tensor, labels: Tensor, classes: tuple[str, ...], white: int = 255) -> Source:
    """Return the source of images held as uint8 ``(N, C, H, W)``, where `white` is the largest value.

    Raises:
        DataError: the counts differ, or a label has no class.
    """
    if len(images) != len(labels):
        raise DataError(f"the data hold {len(images)} images but {len(labels)} labels; fetch them again")
    if len(labels) and int(labels.max()) >= len(classes):
        raise DataError(f"a label is {int(labels.max())}, but there are {len(classes)} classes; fetch the data again")
    return Source(labels.to(torch.int64), classes, lambda index: images[index].float().div_(white))


def in_turn(labels: Tensor) -> Tensor:
    """Return the order in which the classes take turns: the first of each class, the second of each, …

    So that the first n images of a sorted data set hold every class. Within a class the order stays.

    >>> in_turn(torch.tensor([0, 0, 0, 1, 2, 2])).tolist()
    [0, 3, 4, 1, 5, 2]
    """
    if not len(labels):
        return labels.to(torch.int64)
    by_class = labels.argsort(stable=True)
    counts = labels.bincount()
    turn = torch.empty_like(by_class)
    turn[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return (turn * len(counts) + labels).argsort(stable=True)
