"""One layer's masks for a whole population as one wide product, the population folded into the batch after it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx import Node

from secateur.rate.parted import Suffix, Values
from secateur.structure.rules import op_name
from secateur.structure.rules.registry import shape_of

__all__ = ["Wide", "wide"]

ELEMENTWISE = {
    *("relu", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "gelu", "elu", "leaky_relu", "mish"),
    *("softplus", "clone", "detach", "alias"),
}
# What treats each sample by itself, whatever their number, as long as its other operands are the model's own.
BY_SAMPLE = ELEMENTWISE | {
    *("addmm", "linear", "mm", "convolution", "conv1d", "conv2d", "conv3d", "max_pool2d_with_indices", "max_pool2d"),
    *("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d", "getitem", "constant_pad_nd"),
    *("native_batch_norm", "_native_batch_norm_legit_no_training", "batch_norm"),
}
FIRST = {"linear": (0, 1, 2), "addmm": (1, 2, 0), "mm": (0, 1, None), "convolution": (0, 1, 2)}
"""Where an op has its input, its weight and its bias."""


@dataclass(frozen=True, eq=False)
class Wide:
    """How to run the suffix for many masks of one layer at once.

    Attributes:
        suffix: the suffix.
        layer: the op whose weight is masked: a linear layer or a convolution in one group.
        source: the op's input.
        bias: the op's bias, if it has one.
        rest: the ops after it.
    """

    suffix: Suffix
    layer: Node
    source: Node
    bias: Node | None
    rest: tuple[Node, ...]

    @property
    def last(self) -> bool:
        """Whether a linear layer's outputs are the model's."""
        return not self.rest and op_name(self.layer) != "convolution"

    @property
    def head(self) -> tuple[Node, ...]:
        """The ops right after the layer that act on each number by itself."""
        found: list[Node] = []
        for node in self.rest:
            if op_name(node) not in ELEMENTWISE or len(node.all_input_nodes) != 1:
                break
            found.append(node)
        return tuple(found)

    def classes_first(self, values: Values, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits of the last layer, ``(classes, candidates, samples)``.

        Args:
            values: what is known of the nodes.
            weights: ``(classes, candidates, inputs)``, masked.
            bias: ``(candidates, classes)`` or ``(1, classes)``.
        """
        made = torch.mm(weights.flatten(0, 1), values[self.source].mT).view(*weights.shape[:2], -1)
        return made if bias is None else made.add_(bias.mT.unsqueeze(-1))

    def outputs(self, values: Values, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits ``(classes, candidates, samples)``.

        Args:
            values: what is known of the nodes.
            weights: ``(candidates, *weight shape)``, masked.
            bias: ``(candidates, outputs)`` or ``(1, outputs)``.
        """
        source, count = values[self.source], len(weights)
        made = self._layer(source, weights.flatten(0, 1))
        made = made.view(len(made), count, -1, *made.shape[2:])
        if bias is not None:
            made.add_(bias.reshape(1, *bias.shape, *([1] * (made.ndim - 3))))
        logits = self.finish(values, made.flatten(0, 1), self.layer, self.rest)
        return logits.view(len(source), count, -1).permute(2, 1, 0)

    def finish(self, values: Values, made: Tensor, after: Node, ops: tuple[Node, ...]) -> Tensor:
        """Run `ops` on what `after` makes, candidates within samples along the first dimension; return the last result."""
        known = {**values, after: made}
        for node in ops:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: known[n])
            if op_name(node) in VIEWS:
                args = (args[0], [len(made), *cast("list[int]", args[1])[1:]])
            known[node] = made = node.target(*cast("tuple[Any, ...]", args), **kwargs)  # type: ignore[operator]
        return made

    def from_rows(self, values: Values, rows: Tensor, after: Node, ops: tuple[Node, ...]) -> Tensor:
        """Run `ops` as `finish` does, on what `after` makes given with samples along the last dimension.

        A linear layer takes it as it lies: turned over, few outputs of many rows take several times as long.
        """
        name = op_name(ops[0]) if ops else ""
        if name not in {"linear", "addmm", "mm"}:
            return self.finish(values, rows.mT, after, ops)
        weight, bias = _argument(ops[0], FIRST[name][1]), _bias_of(ops[0])
        across = values[weight] if name == "linear" else values[weight].mT
        made = torch.mm(across, rows) if bias is None else torch.addmm(values[bias].unsqueeze(-1), across, rows)
        return self.finish(values, made.mT, ops[0], ops[1:])

    def _layer(self, source: Tensor, weights: Tensor) -> Tensor:
        if op_name(self.layer) != "convolution":
            return source @ weights.mT
        args = list(self.layer.args)
        made: Tensor = self.layer.target(source, weights, None, *args[3:])  # type: ignore[operator]
        return made


VIEWS = {"view", "_unsafe_view", "reshape"}


def wide(suffix: Suffix, weight: str, bias: str | None, samples: int) -> Wide | None:
    """Return the fast way through a suffix in which one weight, and perhaps its layer's bias, changes; None if there is none."""
    known = {name: node for node, name in suffix.changing.items()}
    if len(known) != 1 + (bias is not None) or weight not in known:
        return None
    layer, passed = _layer_of(known[weight])
    if layer is None:
        return None
    where = FIRST[op_name(layer)]
    source, shift = layer.args[where[0]], _bias_of(layer)
    free = isinstance(source, Node) and source in suffix.taken and len(shape_of(source)) == _input_dims(layer)
    ours = bias is None or (shift is known.get(bias) and list(known[bias].users) == [layer])
    rest = tuple(n for n in suffix.after if n not in {layer, *passed})
    if not free or not ours or not _plain_layer(layer) or not _by_sample(rest, {layer}, samples, suffix.graph.tensors):
        return None
    assert isinstance(source, Node)
    return Wide(suffix, layer, source, shift if isinstance(shift, Node) else None, rest)


def _layer_of(weight: Node) -> tuple[Node | None, tuple[Node, ...]]:
    """The one op that uses a weight, and the transposition on the way to it."""
    users = list(weight.users)
    if len(users) != 1:
        return None, ()
    if op_name(users[0]) == "t" and len(users[0].users) == 1:
        layer = next(iter(users[0].users))
        ok = op_name(layer) in {"addmm", "mm"} and layer.args[FIRST[op_name(layer)][1]] is users[0]
        return (layer if ok else None), (users[0],)
    layer = users[0]
    ok = op_name(layer) in {"linear", "convolution"} and _argument(layer, 1) is weight
    return (layer if ok else None), ()


def _argument(node: Node, position: int) -> Any:
    return node.args[position] if position < len(node.args) else None


def _bias_of(layer: Node) -> Any:
    where = FIRST[op_name(layer)][2]
    return None if where is None else _argument(layer, where)


def _input_dims(layer: Node) -> int:
    return len(shape_of(layer)) if op_name(layer) == "convolution" else 2


def _plain_layer(layer: Node) -> bool:
    """A convolution has one group and is not transposed; addmm does not scale."""
    if layer.kwargs:
        return False
    if op_name(layer) == "convolution":
        return layer.args[6] is False and bool(layer.args[8] == 1)
    return True


def _by_sample(rest: tuple[Node, ...], made: set[Node], samples: int, own: Mapping[Node, str]) -> bool:
    """Whether all ops of the rest treat samples one by one and take nothing else but the model's own tensors."""
    late = set(made)
    for node in rest:
        name, sources = op_name(node), node.all_input_nodes
        moving = [s for s in sources if s in late]
        late.add(node)
        if len(moving) != 1 or node.args[1 if name == "addmm" else 0] is not moving[0]:
            return False
        if name in VIEWS:
            if shape_of(moving[0])[0] != samples or node.args[1][0] != samples:  # type: ignore[index]
                return False
        elif name not in BY_SAMPLE or any(not _is_own(s, own) for s in sources if s not in late):
            return False
    return True


def _is_own(node: Node, own: Mapping[Node, str]) -> bool:
    if node.op == "placeholder":
        return node in own
    return node.op == "call_function" and all(_is_own(s, own) for s in node.all_input_nodes)
