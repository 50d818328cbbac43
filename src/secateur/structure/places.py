"""Where plain values lie among inputs: in containers and settings, whatever holds them, and the same with others there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from copy import copy
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Any

from torch import Tensor

from secateur.trees import CLOSED, attributes, tensors_within

__all__ = [
    "Lookup",
    "Path",
    "as_plain",
    "changed_at",
    "copied",
    "is_namedtuple",
    "is_open",
    "is_settings",
    "parts",
    "within",
]

DEPTH = 4
"""How deep settings are looked into."""
MANY = 1000
"""No more values than these are looked at."""


@dataclass(frozen=True)
class Lookup:
    """From what holds a value to the value.

    Attributes:
        key: the entry or the attribute.
        is_field: whether it is an attribute.
        as_field: whether code may read it as one, which is then how it is named.
    """

    key: Any
    is_field: bool = False
    as_field: bool = False

    def __str__(self) -> str:
        return f".{self.key}" if self.is_field or self.as_field else f"[{self.key!r}]"


Path = tuple[Lookup, ...]


def is_settings(value: Any) -> bool:
    """Whether code may look up in it by name: a mapping, or an object that is neither a container nor a tensor.

    >>> is_settings({}), is_settings([]), is_settings(Lookup(1)), is_settings(3)
    (True, False, True, False)
    """
    if isinstance(value, Mapping):
        return True
    is_closed = isinstance(value, (Tensor, Enum, list, tuple, set, frozenset, *CLOSED))
    return not is_closed and (type(getattr(value, "__dict__", None)) is dict or bool(attributes(value)))


def is_namedtuple(value: Any) -> bool:
    """Whether it is a tuple whose entries have names."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def parts(value: Any) -> Iterator[tuple[Lookup, Any]]:
    """Yield what a container or settings hold; what is neither holds nothing."""
    if isinstance(value, Mapping):
        for key, held in list(value.items()):
            yield Lookup(key, as_field=type(value) is not dict and isinstance(key, str)), held
    elif is_namedtuple(value):
        for name in value._fields:
            yield Lookup(name, True), getattr(value, name)
    elif isinstance(value, (list, tuple)):
        for number, held in enumerate(value):
            yield Lookup(number), held
    elif is_settings(value):
        for name, held in attributes(value).items():
            if not name.startswith("__"):
                yield Lookup(name, True), held


def within(value: Any) -> Iterator[tuple[Path, Any]]:
    """Yield a value and all within, with the way to it; what is held within an object that holds tensors is its own affair.

    >>> [(str(*path), inner) for path, inner in within({"a": 1})][1:]
    [("['a']", 1)]
    """
    return islice(_within(value, ()), MANY)


def as_plain(value: Any) -> Any:
    """Return a number of numpy's as one of Python's, and anything else as it is."""
    is_number = type(value).__module__ == "numpy" and getattr(value, "shape", None) == ()
    return value.item() if is_number else value


def _within(value: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    yield path, as_plain(value)
    if is_open(value, path):
        for step, inner in parts(value):
            yield from _within(inner, (*path, step))


def is_open(value: Any, path: Path) -> bool:
    """Whether what lies at a path is looked into: an object that holds tensors is not where an object holds it, as a layer of a cache."""
    is_object = is_settings(value) and not isinstance(value, Mapping)
    is_state = is_object and any(step.is_field for step in path) and bool(tensors_within(value))
    return len(path) < DEPTH and not is_state


def changed_at(path: Path, change: Callable[[Any], Any], value: Any) -> Any:
    """Return a copy of a value in which what lies at a path is changed; what is not on the way is shared.

    >>> changed_at((Lookup("a"), Lookup(1)), lambda one: one + 1, {"a": (1, 2)})
    {'a': (1, 3)}
    """
    if not path:
        return change(value)
    (step, *rest), key = path, path[0].key
    inner = changed_at(tuple(rest), change, _at(value, step))
    if is_namedtuple(value):
        return value._replace(**{key: inner})
    if isinstance(value, tuple):
        return type(value)((*value[:key], inner, *value[key + 1 :]))
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        kind: Any = type(value)
        return kind({**value, key: inner})
    other = copied(value)
    if not step.is_field:
        other[key] = inner
    elif key in getattr(other, "__dict__", {}):
        vars(other)[key] = inner
    else:
        object.__setattr__(other, key, inner)  # whether or not it is frozen
    return other


def copied(value: Any) -> Any:
    """Return a copy of a value, which shares what it holds.

    Raises:
        TypeError: there can be no other of its kind, and a change would be one of the value itself.
    """
    try:
        other = copy(value)
    except Exception:  # where it answers for what it has not, Python takes an answer for a method to copy it with
        if not hasattr(type(value), "__getattr__"):
            raise
        other = object.__new__(type(value))
        vars(other).update(vars(value))
    if other is value:
        raise TypeError(f"a {type(value).__name__} has no copies")
    return other


def _at(value: Any, step: Lookup) -> Any:
    """What lies one step further; None for what is not there yet."""
    if step.is_field:
        return getattr(value, step.key, None)
    return value.get(step.key) if isinstance(value, Mapping) else value[step.key]
