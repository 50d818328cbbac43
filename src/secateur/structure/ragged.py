"""Tensors whose sizes the values of others decide, such as the rows that a mask chooses: sizes as the example has them.

Where such values decide sizes alone, the ops are the same for all of them, and the program runs on any. Which axes are one
does not hang on the sizes either; so the program is run once on the example, and every tensor in it is given the shape
that it had there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.structure.export import program_inputs

__all__ = ["is_ragged", "known_sizes", "sized_by_example"]

RAGGED = "ragged"
"""Where a node's meta names the dimensions that values decide: one set for each of its outputs."""


def is_ragged(program: ExportedProgram) -> bool:
    """Whether the values of tensors decide the sizes of others."""
    return any(map(_ragged_dimensions, program.graph.nodes))


def sized_by_example(program: ExportedProgram, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Put the shapes that tensors have on the example, and whole numbers, in the place of those that are not known.

    >>> class Positive(nn.Module):
    ...     def forward(self, x):
    ...         return x[x.sum(1) > 0]
    >>> x = torch.tensor([[1.0, 2.0], [-1.0, 0.0], [3.0, 4.0]])
    >>> program = torch.export.export(Positive(), (x,), strict=False)
    >>> sized_by_example(program, Positive(), (x,), {})
    >>> next(n for n in program.graph.nodes if "index" in n.name).meta["val"].shape
    torch.Size([2, 2])
    """
    with torch.no_grad():
        _Sizing(program.graph_module).run(*program_inputs(program, model, args, kwargs))


def _ragged_dimensions(node: Node) -> list[frozenset[int]]:
    """For each tensor that a node makes the dimensions that values decide; nothing where they decide none."""
    output = node.meta.get("val")
    outputs = output if isinstance(output, (list, tuple)) else [output]
    # Sizes that are known are plain numbers, whatever their declared type.
    shapes: list[tuple[object, ...]] = [tuple(x.shape) if isinstance(x, Tensor) else () for x in outputs]
    dims = [frozenset(d for d, size in enumerate(shape) if isinstance(size, torch.SymInt)) for shape in shapes]
    return dims if any(dims) else []


def known_sizes(shapes: Sequence[tuple[int, ...]], node: Node) -> list[tuple[int, ...]]:
    """Return the shapes of a node's outputs with -1 for each size that values decide."""
    ragged = node.meta.get(RAGGED) or [frozenset()] * len(shapes)
    return [
        tuple(-1 if d in dims else size for d, size in enumerate(shape))
        for shape, dims in zip(shapes, ragged, strict=True)
    ]


class _Sizing(fx.Interpreter):
    """Runs a program and writes down what sizes it meets."""

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        if dims := _ragged_dimensions(n):
            n.meta[RAGGED] = dims
        if n.op == "call_function" and n.meta.get("val") is not None:
            n.meta["val"] = pytree.tree_map(_without_values, result)
        return result


def _without_values(x: Any) -> Any:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") if isinstance(x, Tensor) else x
