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
from secateur.structure.turns import Turn, together, turns

__all__ = ["turned_alike", "with_turned"]

Sides = list[tuple[Turn, bool]]
"""Inputs that are set otherwise, each with whether in train mode."""
SIDES = 8
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
    meta = any(tensor.is_meta for tensor in own_tensors(model).values())
    tried = [] if meta else turns(model, inputs, tensors_decide=graph.decided, guesses=small, modes=_modes(graph))
    sides = _running_otherwise(model, graph, inputs, tried) if tried else []
    if not sides:
        return structure
    structure = replace(structure, graph=replace(graph, turns=tuple(sides)))
    with suppress(Exception):  # an op without float64: nothing is known of the ties, and what was cut is compared
        if Reordered(model, structure).answers_alike(inputs):
            return _tied(model, structure, inputs, sides)
    return structure


def _tied(model: nn.Module, structure: Structure, inputs: Inputs, sides: Sides) -> Structure:
    """The structure with graphs of those sides on which what is tied so far does not hold, as far as they can be traced."""
    for side in sides:
        turn, training = side
        with suppress(Exception):
            if Reordered(model, structure).answers_alike(turn.change(inputs), training=training):
                continue
            if structure.graph.regions:
                # What stands between the regions goes another way there.
                return infer(replace(structure.graph, sources={}, handed={}))
            if len(structure.graph.turned) < SIDES:
                structure = infer(_traced(model, structure.graph, [side]))
    return structure


def turned_alike(model: nn.Module, graph: Graph, other: Graph) -> Graph:
    """Return the graph of a model with what ties another graph of it, on inputs of other shapes, where one is set otherwise."""
    return _traced(model, graph, [(turn, side.training) for turn, side in other.turned]) if other.turned else graph


def _running_otherwise(model: nn.Module, graph: Graph, inputs: Inputs, tried: Iterable[Turn]) -> Sides:
    """Those with which the model runs other ops; one of those with which it runs the same."""
    modes = _modes(graph)
    sides, counts = Sides(), Counter[tuple[str, str]]()
    logs = [_log(model, None, inputs, training) for training in modes]

    def run(turn: Turn) -> None:
        for training in modes:
            log = _log(model, turn, inputs, training)
            if log is None:
                return
            if log not in logs:
                logs.append(log)
                sides.append((turn, training))
                counts[turn.name, turn.given] += 1

    for turn in tried:
        if counts[turn.name, turn.given] < turn.enough:
            run(turn)
    for turn in together([turn for turn, _ in sides]):
        run(turn)
    return sides


def _modes(graph: Graph) -> tuple[bool, ...]:
    """Whether in train mode: in both where code asks for the mode."""
    return (False,) if graph.calls is None else (False, True)


def _log(model: nn.Module, turn: Turn | None, inputs: Inputs, training: bool) -> list[Any] | None:
    """The ops that a model runs, with an input set otherwise; None where it does not run, or takes no other."""
    with suppress(Exception), logged_pass(model, training) as (log, _):
        args, kwargs = fresh(*(turn.change(inputs) if turn else inputs))
        model(*args, **kwargs)
        return log.calls
    return None


def _traced(model: nn.Module, graph: Graph, untied: Sides) -> Graph:
    """The graph with those of what runs where an input is set otherwise, as far as that can be traced."""
    turned = list(graph.turned)
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
