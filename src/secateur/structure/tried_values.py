"""Other values to try of a number, a word or a flag by which code may decide: on the other side of what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice, pairwise
from math import floor, isfinite
from types import CodeType
from typing import Any

from torch import nn

from secateur.structure.asking import is_of_torch
from secateur.structure.train_code import logged_pass

__all__ = ["KINDS", "code_words", "compared_numbers", "compared_with", "noting", "other_values"]

KINDS = (bool, int, float, str)
FEW = 8
"""How many other values are tried of one."""
LARGEST = 10**5
"""Numbers beyond are not tried: code may count up to them."""
NO_WORD = "?"
"""A word that no code knows."""


def other_values(value: Any, compared: Iterable[Any] = (), words: Iterable[str] = ()) -> list[Any]:
    """Return values to try in the place of one.

    Args:
        value: a flag, a number or a word.
        compared: what code was seen to compare it with.
        words: what else may stand for a word.

    >>> other_values(True), other_values(7, [3])
    ([False], [3, 4, 2, 8, 6, 0, 1])
    >>> other_values(0.9, [0.5]), other_values("a", ["b"], ["c"])
    ([-0.5, 1.5, 0.45, 1.8, 0.5, 1.0, -0.9, 0.0], ['?', 'b', 'c'])
    """
    others = OTHERS[type(value)](value, list(compared), list(words))
    likely = (other for other in dict.fromkeys(others) if other != value)
    return list(islice((n for n in likely if type(n) is str or abs(n) <= LARGEST), FEW))


def _integers(value: int, compared: list[Any], _words: list[str]) -> list[Any]:
    near = [floor(other) + step for other in compared if isfinite(other) for step in (0, 1, -1)]
    return [*near, value + 1, value - 1, *range(4)]


def _numbers(value: float, compared: list[Any], _words: list[str]) -> list[Any]:
    """Numbers between those that it is compared with, these themselves, and some that are often meant."""
    points = sorted({float(other) for other in compared if isfinite(other)})
    between = [(low + high) / 2 for low, high in pairwise(points)]
    beyond = [points[0] - 1, points[-1] + 1] if points else []
    # Zero is likely to hide what it scales.
    return sorted([*between, *beyond, value / 2, value * 2, *points, 1.0, -value, 0.0], key=lambda number: number == 0)


OTHERS: Mapping[type[Any], Callable[[Any, list[Any], list[str]], list[Any]]] = {
    bool: lambda value, _compared, _words: [not value],
    int: _integers,
    float: _numbers,
    str: lambda _value, compared, words: [NO_WORD, *compared, *words],
}


def noting(value: Any, noted: list[Any]) -> Any:
    """Return a number or word that notes what it is compared with.

    >>> noting(3, noted := []) > 2, noted
    (True, [2])
    """
    kind = type(value)

    def comparison(operator: str) -> Callable[..., Any]:
        def compared(self: Any, other: Any) -> Any:
            if isinstance(other, str if kind is str else (int, float)):
                noted.append(other)
            return getattr(kind, operator)(self, other)

        return compared

    operators = (f"__{name}__" for name in (("eq", "ne") if kind is str else ("eq", "ne", "lt", "le", "gt", "ge")))
    return type(kind.__name__, (kind,), {"__hash__": kind.__hash__, **{o: comparison(o) for o in operators}})(value)


def compared_with(model: nn.Module, changed: Callable[[], Any], modes: Iterable[bool]) -> None:
    """Run a model on inputs among which are numbers and words that note; code may insist on plain ones, and then nothing is noted.

    Args:
        model: it is left as it is.
        changed: returns the inputs, positional and by name, in containers of their own.
        modes: whether in train mode, for each pass.
    """
    for training in modes:
        with suppress(Exception), logged_pass(model, training):
            args, kwargs = changed()
            model(*args, **kwargs)


def compared_numbers(model: nn.Module, inputs: tuple[Any, ...]) -> list[int]:
    """Return the whole numbers that ops compare tensors with."""
    with suppress(Exception), logged_pass(model, training=False) as (log, _):
        args, kwargs = inputs
        model(*args, **kwargs)
    calls = (call[1] for call in log.calls if call[0] in COMPARING)
    return list(dict.fromkeys(number for told in calls for number in told if type(number) is int))


COMPARING = ("eq", "ne", "lt", "le", "gt", "ge")


def code_words(model: nn.Module) -> list[str]:
    """Return the names that code may choose by: of modules in dictionaries, and those that stand in forward passes.

    >>> class Chooses(nn.Module):
    ...     def forward(self, x, way="a"):
    ...         return {"a": x, "b": -x}[way]
    >>> code_words(Chooses())
    ['a', 'b']
    """
    names = [name for module in model.modules() if isinstance(module, nn.ModuleDict) for name in module]
    kinds = dict.fromkeys(type(module) for module in model.modules() if not is_of_torch(module))
    codes = (getattr(getattr(kind.forward, "__wrapped__", kind.forward), "__code__", None) for kind in kinds)
    return list(
        dict.fromkeys([*names, *(word for code in codes for word in _words_within(code) if word.isidentifier())])
    )


def code_constants(model: nn.Module) -> list[Any]:
    """Return the numbers and words that stand by themselves in a model's own forward pass, which its arguments may be compared with.

    >>> class Leaves(nn.Module):
    ...     def forward(self, x, at=None):
    ...         return x if at == 3 or at == "first" else x * x
    >>> code_constants(Leaves())
    [3, 'first']
    """
    code = getattr(getattr(type(model).forward, "__wrapped__", type(model).forward), "__code__", None)
    constants = [c for c in getattr(code, "co_consts", ()) if type(c) in KINDS and c is not True]
    return [c for c in dict.fromkeys(constants) if not isinstance(c, str) or c.isidentifier()]


def _words_within(constant: Any) -> Iterator[str]:
    if isinstance(constant, str):
        yield constant
    several = isinstance(constant, (tuple, frozenset))
    parts = constant.co_consts if isinstance(constant, CodeType) else constant if several else ()
    for part in parts:
        yield from _words_within(part)
