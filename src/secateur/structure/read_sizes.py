"""Tie the axes of which code reads one's size from a tensor's shape and gives it to the other.

As in ``b, t, width = x.shape`` and later ``heads.reshape(b, t, width)``: a module that is run anew needs both to be of one
size. A graph could be written with two; where none can be, they are one axis.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Axis, unify
from secateur.structure.carriers import Dimension, Uses
from secateur.structure.rules import Value, op_name, shape_of

__all__ = ["tie_read_sizes"]

RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten"}


def tie_read_sizes(uses: Uses, values: Mapping[Node, Any]) -> None:
    """Make one of every axis whose size was read and the axes of reshaped tensors that took the very size."""
    nodes = _by_module(uses, values)
    for origin, dimensions in sorted(uses.copied.items(), key=str):
        for dimension in sorted(dimensions, key=str):
            if dimension.shape[dimension.dim] != origin.shape[origin.dim]:
                continue
            targets = list(_axes(nodes, values, dimension, reshaped=True))
            for axis in [*targets[1:], *_axes(nodes, values, origin, reshaped=False)] if targets else ():
                unify(targets[0], axis, lambda origin=origin: f"its size is {origin}")  # type: ignore[misc]


def _by_module(uses: Uses, values: Mapping[Node, Any]) -> Mapping[tuple[str, tuple[int, ...]], dict[Node, None]]:
    """The tensors that each module's own code has in its hands, by their shapes: what it computes, and what enters it."""
    nodes: defaultdict[tuple[str, tuple[int, ...]], dict[Node, None]] = defaultdict(dict)
    paths = {node: [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()] or [""] for node in values}
    for node, stack in paths.items():
        for neighbour in (node, *node.all_input_nodes):
            if not isinstance(values.get(neighbour), Value):
                continue
            for path in stack:
                if path == stack[-1] or path not in paths[neighbour]:
                    nodes[uses.first_names.get(path, path), shape_of(neighbour)][neighbour] = None
    return nodes


def _axes(
    nodes: Mapping[tuple[str, tuple[int, ...]], dict[Node, None]],
    values: Mapping[Node, Any],
    dimension: Dimension,
    reshaped: bool,
) -> Iterator[Axis]:
    for node in nodes.get((dimension.path, dimension.shape), ()):
        if not reshaped or (node.op == "call_function" and op_name(node) in RESHAPES):
            yield values[node].axes[dimension.dim]
