"""Inputs by which code may decide, set otherwise than the example has them: flags, numbers, words, and what is left out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations, islice, pairwise
from math import floor, inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.structure.train_code import logged_pass
from secateur.types import brief

__all__ = ["LEFT_OUT", "Turn", "turns"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

TRIES = 32
"""How many inputs that are set otherwise are tried of a model, each by itself."""
FEW = 8
"""How many other values are tried of one input; a tensor of no more entries may hold a flag each."""
LARGEST = 10**5
"""Numbers beyond are not tried: code may count up to them."""
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
    """

    name: str
    given: str
    value: str
    change: Callable[[Inputs], Inputs]
    enough: float = inf

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


def turns(model: nn.Module, inputs: Inputs, *, tensors_decide: bool = False, guesses: bool = True) -> list[Turn]:
    """Return the inputs of a model that may decide which way its code goes, each set otherwise.

    These are plain values, and those that the example leaves out. Numbers and words are tried on the other side of what the
    code compares them with in one pass, which is made where there are any.

    Args:
        model: the model; it is left as it is.
        inputs: the example.
        tensors_decide: set small tensors of whole numbers otherwise, too.
        guesses: try not only flags for what is left out, but numbers, and tensors like the example's where the default is None.

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
    compared = _compared(model, inputs, leaves)
    every = (
        Turn(leaf.name, leaf.words, words, partial(leaf.changed, value), leaf.enough)
        for leaf in leaves
        for words, value in leaf.others(compared.get(leaf.name, []))
    )
    return [*islice(every, TRIES), *islice(_together(leaves), FEW)]


@dataclass(frozen=True, eq=False)
class _Leaf:
    """A plain value or a flag tensor among the inputs, or an argument that is left out.

    Attributes:
        name: of the input.
        value: what the example has.
        changed: makes inputs with another value of the example's.
        words: what the example has, in words.
        more: other values to try, with words for them.
        enough: see `Turn`.
    """

    name: str
    value: Any
    changed: Callable[[Any, Inputs], Inputs]
    words: str
    more: tuple[tuple[str, Any], ...] = ()
    enough: float = inf

    def others(self, compared: list[Any]) -> Iterator[tuple[str, Any]]:
        """The other values to try, with words for them, given those that it was compared with."""
        yield from self.more
        if type(self.value) in OTHERS:
            others = dict.fromkeys(OTHERS[type(self.value)](self.value, compared))
            likely = (n for n in others if n != self.value and (type(n) is str or abs(n) <= LARGEST))
            yield from ((_words(other), other) for other in islice(likely, FEW))


def _words(value: Any) -> str:
    return f"{value:.6g}" if type(value) is float else brief(value)


def _together(leaves: Iterable[_Leaf]) -> Iterator[Turn]:
    """Two flags that are turned together, as code may ask for both."""
    flags = [leaf for leaf in leaves if type(leaf.value) is bool]
    for one, other in combinations(flags, 2):
        values = f"{not one.value}, {other.name}={not other.value}"

        def change(inputs: Inputs, one: _Leaf = one, other: _Leaf = other) -> Inputs:
            return other.changed(not other.value, one.changed(not one.value, inputs))

        yield Turn(one.name, f"{one.words}, {other.name}={other.words}", values, change)


def _given(model: nn.Module, inputs: Inputs, tensors_decide: bool) -> Iterator[_Leaf]:
    """What the example gives."""
    names, keys = _argument_names(model), _keys(model)
    for number, (path, value) in enumerate(pytree.tree_flatten_with_path(inputs)[0]):
        changed = partial(_with_leaf, number)
        if type(value) in OTHERS:
            yield _Leaf(_name(path, names), value, changed, _words(value), keys if type(value) is str else ())
        elif tensors_decide and isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
            yield _Leaf(_name(path, names), value, changed, "the example's", tuple(_turned_tensors(value)))


def _keys(model: nn.Module) -> tuple[tuple[str, str], ...]:
    """What code may choose modules by."""
    keys = {name: brief(name) for m in model.modules() if isinstance(m, nn.ModuleDict) for name in m}
    return tuple((words, name) for name, words in islice(keys.items(), FEW))


def _left_out(model: nn.Module, inputs: Inputs) -> Iterator[_Leaf]:
    """The arguments that the example leaves out, and those that it gives None."""
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind(*inputs[0], **inputs[1]).arguments
    except (TypeError, ValueError):
        return
    guesses, keys = tuple(_guesses(inputs)), _keys(model)
    for name, parameter in signature.parameters.items():
        changed, value = partial(_with_argument, signature, name), given.get(name, parameter.default)
        if value is None:
            says_flag = "bool" in str(parameter.annotation)
            yield _Leaf(name, None, changed, LEFT_OUT, FLAGS if says_flag else guesses, 1)
        elif type(value) in OTHERS and name not in given:
            yield _Leaf(name, value, changed, _words(value), keys if type(value) is str else (), 2)
        elif type(value) in (tuple, list) and value and name not in given:
            yield _Leaf(name, value, changed, brief(value), ((brief(type(value)()), type(value)()),))
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
            yield from _asked_by_name(model, set(inputs[1]))


def _asked_by_name(model: nn.Module, given: Container[str]) -> Iterator[_Leaf]:
    """The arguments that a forward pass which takes any may look for."""
    code = getattr(inspect.unwrap(model.forward), "__code__", None)
    words = [word for word in getattr(code, "co_consts", ()) if type(word) is str and word.isidentifier()]
    for word in islice((word for word in dict.fromkeys(words) if word not in given), FEW):
        yield _Leaf(word, None, partial(_with_keyword, word), LEFT_OUT, (("True", True),))


def _with_keyword(name: str, value: Any, inputs: Inputs) -> Inputs:
    if inputs[0]:
        raise TypeError("an example is positional or by name, and not both")
    return (), {**inputs[1], name: value}


def _guesses(inputs: Inputs) -> Iterator[tuple[str, Any]]:
    """What may be given for an argument that is None: what is like the inputs, or labels."""
    first = next((x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)), None)
    if first is not None:
        yield "a tensor", first.detach().clone()
        if first.is_floating_point() and first.dim():
            yield "a tensor", torch.zeros(len(first), dtype=torch.long, device=first.device)
    yield "True", True


def _turned_tensors(value: Tensor) -> Iterator[tuple[str, Any]]:
    """A tensor of whole numbers with entries turned: each of a few, else the first and the last."""
    entries = range(value.numel()) if value.numel() <= FEW else (0, -1)
    for entry in entries:
        for other in _flag_values(value.flatten()[entry].item()):

            def turned(x: Tensor, entry: int = entry, other: Any = other) -> Tensor:
                flat = x.flatten().clone()
                flat[entry] = other
                return flat.view_as(x)

            yield f"one whose entry {entry} is {other}", turned


def _flag_values(value: Any) -> list[Any]:
    return [not value] if isinstance(value, bool) else [n for n in (0, 1, value + 1) if n != value][:2]


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
    leaves, form = pytree.tree_flatten(inputs)
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


def _noting(kind: type[Any], noted: list[Any]) -> type[Any]:
    """The type of a number or word that notes what it is compared with."""

    def comparison(operator: str) -> Callable[..., Any]:
        def compared(self: Any, other: Any) -> Any:
            if isinstance(other, kind if kind is str else (int, float)):
                noted.append(other)
            return getattr(kind, operator)(self, other)

        return compared

    operators = ("eq", "ne") if kind is str else ("eq", "ne", "lt", "le", "gt", "ge")
    return type(
        kind.__name__, (kind,), {"__hash__": kind.__hash__} | {f"__{o}__": comparison(f"__{o}__") for o in operators}
    )


def _compared(model: nn.Module, inputs: Inputs, leaves: Iterable[_Leaf]) -> dict[str, list[Any]]:
    """What code compares the numbers and words among the inputs with, by their names."""
    noted: dict[str, list[Any]] = {}
    with suppress(Exception):  # code may insist on plain numbers, and no argument may be given by position
        changed_inputs = inputs
        for leaf in leaves:
            if type(leaf.value) in (int, float, str):
                noted[leaf.name] = []
                changed_inputs = leaf.changed(_noting(type(leaf.value), noted[leaf.name])(leaf.value), changed_inputs)
        if noted:
            with logged_pass(model, training=False):
                args, kwargs = changed_inputs
                model(*args, **kwargs)
    return noted


def _other_integers(value: int, compared: list[Any]) -> list[Any]:
    near = [floor(other) + step for other in compared if isfinite(other) for step in (0, 1, -1)]
    return [*near, value + 1, value - 1, *range(4)]


def _other_numbers(value: float, compared: list[Any]) -> list[Any]:
    """Numbers between those that it is compared with, these themselves, and some that are often meant."""
    points = sorted({float(other) for other in compared if isfinite(other)})
    between = [(low + high) / 2 for low, high in pairwise(points)]
    beyond = [points[0] - 1, points[-1] + 1] if points else []
    # Zero is likely to hide what it scales.
    return sorted([*between, *beyond, value / 2, value * 2, *points, 1.0, -value, 0.0], key=lambda number: number == 0)


OTHERS: Mapping[type[Any], Callable[[Any, list[Any]], list[Any]]] = {
    bool: lambda value, _: [not value],
    int: _other_integers,
    float: _other_numbers,
    str: lambda _, compared: compared,
}
"""Other values of one, given what it was compared with."""
