"""Example inputs: calling a model with them, and making a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.train.state import modes_kept
from secateur.types import InputError

__all__ = ["Inputs", "batch_size_of", "caller", "evaluating", "with_batch_size"]

Inputs = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A tensor, a tuple of positional inputs, or a mapping of keyword inputs."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in evaluation mode, without gradients, and leave it as it was."""
    with modes_kept(model), torch.no_grad():
        model.eval()
        yield


def caller(model: nn.Module, example_inputs: Inputs) -> Callable[[], Any]:
    """Return a function that calls the model with the example inputs."""
    if isinstance(example_inputs, Tensor):
        return lambda: model(example_inputs)
    if isinstance(example_inputs, Mapping):
        return lambda: model(**example_inputs)
    if isinstance(example_inputs, tuple):
        return lambda: model(*example_inputs)
    raise InputError(
        f"example_inputs is a {type(example_inputs).__name__}; "
        "give a tensor, a tuple of positional inputs, or a dict of keyword inputs"
    )


def batch_size_of(example_inputs: Inputs) -> int:
    """Return the length of the first dimension of the first tensor.

    >>> batch_size_of((torch.zeros(4, 2),))
    4
    """
    for part in _parts(example_inputs):
        if isinstance(part, Tensor) and part.ndim:
            return len(part)
    raise InputError("example_inputs hold no tensor with a batch dimension")


def with_batch_size(example_inputs: Inputs, batch_size: int | None) -> Inputs:
    """Return the inputs with their samples repeated, or dropped, until there are `batch_size` of them.

    >>> with_batch_size(torch.tensor([1, 2, 3]), 5)
    tensor([1, 2, 3, 1, 2])
    """
    if batch_size is None:
        return example_inputs
    have = batch_size_of(example_inputs)
    if not have:
        raise InputError("example_inputs hold an empty batch; give at least one sample")

    def resize(part: Any) -> Any:
        # Only what has the batch dimension is resized: a table of positions, say, stays as it is.
        if not isinstance(part, Tensor) or part.ndim == 0 or len(part) != have:
            return part
        return part[torch.arange(batch_size, device=part.device) % have]

    if isinstance(example_inputs, Mapping):
        return {name: resize(part) for name, part in example_inputs.items()}
    if isinstance(example_inputs, tuple):
        return tuple(resize(part) for part in example_inputs)
    resized: Tensor = resize(example_inputs)
    return resized


def _parts(example_inputs: Inputs) -> list[Any]:
    if isinstance(example_inputs, Mapping):
        return list(example_inputs.values())
    return list(example_inputs) if isinstance(example_inputs, tuple) else [example_inputs]
