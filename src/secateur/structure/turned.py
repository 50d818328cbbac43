"""What a model runs where an input that its code may decide by is set otherwise: whether the ties hold there, and graphs that tie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.state import fresh, own_tensors
from secateur.structure.both_modes import trace_both
from secateur.structure.frames import Inputs
from secateur.structure.infer import Structure, infer
from secateur.structure.reordered import Reordered
from secateur.structure.trace import Graph, trace
from secateur.structure.train_code import logged_pass
from secateur.structure.turns import Turn, turns

__all__ = ["turned_alike", "with_turned"]

SIDES = 6
"""How many are traced."""
FEW_OPS = 500
"""In models of more, whose passes take long, only flags are tried of what the example leaves out."""


def with_turned(model: nn.Module, structure: Structure) -> Structure:
    """Return the structure of a model with the inputs that decide, and with what runs where the ties that it has do not hold.

    A model that is called with tensors alone is not run again.

    Args:
        model: the model that was traced; it is left as it is.
        structure: what is tied in it.

    >>> import torch
    >>> class Skips(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
    ...     def forward(self, x, skip=False):
    ...         return self.c(self.a(x) if skip else self.b(self.a(x)))
    >>> structure = infer(trace(model := Skips(), torch.ones(1, 4)))
    >>> turned = with_turned(model, structure)
    >>> [str(turn) for turn, _ in turned.graph.turns], list(structure.sites), list(turned.sites)
    (['skip=True'], ['a', 'b'], ['a'])
    """
    graph = structure.graph
    inputs = (graph.args, dict(graph.kwargs))
    small = sum(1 for _ in graph.nodes) <= FEW_OPS
    tried = (
        []
        if _is_meta(model)
        else turns(model, inputs, tensors_decide=graph.decided, guesses=small, modes=_modes(graph))
    )
    sides = _running_otherwise(model, graph, inputs, tried) if tried else []
    untied = _untied(model, structure, inputs, sides) if sides else []
    graph = replace(graph, turns=tuple(sides))
    if not untied:
        return replace(structure, graph=graph) if sides else structure
    if graph.regions:
        # What stands between the regions goes another way there.
        return infer(replace(graph, sources={}, handed={}))
    return infer(_traced(model, graph, untied[:SIDES]))


def turned_alike(model: nn.Module, graph: Graph, other: Graph) -> Graph:
    """Return the graph of a model with what ties another graph of it, on inputs of other shapes, where one is set otherwise."""
    return _traced(model, graph, [(turn, side.training) for turn, side in other.turned]) if other.turned else graph


def _is_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in own_tensors(model).values())


Sides = list[tuple[Turn, bool]]
"""Inputs that are set otherwise, each with whether in train mode."""


def _running_otherwise(model: nn.Module, graph: Graph, inputs: Inputs, tried: Iterable[Turn]) -> Sides:
    """Those with which the model runs other ops; one of those with which it runs the same."""
    modes = _modes(graph)
    sides, counts = Sides(), Counter[str]()
    logs = [_log(model, inputs, training) for training in modes]
    for turn in tried:
        if counts[turn.name] < turn.enough:
            for training in modes:
                log = _log(model, turn.change(inputs), training)
                if log is None:
                    break
                if log not in logs:
                    logs.append(log)
                    sides.append((turn, training))
                    counts[turn.name] += 1
    return sides


def _modes(graph: Graph) -> tuple[bool, ...]:
    """Whether in train mode: in both where code asks for the mode."""
    return (False,) if graph.calls is None else (False, True)


def _log(model: nn.Module, inputs: Inputs, training: bool) -> list[Any] | None:
    """The ops that a model runs; None where it does not run."""
    with suppress(Exception), logged_pass(model, training) as (log, _):
        args, kwargs = fresh(*inputs)
        model(*args, **kwargs)
        return log.calls
    return None


def _untied(model: nn.Module, structure: Structure, inputs: Inputs, sides: Sides) -> Sides:
    """Those where other units are tied than on the example, as far as that can be told."""
    reordered, untied = Reordered(model, structure), Sides()
    with suppress(Exception):  # an op without float64: nothing is known, and what was cut is compared there
        if not reordered.answers_alike(inputs):
            return []
        for turn, training in sides:
            with suppress(Exception):
                if not reordered.answers_alike(turn.change(inputs), training=training):
                    untied.append((turn, training))
    return untied


def _traced(model: nn.Module, graph: Graph, untied: Sides) -> Graph:
    """The graph with those of what runs where an input is set otherwise, as far as that can be traced."""
    turned: list[tuple[Turn, Graph]] = []
    inputs = (graph.args, dict(graph.kwargs))
    for turn, training in untied:
        args, kwargs = turn.change(inputs)
        with suppress(Exception):
            side = trace(model, args or kwargs, quick=graph.program is None, training=training)
            if graph.program is None and side.program is not None:  # the lines of both are compared
                exported = trace_both(model, inputs[0] or inputs[1], quick=False)
                graph = replace(exported, turns=graph.turns)
            turned.append((turn, side))
    return replace(graph, turned=tuple(turned))
