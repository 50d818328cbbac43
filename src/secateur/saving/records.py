"""Plain data with tensors in it, parted into what JSON holds and what safetensors does, and put together again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["joined", "parted"]

TENSOR = "@tensor"
"""The key of what stands in JSON in the place of a tensor; no other mapping has it."""


def parted(record: Any, tensors: dict[str, Tensor]) -> Any:
    """Return `record` as JSON can hold it; its tensors are added to `tensors`, by number.

    Raises:
        TypeError: a mapping with other keys than text, or with the key that stands for a tensor.

    >>> import torch
    >>> tensors = {}
    >>> parted({"rows": [torch.tensor([1, 2]), 3]}, tensors), tensors
    ({'rows': [{'@tensor': '0'}, 3]}, {'0': tensor([1, 2])})
    """
    if isinstance(record, Tensor):
        number = str(len(tensors))
        tensors[number] = record.detach().cpu().clone().contiguous()
        return {TENSOR: number}
    if isinstance(record, Mapping):
        if not all(isinstance(key, str) and key != TENSOR for key in record):
            raise TypeError(f"keys must be text, and not {TENSOR!r}; got {list(record)}")
        return {key: parted(value, tensors) for key, value in record.items()}
    return [parted(value, tensors) for value in record] if isinstance(record, (list, tuple)) else record


def joined(plain: Any, tensors: Mapping[str, Tensor]) -> Any:
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
        return {key: joined(value, tensors) for key, value in plain.items()}
    return [joined(value, tensors) for value in plain] if isinstance(plain, list) else plain
