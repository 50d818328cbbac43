"""Inputs by which code may decide, set otherwise than the example has them: flags, numbers, words, and what is left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations, islice
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.state import fresh
from secateur.structure.tried_values import (
    KINDS,
    code_constants,
    code_words,
    compared_numbers,
    compared_with,
    noting,
    other_values,
)
from secateur.types import brief

__all__ = ["LEFT_OUT", "Turn", "together", "turns"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

TRIES = 32
"""How many inputs that are set otherwise are tried of a model, each by itself."""
PAIRS = 10
"""How many pairs of them are tried together."""
FEW = 8
"""A tensor of no more entries may hold a flag each."""
FEW_CONSTANTS = 4
"""How many numbers and words of the code are tried for an argument that is None."""
LEFT_OUT = "left out"
FLAGS = (("True", True), ("False", False))


@dataclass(frozen=True, eq=False)
class Turn:
    """One input that is set otherwise.

    Attributes:
        name: the input, as the model's code names it.
        given: what the example has, in words.
        value: what it has instead, in words.
        change: makes of the example's inputs, or of others like them, those that have it.
        enough: after how many values of it with which other ops run no more need be tried.
        flag: whether it is one.
    """

    name: str
    given: str
    value: str
    change: Callable[[Inputs], Inputs]
    enough: float = inf
    flag: bool = False

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


def turns(
    model: nn.Module,
    inputs: Inputs,
    *,
    tensors_decide: bool = False,
    guesses: bool = True,
    modes: Sequence[bool] = (False,),
) -> list[Turn]:
    """Return the inputs of a model that may decide which way its code goes, each set otherwise.

    These are plain values, and those that the example leaves out. Numbers and words are tried on the other side of what the
    code compares them with in one pass, which is made where there are any.

    Args:
        model: the model; it is left as it is.
        inputs: the example.
        tensors_decide: set small tensors of whole numbers otherwise, too.
        guesses: try not only flags for what is left out, but numbers, and tensors like the example's where the default is None.
        modes: whether in train mode, for each pass in which is seen what code compares numbers with.

    >>> class Gated(nn.Module):
    ...     def forward(self, x, gate=False, *, level=0.5):
    ...         return -x if gate or level > 0.7 else x
    >>> [str(turn) for turn in turns(Gated(), ((torch.ones(1),), {}))]
    ['gate=True', 'level=-0.3', 'level=1.7', 'level=0.25', 'level=1', 'level=0.7', 'level=-0.5', 'level=0']
    """
    left_out = (leaf for leaf in _left_out(model, inputs) if guesses or type(leaf.value) is bool)
    leaves = [*_given(model, inputs, tensors_decide), *left_out]
    if not leaves:
        return []
    noted = {leaf.name: list[Any]() for leaf in leaves if type(leaf.value) in (int, float, str)}

    def noting_inputs() -> Inputs:
        changed = fresh(*inputs)  # a forward pass may fill what it is given
        for leaf in leaves:
            if leaf.name in noted:
                changed = leaf.changed(noting(leaf.value, noted[leaf.name]), changed)
        return changed

    if noted:
        compared_with(model, noting_inputs, modes)
    words = code_words(model) if any(type(leaf.value) is str for leaf in leaves) else []
    every = (
        Turn(leaf.name, leaf.words, text, partial(leaf.changed, value), leaf.enough, type(leaf.value) is bool)
        for leaf in leaves
        for text, value in leaf.others(noted.get(leaf.name, []), words)
    )
    single = list(islice(every, TRIES))
    return [*single, *together(turn for turn in single if turn.flag)]


@dataclass(frozen=True, eq=False)
class _Leaf:
    """A plain value or a flag tensor among the inputs, or an argument that is left out.

    Attributes:
        name: of the input.
        value: what the example has.
        changed: makes inputs with another value of the example's.
        words: what the example has, in words.
        more: other values to try, with words for them, where it is no plain one.
        enough: see `Turn`.
    """

    name: str
    value: Any
    changed: Callable[[Any, Inputs], Inputs]
    words: str
    more: tuple[tuple[str, Any], ...] = ()
    enough: float = inf

    def others(self, compared: list[Any], words: list[str]) -> Iterator[tuple[str, Any]]:
        """The other values to try, with words for them, given those that it was compared with."""
        yield from self.more
        if type(self.value) in KINDS:
            yield from ((_words(other), other) for other in other_values(self.value, compared, words))


def _words(value: Any) -> str:
    return f"{value:.6g}" if type(value) is float else brief(value)


def together(single: Iterable[Turn]) -> Iterator[Turn]:
    """Yield turns in which several inputs are set otherwise, as code may ask for several: each two, and all.

    >>> class Gated(nn.Module):
    ...     def forward(self, x, a=False, b=True):
    ...         return -x if a and not b else x
    >>> [str(turn) for turn in together(turns(Gated(), ((torch.ones(1),), {})))]
    ['a=True, b=False']
    """
    first_of: dict[str, Turn] = {}
    for turn in single:
        if turn.enough > 1:
            first_of.setdefault(turn.name, turn)
    turned = list(first_of.values())
    for several in [*islice(combinations(turned, 2), PAIRS), *([turned] if len(turned) > 2 else [])]:

        def change(inputs: Inputs, several: Sequence[Turn] = several) -> Inputs:
            return reduce(lambda changed, turn: turn.change(changed), several, inputs)

        first, *rest = several
        given, value = ("".join(f", {t.name}={getattr(t, what)}" for t in rest) for what in ("given", "value"))
        yield Turn(first.name, first.given + given, first.value + value, change)


def _given(model: nn.Module, inputs: Inputs, tensors_decide: bool) -> Iterator[_Leaf]:
    """What the example gives."""
    names = _argument_names(model)
    compared = compared_numbers(model, fresh(*inputs)) if tensors_decide else []
    for number, (path, value) in enumerate(pytree.tree_flatten_with_path(inputs, is_leaf=_is_object)[0]):
        changed, name = partial(_with_leaf, number), _name(path, names)
        if type(value) in KINDS:
            yield _Leaf(name, value, changed, _words(value))
        elif tensors_decide and isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
            yield _Leaf(name, value, changed, "the example's", tuple(_turned_tensors(value, compared)))
        elif _is_object(value) or isinstance(value, dict):  # no plain one, whose entries are leaves
            for field, held in (value if isinstance(value, dict) else vars(value)).items():
                if type(held) in KINDS:
                    of_field = partial(_with_field, changed, field)
                    yield _Leaf(f"{name}.{field}", held, of_field, _words(held))


def _is_object(value: Any) -> bool:
    """Whether it is an object of settings, say, rather than a container, a tensor or a module."""
    return type(getattr(value, "__dict__", None)) is dict and not isinstance(
        value, (Tensor, nn.Module, type, Mapping, list, tuple)
    )


def _with_field(changed: Callable[[Any, Inputs], Inputs], field: str, value: Any, inputs: Inputs) -> Inputs:
    def other(settings: Any) -> Any:
        settings = copy(settings)
        (settings if isinstance(settings, dict) else vars(settings))[field] = value
        return settings

    return changed(other, inputs)


def _left_out(model: nn.Module, inputs: Inputs) -> Iterator[_Leaf]:
    """The arguments that the example leaves out, and those that it gives None."""
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind(*inputs[0], **inputs[1]).arguments
    except (TypeError, ValueError):
        return
    guesses = (*_guesses(inputs), *((_words(c), c) for c in islice(code_constants(model), FEW_CONSTANTS)))
    for name, parameter in signature.parameters.items():
        changed, value = partial(_with_argument, signature, name), given.get(name, parameter.default)
        if value is None:
            says_flag = "bool" in str(parameter.annotation)
            yield _Leaf(name, None, changed, LEFT_OUT, FLAGS if says_flag else guesses, 1)
        elif type(value) in KINDS and name not in given:
            yield _Leaf(name, value, changed, _words(value), enough=2)
        elif type(value) in (tuple, list) and value and name not in given:
            yield _Leaf(name, value, changed, brief(value), ((brief(type(value)()), type(value)()),))
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            for word in islice((word for word in code_words(model) if word not in inputs[1]), FEW):
                yield _Leaf(word, None, partial(_with_keyword, word), LEFT_OUT, (("True", True),), 1)


def _with_keyword(name: str, value: Any, inputs: Inputs) -> Inputs:
    return inputs[0], {**inputs[1], name: value}


def _guesses(inputs: Inputs) -> Iterator[tuple[str, Any]]:
    """What may be given for an argument that is None: what is like the inputs, or labels."""
    first = next((x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)), None)
    if first is not None:
        yield "a tensor", first.detach().clone()
        if first.is_floating_point() and first.dim():
            yield "a tensor", torch.zeros(len(first), dtype=torch.long, device=first.device)
    yield "True", True


def _turned_tensors(value: Tensor, compared: list[int]) -> Iterator[tuple[str, Any]]:
    """A tensor of whole numbers with entries turned: each of a few, else the first and the last.

    Where the example has no entry below zero, which ids and counts have not, none is tried.
    """
    entries = range(value.numel()) if value.numel() <= FEW else (0, -1)
    negative = bool((value < 0).any())
    for entry in entries:
        held = value.flatten()[entry].item()
        others = [other for other in other_values(held, compared) if negative or other >= 0]
        for other in others[: 1 if isinstance(held, bool) else max(2, 3 * len(compared) + 2)]:

            def turned(x: Tensor, entry: int = entry, other: Any = other) -> Tensor:
                flat = x.flatten().clone()
                flat[entry] = other
                return flat.view_as(x)

            yield f"one whose entry {entry} is {other}", turned


def _argument_names(model: nn.Module) -> list[str]:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def _name(path: Any, names: list[str]) -> str:
    """How code names what lies at a path in the inputs."""
    by_name, first, *inner = path
    key = first.idx if by_name.idx == 0 else first.key
    name = key if isinstance(key, str) else names[key] if key < len(names) else f"inputs[{key}]"
    return name + pytree.keystr(tuple(inner))


def _with_leaf(number: int, value: Any, inputs: Inputs) -> Inputs:
    leaves, form = pytree.tree_flatten(inputs, is_leaf=_is_object)
    leaves[number] = value(leaves[number]) if callable(value) else value
    args, kwargs = pytree.tree_unflatten(leaves, form)
    return args, kwargs


def _with_argument(signature: inspect.Signature, name: str, value: Any, inputs: Inputs) -> Inputs:
    """The inputs with one argument more, by position or by name as the example gives its own."""
    args, kwargs = inputs
    if not args:
        return (), {**kwargs, name: value}
    bound = signature.bind(*args, **kwargs)
    if signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
        return (), {**bound.arguments, name: value}
    bound.apply_defaults()
    bound.arguments[name] = value
    return bound.args[: max(len(args), list(signature.parameters).index(name) + 1)], {}
