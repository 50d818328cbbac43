"""The layers that make the units of a site: convolutions and linear layers, ready to be run on their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import Node

from secateur.structure.axes import Atom, atoms, positions
from secateur.structure.infer import Structure, attribute, bind
from secateur.structure.rules import op_name
from secateur.structure.rules.contractions import CONVOLUTIONS, TRANSPOSED
from secateur.structure.trace import Graph

__all__ = ["CONVOLVING", "MULTIPLYING", "Known", "Maker", "makers_of", "root_of", "weight_nodes"]


@dataclass(frozen=True, eq=False)
class Maker:
    """A convolution or linear layer that produces the units of a site, ready to be run on its own.

    Attributes:
        node: the op.
        weight: its weight as it is now.
        shape: the shape of one sample of its input, as ``(1, channels, *space)``; a linear layer has no space.
        index: positions of each unit in its output's dimension 1, int64 ``(units, positions)``.
    """

    node: Node
    weight: Tensor
    shape: tuple[int, ...]
    index: Tensor
    arguments: Mapping[str, Any] = field(repr=False)

    def run(self, signal: Tensor, *, bias: bool = True) -> Tensor:
        """Return the layer's answer ``(samples, channels, *space)`` to a signal ``(samples, channels, *space)``."""
        name = op_name(self.node)
        offset = self.arguments.get("self" if name == "addmm" else "bias") if bias else None
        if name in CONVOLVING:
            given = {**self.arguments, "input": signal, "weight": self.weight, "bias": offset}
            answer: Tensor = self.node.target(**given)  # type: ignore[operator]
            return answer
        answer = signal @ (self.weight.mT if name == "linear" else self.weight)
        return answer if offset is None else answer + offset


# Which of an op's arguments are the activations and the weight.
MULTIPLYING = {
    "linear": ("input", "weight"),
    "addmm": ("mat1", "mat2"),
    "mm": ("self", "mat2"),
    "matmul": ("self", "other"),
}
CONVOLVING = dict.fromkeys((*CONVOLUTIONS.split(), *TRANSPOSED.split()), ("input", "weight"))


def makers_of(structure: Structure, known: Known) -> dict[str, tuple[Maker, ...]]:
    """Return the layers that make the units of each site, in their order."""
    names = {atom: name for name, atom in structure.units.items()}
    found: dict[str, list[Maker]] = {name: [] for name in structure.sites}
    weights = weight_nodes(structure)
    for node in structure.graph.nodes:
        kind = op_name(node) if node.op == "call_function" else ""
        if kind not in MULTIPLYING and kind not in CONVOLVING:
            continue
        operands = bind(node, {n: n for n in node.all_input_nodes})
        source, weight = (operands[name] for name in (CONVOLVING | MULTIPLYING)[kind])
        if source in weights or weight not in weights:
            continue
        made, given = structure.values[node], source.meta["val"].shape
        space = len(structure.values[weight].axes) - 2 if kind in CONVOLVING else 0
        axis = made.axes[-1 - space]
        shape = (1, given[-1 - space], *(given[-space:] if space else ()))
        arguments = {name: known[a] if isinstance(a, Node) and a is not source else a for name, a in operands.items()}
        for atom in dict.fromkeys(atoms(axis)):
            if atom in names and atom in _produced(structure, weight, kind, bool(operands.get("transposed"))):
                index = positions(axis, atom)
                assert index is not None
                found[names[atom]].append(Maker(node, known[weight], tuple(map(int, shape)), index, arguments))
    return {name: tuple(layers) for name, layers in found.items()}


def _produced(structure: Structure, weight: Node, kind: str, transposed: bool) -> set[Atom]:
    """The units along a weight's out dimension."""
    first = kind == "linear" or (kind in CONVOLUTIONS.split() and not transposed)
    return set(atoms(structure.values[weight].axes[0 if first else -1 if kind in MULTIPLYING else 1]))


class Known(dict[Node, Any]):
    """The tensors of the graph that are made of the model's own alone, computed when they are asked for."""

    def __init__(self, graph: Graph, own: Mapping[Node, Any]) -> None:
        super().__init__(own)
        self.root = root_of(graph)

    def __missing__(self, node: Node) -> Any:
        if node.op == "get_attr":
            made = attribute(self.root, str(node.target))
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self[n])
            made = node.target(*args, **kwargs)  # type: ignore[operator]
        self[node] = made
        return made


def weight_nodes(structure: Structure) -> set[Node]:
    """The tensors that are the model's own, or made of those alone, as a transposed weight is."""
    found: set[Node] = set()
    for node in structure.graph.nodes:
        if node.op in {"placeholder", "get_attr"}:
            if node not in structure.graph.inputs:
                found.add(node)
        elif all(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def root_of(graph: Graph) -> nn.Module:
    """Return the module that holds what the graph gets by attribute."""
    return graph.program.graph_module if graph.program is not None else nn.Module()
