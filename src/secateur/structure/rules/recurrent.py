"""Rules of the recurrent layers and cells: gates × hidden units, tied over layers and directions as a module has one size."""

from __future__ import annotations

from secateur.structure.axes import Axis, factor, fixed, freeze, product, total
from secateur.structure.rules.contractions import contract
from secateur.structure.rules.registry import Call, Value, freeze_all, op_name, rule

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CELLS = {f"{name}_cell": gates for name, gates in GATES.items()}


@rule(*GATES)
def recurrent(call: Call) -> list[Value]:
    """(input, hx, params, has_biases, num_layers, dropout, train, bidirectional, batch_first) → output and states."""
    if call["batch_sizes"] is not None:
        frozen = freeze_all(call, "packed sequences")
        return frozen if isinstance(frozen, list) else [frozen]
    x: Value = call["input"]
    gates = GATES[op_name(call.node)]
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    params: list[Value] = list(call["params"])
    directions = 2 if call["bidirectional"] else 1
    biases = 2 if call["has_biases"] else 0
    projected = len(params) != call["num_layers"] * directions * (2 + biases)
    step = 2 + biases + int(projected)
    inner = _hidden(params[0], gates)
    outer = params[2 + biases].axes[0] if projected else inner
    layer_in: Axis = x.axes[-1]
    for layer in range(call["num_layers"]):
        for direction in range(directions):
            at = (layer * directions + direction) * step
            _tie(call, x, params[at : at + step], gates, layer_in, inner, outer, projected)
        layer_in = total(*([outer] * directions))
    for state, axis in zip(states, (outer, inner), strict=False):
        call.unify(state.axes[-1], axis)
    _freeze_all_but_units(x, *states)
    zero = all(value.zero for value in (*states, *params))
    outputs = [Value((*x.axes[:-1], layer_in), zero)]
    outputs += [Value((*s.axes[:-1], axis), zero) for s, axis in zip(states, (outer, inner), strict=False)]
    return outputs


@rule(*CELLS)
def cell(call: Call) -> Value | list[Value]:
    """(input, hx, w_ih, w_hh, b_ih, b_hh) → the new state, or both states of an LSTM."""
    x: Value = call["input"]
    several = isinstance(call["hx"], (list, tuple))
    states: list[Value] = list(call["hx"]) if several else [call["hx"]]
    params = [p for name in ("w_ih", "w_hh", "b_ih", "b_hh") if (p := call[name]) is not None]
    gates = CELLS[op_name(call.node)]
    hidden = _hidden(params[0], gates)
    _tie(call, x, params, gates, x.axes[-1], hidden, hidden, projected=False)
    for state in states:
        call.unify(state.axes[-1], hidden)
    _freeze_all_but_units(x, *states)
    zero = all(value.zero for value in (*states, *params))
    outputs = [Value((*x.axes[:-1], hidden), zero) for _ in states]
    return outputs if several else outputs[0]


def _require_zero(call: Call, weight: Value, units: Axis) -> None:
    """Freeze what a weight sums over where masking does not make the weight zero."""
    if not weight.zero:
        call.freeze(units, because="summed with values that masking does not make zero")


def _freeze_all_but_units(*values: Value) -> None:
    for value in values:
        freeze(product(*value.axes[:-1]), "time and batch axes")


def _hidden(w_ih: Value, gates: int) -> Axis:
    """The axis of the hidden units, of which each gate has one row."""
    halves = factor(w_ih.axes[0], w_ih.axes[0].size // gates)
    assert halves is not None, "an atom can always be factored by its gates"
    freeze(halves[0], "gates")
    return halves[1]


def _tie(
    call: Call, x: Value, params: list[Value], gates: int, layer_in: Axis, inner: Axis, outer: Axis, projected: bool
) -> None:
    w_ih, w_hh, *rest = params
    call.unify(w_ih.axes[0], product(fixed(gates, "gates"), inner))
    contract(call, x, w_ih, layer_in, w_ih.axes[1])
    call.unify(w_hh.axes[0], w_ih.axes[0])
    call.unify(w_hh.axes[1], outer)
    _require_zero(call, w_hh, outer)
    call.role(w_ih, 0, "out")
    call.role(w_ih, 1, "in")
    call.role(w_hh, 0, "out")
    call.role(w_hh, 1, "in")
    if projected:
        *rest, w_hr = rest
        call.unify(w_hr.axes[0], outer)
        call.unify(w_hr.axes[1], inner)
        _require_zero(call, w_hr, inner)
        call.role(w_hr, 0, "out")
        call.role(w_hr, 1, "in")
    for bias in rest:
        call.unify(bias.axes[0], w_ih.axes[0])
