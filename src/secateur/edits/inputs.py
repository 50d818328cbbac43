"""The example inputs of a graph as plain JSON: shapes and types, and the values of what counts or chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from secateur.types import FileError

__all__ = ["describe", "restore"]

TYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.complex64,
        torch.complex128,
        torch.bool,
        torch.uint8,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
    )
}
# Integers and truth values choose (tokens, positions, masks), and not every choice is possible: they are kept.
KEPT = {torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64}


def describe(inputs: Any) -> dict[str, Any]:
    """Return a description of `inputs`: mappings, lists and plain values, and the tensors whose values matter.

    Raises:
        FileError: they hold something else than tensors, plain values, lists, tuples and mappings.

    >>> describe((torch.zeros(1, 3), None))
    {'tuple': [{'tensor': [1, 3], 'dtype': 'float32'}, {'value': None}]}
    """
    if isinstance(inputs, Tensor):
        return _describe_tensor(inputs)
    if type(inputs) in (tuple, list):
        return {type(inputs).__name__: [describe(value) for value in inputs]}
    if isinstance(inputs, Mapping) and all(isinstance(key, str) for key in inputs):
        return {"dict": {key: describe(value) for key, value in inputs.items()}}
    if inputs is None or isinstance(inputs, (bool, int, str)) or (isinstance(inputs, float) and math.isfinite(inputs)):
        return {"value": inputs}
    raise FileError(
        f"the model is a graph, and its example inputs hold {inputs!r}, which a folder cannot keep; "
        "pass tensors and plain values to prune, or save the graph with torch.export.save"
    )


def _describe_tensor(tensor: Tensor) -> dict[str, Any]:
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in TYPES or tensor.layout is not torch.strided:
        raise FileError(
            f"the model is a graph, and an example input is {name}, {tensor.layout}, which a folder cannot keep; "
            "save the graph with torch.export.save"
        )
    description: dict[str, Any] = {"tensor": list(tensor.shape), "dtype": name}
    if tensor.dtype in KEPT:
        description["values"] = tensor.detach().cpu().clone().contiguous()
    return description


def restore(description: Any, device: torch.device) -> Any:
    """Return inputs of the form that `describe` was given: ones where the values do not matter.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: `description` is not what `describe` returns.

    >>> restore({"tuple": [{"tensor": [1, 3], "dtype": "float32"}, {"value": None}]}, torch.device("cpu"))
    (tensor([[1., 1., 1.]]), None)
    """
    if "tensor" in description:
        if "values" in description:
            return description["values"].to(device)
        return torch.ones(description["tensor"], dtype=TYPES[description["dtype"]], device=device)
    if "dict" in description:
        return {str(key): restore(value, device) for key, value in description["dict"].items()}
    for kind in (tuple, list):
        if kind.__name__ in description:
            return kind(restore(value, device) for value in description[kind.__name__])
    return description["value"]
