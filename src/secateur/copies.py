"""Copies of models: what `copy.deepcopy` gives, module by module in a fraction of its time."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from contextlib import suppress
from functools import WRAPPER_ASSIGNMENTS
from types import BuiltinFunctionType, CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from secateur.types import InputError

__all__ = ["copied"]

ATOMS = {type(None), bool, int, float, complex, str, bytes, type, BuiltinFunctionType}
"""Types of values that are their own copies."""
TABLES = (dict, OrderedDict)
"""Of which a module holds a dozen, most of them empty."""
SETS = {set, frozenset}
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
            result: nn.Module = _Copier(model, {} if memo is None else memo).copy(model)
            return result
    except Exception as error:
        raise InputError(_uncopied(model, error)) from error


class _Copier:
    """Copies what hangs on a model, as `copy.deepcopy` does, but with functions that hold parts of it.

    Attributes:
        memo: copies by the identity of what they are copies of.
        parts: the identities of the model's modules and tensors.
    """

    def __init__(self, model: nn.Module, memo: dict[int, Any]) -> None:
        self.memo = memo
        self.parts = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}

    def copy(self, value: Any) -> Any:
        """Return a copy of any value."""
        kind = type(value)
        if kind in ATOMS:
            return value
        if id(value) in self.memo:
            return self.memo[id(value)]
        if kind in SETS and all(type(entry) in ATOMS for entry in value):
            return self.memo.setdefault(id(value), kind(value))
        if kind in TABLES:
            table = self.memo[id(value)] = kind()
            for key, entry in value.items():
                table[self.copy(key)] = self.copy(entry)
            return table
        if kind is list:
            row = self.memo[id(value)] = []
            row.extend(map(self.copy, value))
            return row
        if kind is tuple:
            entries = tuple(map(self.copy, value))
            unchanged = all(a is b for a, b in zip(entries, value, strict=True))
            return self.memo.setdefault(id(value), value if unchanged else entries)
        if kind is FunctionType:
            return self._function(value) if self._reaches(value, set()) else value
        if kind is MethodType:
            return MethodType(value.__func__, self.copy(value.__self__))
        if kind is weakref.ref and id(value()) in self.parts:
            return weakref.ref(self.copy(value()))
        if isinstance(value, nn.Module) and _is_plain(value):
            return self._module(value)
        other = copy.deepcopy(value, self.memo)
        if other is value and isinstance(value, nn.Module):
            raise TypeError(f"{kind.__name__}.__deepcopy__ returns the module itself, which would change with its copy")
        return other

    def _module(self, module: nn.Module) -> nn.Module:
        result: nn.Module = object.__new__(type(module))
        self.memo[id(module)] = result
        for child in vars(module).get("_modules", {}).values():
            self.copy(child)  # before what holds it, whose own way to take its state may look at it
        state = module.__getstate__()  # type: ignore[no-untyped-call]
        result.__setstate__({name: self.copy(value) for name, value in state.items()})  # type: ignore[no-untyped-call]
        for name in _slots(type(module)):
            if hasattr(module, name):
                object.__setattr__(result, name, self.copy(getattr(module, name)))
        return result

    def _reaches(self, value: Any, visited: set[int], by_name: bool = True) -> bool:
        """Whether a function holds a part of the model, a method of one, or a function that does."""
        if id(value) in visited:
            return False
        visited.add(id(value))
        if type(value) is MethodType:
            return id(value.__self__) in self.parts
        if type(value) is not FunctionType:
            return id(value) in self.parts
        named = _named(value).values() if by_name else ()
        return any(self._reaches(held, visited) for held in _held(value)) or any(
            self._reaches(other, visited, by_name=False) for other in named
        )

    def _function(self, function: FunctionType) -> Any:
        """The function that holds copies; of one that was compiled, what it was compiled from."""
        if compiled_from := vars(function).get("_torchdynamo_orig_callable"):
            return self.copy(compiled_from)
        cells = tuple(CellType() for _ in function.__closure__ or ())
        named = {name: value for name, value in _named(function).items() if self._reaches(value, set())}
        names = {**function.__globals__} if named else function.__globals__
        other = FunctionType(function.__code__, names, function.__name__, None, cells)
        self.memo[id(function)] = other  # which may hold itself
        names.update({name: self.copy(value) for name, value in named.items()})
        for name in WRAPPER_ASSIGNMENTS:
            setattr(other, name, getattr(function, name))
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            with suppress(ValueError):  # an empty one
                cell.cell_contents = self._held_by_copy(old.cell_contents)
        other.__defaults__ = function.__defaults__ and tuple(map(self._held_by_copy, function.__defaults__))
        other.__kwdefaults__ = function.__kwdefaults__ and {
            name: self._held_by_copy(value) for name, value in function.__kwdefaults__.items()
        }
        vars(other).update({name: self._held_by_copy(value) for name, value in vars(function).items()})
        return other

    def _held_by_copy(self, value: Any) -> Any:
        return self.copy(value) if self._reaches(value, set()) else value


def _held(function: FunctionType) -> list[Any]:
    """What a function holds: in its closure, and as defaults."""
    held = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty one
            held.append(cell.cell_contents)
    return held


def _named(function: FunctionType) -> dict[str, Any]:
    """What of its module's variables a function may read, as in scripts and notebooks."""
    names = () if (function.__module__ or "").startswith("torch.") else function.__code__.co_names
    return {name: function.__globals__[name] for name in names if name in function.__globals__}


def _slots(kind: type) -> list[str]:
    """The names of what the instances of a class hold outside of their `vars`, which copies of torch's modules lose."""
    by_class = (vars(base).get("__slots__", ()) for base in kind.__mro__)
    slots = [name for names in by_class for name in ((names,) if isinstance(names, str) else names)]
    return [name for name in slots if name not in ("__dict__", "__weakref__")]


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
