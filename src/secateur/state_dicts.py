"""Putting the tensors of a file into a model: each into one of its own kind and shape, or an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.types import FileError

__all__ = ["check_state", "fill", "is_lossless"]


def fill(model: nn.Module, state: Any, source: object) -> None:
    """Copy the tensors of a state dict into the model, in place, after `check_state`.

    Args:
        model: the model; on an error it is as it was.
        state: one tensor for each name of ``model.state_dict()``.
        source: where they come from, for the errors.
    """
    check_state(model, state, source)
    model.load_state_dict(dict(state))


def check_state(model: nn.Module, state: Any, source: object) -> None:
    """Refuse a state dict that a model cannot take as it is.

    Names and shapes are those of the model. The type of each tensor is, too, or one whose every value the model's type
    holds exactly: float16 and bfloat16 go into float32, float32 into float64, and nothing the other way; bool, integer,
    floating and complex tensors stay what they are. Parameters are finite; buffers may hold infinities, as masks do.

    Raises:
        FileError: anything of that is not so; the error names the tensor.

    >>> check_state(nn.Linear(1, 1), {"weight": torch.ones(1, 1).half(), "bias": torch.ones(1)}, "file")
    >>> check_state(nn.Linear(1, 1), {"weight": torch.ones(1, 1).bool(), "bias": torch.ones(1)}, "file")
    Traceback (most recent call last):
    secateur.types.FileError: file: 'weight' is of type bool and the model's is float32: another kind of tensor, not \
these weights; save the state_dict of the model itself
    """
    if not isinstance(state, Mapping) or not all(isinstance(x, Tensor) for x in state.values()):
        raise FileError(f"{source}: holds no state dict (names and tensors); save model.state_dict()")
    model_state = {name: tensor for name, tensor in model.state_dict().items() if isinstance(tensor, Tensor)}
    _check_names(model, model_state, state, source)
    for name, tensor in model_state.items():
        _check_type(name, state[name], tensor.dtype, source)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, tensor in model_state.items():
        _check_numbers(name, state[name].detach().to(tensor.dtype), name in parameters, source)
    _check_shared(model_state, state, source)


def is_lossless(old: torch.dtype, new: torch.dtype) -> bool:
    """Say whether every value of a type is one of another type of the same kind.

    >>> is_lossless(torch.bfloat16, torch.float32), is_lossless(torch.bfloat16, torch.float16)
    (True, False)
    >>> is_lossless(torch.int32, torch.int64), is_lossless(torch.int64, torch.float32), is_lossless(torch.bool, torch.int8)
    (True, False, False)
    """
    if old == new:
        return True
    if old.is_complex != new.is_complex or old.is_floating_point != new.is_floating_point or torch.bool in (old, new):
        return False
    if old.is_floating_point or old.is_complex:
        a, b = torch.finfo(old), torch.finfo(new)
        return b.eps <= a.eps and b.max >= a.max and b.tiny <= a.tiny
    i, j = torch.iinfo(old), torch.iinfo(new)
    return j.min <= i.min and j.max >= i.max


def _check_names(
    model: nn.Module, model_state: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object
) -> None:
    missing = [name for name in model_state if name not in state]
    spare = [name for name in state if name not in model_state]
    other = [name for name in model_state if name in state and state[name].shape != model_state[name].shape]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of the model's {len(model_state)} tensors are missing, the first {missing[0]!r}")
    if spare:
        parts.append(f"{len(spare)} tensors are not the model's, the first {spare[0]!r}")
    if other:
        shapes = tuple(state[other[0]].shape), tuple(model_state[other[0]].shape)
        parts.append(
            f"{len(other)} are of another shape, the first {other[0]!r}: {shapes[0]}, the model's is {shapes[1]}"
        )
    if parts:
        raise FileError(
            f"{source}: does not fit this {type(model).__name__} ({'; '.join(parts)}); pass the same architecture and "
            "options"
        )


def _check_type(name: str, tensor: Tensor, model_dtype: torch.dtype, source: object) -> None:
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise FileError(f"{source}: {name!r} is a sparse, quantised or empty-handed tensor; save dense ones")
    if is_lossless(tensor.dtype, model_dtype):
        return
    old, new = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, model_dtype))
    if tensor.is_floating_point() and model_dtype.is_floating_point:
        remedy = (
            f"which would round its numbers; load it into model.to(torch.{old}), or round them yourself and save that: "
            f"{{name: tensor.to(torch.{new}) for name, tensor in state.items()}}"
        )
    else:
        remedy = "another kind of tensor, not these weights; save the state_dict of the model itself"
    comma = "," if remedy.startswith("which") else ":"
    raise FileError(f"{source}: {name!r} is of type {old} and the model's is {new}{comma} {remedy}")


def _check_numbers(name: str, tensor: Tensor, is_parameter: bool, source: object) -> None:
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    wrong = int((~torch.isfinite(tensor) if is_parameter else torch.isnan(tensor)).sum())
    if wrong:
        raise FileError(
            f"{source}: {name!r} holds {wrong} NaN or infinite values, of which a model computes nothing; take weights "
            "from before the training diverged, or repair them"
        )


def _check_shared(model_state: Mapping[str, Tensor], state: Mapping[str, Tensor], source: object) -> None:
    """Two names of one tensor of the model must not be given different values: the last would win."""
    first: dict[tuple[object, ...], str] = {}
    for name, tensor in model_state.items():
        place = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.device)
        other = first.setdefault(place, name) if tensor.numel() else name
        if other != name and not torch.equal(state[other].to(tensor.dtype), state[name].to(tensor.dtype)):
            raise FileError(
                f"{source}: {other!r} and {name!r} are one tensor of the model, and differ here; load it into a model "
                "that does not share them"
            )
