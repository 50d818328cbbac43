"""Labelled data, in memory (shuffled here) or in batches that someone else makes, and what outputs must be beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from secateur.state import ordinary
from secateur.types import Batches, InputError

__all__ = [
    "Data",
    "Labelled",
    "are_classes",
    "check_data",
    "check_labels",
    "check_outputs",
    "count_batches",
    "in_memory",
    "iterate",
]


class Labelled(Protocol):
    """Data in memory, such as `secateur.data.Split`: images ``(N, …)`` and labels ``(N,)``."""

    @property
    def images(self) -> Tensor:
        """The inputs."""
        ...

    @property
    def labels(self) -> Tensor:
        """The targets."""
        ...


Data = Labelled | tuple[Tensor, Tensor] | Batches
"""A `Split`, a pair (inputs, targets) of tensors, or batches of such pairs that can be iterated again."""


def in_memory(data: Data) -> tuple[Tensor, Tensor] | None:
    """Return the inputs and targets of data that are in memory; None for batches."""
    images, labels = getattr(data, "images", None), getattr(data, "labels", None)
    if isinstance(images, Tensor) and isinstance(labels, Tensor):
        return ordinary(images), ordinary(labels)
    pair: Any = data
    if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in pair):
        return ordinary(pair[0]), ordinary(pair[1])
    return None


def check_data(data: Data, subject: str) -> None:
    """Refuse data that are empty, of unequal lengths, not finite, or gone after one pass.

    Batches are looked at one by one as they come (see `iterate`).
    """
    pair = in_memory(data)
    if pair is not None:
        _check_pair(*pair, subject)
    elif isinstance(data, Tensor) or not hasattr(data, "__iter__"):
        raise InputError(
            f"{subject}: got a {type(data).__name__}; give a Split, a pair (inputs, targets), or batches of such pairs"
        )
    elif isinstance(data, Iterator):
        raise InputError(f"{subject}: got an iterator, which is empty after one pass; give a list of batches")
    elif isinstance(data, Sized) and len(data) == 0:
        raise InputError(f"{subject}: there are no batches; give at least one")


def _check_pair(inputs: Tensor, targets: Tensor, subject: str) -> None:
    if inputs.ndim == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise InputError(
            f"{subject}: inputs of shape {tuple(inputs.shape)} and targets of shape {tuple(targets.shape)} "
            "do not have one target for each input"
        )
    if len(inputs) == 0:
        raise InputError(f"{subject}: there are no samples; give at least one")
    for name, tensor in (("inputs", inputs), ("targets", targets)):
        if not torch.isfinite(tensor).all():
            raise InputError(f"{subject}: the {name} hold NaN or infinite values; drop or repair those samples")


def spans(count: int, size: int) -> list[tuple[int, int]]:
    """Return the first and last-plus-one position of each batch.

    A last batch of one sample joins the batch before it: batch normalisation cannot train on one sample.

    >>> spans(7, 3), spans(8, 3)
    ([(0, 3), (3, 7)], [(0, 3), (3, 6), (6, 8)])
    """
    starts = list(range(0, count, size))
    if len(starts) > 1 and size > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


def count_batches(data: Data, size: int) -> int:
    """Return how many batches one pass has."""
    pair = in_memory(data)
    if pair is not None:
        return len(spans(len(pair[0]), size))
    return len(data) if isinstance(data, Sized) else sum(1 for _ in iterate(data, size, "batches"))


def iterate(data: Data, size: int, subject: str, order: Generator | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of one pass: shuffled by `order` if it is given and the data are in memory.

    Raises:
        InputError: there is no batch, or one is not a pair, is empty, or holds values that are not finite.
    """
    pair = in_memory(data)
    if pair is None:
        yield from _checked(data, subject)  # type: ignore[arg-type]
        return
    inputs, targets = pair
    positions = None if order is None else torch.randperm(len(inputs), generator=order).to(inputs.device)
    for start, stop in spans(len(inputs), size):
        batch = slice(start, stop) if positions is None else positions[start:stop]
        yield inputs[batch], targets[batch]


def _checked(batches: Batches, subject: str) -> Iterator[tuple[Tensor, Tensor]]:
    number = 0
    for number, batch in enumerate(batches, 1):
        pair = in_memory(batch)
        if pair is None:
            raise InputError(f"{subject}: batch {number} is a {type(batch).__name__}, not a pair (inputs, targets)")
        _check_pair(*pair, f"{subject}, batch {number}")
        yield pair
    if number == 0:
        raise InputError(f"{subject}: there are no batches; give at least one")


def are_classes(outputs: Tensor, targets: Tensor) -> bool:
    """Return whether the targets are class labels ``(N,)`` for outputs ``(N, classes)``."""
    return outputs.ndim == 2 and targets.ndim == 1 and not targets.is_floating_point()


def check_outputs(outputs: Any, targets: Tensor, subject: str) -> None:
    """Refuse outputs that are not one tensor with a row for each target, or that hold NaN."""
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{subject}: the model returned a {type(outputs).__name__}, not one tensor; wrap it in a module that does"
        )
    if outputs.ndim == 0 or len(outputs) != len(targets):
        raise InputError(
            f"{subject}: outputs of shape {tuple(outputs.shape)} do not have one row for each of {len(targets)} targets"
        )
    if outputs.isnan().any():
        raise InputError(f"{subject}: the model's outputs hold NaN; look for NaN in its weights")
    if are_classes(outputs, targets):
        check_labels(targets, outputs.shape[1], subject)


def check_labels(labels: Tensor, classes: int, subject: str) -> None:
    """Refuse labels that are not in 0 … classes − 1."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"{subject}: label {low if low < 0 else high} is out of range for a model of {classes} outputs; "
            f"labels must be in 0 … {classes - 1}"
        )
