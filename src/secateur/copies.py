"""Copies of models: what `copy.deepcopy` gives, module by module in a fraction of its time."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import BuiltinFunctionType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.types import InputError

__all__ = ["copied"]

ATOMS = {type(None), bool, int, float, complex, str, bytes, type, FunctionType, BuiltinFunctionType}
"""Types of values that are their own copies."""
TABLES = (dict, OrderedDict)
"""Of which a module holds a dozen, most of them empty."""
ROWS = {tuple, list, set, frozenset}
"""Of which most hold atoms alone."""


def copied(model: nn.Module, memo: dict[int, Any] | None = None) -> nn.Module:
    """Return a copy of the model; tensors that hang on a graph of derivatives are copied without it.

    Args:
        model: any module.
        memo: copies that are there already, by the identity of what they are copies of.

    Raises:
        InputError: an attribute cannot be copied; the message names it.

    >>> model = nn.Sequential(nn.Linear(1, 1))
    >>> copied(model)[0].weight.equal(model[0].weight), copied(model, {id(model[0]): nn.Identity()})
    (True, Sequential(
      (0): Identity()
    ))
    """
    try:
        with _Detaching():
            result: nn.Module = _copy(model, {} if memo is None else memo)
            return result
    except Exception as error:
        raise InputError(_uncopied(model, error)) from error


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    """What `copy.deepcopy` returns of it."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if id(value) in memo:
        return memo[id(value)]
    if kind in TABLES:
        table = memo[id(value)] = kind()
        for key, entry in value.items():
            table[_copy(key, memo)] = _copy(entry, memo)
        return table
    if kind in ROWS and all(type(entry) in ATOMS for entry in value):
        return memo.setdefault(id(value), kind(value))
    if isinstance(value, nn.Module) and _is_plain(value):
        return _copy_module(value, memo)
    return copy.deepcopy(value, memo)


def _copy_module(module: nn.Module, memo: dict[int, Any]) -> nn.Module:
    result: nn.Module = object.__new__(type(module))
    memo[id(module)] = result
    for child in vars(module).get("_modules", {}).values():
        _copy(child, memo)  # before what holds it, whose own way to take its state may look at it
    state = module.__getstate__()  # type: ignore[no-untyped-call]
    result.__setstate__({name: _copy(value, memo) for name, value in state.items()})  # type: ignore[no-untyped-call]
    return result


def _is_plain(module: nn.Module) -> bool:
    """Whether `copy.deepcopy` would make a new module of the same class and give it copies of what is in its `vars`."""
    kind = type(module)
    as_torch_does = (
        kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__new__ is object.__new__
    )
    own_ways = ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__")
    return as_torch_does and "__deepcopy__" not in vars(module) and not any(hasattr(kind, name) for name in own_ways)


class _Detaching(TorchFunctionMode):
    """Copies tensors that are no leaves, which torch refuses, without their graph."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            if id(tensor) not in memo:
                memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))


def _uncopied(model: nn.Module, error: Exception) -> str:
    """What to say of a model that cannot be copied: which attribute it is, and what to do."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_modules", "_parameters", "_buffers") and not _can_be_copied(value):
                where = f"{path}.{name}" if path else name
                return (
                    f"the model cannot be copied, as its attribute {where!r} (a {type(value).__name__}) cannot: {error}. "
                    f"Set it to None for the time of the call, or give {type(module).__name__} a __deepcopy__"
                )
    return f"the model, a {type(model).__name__}, cannot be copied: {error}"


def _can_be_copied(value: Any) -> bool:
    try:
        with _Detaching():
            copy.deepcopy(value)
    except Exception:  # noqa: BLE001  (copying runs the code of whatever hangs on the model)
        return False
    return True
