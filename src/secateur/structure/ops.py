"""What an op of a traced graph does with what it is given: writes into it, views it, multiplies it by a weight."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import fx
from torch.fx import Node

from secateur.structure.rules.contractions import CONVOLUTIONS, TRANSPOSED
from secateur.structure.rules.registry import op_name, shape_of

__all__ = ["NORMS", "POINTWISE", "POOLS", "Product", "bind", "by_sample", "flattens", "is_view", "product_of", "writes"]

POINTWISE = {
    *("relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "silu", "sigmoid", "tanh", "gelu", "elu", "leaky_relu"),
    *("mish", "softplus", "clone", "detach", "alias"),
}
"""Ops that make of each number another one, whatever the others are."""

POOLS = {
    *("max_pool2d", "max_pool2d_with_indices", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"),
    "constant_pad_nd",
}
"""Ops that treat each map of each sample by itself."""

NORMS = {"batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
"""Ops that scale and shift each channel; by numbers of their own unless they are training."""

GIVING_BACK = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "getitem"}
"""Ops that may give what they are given, though their schemas do not say so."""


def writes(node: Node) -> bool:
    """Return whether an op writes into what it is given; a block that is run as one op, whether any of its ops does."""
    if node.op != "call_function":
        return False
    schema = getattr(node.target, "_schema", None)
    if schema is not None:
        return bool(schema.is_mutable)
    return any(writes(inner) for block in _blocks(node) for inner in block.graph.nodes)


def _blocks(node: Node) -> Iterator[fx.GraphModule]:
    """The graphs that an op is given to run."""
    for operand in node.all_input_nodes:
        if operand.op == "get_attr":
            block: Any = node.graph.owning_module
            for part in str(operand.target).split("."):
                block = getattr(block, part, None)
            if isinstance(block, fx.GraphModule):
                yield block


def is_view(node: Node) -> bool:
    """Return whether an op may give a view of what it is given."""
    schema = getattr(node.target, "_schema", None)
    return op_name(node) in GIVING_BACK or (
        schema is not None and any(r.alias_info is not None for r in schema.returns)
    )


def by_sample(node: Node) -> bool:
    """Return whether an op treats each sample by itself, however many there are along the first dimension.

    Its other operands must be the same for all samples.
    """
    name = op_name(node)
    if name in NORMS:
        arguments = bind(node, {})
        return not (arguments.get("training") or arguments.get("train"))
    product = product_of(node)
    return (
        name in POINTWISE
        or name in POOLS
        or name == "getitem"
        or (product is not None and product.plain and product.kind != "matmul")
    )


def bind(node: Node, values: Mapping[Node, Any]) -> dict[str, Any]:
    """Return the arguments of a call by the names of its schema, defaults included, nodes replaced by their values."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values.get(n))
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(i): a for i, a in enumerate(args)}, **kwargs}
    names = [a.name for a in schema.arguments]
    defaults = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    return {**defaults, **dict(zip(names, args, strict=False)), **kwargs}


MULTIPLYING = {
    "linear": ("input", "weight", "bias"),
    "addmm": ("mat1", "mat2", "self"),
    "mm": ("self", "mat2", ""),
    "matmul": ("self", "other", ""),
}
"""Which of an op's arguments are the activations, the weight and the bias."""

CONVOLVING = dict.fromkeys((*CONVOLUTIONS.split(), *TRANSPOSED.split()), ("input", "weight", "bias"))


@dataclass(frozen=True, eq=False)
class Product:
    """A linear layer or a convolution: an op that multiplies activations by a weight, and may add a bias.

    Attributes:
        node: the op.
        source: the activations; what else than a node stands there is no tensor of the graph.
        weight: the weight.
        bias: the bias; None where there is none.
        arguments: all arguments of the op by name; tensors are their nodes.
    """

    node: Node
    source: Any
    weight: Any
    bias: Any
    arguments: Mapping[str, Any] = field(repr=False)

    @property
    def kind(self) -> str:
        """The op's name."""
        return op_name(self.node)

    @property
    def convolution(self) -> bool:
        """Whether it is a convolution, transposed ones included."""
        return self.kind in CONVOLVING

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.kind in TRANSPOSED.split() or bool(self.arguments.get("transposed"))

    @property
    def groups(self) -> int:
        """How many groups of channels a convolution has."""
        return int(self.arguments.get("groups") or 1)

    @property
    def out_first(self) -> bool:
        """Whether the weight's outputs lie along its first dimension, its inputs along the second."""
        return self.kind == "linear" or (self.convolution and not self.transposed)

    @property
    def plain(self) -> bool:
        """Whether it is the product and the bias alone: nothing is scaled, no convolution is transposed."""
        return not self.transposed and (self.arguments.get("alpha", 1), self.arguments.get("beta", 1)) == (1, 1)


def product_of(node: Node) -> Product | None:
    """Return the product that an op is; None for another op.

    >>> import torch
    >>> from secateur.structure import channels
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    >>> products = map(product_of, channels(model, torch.zeros(1, 2)).structure.graph.nodes)
    >>> [(product.kind, product.out_first) for product in products if product is not None]
    [('addmm', False)]
    """
    if node.op != "call_function":
        return None
    names = MULTIPLYING.get(op_name(node)) or CONVOLVING.get(op_name(node))
    if names is None:
        return None
    arguments = bind(node, {operand: operand for operand in node.all_input_nodes})
    source, weight, bias = (arguments.get(name) for name in names)
    return Product(node, source, weight, bias, arguments)


def flattens(node: Node) -> bool:
    """Return whether an op only joins the last axes into one: with other sizes it fails, or the outputs' shape gives it away."""
    source = node.args[0] if node.args else None
    if op_name(node) not in {"view", "reshape", "_unsafe_view", "flatten"} or not isinstance(source, Node):
        return False
    before, after = shape_of(source), shape_of(node)
    return len(after) <= len(before) and after[:-1] == before[: len(after) - 1]
