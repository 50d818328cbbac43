"""A traced model as a straight line of ops that write into nothing that they are given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from secateur.labelled import SampleBatch
from secateur.structure.flow import Flow, Read, outputs_of, tensor_names
from secateur.structure.infer import Structure, attribute
from secateur.structure.makers import root_of
from secateur.structure.ops import is_view, writes
from secateur.structure.rules import op_name
from secateur.trees import Packing, TreeDef, leaves_within
from secateur.types import InputError, Sites

__all__ = ["Instruction", "Line", "Part", "Program", "Programs", "Unfit", "bytes_of", "leading_to"]

TOLERANCE = 1e-3
"""The greatest relative difference between a program's outputs and the model's own."""


Part = Callable[[Any], Any]
"""From a model's outputs, in the form in which it returns them, to what is looked at of them."""


class Unfit(Exception):
    """A graph that cannot be run in parts, with the reason."""


@dataclass(frozen=True, eq=False)
class Instruction:
    """One op.

    Attributes:
        node: where it stands in the graph.
        target, args, kwargs: what is called; tensors are the nodes that have their values at this time.
        current: for each operand in the graph, the node that has its value at this time.
    """

    node: Node
    target: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    current: Mapping[Node, Node] = field(default_factory=dict)

    @property
    def operands(self) -> set[Node]:
        """The nodes whose values it takes."""
        return set(self.current.values())

    def __call__(self, values: Mapping[Node, Any], instead: Mapping[Node, Any]) -> Any:
        """Return what the op makes of `values`; operands that are in `instead` are taken from there."""
        args, kwargs = fx.map_arg(
            (self.args, dict(self.kwargs)), lambda node: instead[node] if node in instead else values[node]
        )
        return self.target(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Program:
    """A model on inputs of one shape.

    Attributes:
        structure: what in its graph is tied to what.
        reads: for each site where its units are taken up.
        steps: the ops that lead to the output, in order.
        output: the node of what is looked at of the model's outputs; several lie in its one tensor.
        packing: how they lie there; None for one tensor by itself.
    """

    structure: Structure
    reads: Mapping[str, tuple[Read, ...]]
    steps: Sequence[Instruction]
    output: Node
    packing: Packing | None = None

    @classmethod
    def of(cls, structure: Structure, reads: Mapping[str, tuple[Read, ...]], part: Part, samples: int) -> Program:
        """Return the program of a traced model.

        Args:
            structure, reads: what is known of it.
            part: what is looked at of its outputs.
            samples: how many it was traced on.

        Raises:
            Unfit: an output has no row for each sample, or an op writes into what is read on through another view.
        """
        graph, writer, steps = structure.graph, _Writer(), list[Instruction]()
        for node in graph.nodes:
            if node.op == "get_attr":
                steps.append(Instruction(node, partial(attribute, root_of(graph), str(node.target))))
            elif node.op == "call_function":
                steps.append(writer.step(node))
        leaves: Any = next(n for n in graph.nodes if n.op == "output").args[0]
        outputs = part(outputs_of(graph, [writer.now(leaf) if isinstance(leaf, Node) else leaf for leaf in leaves]))
        if isinstance(outputs, Node):
            return cls(structure, reads, leading_to(steps, {outputs}), outputs)
        packing, last = _packed(outputs, samples)
        return cls(structure, reads, [*leading_to(steps, last.operands), last], last.node, packing)

    def holders(self, parameters: Mapping[str, Tensor]) -> dict[str, list[Node]]:
        """Return what stands for each parameter in the graph, under every name of it: one under two names is one."""
        nodes: dict[int, list[Node]] = {}
        for node, name in tensor_names(self.structure.graph).items():
            if name in parameters:
                nodes.setdefault(id(parameters[name]), []).append(node)
        return {name: nodes.get(id(tensor), []) for name, tensor in parameters.items()}


def _packed(outputs: Any, samples: int) -> tuple[Packing, Instruction]:
    """How several outputs lie in one tensor, and the step that lays them there."""
    tree, nodes = TreeDef.of(outputs, Node), leaves_within(outputs, Node)
    if not nodes:
        raise Unfit(f"the model returns a {type(outputs).__name__} without a tensor that it computes")
    shells = {node: torch.empty_like(node.meta["val"], device="meta", requires_grad=False) for node in nodes}
    try:
        packing = Packing.of(tree.filled([shells[node] for node in nodes]), samples)
    except InputError as error:
        raise Unfit(str(error)) from error
    if any(fixed is not None for fixed in packing.fixed):
        raise Unfit("the model returns a tensor that has no row for each sample")
    node = fx.Graph().placeholder("packed")
    node.meta["val"] = packing.pack_tensors([shells[node] for node in nodes])
    return packing, Instruction(
        node, lambda *tensors: packing.pack_tensors(tensors), tuple(nodes), {}, {n: n for n in nodes}
    )


class Programs:
    """A model as programs, one for each shape of inputs that it meets; each was compared with the model once.

    Args:
        model: the model; its tensors are taken as they are at each run.
        sites: whose reads are wanted; none for the programs alone.
        part: what is looked at of the model's outputs.
    """

    def __init__(self, model: nn.Module, sites: Sites, part: Part = lambda outputs: outputs) -> None:
        self.model, self.flow, self.part = model, Flow(model, sites), part
        self.by_structure: dict[int, Program] = {}  # by the identity of the structure that the flow keeps
        self.checked: set[tuple[object, ...]] = set()

    def at(self, batch: SampleBatch) -> Program:
        """Return the program for inputs of these shapes.

        Raises:
            Unfit: the model cannot be run in parts.
            TraceError, InputError: there is no graph for such inputs.
        """
        structure, reads = self.flow.at(batch.inputs)
        if id(structure) not in self.by_structure:
            self.by_structure[id(structure)] = Program.of(structure, reads, self.part, len(batch))
        return self.by_structure[id(structure)]

    def run(self, line: Line, batch: SampleBatch) -> dict[Node, Any]:
        """Return what a line of the program for such inputs makes of them, and what the placeholders stand for."""
        values = self.flow.given(batch.inputs)
        line.run(values)
        return values

    def check(self, batch: SampleBatch, first: SampleBatch) -> None:
        """Compare the program for `first`, the first samples of `batch`, with the model on all, once for each shape.

        Raises:
            Unfit: they differ, as where samples depend on each other, or on more than what was traced.
        """
        shapes = tuple(tensor.shape for _, tensor in batch.without_targets().named())
        if shapes in self.checked:
            return
        program, expected = self.at(first), self.part(batch.run(self.model))
        if program.packing is not None:
            expected = program.packing.pack(expected)
        outputs = self.run(Line(program.steps, {program.output}), first)[program.output]
        if len(expected) != len(batch) or outputs.shape != expected[: len(first)].shape:
            raise Unfit("the samples do not lie along the first axis of the outputs")
        expected = expected[: len(first)]
        if not bool((outputs - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1e-6)):
            raise Unfit("the model computes something else on other inputs than those that it was traced on")
        self.checked.add(shapes)


def leading_to(steps: Sequence[Instruction], targets: Iterable[Node]) -> list[Instruction]:
    """Return the steps that the values of `targets` are made by, in order."""
    needed, leading = set(targets), []
    for step in reversed(steps):
        if step.node in needed:
            needed.update(step.operands)
            leading.append(step)
    return leading[::-1]


class _Writer:
    """Turns ops that write into their first operand into ones that make a new tensor, which is read from then on."""

    def __init__(self) -> None:
        self.tensor: dict[Node, Node] = {}  # nodes that are one and the same tensor, by the first of them
        self.memory: dict[Node, Node] = {}  # tensors that are views of one memory, by the first of them
        self.latest: dict[Node, Node] = {}  # the node that has a tensor's value after what was written into it

    def now(self, node: Node) -> Node:
        first = self.tensor.get(node, node)
        return self.latest.get(first, first)

    def step(self, node: Node) -> Instruction:
        args, kwargs = fx.map_arg((node.args, dict(node.kwargs)), self.now)
        operands = {n: self.now(n) for n in node.all_input_nodes}
        target: Any = node.target
        if writes(node):
            target = self._plain(node)
        else:
            self._note_view(node)
        return Instruction(node, target, args, kwargs, operands)

    def _note_view(self, node: Node) -> None:
        if node.all_input_nodes and is_view(node):
            source = self.tensor.get(node.all_input_nodes[0], node.all_input_nodes[0])
            self.memory[node] = self.memory.get(source, source)

    def _plain(self, node: Node) -> Any:
        """The op that makes a new tensor; what is written into has that value from now on."""
        written, schema = node.args[0], getattr(node.target, "_schema", None)
        if schema is None:
            raise Unfit(f"{op_name(node)} runs a block that writes into what it is given")
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


class Line:
    """Steps that run one after the other; what is not wanted any more is let go.

    Args:
        steps: in order.
        lasting: whose values are kept to the end.
    """

    def __init__(self, steps: Iterable[Instruction], lasting: set[Node]) -> None:
        self.steps = list(steps)
        last = {operand: step.node for step in self.steps for operand in (*step.operands, step.node)}
        inner = {step.node for step in self.steps}
        self.drop: dict[Node, list[Node]] = {}
        for node, at in last.items():
            if node in inner and node not in lasting:
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
    if is_view(node):
        return 0
    value = node.meta.get("val")
    parts = value if isinstance(value, (list, tuple)) else [value]
    return sum(4 * part.numel() for part in parts if isinstance(part, Tensor))
