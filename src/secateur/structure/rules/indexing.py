"""Rules of the ops that read or write at places which an index names: what is indexed along is frozen, the rest is tied."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.fx import Node

from secateur.structure.axes import Axis, fixed, is_fixed
from secateur.structure.rules.elementwise import covers, pointwise
from secateur.structure.rules.registry import Call, Value, freeze_all, op_name, rule
from secateur.structure.rules.shapes import with_axis


@rule("index_select")
def index_select(call: Call) -> Value:
    x: Value = call["self"]
    dim = call["dim"] % len(x.axes)
    call.freeze(x.axes[dim], because="chosen by an index")
    return with_axis(x, dim, call["index"].axes[0] if call["index"].axes else fixed(1))


@rule("index", "_unsafe_index")
def index(call: Call) -> Value:
    """Indexed axes are frozen; the axes of the indices stand where they do in the result."""
    x: Value = call["self"]
    before, after, middle = _around(call)
    places = call.shape[len(before) : len(before) + middle]
    axes = (*before, *(fixed(size, "indices") for size in places), *after)
    if tuple(a.size for a in axes) != call.shape:
        frozen = freeze_all(call, "indexed")
        assert isinstance(frozen, Value)
        return frozen
    return Value(axes, x.zero)


def _around(call: Call) -> tuple[tuple[Axis, ...], tuple[Axis, ...], int]:
    """Freeze what is indexed; return the axes before and after the places in the result, and how many dimensions those have."""
    x: Value = call["self"]
    indices: list[Value | None] = list(call["indices"])
    used: list[int] = []
    at = 0
    for number, value in enumerate(indices):
        width = len(value.axes) if value is not None and _is_mask(call, number) else 1
        used += range(at, at + width) if value is not None else []
        at += width
    for d in used:
        call.freeze(x.axes[d], because="chosen by an index")
    rest = [d for d in range(len(x.axes)) if d not in used]
    together = used == list(range(used[0], used[0] + len(used)))
    before = [d for d in rest if together and d < used[0]]
    widths = [1 if _is_mask(call, n) else len(v.axes) for n, v in enumerate(indices) if v is not None]
    return tuple(x.axes[d] for d in before), tuple(x.axes[d] for d in rest if d not in before), max(widths)


def _is_mask(call: Call, number: int) -> bool:
    """Whether an index says for every place whether it is meant, and stands for as many dimensions as it has."""
    indices: Any = call.node.args[1]
    node = indices[number]
    return isinstance(node, Node) and node.meta["val"].dtype in (torch.bool, torch.uint8)


@rule("gather")
def gather(call: Call) -> Value:
    x, index_value = call["self"], call["index"]
    dim = (call["dim"] or 0) % len(x.axes)
    call.freeze(x.axes[dim], index_value.axes[dim], because="gathered by an index")
    for d, (a, b) in enumerate(zip(x.axes, index_value.axes, strict=True)):
        if d != dim:
            (call.unify if a.size == b.size else call.freeze)(a, b)
    return Value(index_value.axes, x.zero)


@rule("take_along_dim")
def take_along(call: Call) -> Value | list[Value]:
    """As `gather`, but for dimensions of one entry, which are repeated."""
    x, index_value = call["self"], call["indices"]
    if call["dim"] is None:
        return freeze_all(call, "gathered by an index")
    dim = call["dim"] % len(x.axes)
    call.freeze(x.axes[dim], index_value.axes[dim], because="gathered by an index")
    beside = pointwise(call, [with_axis(v, dim, fixed(call.shape[dim], "gathered")) for v in (x, index_value)], x.zero)
    return Value(beside.axes, x.zero and covers([x], call.shape, [index_value]))


@rule("take")
def take(call: Call) -> Value:
    """Numbers of a table at flat places."""
    call.freeze(*call["self"].axes, because="taken by an index")
    return Value(call["index"].axes, zero=False)


@rule("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill", "index_reduce")
def write_along(call: Call) -> Value | list[Value]:
    """Entries are written or added at places along one dimension, which is frozen; along the others all are one.

    The index of ``scatter`` has the shape of what is written, that of ``index_add`` one dimension.
    """
    x: Value = call["self"]
    if not x.axes:
        return freeze_all(call, "written by an index")
    dim = call["dim"] % len(x.axes)
    written = next((call[name] for name in ("src", "source") if call[name] is not None), call["value"])
    others = [v for v in (call["index"], written) if isinstance(v, Value) and len(v.axes) == len(x.axes)]
    for d, axis in enumerate(x.axes):
        for other in others:
            if d == dim:
                call.freeze(axis, other.axes[d], because="written by an index")
            elif op_name(call.node).startswith("index") and other is call["index"]:
                call.freeze(other.axes[d], because="an index")
            else:
                call.unify(axis, other.axes[d])
    call.freeze(x.axes[dim], because="written by an index")
    return Value(x.axes, x.zero and (written.zero if isinstance(written, Value) else written == 0))


@rule("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(call: Call) -> Value:
    """What is written lines up from the right with the axes after the places, the places, and the axes before them."""
    x, written, (first, *others) = call["self"], call["values"], call["indices"]
    if not others and first is not None and _is_mask(call, 0) and first.shape == x.shape and prod(written.shape) == 1:
        return pointwise(call, [x, first], zero=False)  # one number where a mask of all entries says
    before, after, middle = _around(call)
    targets = [*before, *(fixed(0, "indices") for _ in range(middle)), *after]
    for target, source in zip(reversed(targets), reversed(written.axes), strict=False):
        if source.size == target.size:
            call.unify(target, source)
        elif source.size != 1:
            call.freeze(source, because="written by an index")
    sizes = {-back: source.size for back, source in enumerate(reversed(written.axes), start=1)}
    spread = any(sizes.get(-back, 1) != a.size and not is_fixed(a) for back, a in enumerate(reversed(targets), start=1))
    return Value(x.axes, x.zero and written.zero and not spread)


@rule("masked_scatter")
def masked_scatter(call: Call) -> Value | list[Value]:
    """Rows are written where a mask says, in their order; the units of a row are tied where the mask is the same for all."""
    x, mask, source = call["self"], call["mask"], call["source"]
    if not (_same_along_rows(call) and source.axes[-1].size == x.axes[-1].size):
        return freeze_all(call, "written where a mask says")
    call.freeze(*x.axes[:-1], *source.axes[:-1], *mask.axes[:-1], because="written where a mask says")
    call.unify(x.axes[-1], source.axes[-1])
    if mask.axes[-1].size > 1:
        call.unify(x.axes[-1], mask.axes[-1])
    return Value(x.axes, x.zero and source.zero)


def _same_along_rows(call: Call) -> bool:
    """Whether the mask is repeated along its last dimension, here or where it was made."""
    node: Any = call.node.args[1]
    if call["mask"].axes[-1].size == 1:
        return True
    while isinstance(node, Node) and op_name(node) in {"_to_copy", "to", "clone", "contiguous", "detach"}:
        node = node.args[0]
    if not isinstance(node, Node) or op_name(node) not in {"expand", "expand_as", "broadcast_to"}:
        return False
    before: Any = node.args[0]
    narrow, wide = before.meta["val"].shape, node.meta["val"].shape
    return len(wide) > 1 and len(narrow) == len(wide) and narrow[-1] == 1
