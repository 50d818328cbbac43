"""What code may decide by among its inputs: plain values, in settings of any form too, what is left out, and flag tensors."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.state import fresh
from secateur.structure.noting import Asked, can_note, noting_within
from secateur.structure.places import Lookup, Path, changed_at, within
from secateur.structure.tried_values import (
    NO_WORD,
    code_constants,
    code_words,
    compared_numbers,
    is_tried,
    ops_run,
    other_values,
)
from secateur.trees import tensors_within
from secateur.types import brief

__all__ = ["GIVEN", "LEFT_OUT", "Inputs", "Leaf", "decisive"]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
Guesses = tuple[tuple[str, Any], ...]
"""Values to try, with words for them."""

FEW = 8
"""A tensor of no more entries may hold a flag each; and how many words are tried as names of arguments."""
FEW_CONSTANTS = 4
"""How many numbers and words of the code are tried for an argument that is None."""
LEFT_OUT, GIVEN = "left out", "given"
FLAGS = (("True", True), ("False", False))


@dataclass(frozen=True, eq=False)
class Leaf:
    """A value among the inputs, or one that is left out.

    Attributes:
        name: of the input.
        value: what the example has.
        changed: makes inputs with another value of the example's.
        words: what the example has, in words.
        compared: what code was seen to compare it with.
        more: other values to try, with words for them, where it is no plain one.
        enough: see `Turn`.
        left_out: whether the example leaves it out.
        is_seen: whether code was seen to look at it.
    """

    name: str
    value: Any
    changed: Callable[[Any, Inputs], Inputs]
    words: str
    compared: Sequence[Any] = ()
    more: tuple[tuple[str, Any], ...] = ()
    enough: float = inf
    left_out: bool = False
    is_seen: bool = True

    @property
    def is_likely(self) -> bool:
        """Whether code is seen to decide by it, or has no other use for it."""
        is_number = type(self.value) in (int, float, str)
        return bool(self.compared) or (self.is_seen and self.value is not None and not is_number)

    def others(self, words: list[str]) -> Iterator[tuple[str, Any]]:
        """The other values to try, with words for them, given what may stand for a word."""
        yield from self.more or ((_words(other), other) for other in other_values(self.value, self.compared, words))


def decisive(model: nn.Module, inputs: Inputs, *, tensors_decide: bool, modes: Sequence[bool]) -> Iterator[Leaf]:
    """Yield what code may decide by: see `turns`."""
    roots, guesses = [*_given(model, inputs), *_defaults(model, inputs)], _guesses(model, inputs)
    asked = _asked(model, inputs, roots, modes)
    for root in roots:
        yield from _plain(model, root, asked.get(root, Asked()), guesses)
    if tensors_decide:
        yield from _tensors(model, inputs, roots)
    yield from _left_out(model, inputs, guesses)


@dataclass(frozen=True, eq=False)
class _Root:
    """An input that the example gives, or an argument that it leaves out and is something then.

    Attributes:
        name: the input, as the model's code names it.
        value: what the example has, or the default.
        changed: makes of inputs those in which a function has changed it.
        left_out: whether it is a default.
    """

    name: str
    value: Any
    changed: Callable[[Callable[[Any], Any], Inputs], Inputs]
    left_out: bool = False

    def leaf(self, path: Path, value: Any, words: str, **more: Any) -> Leaf:
        """What lies at a path within."""
        return Leaf(self.name + "".join(map(str, path)), value, partial(self._placed, path), words, **more)

    def _placed(self, path: Path, value: Any, inputs: Inputs) -> Inputs:
        of_tensor = isinstance(value, _TurnedEntry)
        return self.changed(partial(changed_at, path, value if of_tensor else lambda _: value), inputs)


def _given(model: nn.Module, inputs: Inputs) -> Iterator[_Root]:
    """What the example gives."""
    by_place = [a.argument.name for a in _arguments(model, inputs) if a.argument.kind in BY_PLACE]
    for number, value in enumerate(inputs[0]):
        name = by_place[number] if number < len(by_place) else f"inputs[{number}]"
        yield _Root(name, value, partial(changed_at, (Lookup(0), Lookup(number))))
    for name, value in inputs[1].items():
        yield _Root(name, value, partial(changed_at, (Lookup(1), Lookup(name))))


BY_PLACE = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _defaults(model: nn.Module, inputs: Inputs) -> Iterator[_Root]:
    """The arguments that the example leaves out, and which are something then."""
    for each in _arguments(model, inputs):
        default = each.argument.default
        if not each.is_given and default is not None and default is not inspect.Parameter.empty:
            yield _Root(each.argument.name, default, each.changed, left_out=True)


@dataclass(frozen=True, eq=False)
class _Argument:
    """An argument of a model, with what the example gives for it."""

    signature: inspect.Signature
    argument: inspect.Parameter
    is_given: bool
    value: Any

    def changed(self, change: Callable[[Any], Any], inputs: Inputs) -> Inputs:
        """The inputs in which it is what a function makes of its default."""
        return _with_argument(self.signature, self.argument.name, change(self.argument.default), inputs)

    def placed(self, value: Any, inputs: Inputs) -> Inputs:
        """The inputs in which it is a value."""
        return self.changed(lambda _: value, inputs)

    def of_one(self, value: Any, inputs: Inputs) -> Inputs:
        """The inputs in which it, which takes any number of values, is one."""
        return self.placed((value,), inputs)


def _arguments(model: nn.Module, inputs: Inputs) -> Iterator[_Argument]:
    try:
        signature = inspect.signature(model.forward)
        given = signature.bind(*inputs[0], **inputs[1]).arguments
    except (TypeError, ValueError):
        return
    for name, argument in signature.parameters.items():
        yield _Argument(signature, argument, name in given, given.get(name, argument.default))


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


def _asked(model: nn.Module, inputs: Inputs, roots: list[_Root], modes: Sequence[bool]) -> dict[_Root, Asked]:
    """What code asks of those inputs that can note it."""
    asked = {root: Asked() for root in roots if any(can_note(value) for _, value in within(root.value))}

    def noting_inputs() -> Inputs:
        changed = fresh(*inputs)  # a forward pass may fill what it is given
        for root, of_root in asked.items():
            changed = root.changed(partial(noting_within, asked=of_root), changed)
        return changed

    ops = ops_run(model, noting_inputs, modes) if asked else []
    passed_over = any(_passed_over(root, of_root) for root, of_root in asked.items())
    if passed_over and ops != ops_run(model, lambda: fresh(*inputs), modes):
        for of_root in asked.values():  # code takes another way with what notes, and may look up more on its own
            of_root.looked_up.clear()
    return asked


def _passed_over(root: _Root, asked: Asked) -> bool:
    """Whether code did not look at some plain value of an input."""
    return any((is_tried(value) or value is None) and not asked.saw(path) for path, value in within(root.value))


def _plain(model: nn.Module, root: _Root, asked: Asked, guesses: Guesses) -> Iterator[Leaf]:
    """The plain values that code looked at within an input, and flags, which it may look at where another is set otherwise."""
    often = {"enough": 2, "left_out": True} if root.left_out else {}
    is_state = bool(tensors_within(root.value))  # an object of flags and tensors is no settings
    for path, inner in within(root.value):
        saw = asked.saw(path)
        if is_tried(inner) and (saw or (type(inner) is bool and not (is_state and path[-1].is_field))):
            yield root.leaf(path, inner, _words(inner), compared=asked.compared.get(path, ()), is_seen=saw, **often)
        elif inner is None and (path in asked.looked_up or path[:-1] in asked.whole):
            yield root.leaf(path, None, "None", more=guesses, enough=1, left_out=True)
        elif path in asked.whole and isinstance(inner, Mapping) and not tensors_within(inner):
            names = [word for word in code_words(model) if word not in inner]
            for word in names[:FEW] or [NO_WORD] * (not inner):
                way = (*path, Lookup(word))
                yield root.leaf(way, None, LEFT_OUT, more=(("True", True),), enough=1, left_out=True)
    for path, instead in asked.missing.items():
        if is_tried(instead):
            words = _words(instead) if path[-1].is_field else LEFT_OUT
            yield root.leaf(path, instead, words, compared=asked.compared.get(path, ()), enough=2, left_out=True)
        else:
            of_settings = tuple(guess for guess in guesses if not (path[-1].is_field and isinstance(guess[1], Tensor)))
            yield root.leaf(path, None, LEFT_OUT, more=of_settings, enough=1, left_out=True)


def _words(value: Any) -> str:
    return f"{value:.6g}" if type(value) is float else brief(value)


def _tensors(model: nn.Module, inputs: Inputs, roots: list[_Root]) -> Iterator[Leaf]:
    """Tensors of whole numbers among what the example gives."""
    compared, in_code = compared_numbers(model, fresh(*inputs))
    for root in roots:
        for path, x in within(root.value):
            if isinstance(x, Tensor) and not (x.is_floating_point() or x.is_complex()) and not root.left_out:
                yield root.leaf(path, x, "the example's", more=tuple(_turned_tensors(x, compared, in_code)))


@dataclass(frozen=True)
class _TurnedEntry:
    """Makes of a tensor one of which an entry is another."""

    entry: int
    other: Any

    def __call__(self, x: Tensor) -> Tensor:
        flat = x.flatten().clone()
        flat[self.entry] = self.other
        return flat.view_as(x)


def _turned_tensors(value: Tensor, compared: list[int], in_code: list[int]) -> Iterator[tuple[str, Any]]:
    """A tensor of whole numbers with entries turned: each of a few, else the first and the last.

    Where the example has no entry below zero, which ids and counts have not, none is tried.
    """
    entries = range(value.numel()) if value.numel() <= FEW else (0, -1)
    negative = bool((value < 0).any())
    for entry in entries:
        held = value.flatten()[entry].item()
        alone = value.numel() == 1
        others = [n for n in other_values(held, [*compared, *in_code] if alone else compared) if negative or n >= 0]
        several = FEW if alone else max(2, 3 * len(compared) + 2)
        for other in others[: 1 if isinstance(held, bool) else several]:
            yield f"one whose entry {entry} is {other}", _TurnedEntry(entry, other)


def _left_out(model: nn.Module, inputs: Inputs, guesses: Guesses) -> Iterator[Leaf]:
    """The arguments that are None, or were without the example, and those that a model takes by any name."""
    for each in _arguments(model, inputs):
        if each.value is None:
            flags = FLAGS if "bool" in str(each.argument.annotation) else guesses
            yield Leaf(each.argument.name, None, each.placed, LEFT_OUT, more=flags, enough=1, left_out=True)
        elif each.is_given and each.argument.default is None:
            yield Leaf(each.argument.name, each.value, each.placed, GIVEN, more=(("None", None),), enough=1)
        elif each.argument.kind is inspect.Parameter.VAR_KEYWORD:
            for word in islice((word for word in code_words(model) if word not in inputs[1]), FEW):
                with_word = partial(_with_keyword, word)
                yield Leaf(word, None, with_word, LEFT_OUT, more=(("True", True),), enough=1, left_out=True)
        elif each.argument.kind is inspect.Parameter.VAR_POSITIONAL and inputs[0] and not each.is_given:
            yield Leaf(f"*{each.argument.name}", None, each.of_one, LEFT_OUT, more=guesses, enough=1, left_out=True)


def _with_keyword(name: str, value: Any, inputs: Inputs) -> Inputs:
    return inputs[0], {**inputs[1], name: value}


def _guesses(model: nn.Module, inputs: Inputs) -> Guesses:
    """What may be given for what is None: what is like the inputs, labels, a flag, and what the code has."""
    guesses: list[tuple[str, Any]] = []
    first = next((x for x in pytree.tree_leaves(inputs) if isinstance(x, Tensor)), None)
    if first is not None:
        guesses.append(("a tensor", first.detach().clone()))
        if first.is_floating_point() and first.dim():
            guesses.append(("a tensor", torch.zeros(len(first), dtype=torch.long, device=first.device)))
    constants = islice(code_constants(model), FEW_CONSTANTS)
    return (*guesses, ("True", True), *((_words(constant), constant) for constant in constants))
