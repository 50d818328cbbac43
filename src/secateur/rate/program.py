"""A traced graph as a straight line of ops that write into nothing that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from secateur.structure.ops import writes
from secateur.structure.rules import op_name
from secateur.structure.trace import Graph

__all__ = ["Line", "Step", "Unfit", "bytes_of", "program"]

SAME = {"dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "getitem"}
"""Ops that may give what they are given, though their schemas do not say so."""


class Unfit(Exception):
    """A graph that cannot be run in parts, with the reason."""


@dataclass(frozen=True, eq=False)
class Step:
    """One op.

    Attributes:
        node: where it stands in the graph.
        target, args, kwargs: what is called; tensors are the nodes that have their values at this time.
        given: for each operand in the graph, that node.
    """

    node: Node
    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[Node, Node] = field(default_factory=dict)

    @property
    def operands(self) -> set[Node]:
        """The nodes whose values it takes."""
        return set(self.given.values())

    def __call__(self, values: Mapping[Node, Any], instead: Mapping[Node, Any]) -> Any:
        """Return what the op makes of `values`; operands that are in `instead` are taken from there."""
        args, kwargs = fx.map_arg(
            (self.args, dict(self.kwargs)), lambda node: instead[node] if node in instead else values[node]
        )
        return self.target(*args, **kwargs)


def program(graph: Graph) -> tuple[list[Step], Node]:
    """Return the steps that lead to the graph's one output, without any that writes, and the node of that output.

    Raises:
        Unfit: there are several outputs, or an op writes into a tensor that is read on through another view.
    """
    writer = _Writer()
    made: list[Step] = []
    for node in graph.nodes:
        if node.op == "output":
            outputs = [writer.now(n) for n in node.all_input_nodes]
            if len(outputs) != 1:
                raise Unfit(f"the model has {len(outputs)} outputs")
            return _leading_to(made, outputs[0]), outputs[0]
        if node.op == "get_attr":
            made.append(Step(node, partial(_attribute, graph, str(node.target))))
        elif node.op == "call_function":
            made.append(writer.step(node))
    raise Unfit("the graph has no output")


def _attribute(graph: Graph, target: str) -> Any:
    assert graph.program is not None, "a recorded graph has no attributes"
    found: Any = graph.program.graph_module
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _leading_to(steps: list[Step], output: Node) -> list[Step]:
    needed, kept = {output}, []
    for step in reversed(steps):
        if step.node in needed:
            needed.update(step.operands)
            kept.append(step)
    return kept[::-1]


class _Writer:
    """Turns ops that write into their first operand into ones that make a new tensor, which is read from then on."""

    def __init__(self) -> None:
        self.tensor: dict[Node, Node] = {}  # nodes that are one and the same tensor, by the first of them
        self.memory: dict[Node, Node] = {}  # tensors that are views of one memory, by the first of them
        self.latest: dict[Node, Node] = {}  # the node that has a tensor's value after what was written into it

    def now(self, node: Node) -> Node:
        first = self.tensor.get(node, node)
        return self.latest.get(first, first)

    def step(self, node: Node) -> Step:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.now)
        given = {n: self.now(n) for n in node.all_input_nodes}
        target: Any = node.target
        if writes(node):
            target = self._plain(node)
        else:
            self._note_view(node)
        return Step(node, target, args, kwargs, given)

    def _note_view(self, node: Node) -> None:
        if node.all_input_nodes and _is_view(node):
            source = self.tensor.get(node.all_input_nodes[0], node.all_input_nodes[0])
            self.memory[node] = self.memory.get(source, source)

    def _plain(self, node: Node) -> Any:
        """The op that makes a new tensor; what is written into has that value from now on."""
        written = node.args[0]
        schema = node.target._schema  # type: ignore[union-attr]
        if (
            not isinstance(written, Node)
            or sum(bool(a.alias_info and a.alias_info.is_write) for a in schema.arguments) > 1
        ):
            raise Unfit(f"{schema.name} writes into more than its first operand")
        first = self.tensor.get(written, written)
        self._check_views(node, first)
        plain = getattr(torch.ops.aten, op_name(node), None)
        if plain is None or schema.overload_name not in ("", *plain.overloads()):
            raise Unfit(f"{schema.name} has no form that does not write")
        self.tensor[node], self.latest[first] = first, node
        return getattr(plain, schema.overload_name or "default")

    def _check_views(self, node: Node, first: Node) -> None:
        """Refuse a write that is seen through another view of the same memory."""
        memory = self.memory.get(first, first)
        others = {n for n, base in [*self.memory.items(), (memory, memory)] if base is memory and n is not first}
        for other in others:
            same = [n for n, t in self.tensor.items() if t is other] + [other]
            if any(user > node for n in same for user in n.users):
                raise Unfit(f"{op_name(node)} writes into a tensor that is read through another view of it")


def _is_view(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return op_name(node) in SAME or (schema is not None and any(r.alias_info is not None for r in schema.returns))


class Line:
    """Steps that run one after the other; what is not wanted any more is let go.

    Args:
        steps: in order.
        wanted: whose values are kept to the end.
    """

    def __init__(self, steps: Iterable[Step], wanted: set[Node]) -> None:
        self.steps = list(steps)
        last = {operand: step.node for step in self.steps for operand in (*step.operands, step.node)}
        own = {step.node for step in self.steps}
        self.drop: dict[Node, list[Node]] = {}
        for node, at in last.items():
            if node in own and node not in wanted:
                self.drop.setdefault(at, []).append(node)

    def run(
        self,
        values: dict[Node, Any],
        instead: Callable[[Node, Mapping[Node, Any]], Mapping[Node, Any]] = lambda node, values: {},
    ) -> None:
        """Add what the steps make to `values`; `instead` gives other values for the operands of a step."""
        for step in self.steps:
            values[step.node] = step(values, instead(step.node, values))
            for node in self.drop.get(step.node, ()):
                del values[node]

    @property
    def peak(self) -> int:
        """The most bytes that the values of the steps take at one time, in float32."""
        alive = most = 0
        for step in self.steps:
            alive += bytes_of(step.node)
            most = max(most, alive)
            alive -= sum(bytes_of(node) for node in self.drop.get(step.node, ()))
        return most


def bytes_of(node: Node) -> int:
    """Return the size of what a node makes; nothing for a view."""
    if _is_view(node):
        return 0
    made = node.meta.get("val")
    parts = made if isinstance(made, (list, tuple)) else [made]
    return sum(4 * part.numel() for part in parts if isinstance(part, Tensor))
