"""Where a cut module begins to compute something else than the model's graph would: the line that stands in the way."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.structure.axes import Atom
from secateur.structure.graph import graph_structure
from secateur.structure.infer import Structure
from secateur.structure.literals import new_sizes
from secateur.structure.nodes import named_arguments, where
from secateur.structure.reference import Reference
from secateur.structure.rules import op_name
from secateur.structure.trace import exported_like, trace
from secateur.types import VerificationError

__all__ = ["with_place"]


def with_place(error: VerificationError, reference: Reference, cut: nn.Module) -> VerificationError:
    """Return the error with the line that stands in the way, where a graph would do and the line is found.

    Args:
        error: what was found of the cut module.
        reference: the masked model.
        cut: the cut module, which runs and answers otherwise.
    """
    structure = reference.structure
    if structure is None or structure.graph.without_form or not (place := _parting_place(reference, structure, cut)):
        return error
    return VerificationError(
        f"cut: the smaller {type(cut).__name__} answers otherwise than the masked one, from {place} on: what the code does there hangs "
        'on a size that the cut changes. Allow form="graph", leave the site out with ignore=., or change the code'
    )


def _parting_place(reference: Reference, structure: Structure, cut: nn.Module) -> str:
    """Where the code of a cut module first does something else than on the full sizes; empty where that is not found."""
    with suppress(Exception):  # it is asked for an error message, which is there without it
        exported = graph_structure(reference.model, structure.graph, free=False)
        gone, graph = exported.gone(reference.keep), exported.graph
        again = trace(cut, graph.args or dict(graph.kwargs), quick=False, **exported_like(graph))
        for mine, other in zip_longest(*(_ops(list(side.nodes)) for side in (graph, again))):
            if mine is None or other is None:
                return where(mine or other)
            if op_name(mine) != op_name(other):
                return f"{where(mine)}, in the place of which it runs {where(other)},"
            if not _same(exported, gone, mine, other):
                return where(other)
    return ""


def _ops(nodes: list[Node]) -> list[Node]:
    return [n for n in nodes if n.op == "call_function" and isinstance(n.target, torch._ops.OpOverload)]


def _same(structure: Structure, gone: Mapping[Atom, Tensor], mine: Node, other: Node) -> bool:
    """Whether an op is given the same, with the sizes that a cut gives it."""
    if mine.target != other.target:
        return False
    expected = {**named_arguments(mine), **new_sizes(structure, mine, gone)}
    return [*map(_plain, expected.values())] == [*map(_plain, named_arguments(other).values())]


def _plain(argument: Any) -> Any:
    """An argument without the nodes."""
    if isinstance(argument, (list, tuple)):
        return [_plain(inner) for inner in argument]
    return None if isinstance(argument, Node) else argument
