"""Rules of the ops that sum products over an axis: linear layers, convolutions, matrix products, attention."""

from __future__ import annotations

from secateur.structure.axes import Axis, factor, fixed, freeze, is_fixed, product, resolve
from secateur.structure.rules.elementwise import covers, pointwise
from secateur.structure.rules.registry import Call, Value, fixed_value, freeze_all, output_shapes, rule


def contract(call: Call, a: Value, b: Value, axis_a: Axis, axis_b: Axis) -> None:
    """Unify two axes that are summed over; what a removed unit would add in the masked model is left out of the sum."""
    call.unify(axis_a, axis_b)
    if not (a.zero or b.zero):
        call.statistic(axis_a)


@rule("linear")
def linear(call: Call) -> Value:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    contract(call, x, weight, x.axes[-1], weight.axes[-1])
    call.role(weight, len(weight.axes) - 1, "in")
    if len(weight.axes) == 1:
        return Value(x.axes[:-1], x.zero)
    call.role(weight, 0, "out")
    call.unit(weight.axes[0], "neuron")
    if bias is not None:
        call.unify(bias.axes[0], weight.axes[0])
        call.role(bias, 0, "out")
    return Value((*x.axes[:-1], weight.axes[0]), _product_zero(x, x.axes[:-1], weight, bias))


def _product_zero(x: Value, earlier: tuple[Axis, ...], weight: Value, bias: Value | None) -> bool:
    """Rows of the weight are zero with their bias; earlier axes of x (heads, experts) only where there is no bias."""
    rows = weight.zero and (bias is None or bias.zero)
    return rows and (all(map(is_fixed, earlier)) or (x.zero and bias is None))


CONVOLUTIONS = "conv1d conv2d conv3d convolution"
TRANSPOSED = "conv_transpose1d conv_transpose2d conv_transpose3d"


@rule(*CONVOLUTIONS.split(), *TRANSPOSED.split())
def convolution(call: Call) -> Value:
    """Weights are (out, in/groups, …), transposed ones (in, out/groups, …); channels are group × channel in group."""
    x, weight, bias = call["input"], call["weight"], call["bias"]
    transposed = bool(call["transposed"]) or "transpose" in str(call.node.target)
    groups = int(call["groups"] or 1)
    batched = len(x.axes) == len(weight.axes)
    channels = x.axes[1 if batched else 0]
    in_dim, out_dim = (0, 1) if transposed else (1, 0)
    out = _conv_axes(call, x, weight, channels, weight.axes[in_dim], weight.axes[out_dim], groups, transposed)
    if out is None:
        frozen = freeze_all(call, "groups that the channels cannot be divided by")
        assert isinstance(frozen, Value)
        return frozen
    call.role(weight, in_dim, "in")
    call.role(weight, out_dim, "out")
    call.unit(out, "filter")
    if bias is not None:
        call.unify(bias.axes[0], out)
        call.role(bias, 0, "out")
    freeze(product(*weight.axes[2:]), "kernel size")
    zero = _product_zero(x, x.axes[:1] if batched else (), weight, bias)
    spatial = tuple(fixed(s, "spatial axis") for s in call.shape[2 if batched else 1 :])
    for axis in x.axes[2 if batched else 1 :]:
        call.freeze(axis, because="convolved over")
    return Value(((x.axes[0], out) if batched else (out,)) + spatial, zero)


def _conv_axes(
    call: Call, x: Value, weight: Value, channels: Axis, w_in: Axis, w_out: Axis, groups: int, transposed: bool
) -> Axis | None:
    """Tie the channels to the weight's axes and return the channels of the result; None when it cannot be done."""
    if groups == 1:
        contract(call, x, weight, channels, w_in)
        return w_out
    x_parts = factor(channels, channels.size // groups)
    whole = factor(w_in if transposed else w_out, (w_in if transposed else w_out).size // groups)
    if x_parts is None or whole is None:
        return None
    call.ties.groups[call.node] = x_parts[0]
    if channels.size != groups:
        call.unit(x_parts[0], "group")
    call.unify(x_parts[0], whole[0])
    if transposed:
        contract(call, x, weight, x_parts[1], whole[1])
        return product(x_parts[0], w_out)
    contract(call, x, weight, x_parts[1], w_in)
    return w_out


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot")
def matmul(call: Call) -> Value:
    a, b = call["self"], call["other"] or call["mat2"] or call["vec"] or call["tensor"]
    return matrix_product(call, a, b)


@rule("_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_product(call: Call) -> Value:
    """Rows (n, k), each times the matrix (k, m) of its group (g, k, m), as the experts of a mixture are."""
    rows, weight = call["self"] or call["input"], call["mat2"] or call["weight"]
    if len(rows.axes) != 2 or len(weight.axes) != 3 or call["bias"] is not None:
        frozen = freeze_all(call, "another kind of grouped product")
        assert isinstance(frozen, Value)
        return frozen
    call.freeze(rows.axes[0], weight.axes[0], because="rows are routed to groups by number")
    contract(call, rows, weight, rows.axes[1], weight.axes[1])
    call.role(weight, 1, "in")
    call.role(weight, 2, "out")
    call.unit(weight.axes[2], "neuron")
    for axis in weight.axes[1:]:  # the kernel's rows begin at multiples of 16 bytes; exported, a fallback stands for it
        call.align(axis, 16 // call.node.meta["val"].dtype.itemsize)
    return Value((rows.axes[0], weight.axes[2]), weight.zero)


@rule("addmm", "baddbmm", "addbmm")
def add_matmul(call: Call) -> Value:
    a = call["mat1"] or call["batch1"]
    product_value = matrix_product(call, a, call["mat2"] or call["batch2"])
    if len(product_value.axes) > len(call.shape):  # addbmm sums the products of all samples
        call.freeze(product_value.axes[0], because="products are summed")
        product_value = Value(product_value.axes[1:], product_value.zero)
    bias: Value = call["self"]
    call.role(bias, len(bias.axes) - 1, "out")
    zero = product_value.zero and bias.zero and covers([bias], call.shape, [product_value])
    return pointwise(call, [product_value, bias], zero)


def matrix_product(call: Call, a: Value, b: Value) -> Value:
    """(…, n, k) @ (…, k, m) with broadcasting batch axes, and the vector forms."""
    row = a.axes[-2] if len(a.axes) > 1 else None
    column = b.axes[-1] if len(b.axes) > 1 else None
    dim_b = len(b.axes) - 2 if len(b.axes) > 1 else 0
    contract(call, a, b, a.axes[-1], b.axes[dim_b])
    _matmul_roles(call, a, b, dim_b)
    batch = _batch_axes(call, a.axes[:-2], b.axes[:-2])
    if not any(a.source) and not any(b.source):  # two activations: attention written out
        _attention_units(call, batch, a.axes[-1])
    zero = (
        (row is None or is_fixed(row) or a.zero)
        and (column is None or is_fixed(column) or b.zero)
        and (all(map(is_fixed, batch)) or a.zero or b.zero)
    )
    ends = tuple(axis for axis in (row, column) if axis is not None)
    return Value((*batch, *ends), zero)


def _attention_units(call: Call, batch: tuple[Axis, ...], *summed: Axis) -> None:
    for axis in batch:
        call.unit(axis, "head")
    for axis in summed:
        call.unit(axis, "head dimension")


def _matmul_roles(call: Call, a: Value, b: Value, dim_b: int) -> None:
    call.role(b, dim_b, "in")
    call.role(a, len(a.axes) - 1, "in")
    if len(b.axes) > 1:
        call.role(b, len(b.axes) - 1, "out")
        if any(b.source):
            call.unit(b.axes[-1], "neuron")
    if len(a.axes) > 1:
        call.role(a, len(a.axes) - 2, "out")


def _batch_axes(call: Call, a: tuple[Axis, ...], b: tuple[Axis, ...]) -> tuple[Axis, ...]:
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    out = list(longer)
    for back in range(1, len(shorter) + 1):
        mine, other = longer[-back], shorter[-back]
        if mine.size == other.size:
            call.unify(mine, other)
        elif mine.size == 1:
            out[-back] = other
    return tuple(out)


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def distances(call: Call) -> Value:
    """Between all rows of (…, n, k) and of (…, m, k): what is zero in both adds nothing."""
    a, b = call["x1"], call["x2"]
    call.unify(a.axes[-1], b.axes[-1])
    if not (a.zero and b.zero):
        call.statistic(a.axes[-1])
    rows = a.axes[-2], b.axes[-2]
    zero = a.zero and b.zero and all(map(is_fixed, rows))
    return Value((*_batch_axes(call, a.axes[:-2], b.axes[:-2]), *rows), zero)


@rule("einsum")
def einsum(call: Call) -> Value:
    """Letters that meet are one axis; a letter that does not reach the result is summed over."""
    equation = str(call["equation"]).replace(" ", "")
    operands: list[Value] = list(call["tensors"])
    left, _, right = equation.partition("->")
    if "." in equation or not right:
        return _einsum_by_hand(call, equation, operands)
    return _einsum(call, left.split(","), right, operands)


def _einsum_by_hand(call: Call, equation: str, operands: list[Value]) -> Value:
    """Write out an ellipsis and an implicit result, then go on as usual."""
    left, arrow, right = equation.partition("->")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    terms = left.split(",")
    widths = [len(v.axes) - len(t.replace("...", "")) for t, v in zip(terms, operands, strict=True) if "..." in t]
    dots = "".join(spare[: max(widths, default=0)])
    full = [
        t.replace("...", dots[len(dots) - (len(v.axes) - len(t.replace("...", ""))) :])
        for t, v in zip(terms, operands, strict=True)
    ]
    if not arrow:
        letters = "".join(full)
        right = dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1 and c not in dots))
    return _einsum(call, full, right.replace("...", dots), operands)


def _einsum(call: Call, terms: list[str], right: str, operands: list[Value]) -> Value:
    axes: dict[str, Axis] = {}
    owners: dict[str, list[Value]] = {}
    for term, value in zip(terms, operands, strict=True):
        for dim, (letter, axis) in enumerate(zip(term, value.axes, strict=True)):
            call.role(value, dim, "out" if letter in right else "in")
            if letter in axes and axes[letter].size == axis.size:
                call.unify(axes[letter], axis)
                owners[letter].append(value)
            elif letter not in axes or axis.size > 1:  # of one entry, it is repeated along the others' axis
                axes[letter], owners[letter] = axis, [value]
    for letter, axis in axes.items():
        if letter not in right and not any(v.zero for v in owners[letter]):
            call.statistic(axis)
    if not any(any(value.source) for value in operands):  # activations with each other: attention written out
        shared = [letter for letter, values in owners.items() if len(values) > 1]
        _attention_units(
            call, tuple(axes[c] for c in shared if c in right), *(axes[c] for c in shared if c not in right)
        )
    zero = all(is_fixed(axes[c]) or any(v.zero for v in owners[c]) for c in right)
    return Value(tuple(axes[c] for c in right), zero)


@rule("embedding")
def embedding(call: Call) -> Value:
    weight, indices = call["weight"], call["indices"]
    call.freeze(weight.axes[0], because="rows are chosen by the data")
    call.role(weight, 1, "out")
    call.unit(weight.axes[1], "embedding")
    return Value((*indices.axes, weight.axes[1]), weight.zero)


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> list[Value]:
    """Sums, means or extremes of rows; what comes beside them are numbers of the rows."""
    weight: Value = call["weight"]
    call.freeze(weight.axes[0], because="rows are chosen by the data")
    call.role(weight, 1, "out")
    call.unit(weight.axes[1], "embedding")
    bags, *rest = output_shapes(call.node)
    others = [fixed_value(shape, f"numbers of rows at {call.reason}") for shape in rest]
    return [Value((fixed(bags[0], "bags"), weight.axes[1]), weight.zero), *others]


@rule("scaled_dot_product_attention")
def attention(call: Call) -> Value:
    """(…, heads, queries, e) · (…, heads, keys, e) · (…, heads, keys, v); grouped queries share keys and values."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    contract(call, query, key, query.axes[-1], key.axes[-1])
    if call["scale"] is None:
        call.freeze(query.axes[-1], because="the head dimension sets the scale of the attention")
    call.unify(key.axes[-2], value.axes[-2])
    _attention_units(call, query.axes[:-2], query.axes[-1])
    call.unit(value.axes[-1], "head dimension")
    freeze(key.axes[-2], "attended over")
    freeze(query.axes[-2], "attended from")
    heads = 3 if call["enable_gqa"] else 2  # which of grouped queries are not those of keys and values
    batch = _batch_axes(call, query.axes[:-heads], value.axes[:-heads])
    _batch_axes(call, query.axes[:-heads], key.axes[:-heads])
    if call["enable_gqa"]:
        batch = (*batch, _grouped_heads(call, query.axes[-3], key.axes[-3], value.axes[-3]))
    if mask is not None:
        _batch_axes(call, batch, mask.axes[:-2])
        freeze(product(*mask.axes[-2:]), "attention mask")
    axes = (*batch, query.axes[-2], value.axes[-1])
    # Without a query, all values count alike: only what the values have themselves is zero.
    return Value(axes, value.zero and covers([value], call.shape, [Value(axes)]))


def _grouped_heads(call: Call, query: Axis, key: Axis, value: Axis) -> Axis:
    parts = factor(query, query.size // key.size)
    call.unify(key, value)
    if parts is None:
        call.freeze(query, key, value, because="grouped queries")
        return query
    call.unify(parts[0], key)
    return resolve(query)


@rule("bilinear")
def bilinear(call: Call) -> Value:
    a, b, weight, bias = call["input1"], call["input2"], call["weight"], call["bias"]
    contract(call, a, weight, a.axes[-1], weight.axes[1])
    contract(call, b, weight, b.axes[-1], weight.axes[2])
    for mine, other in zip(a.axes[:-1], b.axes[:-1], strict=True):
        call.unify(mine, other)
    for dim, role in enumerate(("out", "in", "in")):
        call.role(weight, dim, role)
    if bias is not None:
        call.unify(bias.axes[0], weight.axes[0])
    return Value((*a.axes[:-1], weight.axes[0]), _product_zero(a, a.axes[:-1], weight, bias))
