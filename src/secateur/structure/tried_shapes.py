"""Which shapes a cut graph takes: those that the code allows by its comparisons, as far as runs there agree.

A size may be other than the example's where the exporter found that the ops are the same (`free_sizes`), and where the graph
answered as the original does at smaller and at greater sizes, even and odd ones, alone and with others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from math import ceil, floor
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from secateur.structure.accepted import Shapes, Span, in_span
from secateur.structure.cases import Cases
from secateur.structure.frames import ShapedFrame
from secateur.structure.free_sizes import FreeSizes

__all__ = ["shapes_taken"]

Agrees = Callable[[ShapedFrame], bool | None]
"""Whether the graph answers as the original does at some shapes; None where the original does not run."""


def shapes_taken(cases: Cases, free: FreeSizes | None, agrees: Agrees) -> Shapes:
    """Return the shapes of the inputs that a graph takes.

    Args:
        cases: what the graph is verified on.
        free: which sizes may be others at all.
        agrees: compares the graph with the masked model at some shapes.
    """
    tensors = [x for x in pytree.tree_leaves(cases.reference.inputs) if isinstance(x, Tensor)]
    if free is None or not free.ranges:
        return tuple(tuple(x.shape) for x in tensors)
    trial = _Trial(free, tensors, agrees, cases.cheap)
    spans = trial.spans()
    return tuple(tuple(_taken(size, spans, free) for size in shape) for shape in free.shapes)


def _taken(size: Any, spans: Mapping[Any, Span], free: FreeSizes) -> int | Span | None:
    """What a size may be: what follows from others is a condition where they are free."""
    if isinstance(size, int):
        return size
    if not size.is_Symbol:
        return None if any(letter in spans for letter in size.free_symbols) else int(size.subs(free.examples))
    if size not in spans:
        return free.examples[size]
    return None if spans[size] == (1, None) else spans[size]


Setting = dict[Any, int]
"""Numbers for some of the letters; the others are as on the example."""
Outcomes = list[tuple[Setting, bool | None]]


@dataclass(eq=False)
class _Trial:
    """Runs at other sizes.

    Attributes:
        free: which sizes may be others.
        tensors: the inputs of the example.
        agrees: compares at some shapes.
        cheap: whether the model is run at many and at great sizes.
    """

    free: FreeSizes
    tensors: list[Tensor]
    agrees: Agrees
    cheap: bool

    def spans(self) -> dict[Any, Span]:
        """What each letter may be; those that may be nothing else are left out."""
        first = {shape[0] for shape in self.free.shapes if shape}
        groups = [[s for s in self.free.ranges if (s in first) == is_first] for is_first in (True, False)]
        groups = [group for group in groups if group]
        settings = [self._settings(group) for group in groups]
        together = [{k: v for part in parts for k, v in part.items()} for parts in zip_longest(*settings, fillvalue={})]
        outcomes = self._outcomes(together)
        if outcomes and all(agreed for _, agreed in outcomes):
            return self._spans(outcomes)
        spans: dict[Any, Span] = {}
        for group, tried in zip(groups, settings, strict=True):
            alone = self._spans(self._outcomes(tried))
            if not alone and len(group) > 1:
                for letter in group:
                    alone |= self._spans(self._outcomes(self._settings([letter])))
            both = [{**one, **other} for one, other in zip(self._within(spans), self._within(alone), strict=False)]
            if all(agreed is not False for _, agreed in self._outcomes(both)):
                spans |= alone
        return spans

    def _within(self, spans: Mapping[Any, Span]) -> list[Setting]:
        """Settings of letters that may be others, as far as they may."""
        settings = self._settings(list(spans))
        return [s for s in settings if all(in_span(number, spans[letter]) for letter, number in s.items())][:2]

    def _settings(self, letters: list[Any]) -> list[Setting]:
        """Numbers that are less and greater, even and odd, and that the comparisons of the code allow."""
        below, above = (self._allowed(letters, sizes) for sizes in (_less, _greater))
        pairs = zip_longest(below, above)
        settings = [setting for pair in pairs for setting in pair if setting]
        return (settings if self.cheap else settings[:2]) if letters else []

    def _allowed(self, letters: list[Any], sizes: Callable[[int], list[int]]) -> list[Setting]:
        proposals = zip(*(sizes(max(2, self.free.examples[letter])) for letter in letters), strict=True)
        settings = [dict(zip(letters, numbers, strict=True)) for numbers in dict.fromkeys(proposals)]
        settings = [
            s for s in settings if min(s.values()) > 0 and self.free.allow({**self.free.examples, **s}, least=1)
        ]
        return [*settings[:2], *settings[-1:]] if len(settings) > 2 else settings

    def _outcomes(self, settings: Iterable[Setting]) -> Outcomes:
        return [(setting, self._agrees(setting)) for setting in settings]

    def _agrees(self, setting: Setting) -> bool | None:
        letters = {**self.free.examples, **setting}
        if not self.free.allow(letters, least=1):
            return None
        shapes = self.free.shapes_at(letters)
        return self.agrees(ShapedFrame(shapes={id(x): shape for x, shape in zip(self.tensors, shapes, strict=True)}))

    def _spans(self, outcomes: Outcomes) -> dict[Any, Span]:
        """What letters may be after these runs."""
        letters = dict.fromkeys(letter for setting, _ in outcomes for letter in setting)
        spans = {letter: self._span(letter, outcomes) for letter in letters}
        return {letter: span for letter, span in spans.items() if span != (self.free.examples[letter],) * 2}

    def _span(self, letter: Any, outcomes: Outcomes) -> Span:
        example, (low, high) = self.free.examples[letter], self.free.ranges[letter]
        runs = [(setting[letter], agreed) for setting, agreed in outcomes if letter in setting]
        below, above = (
            [agreed for n, agreed in runs if n in side] for side in (range(2, example), range(example + 1, LARGEST))
        )
        low = low if True in below and False not in below else example
        high = high if True in above and False not in above else example
        # The exporter takes no size to be 1: only a run tells.
        if low <= 2 and ((1, True) in runs or (not any(n == 1 for n, _ in runs) and self._agrees({letter: 1}))):
            low = 1
        return low, high


LARGEST = 2**62


def _less(size: int) -> list[int]:
    return [size - 1, size - 2, _in_steps(size, 0.75), size // 2, size // 4]


def _greater(size: int) -> list[int]:
    return [size + 1, size + 2, _in_steps(size, 1.25), 2 * size, 3 * size + 1]


def _in_steps(size: int, scale: float) -> int:
    """About `scale` of a size, in steps as large as halves of it allow."""
    step = min(size & -size, 32)
    return max(1, floor(size * scale / step) * step) if scale < 1 else ceil(size * scale / step) * step
