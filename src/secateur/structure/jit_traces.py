"""What `torch.jit.trace` records of a cut graph: with the sizes of other inputs, where the graph takes them, and no others.

The tracer follows a size through the functions of Python alone. The ops of a graph, which Python calls by their schemas, take it as a
number, and a trace would have the example's, whatever it is given later.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from secateur.trees import changed, tensors_within
from secateur.types import InputError

__all__ = ["require_traced", "sizes_written", "traced"]

WRITTEN = ContextVar("WRITTEN", default=False)
GUARDS: ContextVar[list[tuple[Tensor, str]] | None] = ContextVar("GUARDS", default=None)
"""What must hold at the inputs of the graph that is being traced, each with what is said where it does not."""
END = 2**62
"""From here on the end of a slice is the tensor's own."""


@contextmanager
def sizes_written() -> Iterator[None]:
    """Let what is traced have the sizes of the example as numbers, unguarded: for files that take these shapes alone."""
    token = WRITTEN.set(True)
    try:
        yield
    finally:
        WRITTEN.reset(token)


def traced(run: Callable[[], Any]) -> Any:
    """Return what a graph answers while it is traced, with the sizes of its inputs as far as others are computed of them.

    What must hold of them is checked wherever the trace runs.
    """
    with warnings.catch_warnings():
        # What Python decides by sizes are the graph's own checks.
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        if WRITTEN.get():
            with _WrittenSizes():
                return run()
        guards = list[tuple[Tensor, str]]()
        token = GUARDS.set(guards)
        try:
            with _FollowedSizes():
                outputs = run()
        finally:
            GUARDS.reset(token)
        first = next((y for y in tensors_within(outputs) if y.dim()), None)
        if first is None or not guards or torch.onnx.is_in_onnx_export():
            return outputs
        guarded = _guarded(first, guards)
        return changed(outputs, lambda y: guarded if y is first else y)


def require_traced(holds: Any, words: str) -> None:
    """Let the trace of a graph refuse inputs of which this does not hold; nothing is done where there is none."""
    if isinstance(holds, Tensor) and (guards := GUARDS.get()) is not None:
        guards.append((holds, words))


def _guarded(y: Tensor, guards: list[tuple[Tensor, str]]) -> Tensor:
    """The same tensor, of a size that is known where all holds: a trace leaves out what no output hangs on."""
    size: Any = y.size(0)
    for holds, words in guards:
        size = torch.ops.aten._functional_assert_async.msg(holds, words, size)
    guarded: Tensor = y.unflatten(0, (size,))  # type: ignore[no-untyped-call]
    return guarded


class _WrittenSizes(TorchFunctionMode):
    """Gives sizes as numbers, as they are outside of a trace."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return int(result) if func is Tensor.size else result


class _FollowedSizes(TorchFunctionMode):
    """Calls an op that is given a size which the tracer follows by its function of Python."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        arguments = func._schema.arguments
        given = [*zip(arguments, args, strict=False), *((a, kwargs[a.name]) for a in arguments if a.name in kwargs)]
        if not any(_is_followed(value) for argument, value in given if "Tensor" not in str(argument.type)):
            return func(*args, **kwargs)
        return _python_function(func)(*args, **kwargs)


def op_base(op: torch._ops.OpOverload) -> str:
    """Return the name of an op without its overload.

    >>> op_base(torch.ops.aten.view.default)
    'view'
    """
    return str(op._schema.name).rpartition("::")[2]


def _is_followed(value: Any) -> bool:
    """Whether a size, or one in a list, is what the tracer has in its place."""
    return isinstance(value, Tensor) or (isinstance(value, (list, tuple)) and any(isinstance(v, Tensor) for v in value))


def _python_function(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The function of Python that takes the same arguments as an op."""
    name = op_base(op).removeprefix("_unsafe_")
    if name == "slice":
        return _slice
    for holder in (torch, torch.Tensor, torch._C._nn):
        if function := getattr(holder, name, None):
            return function  # type: ignore[no-any-return]
    raise InputError(
        f"torch.jit.trace cannot follow a size into {op} of a graph: use torch.export.export, or cut the model in module form"
    )


def _slice(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    end = None if isinstance(end, int) and end > END else end
    return x[(*[slice(None)] * (dim % x.dim()), slice(start, end, step))]
