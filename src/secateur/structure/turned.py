"""What a model runs where an input that its code may decide by is set otherwise: whether the ties hold there, and graphs that tie."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from torch import nn

from secateur.state import fresh, own_tensors
from secateur.structure.both_modes import trace_both
from secateur.structure.frames import Inputs
from secateur.structure.infer import infer
from secateur.structure.reordered import Reordered
from secateur.structure.trace import Graph, trace
from secateur.structure.train_code import logged_pass
from secateur.structure.turns import Turn, turns

__all__ = ["turned_alike", "with_turned"]

SIDES = 6
"""How many are traced."""


def with_turned(model: nn.Module, graph: Graph) -> Graph:
    """Return the graph of a model with the inputs that decide, and graphs of what runs where the ties that it has do not hold.

    A model that is called with tensors alone is not run again.

    Args:
        model: the model that was traced; it is left as it is.
        graph: its trace.

    >>> import torch
    >>> class Skips(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
    ...     def forward(self, x, skip=False):
    ...         return self.c(self.a(x) if skip else self.b(self.a(x)))
    >>> graph = with_turned(model := Skips(), trace(model, torch.ones(1, 4)))
    >>> [str(turn) for turn in graph.turns], len(graph.turned), list(infer(graph).sites)
    (['skip=True'], 1, ['a'])
    """
    inputs = (graph.args, dict(graph.kwargs))
    tried = [] if _is_meta(model) else turns(model, inputs, tensors_decide=graph.decided)
    sides = _running_otherwise(model, graph, inputs, tried) if tried else []
    if not sides:
        return graph
    graph = replace(graph, turns=tuple(dict.fromkeys(turn for turn, _ in sides)))
    untied = _untied(model, graph, inputs, sides)
    if graph.regions:
        # What stands between the regions goes another way there.
        return replace(graph, sources={}, handed={}) if untied else graph
    return _traced(model, graph, untied[:SIDES])


def turned_alike(model: nn.Module, graph: Graph, other: Graph) -> Graph:
    """Return the graph of a model with what ties another graph of it, on inputs of other shapes, where one is set otherwise."""
    return _traced(model, graph, [(turn, side.training) for turn, side in other.turned]) if other.turned else graph


def _is_meta(model: nn.Module) -> bool:
    return any(tensor.is_meta for tensor in own_tensors(model).values())


Sides = list[tuple[Turn, bool]]
"""Inputs that are set otherwise, each with whether in train mode."""


def _running_otherwise(model: nn.Module, graph: Graph, inputs: Inputs, tried: Iterable[Turn]) -> Sides:
    """Those with which the model runs other ops; one of those with which it runs the same."""
    sides: Sides = []
    tried = list(tried)
    for training in (False, True) if graph.calls is not None else (False,):
        logs = [graph.calls.calls if graph.calls is not None and not training else _log(model, inputs, training)]
        for turn in tried:
            log = _log(model, turn.change(inputs), training)
            if log is not None and log not in logs:
                logs.append(log)
                sides.append((turn, training))
    return sides


def _log(model: nn.Module, inputs: Inputs, training: bool) -> list[Any] | None:
    """The ops that a model runs; None where it does not run."""
    with suppress(Exception), logged_pass(model, training) as (log, _):
        args, kwargs = fresh(*inputs)
        model(*args, **kwargs)
        return log.calls
    return None


def _untied(model: nn.Module, graph: Graph, inputs: Inputs, sides: Sides) -> Sides:
    """Those where other units are tied than on the example, as far as that can be told."""
    reordered, untied = Reordered(model, infer(graph)), []
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
