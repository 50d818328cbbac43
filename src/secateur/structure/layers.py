"""Where the weights of a model are multiplied: every linear layer and convolution of its graph, as one matrix product.

A convolution is a product of its weight with the patches of its input, a transposed one the same over an input that is
spread out with zeros. So what holds for the rows and columns of a matrix holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.structure.infer import Structure
from secateur.structure.ops import product_of
from secateur.structure.patches import PART, Patches
from secateur.structure.rules import op_name

__all__ = ["Layer", "layers", "other_uses"]

MOVES = [
    "alias",
    "chunk",
    "clone",
    "contiguous",
    "detach",
    "flatten",
    "getitem",
    "numpy_T",
    "permute",
    "reshape",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "_unsafe_view",
]
"""Ops that put the entries of a weight in other places, and change none."""


@dataclass(frozen=True, eq=False)
class Layer:
    """An op that multiplies what it is given by a weight.

    Attributes:
        parameter: the weight's name.
        number: which of the products with this parameter it is, in their order.
        node: the op.
        source: the tensor that it multiplies.
        entries: the weight as matrices: where in the flattened parameter each entry is, int64 ``(groups, out, in)``.
    """

    parameter: str
    number: int
    node: Node
    source: Node
    entries: Tensor
    _conv: Patches | None = field(default=None, repr=False)

    @property
    def places(self) -> int:
        """How many columns each input has, one after the other: the places of a kernel, or 1."""
        return 1 if self._conv is None else prod(self._conv.kernel)

    def columns(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what the weight's columns are multiplied by, a part of the samples at a time: ``(groups, in, positions)``."""
        if self._conv is None:
            for part in torch.split(x.reshape(-1, x.shape[-1]), max(1, PART // x.shape[-1])):
                yield part.T.unsqueeze(0)
        else:
            yield from self._conv.columns(x, len(self.entries))


def layers(structure: Structure) -> tuple[Layer, ...]:
    """Return every product with a weight, in the order in which they happen.

    A weight counts if its entries are the model's own, moved about at most, as in a transposed or chunked weight. What
    is computed from parameters is not a weight whose entries could be chosen.

    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3))
    >>> weight_layers = layers(channels(model, torch.zeros(1, 2, 3, 3)).structure)
    >>> [(layer.parameter, tuple(layer.entries.shape)) for layer in weight_layers]
    [('0.weight', (2, 2, 9)), ('2.weight', (1, 3, 4))]
    """
    weight_layers: list[Layer] = []
    moved = _Moved(structure)
    for node in structure.graph.nodes:
        product = product_of(node)
        place = None if product is None else moved[product.weight]
        if product is None or place is None or moved[product.source] is not None:
            continue
        name, entries = place
        number = sum(layer.parameter == name for layer in weight_layers)
        if product.convolution:
            matrices = _matrices(entries, product.groups, product.transposed)
            patches = Patches.of(product.arguments, entries.shape[2:], transposed=product.transposed)
            weight_layers.append(Layer(name, number, node, product.source, matrices, patches))
        elif entries.ndim == 2:
            matrix = entries if product.out_first else entries.T
            weight_layers.append(Layer(name, number, node, product.source, matrix.unsqueeze(0)))
    return tuple(weight_layers)


def other_uses(structure: Structure) -> dict[str, Node]:
    """Return the parameters that another op than a product reads as well, each with the first such op.

    New values for such a weight change more than what its products compute: a table that an embedding looks up, and
    that the last layer multiplies by.
    """
    moved, products = _Moved(structure), {layer.node for layer in layers(structure)}
    uses: dict[str, Node] = {}
    for node in structure.graph.nodes:
        product = product_of(node) if node in products else None
        for source in node.all_input_nodes:
            place = moved[source]
            if place is not None and moved[node] is None and (product is None or source is not product.weight):
                uses.setdefault(place[0], node)
    return uses


class _Moved(dict[Any, tuple[str, Tensor] | None]):
    """For each tensor made by moving a parameter's entries, the parameter and where each entry is in it."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.graph = structure.graph

    def __missing__(self, node: Any) -> tuple[str, Any] | None:
        self[node] = place = self._find(node) if isinstance(node, Node) else None
        return place

    def _find(self, node: Node) -> tuple[str, Any] | None:
        if node in self.graph.tensors:
            name = self.graph.tensors[node]
            shape = self.graph.state[name].shape
            return name, torch.arange(prod(shape)).reshape(shape)
        if node.op != "call_function" or op_name(node) not in MOVES or len(node.all_input_nodes) != 1:
            return None
        before = self[node.all_input_nodes[0]]
        if before is None:
            return None
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda _: before[1])
        return before[0], node.target(*args, **kwargs)  # type: ignore[operator]


def _matrices(entries: Tensor, groups: int, transposed: bool) -> Tensor:
    """A convolution's weight as one matrix a group."""
    if not transposed:
        return entries.reshape(groups, entries.shape[0] // groups, -1)
    flipped = entries.flip(tuple(range(2, entries.ndim)))
    return torch.unflatten(flipped, 0, (groups, -1)).transpose(1, 2).flatten(2)
