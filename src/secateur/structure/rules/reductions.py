"""Rules of the ops that reduce, pool or normalise.

A sum over a cut axis is exact where the removed entries are zero. A sum of others, a mean, a variance, a softmax or an extreme
sees fewer entries afterwards: such a node is a *statistic*, and verification compares with the statistic of the kept units.
"""

from __future__ import annotations

import operator
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Axis, factor, fixed, freeze, is_fixed, product
from secateur.structure.rules.elementwise import covers, pointwise
from secateur.structure.rules.registry import Call, Value, freeze_all, op_name, output_shapes, rule


def _dims(value: Any, ndim: int) -> list[int]:
    if value is None or value == []:
        return list(range(ndim))
    return [d % ndim for d in (value if isinstance(value, (list, tuple)) else [value])] if ndim else []


def _reduced(call: Call, x: Value, dims: list[int]) -> tuple[Axis, ...]:
    keepdim = bool(call["keepdim"])
    return tuple(fixed(1) if d in dims else a for d, a in enumerate(x.axes) if keepdim or d not in dims)


@rule("sum", "nansum", "norm", "linalg_vector_norm", "frobenius_norm", "count_nonzero")
def reduce_sum(call: Call) -> Value:
    x: Value = call["self"]
    dims = _dims(call["dim"], len(x.axes))
    order = call["ord"] if call["ord"] is not None else call["p"]
    if not x.zero or (isinstance(order, (int, float)) and order < 0):  # then the smallest entries count most
        call.statistic(*(x.axes[d] for d in dims))
    if dims == [len(x.axes) - 1] and _is_product(call.node.args[0]):  # attention as (queries * keys).sum(-1)
        call.unit(x.axes[-1], "head dimension")
    return Value(_reduced(call, x, dims), x.zero)


@rule("pairwise_distance")
def distance(call: Call) -> Value:
    """The length of a − b + eps along the last dimension, to which the eps of a unit belongs that is gone."""
    pair = [call["x1"], call["x2"]]
    width = pair[0].axes[-1]
    call.unify(width, pair[1].axes[-1])
    call.statistic(width)
    ends = (fixed(1),) if call["keepdim"] else ()
    without = [Value((*v.axes[:-1], *ends), v.zero) for v in pair]
    return Value(pointwise(call, without, zero=False).axes, zero=False)


def _is_product(source: object) -> bool:
    """Whether a node multiplies two activations, entry by entry."""
    if not isinstance(source, Node) or op_name(source) != "mul":
        return False
    return all(isinstance(factor, Node) and factor.op == "call_function" for factor in source.args[:2])


@rule("mean", "var", "std", "var_mean", "std_mean")
def reduce_statistic(call: Call) -> Value | list[Value]:
    x: Value = call["self"]
    dims = _dims(call["dim"], len(x.axes))
    call.statistic(*(x.axes[d] for d in dims))
    value = Value(_reduced(call, x, dims), x.zero)
    return [value, value] if isinstance(call.node.meta.get("val"), (tuple, list)) else value


@rule("amax", "amin", "aminmax", "logsumexp", "max", "min", "median", "any", "all")
def reduce_extreme(call: Call) -> Value | list[Value]:
    """An extreme is one of fewer entries after a cut, at another place."""
    x: Value = call["self"]
    if call["other"] is not None:  # max(a, b) entry by entry
        values = [x, call["other"]]
        return pointwise(call, values, all(v.zero and covers([v], call.shape, values) for v in values))
    dims = _dims(call["dim"], len(x.axes))
    named = op_name(call.node) != "aminmax"
    if named and _reads_second(call.node):
        call.freeze(*(x.axes[d] for d in dims), because="the place of an extreme is read")
    if not (x.zero and op_name(call.node) == "any"):  # zeros decide no `any`
        call.statistic(*(x.axes[d] for d in dims))
    value = Value(_reduced(call, x, dims), x.zero and op_name(call.node) != "logsumexp")
    if not isinstance(call.node.meta.get("val"), (tuple, list)):
        return value
    # The places of extremes are any where all is zero.
    return [value, Value(value.axes, value.zero and not named)]


def _reads_second(node: Node) -> bool:
    """Whether what an op gives second is read."""
    return any(user.target is operator.getitem and user.args[1] == 1 and user.users for user in node.users)


@rule(
    "argmax",
    "argmin",
    "topk",
    "sort",
    "argsort",
    "cumsum",
    "cumprod",
    "prod",
    "logcumsumexp",
    "kthvalue",
    "mode",
    "cummax",
    "cummin",
)
def along(call: Call) -> Value | list[Value]:
    """What depends on the order or the number of entries freezes the axis it runs along."""
    x: Value = call["self"]
    last = op_name(call.node) in {"topk", "sort", "argsort", "kthvalue", "mode"}
    dims = _dims(-1 if last and call["dim"] is None else call["dim"], len(x.axes))
    call.freeze(*(x.axes[d] for d in dims), because="depends on every entry")
    outputs = []
    for number, shape in enumerate(output_shapes(call.node)):
        if len(shape) == len(x.axes):
            axes = tuple(
                fixed(s, "reduced") if d in dims else a for d, (s, a) in enumerate(zip(shape, x.axes, strict=True))
            )
        else:
            axes = tuple(a for d, a in enumerate(x.axes) if d not in dims)
        # Places come second, or alone.
        outputs.append(Value(axes, x.zero and number == 0 and op_name(call.node) not in PLACES_OR_LOGARITHMS))
    return outputs if isinstance(call.node.meta.get("val"), (tuple, list)) else outputs[0]


PLACES_OR_LOGARITHMS = {"argmax", "argmin", "argsort", "logcumsumexp"}


@rule("softmax", "log_softmax", "_softmax", "_log_softmax")
def softmax(call: Call) -> Value:
    x: Value = call["self"]
    call.statistic(x.axes[call["dim"] % len(x.axes)])
    return Value(x.axes, zero=False)


@rule("batch_norm", "_native_batch_norm_legit_no_training", "native_batch_norm", "cudnn_batch_norm", "instance_norm")
def batch_norm(call: Call) -> Value | list[Value]:
    x: Value = call["input"]
    weight, bias = call["weight"], call["bias"]
    channels = x.axes[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if call[name] is not None:
            call.unify(channels, call[name].axes[0])
    by_sample = op_name(call.node) == "instance_norm"
    by_batch = by_sample or bool(call["training"])
    if by_batch:
        call.statistic(*x.axes[2:], *([] if by_sample else x.axes[:1]))
    # What a statistic is taken over without the removed units is zero at those.
    others = x.axes[:1] if by_sample else () if by_batch else (*x.axes[:1], *x.axes[2:])
    shifts_nothing = (bias is None and by_batch) or (bias is not None and bias.zero)
    zero = shifts_nothing and ((weight is not None and weight.zero) or (by_batch and bias is None and x.zero))
    value = Value(x.axes, zero and all(map(is_fixed, others)), x.source)
    if not isinstance(call.node.meta.get("val"), (tuple, list)):
        return value
    # The statistics come out beside it: one number a channel, or nothing in evaluation.
    shapes = output_shapes(call.node)[1:]
    return [value, *(Value((channels if s == (channels.size,) else fixed(s[0]),), zero=False) for s in shapes)]


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Value | list[Value]:
    x: Value = call["input"]
    count = len(call["normalized_shape"])
    weight, bias = call["weight"], call["bias"]
    for parameter in (weight, bias):
        if parameter is not None:
            for mine, other in zip(x.axes[-count:], parameter.axes, strict=True):
                call.unify(mine, other)
    call.statistic(*x.axes[-count:])
    centred = "rms" not in op_name(call.node)
    earlier_fixed = all(map(is_fixed, x.axes[:-count]))
    scaled = weight is not None and weight.zero and (bias is None or bias.zero)
    zero = bool((scaled and (earlier_fixed or (x.zero and bias is None))) or (x.zero and not centred and bias is None))
    value = Value(x.axes, zero)
    # The statistics come out beside it: one number for all that they are taken over.
    statistics = Value((*x.axes[:-count], *(fixed(1) for _ in range(count))), zero=False)
    rest = [statistics] * (len(output_shapes(call.node)) - 1)
    return [value, *rest] if isinstance(call.node.meta.get("val"), (tuple, list)) else value


@rule("group_norm")
def group_norm(call: Call) -> Value | list[Value]:
    x: Value = call["input"]
    weight, bias = call["weight"], call["bias"]
    for parameter in (weight, bias):
        if parameter is not None:
            call.unify(x.axes[1], parameter.axes[0])
    parts = factor(x.axes[1], x.axes[1].size // call["num_groups"])
    if parts is None:
        return freeze_all(call, "groups that the channels cannot be divided by")
    call.ties.groups[call.node] = parts[0]
    call.statistic(parts[1], *x.axes[2:])
    scaled = weight is not None and bias is not None and weight.zero and bias.zero
    return Value(x.axes, scaled and all(map(is_fixed, (x.axes[0], *x.axes[2:]))))


@rule("_weight_norm")
def weight_norm(call: Call) -> Value:
    """g · v / |v|, with one length for each slice along `dim` (−1: one for all).

    A masked slice has the length 0 and keeps its direction, as a direction of zeros would be 0/0.
    """
    v, g, dim = call["v"], call["g"], call["dim"]
    if dim >= 0:
        call.unify(v.axes[dim], g.axes[dim])
        if v.source[dim:] and v.source[dim]:
            call.ties.unmasked.add(v.source[dim])
    return Value(v.axes, v.zero and g.zero, v.source)


POOLS = [
    f"{kind}{k}d" for kind in ("max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool") for k in (1, 2, 3)
]
POOLS += ["fractional_max_pool2d", "fractional_max_pool3d", *(f"max_pool{k}d_with_indices" for k in (1, 2, 3))]
UPSAMPLE = [
    f"upsample_{kind}"
    for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d")
] + ["_upsample_nearest_exact2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"]


@rule(
    *POOLS,
    *UPSAMPLE,
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
)
def pool(call: Call) -> Value | list[Value]:
    """Channels pass; what is pooled over is frozen."""
    x: Value = call.values()[0]
    count = next(k for k in (1, 2, 3) if f"{k}d" in op_name(call.node))
    along_units = not all(map(is_fixed, x.axes[-count:]))
    call.freeze(*x.axes[-count:], because="pooled over")
    why = f"pooled over at {call.reason}" if along_units else "spatial axis"
    outputs = [
        # The places of maxima, which come second, are any where all is zero.
        Value((*x.axes[:-count], *(fixed(s, why) for s in shape[-count:])), x.zero and not places)
        for places, shape in enumerate(output_shapes(call.node))
    ]
    return outputs if isinstance(call.node.meta.get("val"), (tuple, list)) else outputs[0]


@rule("max_unpool2d", "max_unpool3d")
def unpool(call: Call) -> Value:
    """Channels pass, and those of the places are the same."""
    x, places = call["self"], call["indices"]
    count = 2 if "2d" in op_name(call.node) else 3
    call.freeze(*x.axes[-count:], *places.axes[-count:], because="pooled over")
    for mine, other in zip(x.axes[:-count], places.axes[:-count], strict=True):
        call.unify(mine, other)
    return Value((*x.axes[:-count], *(fixed(s, "spatial axis") for s in call.shape[-count:])), x.zero)


@rule("grid_sampler", "grid_sampler_2d", "affine_grid_generator")
def grid_sample(call: Call) -> Value | list[Value]:
    x = call["input"]
    if not isinstance(x, Value):
        return freeze_all(call, "sampling grid")
    grid: Value = call["grid"]
    call.unify(x.axes[0], grid.axes[0])
    freeze(product(*grid.axes[1:]), "sampling grid")
    call.freeze(*x.axes[2:], because="sampled over")
    return Value((*x.axes[:2], *(fixed(s, "spatial axis") for s in call.shape[2:])), x.zero)


@rule("fft_fft", "fft_ifft", "fft_rfft", "fft_irfft", "fft_hfft", "fft_ihfft")
def fourier(call: Call) -> Value:
    return _transformed(call, call["dim"])


@rule("fft_fft2", "fft_ifft2", "fft_rfft2", "fft_irfft2", "fft_hfft2", "fft_ihfft2")
def fourier_of_planes(call: Call) -> Value:
    return _transformed(call, call["dim"])


@rule("fft_fftn", "fft_ifftn", "fft_rfftn", "fft_irfftn", "fft_hfftn", "fft_ihfftn")
def fourier_of_all(call: Call) -> Value:
    last = len(call["s"] or call["self"].axes)
    return _transformed(call, call["dim"] or list(range(-last, 0)))


@rule("stft", "istft")
def fourier_of_windows(call: Call) -> Value:
    """Of one signal or a batch of them: frequencies and windows, or back; what is frozen in the result is all but the batch."""
    x: Value = call["self"]
    spectrum = op_name(call.node) == "istft"
    count = 2 if spectrum else 1
    window = [call["window"]] if isinstance(call["window"], Value) else []
    call.freeze(*x.axes[-count:], *(axis for w in window for axis in w.axes), because="a Fourier transform along")
    batch = x.axes[:-count]
    return Value((*batch, *(fixed(s, "windows or times") for s in call.shape[len(batch) :])), x.zero)


@rule("fft_fftshift", "fft_ifftshift")
def shifted(call: Call) -> Value:
    x: Value = call["self"]
    call.freeze(*(x.axes[d] for d in _dims(call["dim"], len(x.axes))), because="shifted along")
    return Value(x.axes, x.zero)


def _transformed(call: Call, dims: int | list[int]) -> Value:
    """A linear map along some axes, which mixes all of their entries; of zeros it makes zeros."""
    x: Value = call["self"]
    along = _dims(dims, len(x.axes))
    call.freeze(*(x.axes[d] for d in along), because="a Fourier transform along")
    axes = (
        fixed(s, "frequencies") if d in along else a for d, (a, s) in enumerate(zip(x.axes, call.shape, strict=True))
    )
    return Value(tuple(axes), x.zero)
