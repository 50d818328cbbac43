"""Example inputs: calling a model with them, and making a batch of them."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.state import called_in_place, fresh, split_inputs
from secateur.trees import changed, tensors_within
from secateur.types import ExampleInputs, InputError

__all__ = ["batch_size_of", "caller", "with_batch_size"]


def caller(model: nn.Module, example_inputs: ExampleInputs) -> Callable[[], Any]:
    """Return a function that calls the model with the example inputs, in copies: one, unless the model writes into it."""
    inputs = split_inputs(example_inputs)
    unwritten = [fresh(*inputs)]

    def call() -> Any:
        copies = unwritten.pop() if unwritten else fresh(*inputs)
        held, versions = tensors_within(copies), _versions(copies)
        answers = called_in_place(model, *copies)
        if _versions(copies) == versions and all(map(operator.is_, tensors_within(copies), held)):
            unwritten.append(copies)
        return answers

    return call


def _versions(inputs: Any) -> list[int]:
    """How often each tensor was written into, where torch counts that."""
    return [x._version for x in tensors_within(inputs) if not x.is_inference()]


def batch_size_of(example_inputs: ExampleInputs) -> int:
    """Return the length of the first dimension of the first tensor, or of the first list, whose entries are samples.

    >>> batch_size_of((torch.zeros(4, 2),)), batch_size_of(([torch.zeros(3, 8, 9), torch.zeros(3, 7, 7)],))
    (4, 2)
    """
    for part in _parts(example_inputs):
        batched = [part] if _is_samples(part) else [tensor for tensor in tensors_within(part) if tensor.ndim]
        if batched:
            return len(batched[0])
    raise InputError("example_inputs hold no tensor with a batch dimension")


def with_batch_size(example_inputs: ExampleInputs, batch_size: int | None) -> ExampleInputs:
    """Return the inputs with their samples repeated, or dropped, until there are `batch_size` of them.

    >>> with_batch_size(torch.tensor([1, 2, 3]), 5)
    tensor([1, 2, 3, 1, 2])
    >>> [len(image) for image in with_batch_size(([torch.zeros(3), torch.zeros(4)],), 3)[0]]
    [3, 4, 3]
    >>> with_batch_size(({"ids": torch.tensor([1, 2])}, "word"), 1)
    ({'ids': tensor([1])}, 'word')
    """
    if batch_size is None:
        return example_inputs
    have = batch_size_of(example_inputs)
    if not have:
        raise InputError("example_inputs hold an empty batch; give at least one sample")

    def resize(part: Any) -> Any:
        # Only what has the batch dimension is resized: a table of positions, say, stays as it is.
        if _is_samples(part) and len(part) == have:
            return [part[number % have] for number in range(batch_size)]
        return changed(part, resize_tensor) if tensors_within(part) else part

    def resize_tensor(x: Tensor) -> Tensor:
        return x[torch.arange(batch_size, device=x.device) % have] if x.ndim and len(x) == have else x

    if isinstance(example_inputs, Mapping):
        return {name: resize(part) for name, part in example_inputs.items()}
    if isinstance(example_inputs, tuple):
        return tuple(resize(part) for part in example_inputs)
    resized: Tensor = resize(example_inputs)
    return resized


def _is_samples(part: object) -> bool:
    """Whether an input is a list of samples, as detectors take images of several sizes."""
    return isinstance(part, list) and len(tensors_within(part)) >= len(part) > 0


def _parts(example_inputs: ExampleInputs) -> list[Any]:
    if isinstance(example_inputs, Mapping):
        return list(example_inputs.values())
    return list(example_inputs) if isinstance(example_inputs, tuple) else [example_inputs]
