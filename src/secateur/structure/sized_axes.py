"""Where the sizes that a forward pass was seen to read or to set stand among the axes of its graph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Atom, Axis, atoms
from secateur.structure.carriers import Dimension, Uses
from secateur.structure.nodes import module_paths
from secateur.structure.rules import Value, op_name, shape_of

__all__ = ["RESHAPES", "SizedAxes"]

RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten"}


class SizedAxes:
    """Finds the axes of tensors that a module had in its hands by their shapes."""

    def __init__(self, uses: Uses, values: Mapping[Node, Any]) -> None:
        self.values = values
        self.nodes: defaultdict[tuple[str, tuple[int, ...]], dict[Node, None]] = defaultdict(dict)
        for node in values:
            neighbours = [n for n in (node, *node.all_input_nodes) if isinstance(values.get(n), Value)]
            for path in {
                "",
                *(uses.first_names.get(p, p) for p in module_paths(node)),
            }:
                for neighbour in neighbours:
                    self.nodes[path, shape_of(neighbour)][neighbour] = None

    def atoms(self, dimensions: Iterable[Dimension]) -> Iterator[Atom]:
        """Yield the atoms of the axes that the dimensions may be of."""
        for axis in self.axes(dimensions):
            yield from atoms(axis)

    def axes(self, dimensions: Iterable[Dimension], reshaped: bool = False) -> Iterator[Axis]:
        """Yield the axes that the dimensions may be of; of reshaped tensors alone where that is asked for."""
        for dimension in dimensions:
            for node in self.nodes.get((dimension.path, dimension.shape), ()):
                if not reshaped or (node.op == "call_function" and op_name(node) in RESHAPES):
                    yield self.values[node].axes[dimension.dim]
