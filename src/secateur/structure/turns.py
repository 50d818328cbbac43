"""Inputs by which code may decide, set otherwise than the example has them: flags, numbers, words, and what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import combinations, islice, zip_longest
from math import inf

from torch import nn

from secateur.structure.deciding import GIVEN, LEFT_OUT, Inputs, decisive
from secateur.structure.tried_values import code_words

__all__ = ["GIVEN", "LEFT_OUT", "Turn", "together", "turns"]

TRIES = 32
"""How many inputs that are set otherwise are tried of a model, each by itself."""
PAIRS = 10
"""How many pairs of them are tried together."""


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

    >>> import torch
    >>> class Gated(nn.Module):
    ...     def forward(self, x, gate=False, *, level=0.5):
    ...         return -x if gate or level > 0.7 else x
    >>> [str(turn) for turn in turns(Gated(), ((torch.ones(1),), {}))]
    ['gate=True', 'level=-0.3', 'level=1.7', 'level=0.25', 'level=1', 'level=0.7', 'level=-0.5', 'level=0']
    """
    leaves = list(decisive(model, inputs, tensors_decide=tensors_decide, modes=modes))
    words = code_words(model) if any(type(leaf.value) is str for leaf in leaves) else []
    likely, less = list[list[Turn]](), list[list[Turn]]()
    for leaf in leaves:
        is_flag = type(leaf.value) is bool
        if guesses or is_flag or not leaf.left_out:
            several = [
                Turn(leaf.name, leaf.words, text, partial(leaf.changed, value), leaf.enough, is_flag)
                for text, value in leaf.others(words)
            ]
            (likely if leaf.is_likely else less).append(several)
    # Of each some are tried where there are too many.
    rounds = (turn for several in (likely, less) for each in zip_longest(*several) for turn in each)
    single = list(islice(filter(None, rounds), TRIES))
    return [*single, *together(turn for turn in single if turn.flag)]


def together(single: Iterable[Turn]) -> Iterator[Turn]:
    """Yield turns in which several inputs are set otherwise, as code may ask for several: each two, and all.

    >>> import torch
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
