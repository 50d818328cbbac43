"""Values that decide in a forward pass and hang on no weight and no measured number: on tokens, masks, edges and sizes alone.

The exporter knows no values, and stops where one decides which way the code goes or how large a tensor is. What follows
from whole numbers that the model is called with, or holds, is taken as the example has it, as its shapes are: the ops
then stand for inputs that decide alike, and are not written as a graph that would take others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses import fake_impls
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from secateur.state import own_tensors
from secateur.trees import tensors_within

__all__ = ["OF_NO_MODEL", "Decided", "decided_values", "deciding_as", "model_frame"]

aten = torch.ops.aten
Decided = dict[tuple[str, int], list[Any]]
"""For each line of code the values that it asked tensors for, in order; None for one that hangs on other numbers."""

INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor}
OF_NO_MODEL = tuple(f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(__file__).parents[1]))
"""Where torch's code and ours stand; libraries beside torch, such as torchvision, begin with its name."""


def decided_values(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, settled: bool = False
) -> Decided:
    """Return the values that a forward pass asks tensors for; empty where all hang on weights or measured numbers.

    With `settled`, what is drawn at random is the same each time, as when a layer is left out by chance.

    >>> class Until(nn.Module):
    ...     def forward(self, tokens, x):
    ...         return x[:, : int(tokens.max())]
    >>> list(decided_values(Until(), (torch.tensor([2, 3]), torch.ones(1, 9)), {}).values())
    [[3]]
    """
    whole = [x for x in [*tensors_within((args, dict(kwargs))), *own_tensors(model).values()] if _is_whole(x)]
    recording = _Recording(whole, settled)
    with recording:
        model(*args, **kwargs)
    values = recording.values
    return values if any(value is not None for several in values.values() for value in several) else {}


@dataclass(frozen=True)
class _Shape:
    """A tensor's shape and type, where those are all that the exporter wants of it."""

    sizes: tuple[int, ...]
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> _Shape:
        return cls(tuple(x.shape), x.dtype)


def _is_whole(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex()


def model_frame() -> FrameType:
    """Return the frame of the model's own code that runs."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OF_NO_MODEL):
        frame = frame.f_back
    return frame


def _line() -> tuple[str, int]:
    frame = model_frame()
    return frame.f_code.co_filename, frame.f_lineno


def _asks_if_finite(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether an op tells which numbers are none, or infinite: code asks so to stop, and all are finite in a model that works."""
    if func in COMPARING:
        return len(args) > 1 and (args[0] is args[1] or (type(args[1]) is float and abs(args[1]) == inf))
    return func in (aten.isnan.default, aten.isinf.default)


COMPARING = {aten.eq.Tensor, aten.ne.Tensor, aten.eq.Scalar, aten.ne.Scalar}


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows whole numbers through a forward pass, and notes what is asked of tensors."""

    def __init__(self, whole: list[Tensor], settled: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.settled = settled
        self.values: Decided = {}
        self.asked: dict[tuple[int, int], Tensor] = {}
        self.escaped = False
        self.followed = {
            x.untyped_storage()._cdata: x for x in whole
        }  # the tensors live as long, so that no number returns

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        chance = torch.Tag.nondeterministic_seeded in func.tags and not self.settled
        follows = not chance and (_asks_if_finite(func, args) or self._all_follow((args, kwargs or {}), func))
        if func is aten._local_scalar_dense.default:
            self._note_number(args[0], result if follows else None)
        elif func in INDEXING:
            for mask in (x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)):
                places = _Shape((int(mask.count_nonzero()), mask.dim()), torch.int64)
                self._note(places if self._follows(mask) else None)
        elif torch.Tag.dynamic_output_shape in func.tags:
            self._note(tree_map_only(Tensor, _Shape.of, result) if follows else None)
        for x in tensors_within(result):
            if follows:
                self.followed[x.untyped_storage()._cdata] = x
            else:
                self.followed.pop(x.untyped_storage()._cdata, None)
        return result

    def _all_follow(self, arguments: Any, func: Any) -> bool:
        """Whether nothing but whole numbers goes into a call; Python numbers do until one is another tensor's."""
        operands = [] if func is aten.lift_fresh.default else tensors_within(arguments)
        return all(map(self._follows, operands)) if operands else not self.escaped

    def _follows(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self.followed

    def _note_number(self, x: Tensor, value: Any) -> None:
        """Note a number once, however often the same tensor is asked for it: that differs where there are no values."""
        key = id(x), x._version
        self.escaped |= value is None
        if key not in self.asked:
            self.asked[key] = x
            self._note(value)

    def _note(self, value: Any) -> None:
        self.values.setdefault(_line(), []).append(value)


class _Replay:
    """Hands out the values again, to the same lines of code in the same order."""

    def __init__(self, values: Decided) -> None:
        self.values = values
        self.begin()

    def begin(self) -> None:
        """Start from the beginning of the forward pass."""
        self.asked: dict[tuple[int, int], tuple[Tensor, Any]] = {}
        self.left: dict[tuple[str, int], Iterator[Any]] = {line: iter(several) for line, several in self.values.items()}

    def number(self, x: Tensor) -> Any:
        """The number that a tensor holds."""
        key = id(x), x._version
        if key not in self.asked:
            self.asked[key] = x, self.next()
        return self.asked[key][1]

    def next(self) -> Any:
        """The next value of the line that runs; None where there is none."""
        return next(self.left.get(_line(), iter(())), None)


@contextmanager
def deciding_as(values: Decided) -> Iterator[Callable[[], None]]:
    """Let the exporter's tensors without values answer as given; yields what is to be called when a forward pass begins."""
    replay, table = _Replay(values), fake_impls.op_implementations_dict
    ops = [op for op in table if isinstance(op, OpOverload) and torch.Tag.dynamic_output_shape in op.tags]
    originals = {op: table[op] for op in (aten._local_scalar_dense.default, *ops) if op not in INDEXING}

    def number(mode: Any, op: Any, x: Any) -> Any:
        value = replay.number(x)
        return originals[op](mode, op, x) if value is None else value

    def shaped(mode: Any, op: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        shapes = replay.next()
        if shapes is None:
            return originals[op](mode, op, x, *args, **kwargs)
        return tree_map_only(_Shape, lambda shape: x.new_empty(shape.sizes, dtype=shape.dtype), shapes)

    try:
        if values:
            table.update({op: number if op is aten._local_scalar_dense.default else shaped for op in originals})
        yield replay.begin
    finally:
        table.update(originals)
