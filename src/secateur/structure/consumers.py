"""The layers that read the units of sites and can be fitted anew: linear layers and convolutions with weights of their own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.state import own_tensors
from secateur.structure.flow import Read
from secateur.structure.infer import Structure
from secateur.structure.ops import Product, product_of
from secateur.structure.rules import op_name
from secateur.types import Keep

__all__ = ["Consumer", "consumers_of", "layers_of"]


@dataclass(frozen=True, eq=False)
class Consumer:
    """An op that multiplies the units it reads with a weight of the model's.

    Attributes:
        product: the op.
        weight, bias: the names of its parameters; None where it has no bias.
        inputs_first: whether the parameter's inputs lie along dimension 0.
        reads: where it takes up units, one read a site; none where it reads the model's inputs alone, say.
    """

    product: Product
    weight: str
    bias: str | None
    inputs_first: bool
    reads: tuple[Read, ...]

    @property
    def node(self) -> Node:
        """The op's node."""
        return self.product.node

    @property
    def inputs(self) -> int:
        """How many inputs it reads: channels of a convolution, features of a linear layer."""
        return int(self.product.source.meta["val"].shape[1 if self.product.convolution else -1])

    def units(self, site: str) -> Tensor | None:
        """Return the inputs that belong to each unit of a site, int64 ``(units, inputs a unit)``; None if it reads none."""
        return next((read.index for read in self.reads if read.site == site), None)

    @property
    def places(self) -> int:
        """How many inputs that follow each other always stay or go together, as the pixels of a flattened map; 1 if none."""
        if not self.reads:
            return 1
        index = self.reads[0].index
        together = len(self.reads) == 1 and torch.equal(index.flatten(), torch.arange(self.inputs))
        return index.shape[1] if together else 1

    def kept(self, keep: Keep) -> Tensor:
        """Return which inputs stay, bool ``(inputs,)``."""
        kept = torch.ones(self.inputs, dtype=torch.bool)
        for read in self.reads:
            if read.site in keep:
                kept[read.index[~keep[read.site].cpu()].flatten()] = False
        return kept

    def matrix(self, model: nn.Module) -> Tensor:
        """Return a view of the model's weight with outputs along dimension 0, inputs along dimension 1."""
        weight = own_tensors(model)[self.weight]
        return weight.mT if self.inputs_first else weight

    def run(self, x: Tensor, model: nn.Module) -> Tensor:
        """Return the layer's outputs with the model's weight and bias."""
        weight = self.matrix(model)
        bias = own_tensors(model)[self.bias] if self.bias else None
        if weight.ndim == 2:
            return nn.functional.linear(x, weight, bias)
        arguments = {**self.product.arguments, "input": x, "weight": weight, "bias": bias}
        result: Tensor = self.product.node.target(**arguments)  # type: ignore[operator]
        return result


def consumers_of(structure: Structure, reads: Mapping[str, Iterable[Read]]) -> tuple[Consumer, ...]:
    """Return the layers among the readers that can be fitted anew, in the order of the forward pass.

    Transposed convolutions, products of two activations, and weights that several ops share are none.

    >>> from secateur.structure import channels
    >>> from secateur.structure.flow import Flow
    >>> model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4)
    >>> structure, reads = Flow(model, channels(model, x)).at(x)
    >>> [(consumer.weight, consumer.bias, consumer.inputs) for consumer in consumers_of(structure, reads)]
    [('2.weight', '2.bias', 3)]
    """
    return tuple(layer for layer in layers_of(structure, reads) if layer.reads)


def layers_of(structure: Structure, reads: Mapping[str, Iterable[Read]]) -> tuple[Consumer, ...]:
    """Return all layers that can be fitted anew, those that read no units included, in the order of the forward pass.

    >>> from secateur.structure import channels
    >>> from secateur.structure.flow import Flow
    >>> model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.zeros(1, 4)
    >>> structure, reads = Flow(model, channels(model, x)).at(x)
    >>> [(layer.weight, layer.inputs) for layer in layers_of(structure, reads)]
    [('0.weight', 4), ('2.weight', 3)]
    """
    by_node: dict[Node, list[Read]] = {}
    for site_reads in reads.values():
        for read in site_reads:
            by_node.setdefault(read.node, []).append(read)
    layers = (_layer(structure, node, tuple(by_node.get(node, ()))) for node in structure.graph.nodes)
    return tuple(layer for layer in layers if layer is not None)


def _layer(structure: Structure, node: Node, reads: tuple[Read, ...]) -> Consumer | None:
    product = product_of(node)
    if product is None or not isinstance(product.source, Node) or not product.plain or product.kind == "matmul":
        return None
    weight, bias = product.weight, product.bias
    turned = isinstance(weight, Node) and weight.op == "call_function" and op_name(weight) in {"t", "transpose"}
    holder: Any = weight.args[0] if isinstance(weight, Node) and turned else weight
    names, state = structure.graph.tensors, structure.graph.state
    if holder not in names or (bias is not None and bias not in names):
        return None
    if any(read.source is not product.source for read in reads):
        return None
    if any(_uses(structure, names[tensor]) > 1 for tensor in (holder, bias) if tensor is not None):
        return None
    space = state[names[holder]].ndim - 2
    if space < 0 or (space and any(read.dim != 1 for read in reads)):
        return None
    if bias is not None and state[names[bias]].ndim != 1:
        return None
    inputs_first = not (product.out_first or turned)
    return Consumer(product, names[holder], None if bias is None else names[bias], inputs_first, reads)


def _uses(structure: Structure, name: str) -> int:
    """How many ops take a tensor, under all its names."""
    state = structure.graph.state
    same = (holder for holder, other in structure.graph.tensors.items() if state.get(other) is state[name])
    return sum(len(holder.users) for holder in same)
