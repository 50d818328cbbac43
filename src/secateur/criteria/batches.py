"""Batches of (inputs, targets), checked one by one as a criterion reads them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from secateur.types import Batches, InputError

__all__ = ["check_labels", "checked"]


def checked(batches: Batches, doing: str, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches, moved to `device`.

    Args:
        batches: pairs (inputs, targets) of tensors with as many rows, that can be iterated again and again.
        doing: who asks, for the errors.
        device: where the model is.

    Raises:
        InputError: an iterator that is used up after one pass, no batch, or a batch that is not a pair, is empty, or
            does not have one target for each input.

    >>> [len(y) for _, y in checked([(torch.zeros(3, 2), torch.tensor([0, 1, 0]))], "count", torch.device("cpu"))]
    [3]
    """
    if isinstance(batches, Iterator):
        raise InputError(f"{doing}: the batches are an iterator, which one pass uses up; give a list, or a DataLoader")
    number = 0
    for number, batch in enumerate(batches, 1):
        if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not all(isinstance(x, Tensor) for x in batch):
            raise InputError(
                f"{doing}: batch {number} is a {type(batch).__name__}, not a pair (inputs, targets) of tensors"
            )
        inputs, targets = batch
        if not inputs.ndim or not targets.ndim or len(inputs) != len(targets) or not len(inputs):
            raise InputError(
                f"{doing}: batch {number} has inputs of shape {tuple(inputs.shape)} and targets of shape "
                f"{tuple(targets.shape)}; give one target for each input, and at least one"
            )
        yield inputs.to(device), targets.to(device)
    if number == 0:
        raise InputError(f"{doing}: there are no batches; give at least one")


def check_labels(outputs: object, targets: Tensor, doing: str) -> Tensor:
    """Return the model's outputs after checking that they are one tensor that fits the targets.

    Raises:
        InputError: outputs that are no single tensor or have another number of rows, or labels out of range.
    """
    if not isinstance(outputs, Tensor):
        raise InputError(
            f"{doing}: the model returns a {type(outputs).__name__}, not one tensor; wrap it in a module that does"
        )
    if not outputs.ndim or len(outputs) != len(targets):
        raise InputError(
            f"{doing}: outputs of shape {tuple(outputs.shape)} do not have one row for each of {len(targets)} targets"
        )
    if outputs.ndim == 2 and targets.ndim == 1 and targets.dtype == torch.int64:
        low, high = int(targets.min()), int(targets.max())
        if low < 0 or high >= outputs.shape[1]:
            raise InputError(
                f"{doing}: label {low if low < 0 else high} is out of range for a model of {outputs.shape[1]} outputs"
            )
    return outputs
