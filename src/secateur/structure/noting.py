"""Inputs that note what code asks of them: what numbers and words are compared with, and what is looked up in settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from secateur.structure.decided import OF_NO_MODEL
from secateur.structure.places import Lookup, Path, as_plain, copied, is_namedtuple, is_open, is_settings, parts
from secateur.structure.tables import others_named

__all__ = ["Asked", "can_note", "noting", "noting_within"]

NOTED = (int, float, str)


@dataclass(eq=False)
class Asked:
    """What code asked of a value, and of all within, by the way to it.

    Attributes:
        compared: what numbers and words were compared with, and what else stands in tables in which they were looked up.
        looked_up: the entries and attributes that were, of what notes all that is.
        whole: settings of which all was asked.
        missing: entries and attributes that are not there, with what code takes instead where it says so.
    """

    compared: dict[Path, list[Any]] = field(default_factory=dict)
    looked_up: set[Path] = field(default_factory=set)
    whole: set[Path] = field(default_factory=set)
    missing: dict[Path, Any] = field(default_factory=dict)

    def saw(self, path: Path) -> bool:
        """Whether code looked at what lies at a path; it may have where it looked at nothing beside it."""
        opened = {way[:-1] for way in self.looked_up}
        ways = (path[:end] for end in range(1, len(path) + 1))
        return all(way in self.looked_up or way[:-1] in self.whole or way[:-1] not in opened for way in ways)


def noting(value: Any, noted: list[Any]) -> Any:
    """Return a number or word that notes what it is compared with, and what else is in tables in which it is looked up.

    >>> noting(3, noted := []) > 2, noted
    (True, [2])
    >>> {"a": 1, "b": 2}[noting("a", noted)], noted
    (1, [2, 'b', 'a'])
    """
    kind = type(value)
    visited = set[Any]()

    def comparison(operator: str) -> Callable[..., Any]:
        def compared(self: Any, other: Any) -> Any:
            if isinstance(other, str if kind is str else (int, float)):
                noted.append(other)
            if kind is str:
                look()
            return getattr(kind, operator)(self, other)

        return compared

    def look(hashed: bool = False) -> None:
        frame = sys._getframe(2)
        key = frame.f_code, id(frame.f_locals.get("self")), hashed
        if key not in visited and not frame.f_code.co_filename.startswith(OF_NO_MODEL):
            visited.add(key)
            noted.extend(other for other in others_named(frame, value, hashed) if other not in noted)

    def looking(operator: str) -> Callable[..., Any]:
        def looked(self: Any, *args: Any) -> Any:
            look(operator == "__hash__")
            return getattr(kind, operator)(self, *args)

        return looked

    operators = ("eq", "ne") if kind is str else ("eq", "ne", "lt", "le", "gt", "ge")
    lookups = ("__hash__", "__format__", "__add__", "__str__") if kind is str else ("__hash__",)
    methods = {
        **{name: comparison(name) for name in (f"__{o}__" for o in operators)},
        **{n: looking(n) for n in lookups},
    }
    if kind is str:

        def added(self: str, before: str) -> str:
            look()
            return str.__add__(before, self)

        methods["__radd__"] = added
    return type(kind.__name__, (kind,), methods)(value)


def noting_within(value: Any, asked: Asked, path: Path = ()) -> Any:
    """Return a value that notes what is asked of it and of all within; what cannot note is shared.

    >>> options = noting_within({"deep": True, "level": 3}, asked := Asked())
    >>> options["level"] > 2, options.get("mode", "plain") == "residual"
    (True, False)
    >>> [(str(*way), with_) for way, with_ in asked.compared.items() if with_]
    [("['level']", [2]), ("['mode']", ['residual'])]
    >>> [str(*way) for way in asked.looked_up], [str(*way) for way in asked.missing]
    (["['level']"], ["['mode']"])
    """
    value = as_plain(value)
    if type(value) in NOTED:
        return noting(value, asked.compared.setdefault(path, []))
    if _is_searched(value):
        return _noting_set(value, asked.compared.setdefault(path, []))
    if not is_open(value, path):
        return value
    with suppress(Exception):  # a class may not be one to make others of
        if isinstance(value, (list, tuple)):
            inner = [noting_within(held, asked, (*path, step)) for step, held in parts(value)]
            return type(value)(*inner) if is_namedtuple(value) else type(value)(inner)
        if isinstance(value, MutableMapping):
            return _noting_mapping(value, asked, path)
        if is_settings(value) and not isinstance(value, Mapping):
            return _noting_object(value, asked, path)
    return value


def can_note(value: Any) -> bool:
    """Whether a value, as one of those within an input, notes what is asked of it."""
    return type(value) in NOTED or _is_searched(value) or is_settings(value)


def _is_searched(value: Any) -> bool:
    """Whether it is what code looks for entries in: of an empty sequence it knows no others."""
    return isinstance(value, (set, frozenset)) or (type(value) in (list, tuple) and not value)


def _of_model() -> bool:
    """Whether neither torch's code nor ours asks."""
    return not sys._getframe(2).f_code.co_filename.startswith(OF_NO_MODEL)


def _noting_set(value: Any, noted: list[Any]) -> Any:
    kind: Any = type(value)

    def contains(self: Any, key: Any) -> bool:
        noted.append(key)
        return bool(kind.__contains__(self, key))

    return type(kind.__name__, (kind,), {"__contains__": contains})(value)


def _as(value: Any, kind: Any) -> Any:
    """A copy of a value as one of a class on its own; what it holds is still to be put in where Python keeps its class."""
    other = copied(value)
    try:
        object.__setattr__(other, "__class__", kind)
    except TypeError:
        maker, args, *_ = value.__reduce_ex__(4)
        return kind(*args) if maker is type(value) else kind()
    return other


def _noting_mapping(value: MutableMapping[Any, Any], asked: Asked, path: Path) -> Any:
    kind: Any = type(value)
    ways = {step.key: (*path, step) for step, _ in parts(value)}

    def looking(operator: str) -> Callable[..., Any]:
        def looked(self: Any, key: Any, *default: Any) -> Any:
            if kind.__contains__(self, key):
                if kind is dict:  # others have further ways to what they hold
                    asked.looked_up.add(ways.get(key, path))
            elif isinstance(key, str) and _of_model():
                way = (*path, Lookup(key, as_field=kind is not dict))
                (instead,) = default or (None,)
                asked.missing.setdefault(way, instead)
                default = tuple(noting_within(d, asked, way) if type(d) in NOTED else d for d in default)
            return getattr(kind, operator)(self, key, *default)

        return looked

    def all_of(operator: str) -> Callable[..., Any]:
        def every(self: Any, *args: Any) -> Any:
            if _of_model():
                asked.whole.add(path)
            return getattr(kind, operator)(self, *args)

        return every

    def attribute(self: Any, name: str) -> Any:
        """What the class has instead of an attribute: what it holds by that name, or an answer where it holds nothing."""
        if not name.startswith("__") and _of_model() and not kind.__contains__(self, name):
            asked.missing.setdefault((*path, Lookup(name, as_field=True)), None)
        return kind.__getattr__(self, name)

    methods = {name: looking(name) for name in ("__getitem__", "__contains__", "get", "pop", "setdefault")}
    if hasattr(kind, "__getattr__"):
        methods["__getattr__"] = attribute
    methods |= {name: all_of(name) for name in ("__iter__", "keys", "items", "values", "copy")}
    if not value:
        methods["__len__"] = all_of("__len__")  # for which `if settings` asks
    other = _as(value, type(kind.__name__, (kind,), {"__slots__": (), **methods}))
    for key, held in value.items():
        kind.__setitem__(other, key, noting_within(held, asked, ways[key]))
    return other


def _noting_object(value: Any, asked: Asked, path: Path) -> Any:
    kind: Any = type(value)
    ways = {step.key: (*path, step) for step, _ in parts(value)}

    def looked(self: Any, name: str) -> Any:
        of_model = _of_model()
        try:
            got = kind.__getattribute__(self, name)
        except AttributeError:
            if of_model and not name.startswith("__"):
                asked.missing.setdefault((*path, Lookup(name, True)), None)
            raise
        is_plain = type(got) in (bool, *NOTED) or isinstance(got, Enum)
        if name in ways:
            asked.looked_up.add(ways[name])
        elif of_model and is_plain and any(vars(base).get(name) is got for base in kind.__mro__):
            way = (*path, Lookup(name, True))
            asked.missing.setdefault(way, got)
            return noting_within(got, asked, way)
        elif of_model and (is_plain or name == "__dict__"):  # found by another name
            asked.whole.add(path)
        return got

    other = _as(value, type(kind.__name__, (kind,), {"__slots__": (), "__getattribute__": looked}))
    for step, held in parts(value):
        object.__setattr__(other, step.key, noting_within(held, asked, ways[step.key]))
    return other
