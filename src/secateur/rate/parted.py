"""The part of a traced model that a search changes, with what comes before it computed once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.state import own_tensors, split_inputs
from secateur.structure.flow import outputs_of, tensor_names, traced
from secateur.structure.infer import attribute
from secateur.structure.makers import root_of
from secateur.structure.trace import Graph
from secateur.types import InputError

__all__ = ["Suffix", "Values"]

Values = dict[Node, Any]
"""What is known of the nodes of a graph."""


@dataclass(frozen=True, eq=False)
class Suffix:
    """A model for inputs of one shape, parted at the tensors that change.

    Attributes:
        graph: the traced model.
        before: the ops that do not depend on what changes.
        after: those that do, in their order.
        changing: the placeholders of what changes, and its name.
        taken: the nodes of before, and the model's own tensors, that the ops of after take.
    """

    graph: Graph
    before: tuple[Node, ...]
    after: tuple[Node, ...]
    changing: Mapping[Node, str]
    taken: frozenset[Node]

    @staticmethod
    def of(model: nn.Module, inputs: Tensor, names: Iterable[str]) -> Suffix:
        """Trace the model on inputs of this shape, and part it at the parameters of these names, aliases included."""
        graph, wanted = traced(model, inputs), own_tensors(model)
        same = {id(wanted[name]) for name in names}
        found = {n: name for n, name in tensor_names(graph).items() if name in wanted and id(wanted[name]) in same}
        late = set(found)
        for node in graph.nodes:
            if any(source in late for source in node.all_input_nodes):
                late.add(node)
        ops = [n for n in graph.nodes if n.op in {"call_function", "get_attr"}]
        output = next(n for n in graph.nodes if n.op == "output")
        if output not in late:
            raise InputError("search: the model's output does not depend on the sites; search other ones")
        after = tuple(n for n in ops if n in late)
        taken = frozenset(s for n in (*after, output) for s in n.all_input_nodes if s not in late)
        return Suffix(graph, tuple(n for n in ops if n not in late), after, found, taken)

    def begin(self, model: nn.Module, inputs: Tensor) -> Values:
        """Run what comes before, and return what comes after takes of it."""
        own = {**self.graph.state, **own_tensors(model)}
        names = tensor_names(self.graph)
        leaves = iter(pytree.tree_leaves(split_inputs(inputs)))
        held = [n for n in self.graph.nodes if n.op == "placeholder"]
        values: Values = {n: own[names[n]] if n in names else next(leaves) for n in held}
        self._run(self.before, values)
        return {node: values[node] for node in self.taken}

    def end(self, values: Values, changed: Mapping[str, Tensor]) -> Any:
        """Return the model's outputs, given what `begin` returned and the tensors that changed."""
        run = {**values, **{node: changed[name] for node, name in self.changing.items()}}
        self._run(self.after, run)
        return self.outputs(run)

    def outputs(self, values: Values) -> Any:
        """Return the model's outputs once all nodes are known."""
        output = next(n for n in self.graph.nodes if n.op == "output")
        return outputs_of(self.graph, fx.map_arg(output.args[0], lambda n: values[n]))

    def _run(self, nodes: Iterable[Node], values: Values) -> None:
        root = root_of(self.graph)
        for node in nodes:
            if node.op == "get_attr":
                values[node] = attribute(root, str(node.target))
            else:
                args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: values[n])
                values[node] = node.target(*args, **kwargs)  # type: ignore[operator]

    @property
    def writes(self) -> bool:
        """Whether an op after writes into a tensor that it is given, so that what is kept of before would change."""
        return any(getattr(getattr(n.target, "_schema", None), "is_mutable", False) for n in self.after)
