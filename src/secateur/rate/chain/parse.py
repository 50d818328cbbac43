"""Is a model a chain of layers? If so, which: read once from its traced graph, then run plainly."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.functional import conv2d

from secateur.rate.chain.gemm import product
from secateur.state import tensors
from secateur.structure.axes import Atom, resolve
from secateur.structure.infer import Structure
from secateur.structure.ops import NORMS, POINTWISE, POOLS, Product, bind, product_of
from secateur.structure.rules import Value, op_name
from secateur.types import Sites

__all__ = ["ChainLayer", "ChainOp", "parse", "read_chain"]

VIEWS = {"view", "reshape", "flatten", "_unsafe_view", "squeeze"}
RISING = {"relu", "tanh", "sigmoid", "hardtanh", "relu6"}
MAXIMA = {"max_pool2d", "max_pool2d_with_indices"}
NOTHING = {"clone", "detach", "alias", "dropout"}


@dataclass(frozen=True)
class ChainOp:
    """An op between two layers, on samples along the first dimension."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, x: Tensor) -> Tensor:
        """Return a new tensor."""
        if self.name == "flatten":
            return x.flatten(1)
        result = getattr(torch.ops.aten, self.name)(x, **self.options)
        first: Tensor = result[0] if isinstance(result, tuple) else result
        return first


@dataclass(eq=False)
class ChainLayer:
    """A linear layer or a convolution, and what follows it before the next one.

    Attributes:
        weight: float32 ``(out, in)`` or ``(out, in, height, width)``; what a batch norm does is in it.
        bias: float32 ``(out,)``.
        options: of a convolution: stride, padding, dilation, two numbers each.
        site: the name of the site that its outputs are; None where they cannot be removed.
        post: what follows.
        names: of its weight and its bias in the model; a bias that it does not have is None.
    """

    weight: Tensor
    bias: Tensor
    options: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    site: str | None = None
    post: list[ChainOp] = field(default_factory=list)
    names: tuple[str, str | None] = ("", None)

    def __call__(self, x: Tensor) -> Tensor:
        """Return what the layer gives, before what follows it."""
        if self.linear:
            return product(x, self.weight, self.bias)
        stride, padding, dilation = (self.options[key] for key in ("stride", "padding", "dilation"))
        return conv2d(x, self.weight, self.bias, stride, padding, dilation)

    @property
    def linear(self) -> bool:
        """Whether it is a linear layer."""
        return self.weight.ndim == 2

    def after(self, x: Tensor) -> Tensor:
        """Run what follows the layer."""
        for op in self.post:
            x = op(x)
        return x


def parse(model: nn.Module, sites: Sites) -> tuple[list[ChainOp], list[ChainLayer]] | None:
    """Return what precedes the first layer, and the layers, or None where the model is no such chain.

    A chain has linear layers and convolutions (2-d, one group), each with a batch norm directly after it at most,
    pointwise ops, pools and a flattening between them, and a linear layer as its end. The layers' tensors are copies.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> found = parse(model, channels(model, torch.zeros(1, 4)))
    >>> [(tuple(layer.weight.shape), layer.site, [op.name for op in layer.post]) for layer in found[1]]
    [((3, 4), '0', ['relu']), ((2, 3), None, [])]
    """
    chain = read_chain(model, sites)
    if chain is None:
        return None
    last = chain[1][-1]
    names = {layer.site for layer in chain[1][:-1]}
    if not last.linear or last.post or not set(sites) <= names or len(last.weight) < 2:
        return None
    return chain


def read_chain(model: nn.Module, sites: Sites) -> tuple[list[ChainOp], list[ChainLayer]] | None:
    """Return what `parse` does, whatever the chain ends in and whichever sites there are; None for no chain."""
    structure = sites.structure
    if not isinstance(structure, Structure) or structure.graph.regions or len(structure.graph.inputs) != 1:
        return None
    state = tensors(model)
    if any(tensor.is_complex() for tensor in state.values()):
        return None
    reader = _Reader(structure, {name: tensor.float() for name, tensor in state.items()})
    return (reader.before, reader.layers) if reader.read() and reader.layers else None


class _Reader:
    """Follows the graph from the input to the output."""

    def __init__(self, structure: Structure, state: Mapping[str, Tensor]) -> None:
        self.structure, self.state = structure, state
        self.names = {atom: name for name, atom in structure.units.items()}
        self.before: list[ChainOp] = []
        self.layers: list[ChainLayer] = []

    def read(self) -> bool:
        """Whether all of it was understood."""
        # A tensor with two uses ties two layers together.
        if any(len(holder.users) > 1 for holder in self.structure.graph.tensors):
            return False
        node = self.structure.graph.inputs[0]
        while True:
            users = [user for user in node.users if user.users or user.op == "output"]  # what a pool also gives, say
            if len(users) != 1:
                return False
            if users[0].op == "output":
                return len(_shape(node)) == 2
            if not self._take(users[0], node):
                return False
            node = users[0]

    def _take(self, node: Node, source: Node) -> bool:
        if node.target is operator.getitem:
            return bool(node.args[1] == 0)
        product = product_of(node)
        if product is not None:
            return product.source is source and self._product(product)
        name, arguments = op_name(node), bind(node, {operand: operand for operand in node.all_input_nodes})
        if arguments.get("self", arguments.get("input")) is not source:
            return False
        if name in NORMS:
            return self._norm(arguments)
        return self._plain(name, arguments, node, source)

    def _plain(self, name: str, arguments: dict[str, Any], node: Node, source: Node) -> bool:
        """A pointwise op, a pool, or a flattening."""
        ops = self.layers[-1].post if self.layers else self.before
        options = {k: v for k, v in arguments.items() if k not in {"self", "input"}}
        if any(isinstance(v, Node) for v in options.values()) or options.get("train") is True:
            return False
        if name in VIEWS or (name == "mean" and len(_shape(source)) == 4):
            return _flattening(name, options, _shape(source), _shape(node), ops)
        if name not in POINTWISE | POOLS | NOTHING | {"pad"}:
            return False
        if name not in NOTHING:
            # The maximum of what never falls is that of the maximum, of which there are fewer.
            at = len(ops) - 1 if name in MAXIMA and ops and ops[-1].name in RISING else len(ops)
            ops.insert(at, ChainOp(name, options))
        return True

    def _product(self, product: Product) -> bool:
        """A linear layer on rows, or a convolution of maps in one group."""
        if not product.plain or product.groups != 1 or product.kind == "matmul":
            return False
        weight, dims = product.weight, len(_shape(product.source))
        if product.convolution:
            options = {key: product.arguments[key] for key in ("stride", "padding", "dilation")}
            if dims != 4 or any(isinstance(option, str) for option in options.values()):
                return False
            return self._layer(weight, product.bias, {key: _pair(option) for key, option in options.items()})
        if not product.out_first:
            if not isinstance(weight, Node) or op_name(weight) != "t":
                return False
            weight = weight.args[0]
        return dims == 2 and self._layer(weight, product.bias, {})

    def _layer(self, weight: Any, bias: Any, options: dict[str, tuple[int, int]]) -> bool:
        tensor_of = self.structure.graph.tensors
        if weight not in tensor_of or (bias is not None and bias not in tensor_of):
            return False
        value = self.structure.values.get(weight)
        axis = resolve(value.axes[0]) if isinstance(value, Value) else None
        site = self.names.get(axis) if isinstance(axis, Atom) else None
        w = self.state[tensor_of[weight]].clone()
        b = w.new_zeros(len(w)) if bias is None else self.state[tensor_of[bias]].clone()
        if b.shape != w.shape[:1]:
            return False
        names = (tensor_of[weight], None if bias is None else tensor_of[bias])
        self.layers.append(ChainLayer(w, b, options, site, names=names))
        return True

    def _norm(self, arguments: dict[str, Any]) -> bool:
        """Fold a batch norm into the layer that it directly follows."""
        tensor_of = self.structure.graph.tensors
        operands = [arguments.get(key) for key in ("running_mean", "running_var", "weight", "bias")]
        if not self.layers or self.layers[-1].post or arguments.get("training") or None in operands[:2]:
            return False
        if any(node is not None and node not in tensor_of for node in operands):
            return False
        layer = self.layers[-1]
        mean, variance, scale, shift = (None if node is None else self.state[tensor_of[node]] for node in operands)
        assert mean is not None
        assert variance is not None
        # γ (W x + b − μ) / √(σ² + ε) + β = (f W) x + (f (b − μ) + β) with f = γ / √(σ² + ε) (Ioffe and Szegedy, 2015).
        factor = (variance.double() + arguments["eps"]).rsqrt() * (1.0 if scale is None else scale.double())
        layer.weight = (layer.weight.double() * factor.view(-1, *[1] * (layer.weight.ndim - 1))).float()
        bias = (layer.bias.double() - mean) * factor + (0.0 if shift is None else shift.double())
        layer.bias = bias.float()
        return True


def _flattening(
    name: str, options: dict[str, Any], old: tuple[int, ...], new: tuple[int, ...], ops: list[ChainOp]
) -> bool:
    if name == "mean":
        dims = options.get("dim")
        if not isinstance(dims, (list, tuple)) or sorted(d % 4 for d in dims) != [2, 3]:
            return False
        ops.append(ChainOp("adaptive_avg_pool2d", {"output_size": [1, 1]}))
        if len(new) == 2:
            ops.append(ChainOp("flatten"))
        return True
    if old == new:
        return True
    if old[:1] != new[:1] or len(new) != 2:
        return False
    ops.append(ChainOp("flatten"))
    return True


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(int(s) for s in value.shape) if isinstance(value, Tensor) else ()


def _pair(option: Any) -> tuple[int, int]:
    numbers = [option] if isinstance(option, int) else list(option)
    return int(numbers[0]), int(numbers[-1])
