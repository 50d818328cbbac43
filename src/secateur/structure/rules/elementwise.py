"""Rules of the ops that work entry by entry: operands of equal size share their axes; a broadcast takes no part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from secateur.structure.axes import Atom, Axis, fixed, is_fixed
from secateur.structure.rules.parts import halve
from secateur.structure.rules.registry import Call, Value, fixed_value, freeze_all, op_name, rule

# f(0) = 0: what is zero in the masked model stays zero.
KEEP_ZERO = (
    "relu relu6 leaky_relu elu selu celu gelu silu mish hardswish hardtanh tanh hardshrink softshrink "
    "rrelu threshold sin tan asin atan sinh asinh atanh erf sqrt square abs neg sign round floor ceil trunc "
    "frac expm1 log1p angle sgn rad2deg dropout feature_dropout alpha_dropout native_dropout clone contiguous detach detach_copy alias "
    "to _to_copy type_as lift_fresh_copy lift_fresh positive nan_to_num deg2rad conj "
    "_conj _conj_physical conj_physical _neg_view imag resolve_conj resolve_neg real quantize_per_tensor fake_quantize_per_tensor_affine"
)
# f(0) ≠ 0, or f depends on what the rule does not read.
LOSE_ZERO = (
    "sigmoid hardsigmoid softplus log_sigmoid exp exp2 log log2 log10 cos cosh acos rsqrt reciprocal erfc "
    "erfinv logaddexp logaddexp2 logical_not bitwise_not isnan isinf isfinite digamma lgamma bernoulli logit sinc special_expm1"
)
ADD = "add sub rsub maximum minimum fmax fmin hypot logical_or bitwise_or bitwise_xor copysign atan2 complex polar"
MULTIPLY = "mul logical_and bitwise_and"
DIVIDE = "div true_divide floor_divide remainder fmod pow float_power xlogy"
COMPARE = "eq ne lt le gt ge isclose heaviside"


def pointwise(call: Call, values: list[Value], zero: bool) -> Value:
    """Unify the axes of `values` as broadcasting lines them up from the right."""
    shape = call.shape
    axes: list[Axis] = []
    sources: list[tuple[str, int] | None] = []
    for dim, size in enumerate(shape):
        back = len(shape) - dim
        aligned = [(v, len(v.axes) - back) for v in values if len(v.axes) >= back]
        aligned = [(v, d) for v, d in aligned if v.axes[d].size == size]
        for value, d in aligned[1:]:
            call.unify(aligned[0][0].axes[aligned[0][1]], value.axes[d])
        axes.append(aligned[0][0].axes[aligned[0][1]] if aligned else fixed(size))
        # A mask or another buffer that a weight is multiplied by is not what makes the units.
        weights_first = sorted(aligned, key=lambda pair: not pair[0].zero)
        sources.append(next((v.source[d] for v, d in weights_first if d < len(v.source) and v.source[d]), None))
    return Value(tuple(axes), zero, tuple(sources))


def covers(values: Sequence[Value], shape: tuple[int, ...], others: Iterable[Value]) -> bool:
    """Whether `values` together have every axis of the result that may be cut, rather than being broadcast over one."""
    return all(
        axis.size != shape[-back] or is_fixed(axis) or any(_size(value, back) == axis.size for value in values)
        for other in others
        for back, axis in enumerate(reversed(other.axes), start=1)
    )


def _size(value: Value, back: int) -> int:
    """The size of a dimension counted from the last, of which those that are not there have one entry."""
    return value.axes[-back].size if back <= len(value.axes) else 1


@rule(*KEEP_ZERO.split())
def keeps_zero(call: Call) -> Value | list[Value]:
    values = call.values()
    bounds = [call[k] for k in ("min_val", "threshold", "value") if isinstance(call[k], (int, float))]
    moved = any(b > 0 for b in bounds)  # hardtanh(x, 1, 6) and threshold(x, 1, 6) move zero
    result = pointwise(call, values, values[0].zero and not moved)
    # The mask of a dropout comes beside it.
    return [result, Value(result.axes, zero=False)] if isinstance(call.node.meta.get("val"), tuple) else result


@rule(*LOSE_ZERO.split(), *COMPARE.split())
def loses_zero(call: Call) -> Value:
    return pointwise(call, call.values(), zero=False)


@rule("clamp", "clip", "clamp_min", "clamp_max")
def clamp(call: Call) -> Value:
    low, high = call["min"], call["max"]
    inside = (low is None or (isinstance(low, (int, float)) and low <= 0)) and (
        high is None or (isinstance(high, (int, float)) and high >= 0)
    )
    return pointwise(call, call.values(), inside and call["self"].zero)


@rule(*ADD.split())
def add(call: Call) -> Value:
    values = call.values()
    scalar = any(isinstance(call[k], (int, float)) and call[k] != 0 for k in ("self", "other"))
    zero = not scalar and all(v.zero and covers([v], call.shape, values) for v in values)
    return pointwise(call, values, zero)


@rule(*MULTIPLY.split())
def multiply(call: Call) -> Value:
    values = call.values()
    zeros = [v for v in values if v.zero]
    return pointwise(call, values, bool(zeros) and covers(zeros, call.shape, values))


@rule(*DIVIDE.split())
def divide(call: Call) -> Value:
    values = call.values()
    first = call["self"]
    exponent = call["exponent"]
    zero = isinstance(first, Value) and first.zero and covers([first], call.shape, values)
    positive = exponent is None or (isinstance(exponent, (int, float)) and exponent > 0)  # 0⁰ is 1
    return pointwise(call, values, zero and positive)


@rule("addcmul", "addcdiv")
def add_product(call: Call) -> Value:
    values = call.values()
    zero = all(v.zero and covers([v], call.shape, values) for v in values[:2])
    return pointwise(call, values, zero)


@rule("lerp")
def lerp(call: Call) -> Value:
    values = call.values()
    return pointwise(call, values, all(v.zero and covers([v], call.shape, values) for v in values[:2]))


@rule("where", "masked_fill")
def choose(call: Call) -> Value:
    values = call.values()
    filled = call["value"] if call["value"] is not None else call["other"]
    branches = [v for v in (call["self"], filled) if isinstance(v, Value)]
    literal = any(isinstance(v, (int, float)) and v != 0 for v in (call["self"], filled))
    zero = not literal and all(v.zero and covers([v], call.shape, values) for v in branches)
    return pointwise(call, values, zero)


@rule("prelu")
def prelu(call: Call) -> Value:
    x, weight = call["self"], call["weight"]
    if weight.axes and weight.axes[0].size > 1:
        call.unify(x.axes[1], weight.axes[0])
    return Value(x.axes, x.zero)


@rule("glu")
def glu(call: Call) -> Value:
    first, second = halve(call, call["self"], call["dim"])
    zero = first.zero or second.zero
    return pointwise(call, [first, second], zero)


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def made_like(call: Call) -> Value:
    return Value(call["self"].axes, zero=op_name(call.node) in NOTHING)


NOTHING = {"zeros", "new_zeros", "zeros_like", "empty", "new_empty", "empty_like"}
"""Ops that make zeros, or room of which nothing is read before it is written."""


@rule("zeros", "ones", "full", "empty", "rand", "randn", "new_zeros", "new_ones", "new_full", "new_empty")
def made(call: Call) -> Value:
    """A tensor made in the forward pass takes the size that it is used with, as far as an attribute holds it."""
    axes = tuple(Atom(s) if s > 1 else fixed(s) for s in call.shape)
    return Value(axes, zero=op_name(call.node) in NOTHING)


@rule("eye")
def unit_matrix(call: Call) -> Value:
    """A square one without the row and the column of a unit is one again."""
    rows, columns = call.shape
    if rows != columns or rows == 1:
        return fixed_value(call.shape, f"a matrix of ones along a diagonal at {call.reason}")
    axis = Atom(rows)
    return Value((axis, axis), zero=False)


@rule("fill", "zero")
def fill(call: Call) -> Value:
    x: Value = call["self"]
    return Value(x.axes, zero=op_name(call.node) == "zero" or call["value"] == 0)


@rule("copy")
def copy(call: Call) -> Value:
    values = [call["self"], call["src"]]
    return pointwise(call, values, values[1].zero and covers([values[1]], call.shape, values))


@rule("bucketize", "searchsorted")
def numbers_of_buckets(call: Call) -> Value:
    """The place of every number among sorted ones: the same for all, or those of the same row."""
    numbers: Value = call["self"]
    bounds: Value = call["boundaries"] or call["sorted_sequence"]
    call.freeze(bounds.axes[-1], because="numbers are looked up along")
    if len(bounds.axes) > 1:
        call.freeze(numbers.axes[-1], because="numbers are looked up along")
        for mine, other in zip(numbers.axes[:-1], bounds.axes[:-1], strict=True):
            call.unify(mine, other)
    return Value(numbers.axes, zero=False)


@rule("isin")
def is_among(call: Call) -> Value | list[Value]:
    numbers, tested = call["elements"], call["test_elements"]
    if not isinstance(numbers, Value):
        return freeze_all(call, "compared with every entry")
    if isinstance(tested, Value):
        call.freeze(*tested.axes, because="compared with every entry")
    return Value(numbers.axes, zero=False)
