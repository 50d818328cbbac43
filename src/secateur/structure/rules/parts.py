"""Rules of the ops that take a tensor apart along one dimension: into parts, a slice, one entry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Axis, factor, fixed, freeze, resolve, split
from secateur.structure.rules.registry import Call, Value, op_name, rule
from secateur.structure.rules.shapes import sources, with_axis


def cut_up(call: Call, axis: Axis, sizes: Sequence[int]) -> list[Axis]:
    """Write `axis` as consecutive parts of `sizes`."""
    parts: list[Axis] = []
    rest = resolve(axis)
    for size in sizes[:-1]:
        halves = split(rest, size)
        if halves is None:
            call.freeze(axis, because="split at a place that does not refine it")
            return [fixed(s, f"split at {call.reason}") for s in sizes]
        parts.append(halves[0])
        rest = halves[1]
    return [*parts, rest]


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "split_copy")
def split_up(call: Call) -> list[Value]:
    x: Value = call["self"]
    dim = (call["dim"] or 0) % len(x.axes)
    sizes = [int(t.shape[dim]) for t in call.node.meta["val"]]
    by_number = str(call.node.target) == "aten.tensor_split.sections"
    if by_number and len(set(sizes)) > 1:
        call.freeze(x.axes[dim], because="split into parts that differ by one, whatever is cut of them")
    parts = cut_up(call, x.axes[dim], sizes)
    if by_number or "chunk" in str(call.node.target) or isinstance(call["split_size"], int):
        # The code asks for equal parts, so they must stay equal.
        for part in parts[1:]:
            if part.size == parts[0].size:
                call.unify(parts[0], part)
    return [with_axis(x, dim, part) for part in parts]


def halve(call: Call, x: Value, dim: int | None) -> list[Value]:
    """Split `x` into two equal parts along `dim`, the last by default."""
    at = (-1 if dim is None else dim) % len(x.axes)
    size = x.axes[at].size // 2
    return [with_axis(x, at, part) for part in cut_up(call, x.axes[at], [size, size])]


@rule("unbind")
def unbind(call: Call) -> list[Value]:
    x: Value = call["self"]
    dim = (call["dim"] or 0) % len(x.axes)
    call.freeze(x.axes[dim], because="taken apart")
    source = sources(x)
    slice_value = Value(x.axes[:dim] + x.axes[dim + 1 :], x.zero, source[:dim] + source[dim + 1 :])
    return [slice_value] * x.axes[dim].size


@rule("select", "select_copy")
def select(call: Call) -> Value:
    x: Value = call["self"]
    dim = call["dim"] % len(x.axes)
    if call["index"] not in (0, -1) or not picks_from_alike(call.node):
        call.freeze(x.axes[dim], because="one entry is picked")
    source = sources(x)
    return Value(x.axes[:dim] + x.axes[dim + 1 :], x.zero, source[:dim] + source[dim + 1 :])


CONSTANT = {"zeros_like", "ones_like", "full_like", "zeros", "ones", "full", "new_zeros", "new_ones", "new_full"}


def picks_from_alike(node: Node) -> bool:
    """Whether all entries of what a node picks from are one number, as nothing else than ops that read has it."""
    source: Any = node.args[0]
    if not isinstance(source, Node):
        return False
    schemas = [getattr(user.target, "_schema", None) for user in source.users if user is not node]
    return op_name(source) in CONSTANT and all(
        schema is not None and not schema.is_mutable and not any(r.alias_info for r in schema.returns)
        for schema in schemas
    )


@rule("slice", "narrow", "slice_copy")
def slice_(call: Call) -> Value:
    x: Value = call["self"]
    dim = (call["dim"] or 0) % len(x.axes)
    size, step = x.axes[dim].size, call["step"] or 1
    if isinstance(call["start"], Value):
        call.freeze(x.axes[dim], because="a part of it starts where the data says")
        return with_axis(x, dim, fixed(call.shape[dim], "a part that starts where the data says"))
    start = min(max(_index(call["start"], size), 0), size)
    stop = start + call["length"] if call["length"] is not None else min(_index(call["end"], size, size), size)
    if (start, stop, step) == (0, size, 1):
        return x
    if (start, stop, step) == (0, 1, 1) and picks_from_alike(call.node):
        return with_axis(x, dim, fixed(1))
    if step > 1:
        return with_axis(x, dim, _strided(call, x.axes[dim], start, step, call.shape[dim]))
    parts = cut_up(call, x.axes[dim], [start, stop - start, size - stop])
    return with_axis(x, dim, parts[1])


def _index(value: Any, size: int, default: int = 0) -> int:
    if not isinstance(value, int):
        return default
    return max(value + size, 0) if value < 0 else value


def _strided(call: Call, axis: Axis, start: int, step: int, length: int) -> Axis:
    """Every step-th unit: the axis is a product whose last factor is the step."""
    halves = factor(axis, step) if axis.size % step == 0 and start < step and length == axis.size // step else None
    if halves is None:
        call.freeze(axis, because="sliced with a step")
        return fixed(length, f"sliced with a step at {call.reason}")
    freeze(halves[1], "interleaved")
    return halves[0]
