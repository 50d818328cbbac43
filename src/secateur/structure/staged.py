"""A forward pass in stages: run op by op as far as is asked, and on from there later, with tensors changed meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import Tensor, fx
from torch.fx import Node

from secateur.structure.flow import Flow, Read, Tap, Tapped, outputs_of
from secateur.types import ExampleInputs

__all__ = ["Staged"]


class Staged:
    """One batch on its way through a traced model; every op runs once, with the model's tensors as they are then.

    Args:
        flow: of the model.
        inputs: the batch.
        tap: what passes each read goes through it, as in `Flow`.

    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model, x = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)), torch.ones(1, 1)
    >>> flow = Flow(model, channels(model, x))
    >>> staged, (first, second) = Staged(flow, x), [n for n in flow.at(x)[0].graph.nodes if "mm" in n.name]
    >>> _ = model[0].weight.data.fill_(3.0)
    >>> staged.before(second, second.args[0]).item()
    3.0
    """

    def __init__(self, flow: Flow, inputs: ExampleInputs, tap: Tap | None = None) -> None:
        structure, reads_by_site = flow.at(inputs)
        edges: dict[Node, list[Read]] = {}
        for name in flow.sites if tap is not None else ():
            for read in reads_by_site[name]:
                edges.setdefault(read.node, []).append(read)
        self._flow, self._inputs = flow, inputs
        self._nodes = list(structure.graph.nodes)
        self._places = {node: place for place, node in enumerate(self._nodes)}
        self._run = Tapped(structure.graph, edges, tap)
        self._run.env = dict(self._flow.given(self._inputs))
        self._done = 0

    def before(self, node: Node, operand: Node) -> Any:
        """Run all ops before `node`, and return what it gets as `operand`, behind the tap."""
        self.until(node)
        return self._run.taken(node).get(operand, self._run.env[operand])

    def after(self, node: Node) -> Any:
        """Run all ops up to `node`, and return what it makes."""
        self._advance(self._places[node] + 1, hold=node)
        return self._run.env[node]

    def held(self, node: Node) -> Any:
        """Return what an op before has made, which some op to come still takes."""
        return self._run.env[node]

    def outputs(self) -> Any:
        """Run all ops that are left, and return what the model does."""
        end = self._nodes[-1]
        self.until(end)
        leaves = fx.map_arg(end.args[0], lambda node: self._run.env[node])
        return outputs_of(self._flow.at(self._inputs)[0].graph, leaves)

    def until(self, node: Node) -> None:
        """Run all ops before `node`."""
        self._advance(self._places[node])

    def fork(self) -> Self:
        """Return another pass that goes on from here, while this one stays."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._run = self._run.forked()
        return other

    def forget(self) -> None:
        """Let go of what was computed; asked again, it is computed from the start."""
        self._run.env, self._done = dict(self._flow.given(self._inputs)), 0

    @property
    def nbytes(self) -> int:
        """The bytes of the activations that are held."""
        tensors = (value for node, value in self._run.env.items() if node.op == "call_function")
        return sum(tensor.nbytes for value in tensors for tensor in _tensors(value))

    def _advance(self, stop: int, hold: Node | None = None) -> None:
        with torch.no_grad():
            for node in self._nodes[self._done : stop]:
                if node.op not in {"placeholder", "output"}:
                    self._run.env[node] = self._run.run_node(node)
                    for used_up in self._run.user_to_last_uses.get(node, ()):
                        if used_up is not hold:
                            self._run.env.pop(used_up, None)
        self._done = max(self._done, stop)


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
