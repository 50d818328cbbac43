"""The layers that make the units of a site: convolutions and linear layers, ready to be run on their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import Node

from secateur.structure.axes import Atom, atoms, positions
from secateur.structure.infer import Structure, attribute
from secateur.structure.ops import Product, product_of
from secateur.structure.trace import Graph

__all__ = ["Maker", "OwnTensors", "makers_of", "root_of", "weight_nodes"]


@dataclass(frozen=True, eq=False)
class Maker:
    """A convolution or linear layer that produces the units of a site, ready to be run on its own.

    Attributes:
        product: the op.
        weight, bias: its weight and bias as they are now.
        shape: the shape of one sample of its input, as ``(1, channels, *space)``; a linear layer has no space.
        index: positions of each unit in its output's dimension 1, int64 ``(units, positions)``.
    """

    product: Product
    weight: Tensor
    bias: Tensor | None
    shape: tuple[int, ...]
    index: Tensor

    def run(self, signal: Tensor, *, bias: bool = True) -> Tensor:
        """Return the layer's answer ``(samples, channels, *space)`` to a signal ``(samples, channels, *space)``."""
        offset = self.bias if bias else None
        if self.product.convolution:
            arguments = {**self.product.arguments, "input": signal, "weight": self.weight, "bias": offset}
            answer: Tensor = self.product.node.target(**arguments)  # type: ignore[operator]
            return answer
        answer = signal @ (self.weight.mT if self.product.out_first else self.weight)
        return answer if offset is None else answer + offset


def makers_of(structure: Structure, tensors: OwnTensors) -> dict[str, tuple[Maker, ...]]:
    """Return the layers that make the units of each site, in their order."""
    names = {atom: name for name, atom in structure.units.items()}
    makers_by_site: dict[str, list[Maker]] = {name: [] for name in structure.sites}
    weights = weight_nodes(structure)
    for node in structure.graph.nodes:
        product = product_of(node)
        if product is None or product.source in weights or product.weight not in weights:
            continue
        shape = product.source.meta["val"].shape
        space = len(structure.values[product.weight].axes) - 2 if product.convolution else 0
        axis = structure.values[node].axes[-1 - space]
        sample = (1, int(shape[-1 - space]), *(map(int, shape[-space:]) if space else ()))
        for atom in dict.fromkeys(atoms(axis)):
            if atom in names and atom in _produced(structure, product):
                index = positions(axis, atom)
                assert index is not None
                bias = None if product.bias is None else tensors[product.bias]
                makers_by_site[names[atom]].append(Maker(product, tensors[product.weight], bias, sample, index))
    return {name: tuple(layers) for name, layers in makers_by_site.items()}


def _produced(structure: Structure, product: Product) -> set[Atom]:
    """The units along a weight's out dimension."""
    dim = 0 if product.out_first else 1 if product.convolution else -1
    return set(atoms(structure.values[product.weight].axes[dim]))


class OwnTensors(dict[Node, Any]):
    """The tensors of the graph that are made of the model's own alone, computed when they are asked for."""

    def __init__(self, graph: Graph, model_tensors: Mapping[Node, Any]) -> None:
        super().__init__(model_tensors)
        self.root = root_of(graph)

    def __missing__(self, node: Node) -> Any:
        if node.op == "get_attr":
            tensor = attribute(self.root, str(node.target))
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self[n])
            tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        self[node] = tensor
        return tensor


def weight_nodes(structure: Structure) -> set[Node]:
    """The tensors that are the model's own, or made of those alone, as a transposed weight is."""
    weights: set[Node] = set()
    for node in structure.graph.nodes:
        if node.op in {"placeholder", "get_attr"}:
            if node not in structure.graph.inputs:
                weights.add(node)
        elif all(source in weights for source in node.all_input_nodes):
            weights.add(node)
    return weights


def root_of(graph: Graph) -> nn.Module:
    """Return the module that holds what the graph gets by attribute."""
    return graph.program.graph_module if graph.program is not None else nn.Module()
