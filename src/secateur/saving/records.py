"""Plain data with tensors in it, parted into what JSON holds and what safetensors does, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["joined", "parted"]

TENSOR = "@tensor"
"""The key of what stands in JSON in the place of a tensor; no other mapping has it."""

NONZERO = "@nonzero"
"""The key of what stands for a mask that is True where a tensor of the saved model is not zero."""

State = Callable[[str], Tensor]
"""Looks up a tensor of the saved model."""


def parted(record: Any, tensors: dict[str, Tensor], state: Mapping[str, Tensor] | None = None) -> Any:
    """Return `record` as JSON can hold it; its tensors are added to `tensors`, by number.

    Args:
        record: plain data and tensors.
        tensors: where the tensors go.
        state: the saved model's. A mask that says where one of these is zero is not written once more.

    Raises:
        TypeError: a mapping with other keys than text, or with a key that stands for a tensor.

    >>> import torch
    >>> tensors = {}
    >>> parted({"rows": [torch.tensor([1, 2]), 3]}, tensors), tensors
    ({'rows': [{'@tensor': '0'}, 3]}, {'0': tensor([1, 2])})
    """
    if isinstance(record, Tensor):
        name = _same_zeros(record, state or {})
        if name is not None:
            return {NONZERO: name}
        number = str(len(tensors))
        tensors[number] = record.detach().cpu().clone().contiguous()
        return {TENSOR: number}
    if isinstance(record, Mapping):
        if not all(isinstance(key, str) and key not in (TENSOR, NONZERO) for key in record):
            raise TypeError(f"keys must be text, and not {TENSOR!r} or {NONZERO!r}; got {list(record)}")
        return {key: parted(value, tensors, state) for key, value in record.items()}
    return [parted(value, tensors, state) for value in record] if isinstance(record, (list, tuple)) else record


def _same_zeros(mask: Tensor, state: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that is zero exactly where a mask of its shape is False."""
    if mask.dtype is not torch.bool or mask.ndim < 2:
        return None
    same = (name for name, x in state.items() if x.shape == mask.shape and torch.equal(x != 0, mask.to(x.device)))
    return next(same, None)


def joined(plain: Any, tensors: Mapping[str, Tensor], state: State | None = None) -> Any:
    """Return what `parted` was given, lists in the place of tuples.

    Raises:
        KeyError: a tensor is missing.

    >>> import torch
    >>> joined({"rows": [{"@tensor": "0"}, 3]}, {"0": torch.tensor([1, 2])})
    {'rows': [tensor([1, 2]), 3]}
    """
    if isinstance(plain, dict):
        if TENSOR in plain:
            return tensors[plain[TENSOR]]
        if NONZERO in plain and state is not None:
            return state(plain[NONZERO]) != 0
        return {key: joined(value, tensors, state) for key, value in plain.items()}
    return [joined(value, tensors, state) for value in plain] if isinstance(plain, list) else plain
