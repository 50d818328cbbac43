"""Rules of the ops that move, split, join and reshape: they make products and sums of axes."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Atom, Axis, factor, fixed, freeze, is_fixed, product, resolve, total
from secateur.structure.rules.registry import Call, Value, freeze_all, rule


def sources(value: Value) -> tuple[tuple[str, int] | None, ...]:
    return value.source or (None,) * len(value.axes)


def with_axis(x: Value, dim: int, axis: Axis) -> Value:
    return Value((*x.axes[:dim], axis, *x.axes[dim + 1 :]), x.zero)


@rule(
    "view",
    "reshape",
    "flatten",
    "unflatten",
    "_unsafe_view",
    "view_as",
    "reshape_as",
    "view_copy",
    "_reshape_alias",
    "ravel",
)
def reshape(call: Call) -> Value:
    x: Value = call["self"]
    axes = reshaped(call, x.axes, call.shape)
    return Value(axes, x.zero, _untouched(x, axes))


def _untouched(x: Value, axes: Sequence[Axis]) -> tuple[tuple[str, int] | None, ...]:
    """The parameters' dimensions that axes after a reshape still are."""
    if not any(x.source):
        return ()
    by_axis = {id(resolve(a)): s for a, s in zip(x.axes, x.source, strict=True) if a.size > 1}
    return tuple(by_axis.get(id(resolve(axis))) for axis in axes)


def reshaped(call: Call, axes: Sequence[Axis], shape: Sequence[int]) -> tuple[Axis, ...]:
    """Regroup `axes` into `shape`: the shortest runs of equal size on both sides are regrouped on their own."""
    if 0 in shape:  # of nothing, no run can be told from another
        call.freeze(*axes, because="reshaped without entries")
        return tuple(fixed(size, "without entries") for size in shape)
    result: list[Axis] = []
    rest = [a for a in axes if a.size != 1]
    sizes = list(shape)
    while sizes:
        size = sizes.pop(0)
        if size == 1:
            result.append(fixed(1))
            continue
        run, target_sizes = [rest.pop(0)], [size]
        while (have := prod(a.size for a in run)) != (want := prod(target_sizes)):
            if have < want:
                run.append(rest.pop(0))
            else:
                target_sizes.append(sizes.pop(0))
        result.extend(_regroup(call, run, target_sizes))
    return tuple(result)


def _regroup(call: Call, run: list[Axis], sizes: list[int]) -> list[Axis]:
    """Write the product of `run` as factors of `sizes`, refining it from the right."""
    left: Axis = product(*run)
    right_factors: list[Axis] = []
    for size in reversed(sizes[1:]):
        halves = factor(left, size)
        if halves is None:
            call.freeze(*run, because=f"sizes that do not divide ({[a.size for a in run]} → {sizes})")
            return [fixed(s, f"reshaped at {call.reason}") for s in sizes]
        left, right = halves
        right_factors.append(right)
    return [left, *reversed(right_factors)]


@rule("squeeze", "unsqueeze")
def squeeze(call: Call) -> Value:
    x: Value = call["self"]
    wide_axes = iter([(a, s) for a, s in zip(x.axes, sources(x), strict=True) if a.size != 1])
    pairs = [next(wide_axes) if size != 1 else (fixed(1), None) for size in call.shape]
    return Value(tuple(a for a, _ in pairs), x.zero, tuple(s for _, s in pairs))


@rule(
    "permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "numpy_T", "mT", "adjoint", "matrix_H"
)
def permute(call: Call) -> Value:
    x: Value = call["self"]
    order = _order(call, len(x.axes))
    source = sources(x)
    return Value(tuple(x.axes[d] for d in order), x.zero, tuple(source[d] for d in order))


def _order(call: Call, ndim: int) -> list[int]:
    order = list(range(ndim))
    if call["dims"] is not None:
        return [d % ndim for d in call["dims"]]
    if call["source"] is not None:
        moved = _as_list(call["source"]), _as_list(call["destination"])
        pairs = sorted(zip([d % ndim for d in moved[1]], [s % ndim for s in moved[0]], strict=True))
        rest = [d for d in order if d not in {s for _, s in pairs}]
        for destination, source in pairs:
            rest.insert(destination, source)
        return rest
    ends = ("dim0", "dim1") if call["dim0"] is not None else ("axis0", "axis1")
    if call[ends[0]] is not None:
        i, j = call[ends[0]] % ndim, call[ends[1]] % ndim
    elif "numpy_T" in str(call.node.target):
        return order[::-1]
    else:  # t, mT
        i, j = (ndim - 2) % max(ndim, 1), ndim - 1
    if ndim > 1:
        order[i], order[j] = order[j], order[i]
    return order


def _as_list(value: Any) -> list[int]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Value:
    """A size-1 axis that is repeated takes the size of what it meets later, as far as an attribute holds it."""
    x: Value = call["self"]
    extra = len(call.shape) - len(x.axes)
    axes: list[Axis] = []
    for dim, size in enumerate(call.shape):
        old = x.axes[dim - extra] if dim >= extra else None
        axes.append(old if old is not None and old.size == size else (Atom(size) if size > 1 else fixed(size)))
    return Value(tuple(axes), x.zero and not any(_grew(x, call.shape, extra)))


def _grew(x: Value, shape: Sequence[int], extra: int) -> list[bool]:
    return [d < extra or x.axes[d - extra].size != s for d, s in enumerate(shape) if s > 1]


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    """What a number in the code repeats stays so; one entry that an attribute or a shape repeats is as when it is expanded.

    Along the first dimension of what the inputs reach, one entry may be the one sample of the example, and more samples stand
    otherwise between heads.
    """
    x: Value = call["self"]
    samples = call.node.args[0] not in call.ties.batchless
    extra, zero = len(call.shape) - len(x.axes), x.zero
    axes: list[Axis] = []
    for dim, size in enumerate(call.shape):
        old = x.axes[dim - extra] if dim >= extra else fixed(1)
        times = size // old.size if old.size else 0
        spread = (dim > 0 or not samples) and old.size == 1 < times and call.is_counted(dim)
        added = Atom(times) if spread else fixed(times, f"repeated at {call.reason}")
        axes.append(old if times == 1 else product(added, old))
        zero = zero and not spread
    return Value(tuple(axes), zero)


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Value | list[Value]:
    x: Value = call["self"]
    if not isinstance(call["repeats"], int) or call["dim"] is None:
        return freeze_all(call, "repeated by the data")
    dim = call["dim"] % len(x.axes)
    axes = list(x.axes)
    axes[dim] = product(axes[dim], fixed(call["repeats"], f"repeated at {call.reason}"))
    return Value(tuple(axes), x.zero)


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Value:
    values: list[Value] = [v for v in call["tensors"] if v.shape != (0,)]
    dim = (call["dim"] or 0) % len(values[0].axes)
    axes = list(values[0].axes)
    for value in values[1:]:
        for d, axis in enumerate(value.axes):
            if d != dim:
                call.unify(axes[d], axis)
    axes[dim] = total(*(v.axes[dim] for v in values))
    return Value(tuple(axes), all(v.zero for v in values))


@rule("stack")
def stack(call: Call) -> Value:
    values: list[Value] = list(call["tensors"])
    dim = (call["dim"] or 0) % (len(values[0].axes) + 1)
    axes = list(values[0].axes)
    for value in values[1:]:
        for mine, other in zip(axes, value.axes, strict=True):
            call.unify(mine, other)
    axes.insert(dim, fixed(len(values), "stacked"))
    return Value(tuple(axes), all(v.zero for v in values))


@rule("roll", "flip")
def move_along(call: Call) -> Value:
    x: Value = call["self"]
    dims = call["dims"] or range(len(x.axes))
    for dim in dims:
        if not is_fixed(x.axes[dim]):
            call.freeze(x.axes[dim], because="moved along")
    return x


@rule("tril", "triu")
def triangle(call: Call) -> Value:
    x: Value = call["self"]
    call.freeze(*x.axes[-2:], because="triangle")
    return x


@rule("diagonal", "diag_embed", "diag")
def diagonal(call: Call) -> Value | list[Value]:
    return freeze_all(call, "diagonal")


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Value:
    x: Value = call["self"]
    widths = list(call["pad"])
    axes = list(x.axes)
    padded: set[int] = set()
    for i in range(0, len(widths), 2):
        before, after = widths[i], widths[i + 1]
        dim = len(axes) - 1 - i // 2
        if before == after == 0:
            continue
        padded.add(dim)
        if is_fixed(axes[dim]) or min(before, after) < 0 or call["mode"] not in (None, "constant"):
            call.freeze(axes[dim], because="padded")
            axes[dim] = fixed(call.shape[dim], "padded")
        else:
            axes[dim] = total(fixed(before, "padding"), axes[dim], fixed(after, "padding"))
    # Along one dimension a number stands beside the units; along another in each of them.
    beside = all(padded <= {dim} for dim, axis in enumerate(x.axes) if not is_fixed(axis))
    return Value(tuple(axes), x.zero and (not call["value"] or beside))


@rule(
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
)
def reflect(call: Call) -> Value:
    x: Value = call["self"]
    count = len(call["padding"]) // 2
    call.freeze(*x.axes[-count:], because="padded")
    return Value(x.axes[:-count] + tuple(fixed(s, "padded") for s in call.shape[-count:]), x.zero)


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Value:
    x: Value = call["self"]
    square = call["upscale_factor"] ** 2
    channels, pixels = _regroup(call, [x.axes[-3]], [x.axes[-3].size // square, square])
    freeze(product(pixels, *x.axes[-2:]), "pixels of a shuffle")
    return Value((*x.axes[:-3], channels, *(fixed(s, "spatial axis") for s in call.shape[-2:])), x.zero)


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Value:
    x: Value = call["self"]
    freeze(product(*x.axes[-2:]), "pixels of a shuffle")
    channels = product(x.axes[-3], fixed(call["downscale_factor"] ** 2, "pixels"))
    return Value((*x.axes[:-3], channels, *(fixed(s, "spatial axis") for s in call.shape[-2:])), x.zero)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Value:
    x: Value = call["self"]
    size = x.axes[1].size
    groups, inner = _regroup(call, [x.axes[1]], [call["groups"], size // call["groups"]])
    call.ties.groups[call.node] = groups
    return with_axis(x, 1, product(inner, groups))


@rule("im2col")
def unfold(call: Call) -> Value:
    x: Value = call["self"]
    kernel = prod(call["kernel_size"])
    freeze(product(*x.axes[-2:]), "spatial axis")
    channels = product(x.axes[-3], fixed(kernel, "kernel size"))
    return Value((*x.axes[:-3], channels, fixed(call.shape[-1], "spatial axis")), x.zero)


@rule("col2im")
def fold(call: Call) -> Value:
    x: Value = call["self"]
    kernel = prod(call["kernel_size"])
    channels, taps = _regroup(call, [x.axes[-2]], [x.axes[-2].size // kernel, kernel])
    freeze(product(taps, x.axes[-1]), "kernel size and places")
    return Value((*x.axes[:-2], channels, *(fixed(s, "spatial axis") for s in call.shape[-2:])), x.zero)


@rule("unfold")
def windows(call: Call) -> Value:
    x: Value = call["self"]
    dim = call["dimension"] % len(x.axes)
    call.freeze(x.axes[dim], because="windows along")
    axes = list(x.axes)
    axes[dim] = fixed(call.shape[dim], "windows")
    return Value((*axes, fixed(call["size"], "windows")), x.zero)


@rule("view_as_real", "view_as_real_copy")
def pairs(call: Call) -> Value:
    x: Value = call["self"]
    return Value((*x.axes, fixed(2, "real and imaginary")), x.zero)


@rule("view_as_complex", "view_as_complex_copy")
def of_pairs(call: Call) -> Value:
    x: Value = call["self"]
    call.freeze(x.axes[-1], because="real and imaginary")
    return Value(x.axes[:-1], x.zero)


@rule("as_strided", "as_strided_copy")
def as_strided(call: Call) -> Value | list[Value]:
    """Axes that the new view steps through as the old did, whatever it does within and around them, stay."""
    x: Value = call["self"]
    source = call.node.args[0]
    old = source.meta["val"].stride() if isinstance(source, Node) else ()
    size, stride, offset = call["size"], call["stride"], call["storage_offset"] or 0
    if not all(isinstance(n, int) for n in (*old, *size, *stride, offset)):
        return freeze_all(call, "strides that are not known")
    axes: list[Axis] = [fixed(n, "strided") for n in call.shape]
    for dim, axis in enumerate(x.axes):
        step, span = old[dim], old[dim] * axis.size
        others = [(n, s) for d, (n, s) in enumerate(zip(x.shape, old, strict=True)) if d != dim]
        at = next((d for d, (n, s) in enumerate(zip(size, stride, strict=True)) if (n, s) == (axis.size, step)), None)
        beside = [(n, s) for d, (n, s) in enumerate(zip(size, stride, strict=True)) if d != at]
        if (
            at is not None
            and axis.size > 1
            and all(_apart(pairs, step, span) for pairs in (others, [*beside, (2, offset)]))
        ):
            axes[at] = axis
        else:
            call.freeze(axis, because="strided")
    return Value(tuple(axes), x.zero)


def _apart(pairs: Sequence[tuple[int, int]], step: int, span: int) -> bool:
    """Whether dimensions of these sizes and strides move only within the steps of one, or by whole spans of it."""
    inner = sum((n - 1) * s for n, s in pairs if s < step)
    return inner < step and all(s < step or s % span == 0 for n, s in pairs if n > 1)
