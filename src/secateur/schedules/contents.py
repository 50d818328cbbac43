"""A digest of the data that something holds, however deep: a criterion, a training step, a function of one's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from inspect import ismethod
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.state import digest, tensors

__all__ = ["contents"]

NUMERIC = "biufc"
"""The kinds of numpy's arrays that hold numbers."""
TEXTS = (str, bytes, Path, range)
PLAIN = (*TEXTS, int, float, complex)
OURS = ("secateur", "torch")
"""Packages whose functions see no data of a user's by a global name."""

Parts = Iterator[tuple[str, Any]]


def contents(value: object) -> str:
    """Return a digest of all tensors and arrays that a value holds; empty where there are none.

    Looked into are containers, dataclasses, objects (their public attributes), the data sets behind loaders, and
    functions (what they close over, their defaults, and the data that they name among the globals). Of what is read as
    it is needed, its kind, its length and the texts and lists of numbers that it holds count, such as the names of its
    files. Observers do not count: functions in fields that a dataclass leaves out of its ``repr``.

    >>> x = torch.zeros(2)
    >>> contents([(x, x)]) == contents([(x.clone(), x)]), contents([(x, x)]) == contents([(x + 1, x)])
    (True, False)
    >>> contents(lambda model, x=x: model(x)) == "", contents(print)
    (False, '')
    """
    return _Reading().digest_of(value)


class _Reading:
    """One look at values, each of which is read once."""

    def __init__(self) -> None:
        # With each value itself, which has to stay alive while its identity stands for it.
        self.digests: dict[tuple[int, bool], tuple[str, object]] = {}

    def digest_of(self, value: Any, within_data: bool = False) -> str:
        """The digest of a value; within data, texts and lists of plain values count too."""
        key = id(value), within_data
        if key not in self.digests:
            self.digests[key] = "", value  # for what holds itself
            self.digests[key] = self._read(value, within_data), value
        return self.digests[key][0]

    def _read(self, value: Any, within_data: bool) -> str:
        if isinstance(value, PLAIN):
            return repr(value) if within_data and isinstance(value, TEXTS) else ""
        if isinstance(value, np.ndarray) and value.dtype.kind in NUMERIC:
            value = torch.from_numpy(np.array(value))
        if isinstance(value, Tensor):
            return digest([("", value)])
        if isinstance(value, nn.Module):
            return digest(tensors(value).items())
        if isinstance(value, list | tuple) and all(isinstance(part, PLAIN) for part in value):
            return repr(value) if within_data and value else ""
        is_source = _is_source(value)
        digests = [(name, self.digest_of(part, within_data or is_source)) for name, part in _parts(value)]
        parts = [(name, part) for name, part in digests if part]
        if is_source:
            parts.append((type(value).__qualname__, str(_length(value))))
        return digest([], repr(parts)) if parts else ""


def _parts(value: Any) -> Parts:
    """What a value holds, by name."""
    if isinstance(value, Mapping):
        yield from ((repr(name), part) for name, part in value.items())
    elif isinstance(value, list | tuple):
        yield from _numbered(value)
    elif isinstance(value, partial):
        yield from (("function", value.func), ("arguments", value.args), ("keywords", value.keywords))
    elif ismethod(value):
        yield "self", value.__self__
    elif isinstance(value, FunctionType):
        yield from _seen_by(value)
    elif isinstance(value, type | ModuleType):
        return
    elif is_dataclass(value):
        yield from ((e.name, getattr(value, e.name)) for e in fields(value) if e.repr or not _observes(value, e.name))
    elif not callable(getattr(value, "identity", None)):  # a callback's sums on the way are no data
        yield from ((name, part) for name, part in vars(value).items() if name[0] != "_") if _has_vars(value) else ()


def _observes(options: Any, name: str) -> bool:
    """Whether a field that ``repr`` leaves out is no option: the name is private, or a function is told what happens."""
    value = getattr(options, name)
    return name.startswith("_") or (callable(value) and not isinstance(value, nn.Module) and not is_dataclass(value))


def _has_vars(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict)


def _seen_by(function: FunctionType) -> Parts:
    """What a function sees besides its arguments, and that may be data."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        # One that is assigned later is empty; a model may be what is trained.
        if (value := _in_cell(cell)) is not None and not isinstance(value, nn.Module):
            yield name, value
    yield from _numbered(function.__defaults__ or ())
    yield from (function.__kwdefaults__ or {}).items()
    if function.__module__.partition(".")[0] not in OURS:
        named = {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}
        yield from ((name, part) for name, part in named.items() if _is_data(part))


def _in_cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return None


def _numbered(parts: Any) -> Parts:
    return ((str(number), part) for number, part in enumerate(parts))


def _is_data(value: object) -> bool:
    """Whether a value looks like data: tensors, arrays, containers of them, or a source of samples."""
    if isinstance(value, Mapping | list | tuple):
        return any(map(_is_data, value.values() if isinstance(value, Mapping) else value))
    labelled = hasattr(value, "images") and not isinstance(value, type | ModuleType)
    return isinstance(value, Tensor | np.ndarray) or labelled or _is_source(value)


def _is_source(value: object) -> bool:
    """Whether samples or batches are read from a value: a loader, a data set, a stream."""
    if isinstance(value, type | Mapping | list | tuple | set | frozenset | nn.Module | ModuleType):
        return False
    return any(hasattr(type(value), name) for name in ("__iter__", "__getitem__", "one_pass"))


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except (TypeError, NotImplementedError):
        return None
