"""What else stands where code looks a word or a number up: other keys of a table, other attributes of that kind of name."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator, Mapping
from types import FrameType
from typing import Any

from torch import Tensor, nn

__all__ = ["others_named"]

MANY = 100
"""A table of more entries is none that is written by hand."""
HASHED = (Mapping, set, frozenset)


def others_named(frame: FrameType, value: Any, hashed: bool = False) -> list[Any]:
    """Return what may stand for a value in the code of a frame, which just looked it up.

    Args:
        frame: of the code; what its variables hold is looked at, and nothing is run.
        value: a number or a word.
        hashed: whether a table or a set was asked for it, which may lack it.

    >>> import sys
    >>> table = {"relu": 1, "gelu": 2}
    >>> def f_one(word):
    ...     return others_named(sys._getframe(), word), table
    >>> f_one("relu")[0]
    ['gelu']
    >>> others_named(sys._getframe(), "none", hashed=True)
    ['relu', 'gelu']
    """
    small = [table for table in _tables(frame) if len(table) <= MANY]
    tables = [[key for key in table if type(key) is type(value)] for table in small]
    asked = [table for table in small if hashed and isinstance(table, HASHED)]
    is_lacked = not any(value in table for table in asked)
    instead = [key for table in asked for key in table if is_lacked and type(key) is type(value)]
    if not isinstance(value, str):
        beside = (key for keys in tables if value in keys for key in keys if key != value)
        return list(dict.fromkeys([*beside, *instead]))
    by_attribute = {"getattr", "get_submodule"} & set(frame.f_code.co_names)
    names = [*tables, *(_attribute_names(held) for held in _held(frame) if by_attribute)]
    constants = [constant for constant in frame.f_code.co_consts if isinstance(constant, str)]
    others = (other for several in names for other in _others(several, value, constants))
    return list(dict.fromkeys([*others, *instead]))


def _others(names: Collection[str], word: str, constants: list[str]) -> Iterator[str]:
    """What stands in other names where the word stands in one; what is around it is in the code."""
    around = {tuple(name.split(word, 1)) for name in names if word and word in name}
    for before, after in sorted(around):
        if all(any(part in constant for constant in constants) or not part for part in (before, after)):
            for name in names:
                between = name[len(before) : len(name) - len(after)]
                if between not in (word, "") and name == before + between + after:
                    yield between


def _held(frame: FrameType) -> list[Any]:
    """The objects in a frame's variables whose attributes code may look up."""
    return [held for held in frame.f_locals.values() if not isinstance(held, Tensor) and hasattr(held, "__dict__")]


def _tables(frame: FrameType) -> Iterator[Any]:
    """The collections that the code of a frame names: variables, attributes of these, and what is written in it."""
    names = frame.f_code.co_names
    variables = [*frame.f_locals.values(), *(frame.f_globals[name] for name in names if name in frame.f_globals)]
    attributes = [inspect.getattr_static(held, name, None) for held in _held(frame) for name in names]
    modules = [vars(held).get("_modules", {}).get(name) for held in _held(frame) for name in names]
    for held in (*variables, *attributes, *modules, *frame.f_code.co_consts):
        if isinstance(held, (nn.ModuleDict, Mapping, list, tuple, set, frozenset)):
            yield held


def _attribute_names(held: Any) -> list[str]:
    """The names of what an object holds, and of what its class adds to torch's."""
    every = (held if isinstance(held, type) else type(held)).__mro__
    kinds = [kind for kind in every if kind is not object and not kind.__module__.startswith("torch.")]
    own = [name for kind in kinds for name in vars(kind)]
    inner = vars(held).get("_modules", {})
    return [name for name in (*own, *vars(held), *inner) if not name.startswith("__")]
