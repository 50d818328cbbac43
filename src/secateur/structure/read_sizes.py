"""Tie the axes of which code reads one's size from a tensor's shape and gives it to the other.

As in ``b, t, width = x.shape`` and later ``heads.reshape(b, t, width)``: a module that is run anew needs both to be of one
size, and the product of both to be the width after ``.reshape(b, t, heads, width // heads)``. A graph could be written with
two, but it is no module of the model's class.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

from torch.fx import Node

from secateur.structure.axes import Axis, atoms, product, unify
from secateur.structure.carriers import Dimension, Uses
from secateur.structure.rules import Value, op_name, shape_of

__all__ = ["reads_apart", "tie_read_sizes"]

RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten"}


def tie_read_sizes(uses: Uses, values: Mapping[Node, Any], *, all_alike: bool) -> None:
    """Make one of every axis whose size was read and the axes of reshaped tensors that took the very size.

    Args:
        uses: what the forward pass did with sizes.
        values: the axes.
        all_alike: where a size was read from one of several tensors of one shape, tie them all; else only the first, where none
            of them is of the axis that took it.
    """
    for origin, targets, sources in _pairs(uses, values):
        axes = [*targets, *sources]
        if not all_alike:
            # What a module has in its hands first is what it is given, and of that its code reads the shape as a rule.
            apart = [axis for axis in targets if not any(_is_one(axis, source) for source in sources)]
            axes = [*sources[:1], *apart]
        for axis in axes[1:]:
            unify(axes[0], axis, lambda origin=origin: f"its size is {origin}")  # type: ignore[misc]


def reads_apart(uses: Uses, values: Mapping[Node, Any]) -> bool:
    """Whether code gives a size that it read from one axis to another one that could shrink by itself."""
    return any(
        sources and not any(_is_one(axis, source) for source in sources)
        for _, targets, sources in _pairs(uses, values)
        for axis in targets
    )


def _is_one(a: Axis, b: Axis) -> bool:
    """Whether two axes are made of the same units."""
    return a.size == b.size and set(atoms(a)) == set(atoms(b))


def _pairs(uses: Uses, values: Mapping[Node, Any]) -> Iterator[tuple[Dimension, list[Axis], list[Axis]]]:
    """The axes that took a size, and those that it may have been read from."""
    nodes = _by_module(uses, values)
    for origin, dimensions in sorted(uses.copied.items(), key=str):
        for dimension in sorted(dimensions, key=str):
            targets = list(_axes(nodes, values, dimension, reshaped=True, parts=_parts(origin, dimension)))
            sources = list(_axes(nodes, values, origin, reshaped=False))
            if targets and (sources or len(targets) > 1):
                yield origin, targets, sources


def _parts(origin: Dimension, dimension: Dimension) -> int:
    """How many axes, up to the dimension, make up the one whose size was read: 0 where it is none or another number."""
    size = origin.shape[origin.dim]
    if dimension.shape[dimension.dim] == size:
        return 1
    in_two = dimension.dim > 0 and dimension.shape[dimension.dim - 1] > 1
    return 2 if in_two and prod(dimension.shape[dimension.dim - 1 : dimension.dim + 1]) == size else 0


def _by_module(uses: Uses, values: Mapping[Node, Any]) -> Mapping[tuple[str, tuple[int, ...]], dict[Node, None]]:
    """The tensors that each module's own code has in its hands, by their shapes: what it computes, and what enters it."""
    nodes: defaultdict[tuple[str, tuple[int, ...]], dict[Node, None]] = defaultdict(dict)
    paths = {node: [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()] or [""] for node in values}
    for node, stack in paths.items():
        for neighbour in (*node.all_input_nodes, node):
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
    parts: int = 1,
) -> Iterator[Axis]:
    for node in nodes.get((dimension.path, dimension.shape), ()) if parts else ():
        if not reshaped or (node.op == "call_function" and op_name(node) in RESHAPES):
            yield product(*values[node].axes[dimension.dim + 1 - parts : dimension.dim + 1])
