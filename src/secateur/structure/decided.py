"""Values that decide in a forward pass and hang on no weight and no measured number: on tokens, masks, edges and sizes alone.

The exporter knows no values, and stops where one decides which way the code goes or how large a tensor is. What follows
from whole numbers that the model is called with, or holds, is taken as the example has it, as its shapes are: the ops
then stand for inputs that decide alike, and are not written as a graph that would take others.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_impls
from torch.utils._python_dispatch import TorchDispatchMode

from secateur.state import own_tensors
from secateur.trees import tensors_within

__all__ = ["Decided", "decided_values", "deciding_as"]

aten = torch.ops.aten
Decided = dict[tuple[str, int], list[Any]]
"""For each line of code the values that it asked tensors for, in order; None for one that hangs on other numbers."""

INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor}
OF_NO_MODEL = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))


def decided_values(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Decided:
    """Return the values that a forward pass asks tensors for; empty where all hang on weights or measured numbers.

    >>> class Until(nn.Module):
    ...     def forward(self, tokens, x):
    ...         return x[:, : int(tokens.max())]
    >>> list(decided_values(Until(), (torch.tensor([2, 3]), torch.ones(1, 9)), {}).values())
    [[3]]
    """
    whole = [x for x in [*tensors_within((args, dict(kwargs))), *own_tensors(model).values()] if _is_whole(x)]
    recording = _Recording(whole)
    with recording:
        model(*args, **kwargs)
    values = recording.values
    return values if any(value is not None for several in values.values() for value in several) else {}


def _is_whole(x: Tensor) -> bool:
    return not x.is_floating_point() and not x.is_complex()


def _line() -> tuple[str, int]:
    """The line of the model's own code that runs."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OF_NO_MODEL):
        frame = frame.f_back
    return frame.f_code.co_filename, frame.f_lineno


class _Recording(TorchDispatchMode):
    """Follows whole numbers through a forward pass, and notes what is asked of tensors."""

    def __init__(self, whole: list[Tensor]) -> None:
        super().__init__()
        self.values: Decided = {}
        self.followed = {
            x.untyped_storage()._cdata: x for x in whole
        }  # the tensors live as long, so that no number returns

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        random = torch.Tag.nondeterministic_seeded in func.tags
        follows = not random and all(self._follows(x) for x in tensors_within((args, kwargs or {})))
        if func is aten._local_scalar_dense.default:
            self._note(result if follows else None)
        elif func is aten.nonzero.default:
            self._note(len(result) if follows else None)
        elif func in INDEXING:
            for mask in (x for x in args[1] if x is not None and x.dtype in (torch.bool, torch.uint8)):
                self._note(int(mask.count_nonzero()) if self._follows(mask) else None)
        for x in tensors_within(result):
            if follows:
                self.followed[x.untyped_storage()._cdata] = x
            else:
                self.followed.pop(x.untyped_storage()._cdata, None)
        return result

    def _follows(self, x: Tensor) -> bool:
        return x.untyped_storage()._cdata in self.followed

    def _note(self, value: Any) -> None:
        self.values.setdefault(_line(), []).append(value)


class _Replay:
    """Hands out the values again, to the same lines of code in the same order."""

    def __init__(self, values: Decided) -> None:
        self.values = values
        self.begin()

    def begin(self) -> None:
        """Start from the beginning of the forward pass."""
        self.left: dict[tuple[str, int], Iterator[Any]] = {line: iter(several) for line, several in self.values.items()}

    def next(self) -> Any:
        """The next value of the line that runs; None where there is none."""
        return next(self.left.get(_line(), iter(())), None)


@contextmanager
def deciding_as(values: Decided) -> Iterator[Callable[[], None]]:
    """Let the exporter's tensors without values answer as given; yields what is to be called when a forward pass begins."""
    replay, table = _Replay(values), fake_impls.op_implementations_dict
    originals = {op: table[op] for op in (aten._local_scalar_dense.default, aten.nonzero.default)}

    def number(mode: Any, op: Any, x: Any) -> Any:
        value = replay.next()
        return originals[op](mode, op, x) if value is None else value

    def places(mode: Any, op: Any, x: Any) -> Any:
        count = replay.next()
        return originals[op](mode, op, x) if count is None else x.new_empty((count, x.dim()), dtype=torch.int64)

    try:
        if values:
            table.update({aten._local_scalar_dense.default: number, aten.nonzero.default: places})
        yield replay.begin
    finally:
        table.update(originals)
