"""Other values to try of a number, a word or a flag by which code may decide: on the other side of what it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from enum import Enum, Flag
from itertools import islice, pairwise
from math import floor, isfinite
from types import CodeType
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.structure.asking import is_of_torch
from secateur.structure.decided import model_frame
from secateur.structure.train_code import logged_pass

__all__ = ["KINDS", "NO_WORD", "code_words", "compared_numbers", "is_tried", "ops_run", "other_values"]

KINDS = (bool, int, float, str)
"""Plain values that stand in code."""
FEW = 8
"""How many other values are tried of one."""
LARGEST = 10**5
"""Numbers beyond are not tried: code may count up to them."""
NO_WORD = "?"
"""A word that no code knows."""


def other_values(value: Any, compared: Iterable[Any] = (), words: Iterable[str] = ()) -> list[Any]:
    """Return values to try in the place of one; none where it is of no kind that is known.

    Args:
        value: a flag, a number, a word, one of several that a class lists, a type of tensors, or a set of words.
        compared: what code was seen to compare it with, or to look for in it.
        words: what else may stand for a word.

    >>> other_values(True), other_values(7, [3])
    ([False], [3, 4, 2, 8, 6, 0, 1])
    >>> other_values(0.9, [0.5]), other_values("a", ["b"], ["c"])
    ([-0.5, 1.5, 0.45, 1.8, 0.5, 1.0, -0.9, 0.0], ['?', 'b', 'c'])
    >>> other_values(frozenset({"a"})), other_values((), ["b"]), other_values(torch.float32)[:2]
    ([frozenset()], [('b',), (True,)], [torch.float64, torch.float16])
    """
    of_kind = OTHERS.get(Enum if isinstance(value, Enum) else type(value))
    others = of_kind(value, list(compared), list(words)) if of_kind else []
    likely = (other for n, other in enumerate(others) if other != value and other not in others[:n])
    return list(islice((n for n in likely if type(n) not in (int, float) or abs(n) <= LARGEST), FEW))


def is_tried(value: Any) -> bool:
    """Whether a value is of a kind of which others are tried.

    >>> is_tried("a"), is_tried((1, "a")), is_tried(([],)), is_tried(None)
    (True, True, False, False)
    """
    is_plain = not isinstance(value, (tuple, list)) or all(type(entry) in KINDS for entry in value)
    return isinstance(value, Enum) or (type(value) in OTHERS and is_plain)


def _integers(value: int, compared: list[Any], _words: list[str]) -> list[Any]:
    near = [floor(other) + step for other in compared if isfinite(other) for step in (0, 1, -1)]
    return [*near, value + 1, value - 1, value // 2, *range(4)]


def _numbers(value: float, compared: list[Any], _words: list[str]) -> list[Any]:
    """Numbers between those that it is compared with, these themselves, and some that are often meant."""
    points = sorted({float(other) for other in compared if isfinite(other)})
    between = [(low + high) / 2 for low, high in pairwise(points)]
    beyond = [points[0] - 1, points[-1] + 1] if points else []
    # Zero is likely to hide what it scales.
    return sorted([*between, *beyond, value / 2, value * 2, *points, 1.0, -value, 0.0], key=lambda number: number == 0)


def _members(value: Any, _compared: list[Any], _words: list[str]) -> list[Any]:
    """The others that a class lists; of flags, those with one more or fewer, too."""
    kind: Any = type(value)
    members = list(kind)
    return [*members, *(value ^ member for member in members if isinstance(value, Flag))]


def _sets(value: Any, compared: list[Any], _words: list[str]) -> list[Any]:
    """Those with one fewer, or with one more that code looks for."""
    fewer = [type(value)(x for x in value if x != one) for one in value]
    return [*fewer, *(type(value)([*value, one]) for one in compared if one not in value)]


def _sequences(value: Any, compared: list[Any], _words: list[str]) -> list[Any]:
    """The empty one, those without the last entry or with one more, and what code looks for in an empty one, or that there is some."""
    others = [value[:0], value[:-1], value + value[-1:], *(type(value)([one]) for one in compared)]
    return others if value else [*others, type(value)([True])]


OTHERS: Mapping[type[Any], Callable[[Any, list[Any], list[str]], list[Any]]] = {
    bool: lambda value, _compared, _words: [not value],
    int: _integers,
    float: _numbers,
    str: lambda _value, compared, words: [NO_WORD, *compared, *words],
    Enum: _members,
    torch.dtype: lambda _value, _compared, _words: [torch.float64, torch.float32, torch.float16, torch.bfloat16],
    **dict.fromkeys((set, frozenset), _sets),
    **dict.fromkeys((tuple, list), _sequences),
}


def ops_run(model: nn.Module, inputs: Callable[[], Any], modes: Iterable[bool]) -> list[list[Any]]:
    """Run a model, which is left as it is, and return the ops of each pass until it raised something.

    Args:
        model: it may insist on other inputs.
        inputs: returns them, positional and by name, in containers of their own.
        modes: whether in train mode, for each pass.
    """
    ops: list[list[Any]] = []
    for training in modes:
        with suppress(Exception), logged_pass(model, training) as (log, _):
            ops.append(log.calls)
            args, kwargs = inputs()
            model(*args, **kwargs)
    return ops


def compared_numbers(model: nn.Module, inputs: tuple[Any, ...]) -> tuple[list[int], list[int]]:
    """Return the whole numbers that ops compare tensors with, and those that stand in code that asks for values, greatest first."""
    with suppress(Exception), logged_pass(model, training=False), _Comparisons() as numbers:
        args, kwargs = inputs
        model(*args, **kwargs)
    return list(numbers.compared), sorted(numbers.in_code, reverse=True)


class _Comparisons(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes whole numbers that values of tensors may be compared with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.compared: dict[int, None] = {}
        self.in_code: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            self.in_code.update(c for c in model_frame().f_code.co_consts if type(c) is int)
        elif func.overloadpacket.__name__ in COMPARING:
            self.compared.update((number, None) for number in args if type(number) is int)
        return func(*args, **(kwargs or {}))


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
