"""Run the rules over a traced graph: the axes of every tensor, and from them the sites that can be cut."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from math import inf
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from secateur.structure.axes import Atom, atoms, fixed, freeze, product, unify
from secateur.structure.both_modes import freeze_train_code, is_covered, joined, leaves_of, train_traces, turned_traces
from secateur.structure.carriers import Dimension, Uses, both_uses
from secateur.structure.ops import bind, is_view, writes
from secateur.structure.outputs import dependent
from secateur.structure.read_sizes import Tie, tie_read_sizes, ties_of
from secateur.structure.rules import RULES, Call, Ties, Value, fixed_value, freeze_all, op_name
from secateur.structure.site_table import find_frozen, find_sites, first_use
from secateur.structure.temperature import freeze_temperatures
from secateur.structure.trace import Graph
from secateur.types import OUTPUT, Keep, Site

__all__ = ["Structure", "attribute", "infer"]

DIVIDING = {*("slice", "narrow", "split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split"), "getitem"}
"""Ops that pass on a part of what they are given, and read no more of it."""

DRAWING = {*("rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial")}
DRAWING |= {*("normal", "normal_functional", "uniform", "exponential", "geometric", "cauchy", "log_normal", "poisson")}
"""Ops that draw random numbers whenever they run."""

MAKING = {"zeros", "ones", "full", "empty", "rand", "randn", "eye"}
"""Ops that make a tensor of none."""

INLINED = {"wrap_with_set_grad_enabled", "wrap_with_autocast", "wrap_with_inference_mode"}


@dataclass(frozen=True, eq=False)
class Structure:
    """What in a model is tied to what.

    Attributes:
        graph: the traced graph.
        tensors: the axes of every parameter, buffer and constant, by name.
        derived: those of the weights that are made of parameters on each run, by name.
        values: what the rules found for every node.
        ties: the roles of weights, and the nodes that see fewer channels after a cut.
        sites: the sites, in the order of the forward pass.
        units: the atom behind each site.
        frozen: what cannot be cut, with the reason.
        trained: the same of train mode, where that runs other code: its graph and values, of the same axes.
        turned: the values and ties of what runs where an input is set otherwise; None where nothing was traced there.
    """

    graph: Graph
    tensors: Mapping[str, Value]
    values: Mapping[Node, Any]
    ties: Ties
    sites: Mapping[str, Site]
    units: Mapping[str, Atom]
    frozen: Mapping[str, str]
    derived: Mapping[str, Value] = field(default_factory=dict)
    trained: Structure | None = None
    turned: Structure | None = None

    @property
    def joint(self) -> Structure:
        """The structure with the ops of both modes, and of inputs set otherwise, for what a cut must mend wherever it stands."""
        every = [self, *filter(None, (self.trained, self.turned))]
        ties = replace(
            self.ties,
            statistics={node: axes for each in every for node, axes in each.ties.statistics.items()},
            groups={node: axis for each in every for node, axis in each.ties.groups.items()},
        )
        return replace(self, values={node: v for each in every for node, v in each.values.items()}, ties=ties)

    def within(self, graph: Graph) -> Structure:
        """Return what of this a graph holds that is a part of it, such as a region."""
        nodes = set(graph.nodes)
        values = {node: value for node, value in self.values.items() if node in nodes}
        return replace(self, graph=graph, values=values, ties=_of(self.ties, values))

    def gone(self, keep: Keep) -> dict[Atom, Tensor]:
        """Return the keep vectors of the axes that are cut: of the sites that do not keep all units."""
        return {self.units[name]: keep_mask for name, keep_mask in keep.items() if not bool(keep_mask.all())}


WORTH_A_MODULE = 0.7
"""The share of the units that must stay free for sizes that the code reads to be tied, so that the cut model is a module."""


def infer(graph: Graph) -> Structure:
    """Return the structure of a traced model.

    Where code gives a size that it read from one tensor to another, or the number of one attribute to several, either they
    are one, or the cut model is a graph. They are one where no graph is ever written, and where that leaves most units free.
    Where a module could lose nothing at all, what a graph could is free.
    """
    structure = _inferred(graph, (tie_read_sizes,) if graph.without_form else ())
    if graph.without_form or graph.uses is None:
        return structure
    if not structure.sites:
        return _inferred(graph, as_module=False)
    ties = ties_of(graph.uses, structure.values)
    for some in dict.fromkeys((ties, *((tie,) for tie in ties))) if ties else ():
        tied = _inferred(graph, some)
        if _left(structure, tied) >= WORTH_A_MODULE * sum(site.size for site in structure.sites.values()):
            return tied
    return structure


def _left(structure: Structure, tied: Structure) -> int:
    """How many units stay free where some are tied; those that are one with others count, those of larger groups do not."""
    sizes = {(m.parameter, m.dim, site.size) for site in tied.sites.values() for m in site.members}
    sites = structure.sites.values()
    return sum(s.size for s in sites if any((m.parameter, m.dim, s.size) in sizes for m in s.members))


def _inferred(graph: Graph, ties: tuple[Tie, ...] = (), as_module: bool = True) -> Structure:
    """The structure, with the axes made one that `ties` finds.

    With `as_module`, what a module could not shrink without another temperature of its attention stays whole.
    """
    both = joined(graph)
    solver = _Solver(both)
    if graph.regions:
        for region in graph.regions:
            solver.run(region.graph.graph, {}, f"it leaves {region.path}, and what takes it cannot be traced")
        solver.tie_borders()
    else:
        solver.run(graph.graph, {}, OUTPUT)
    values = dict(solver.values)
    for traced in turned_traces(graph):
        solver.run(traced.graph, {}, None, training=traced.training)
    turned = {node: value for node, value in solver.values.items() if node not in values}
    solver.training = False
    for traced in train_traces(graph):
        solver.run(traced.graph, {}, f"{OUTPUT} in train mode", training=True)
    solver.freeze_what_leaves(values)
    solver.freeze_what_nothing_reads()
    solver.freeze_what_nothing_makes()
    in_training = {node: value for node, value in solver.values.items() if node not in values and node not in turned}
    for what, theirs, traces in (
        ("train mode", in_training, train_traces(graph)),
        ("an input that is set otherwise than on the example", turned, turned_traces(graph)),
    ):
        if theirs:
            freeze_train_code(values, theirs, solver.tensors, solver.ties.counted, _written(traces), what)
    if graph.packed:
        solver.freeze_statistics("a statistic in a model of packed sequences")
    for traced in [*graph.traces, *train_traces(graph), *turned_traces(graph)]:
        if traced.uses is not None:
            seen = turned if traced in turned_traces(graph) else in_training if traced.training else values
            for tie in ties:
                tie(traced.uses, seen)
            if as_module:
                freeze_temperatures(traced.uses, seen, solver.ties)
    order = first_use(graph)
    tensors = {name: solver.tensors[name] for name in sorted(solver.tensors, key=lambda n: order.get(n, inf))}
    sites, units = find_sites(both, tensors, solver.ties)
    whole = {**dict(find_frozen(tensors, solver.ties)), **both.idle}
    # A weight that is multiplied by itself makes what it reads as well: its own units may still be a site.
    frozen = {
        name: why
        for name, why in whole.items()
        if name not in sites and (name in both.idle or not is_covered(name, both.idle))
    }
    derived = {
        name: value for name, node in both.derived.items() if isinstance(value := solver.values.get(node), Value)
    }
    structure = Structure(graph, tensors, values, _of(solver.ties, values), sites, units, frozen, derived)

    def of(nodes: Mapping[Node, Any], other: Graph) -> Structure | None:
        return replace(structure, values=nodes, ties=_of(solver.ties, nodes), graph=other) if nodes else None

    return replace(structure, trained=of(in_training, graph.trained or graph), turned=of(turned, both))


def _of(ties: Ties, values: Mapping[Node, Any]) -> Ties:
    """What the rules wrote down of these nodes."""
    statistics = {node: axes for node, axes in ties.statistics.items() if node in values}
    return replace(ties, statistics=statistics, groups={n: axis for n, axis in ties.groups.items() if n in values})


class _Solver:
    """Walks a graph once, forwards, and gives every tensor its axes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        nodes = [node for traced in _every(graph) for node in traced.nodes]
        self.fed = dependent(graph.inputs)
        self.ties = Ties(counted=_counted(graph), batchless=frozenset(nodes) - self.fed)
        self.values: dict[Node, Any] = {}
        self.tensors: dict[str, Value] = {}
        self.training = False
        self._shared: dict[int, Value] = {}

    def run(
        self, graph: fx.Graph, placeholder_values: dict[Node, Any], leaving: str | None = "", *, training: bool = False
    ) -> Any:
        """Visit every node of `graph`, and freeze what it returns, with the reason where there is one.

        `placeholder_values` are those of an inlined graph, by placeholder, whose outputs are not frozen.
        """
        self.training |= training
        for node in graph.nodes:
            if node.op == "output":
                if not placeholder_values and leaving is not None:
                    for returned in node.all_input_nodes:
                        self._freeze_returned(returned, leaving)
                return fx.map_arg(node.args[0], self.values.get)
            self.values[node] = placeholder_values[node] if node in placeholder_values else self._value(node)
        return None

    def _freeze_returned(self, node: Node, leaving: str) -> None:
        """Freeze what is returned; of what other regions alone take, the dimensions whose size is asked for before."""
        read = self.graph.handed.get(node)
        for value in leaves_of(self.values.get(node)):
            for dim, axis in enumerate(value.axes):
                if read is None or dim in read:
                    freeze(axis, leaving if read is None else f"{leaving}: its size is read there")

    def tie_borders(self) -> None:
        """Make one of what a region returns and what another is given."""
        for node, sources in self.graph.sources.items():
            for source in sources:
                for mine, other in zip(self.values[node].axes, self.values[source].axes, strict=True):
                    unify(mine, other, lambda: "shapes that do not refine each other where regions meet")

    def freeze_what_leaves(self, evaluated: Iterable[Node]) -> None:
        """Freeze what leaves the forward pass in other ways than as its output, and what must not shrink.

        What train mode writes into the model's own tensors are averages of what its units do, which shrink with these.
        """
        leaving = [(self.values.get(node), reason) for node, reason in self.graph.leaving.items()]
        pinned = {**self.graph.pinned, **self._written(evaluated)}
        leaving += [(self.tensors.get(name), reason) for name, reason in pinned.items()]
        for value, reason in leaving:
            for leaf in leaves_of(value):
                freeze(product(*leaf.axes), reason)

    def freeze_what_nothing_reads(self) -> None:
        """Freeze the parts of parameters that are cut off and left, such as rows of positions beyond the example's.

        What an op gives on, as a dropout or a norm does before the rows are chosen, it has not read, unless a layer makes the units
        or takes them up.
        """
        taken = [(n, d) for n, d in self.ties.roles if n in self.tensors]
        read = {atom for name, dim in taken for atom in atoms(self.tensors[name].axes[dim])}
        for node in self.values:
            if node.op == "call_function" and op_name(node) not in DIVIDING:
                operands = [self.values.get(operand) for operand in node.all_input_nodes]
                read |= _atoms_of(operands) - _atoms_of(self.values[node])
        for name, value in self.tensors.items():
            for axis in value.axes:
                for atom in atoms(axis):
                    if atom not in read and name in self.graph.state:
                        freeze(atom, "no example reads it")

    def freeze_what_nothing_makes(self) -> None:
        """Freeze what weights read and none makes, such as the channels that a grey picture is repeated to."""
        members: defaultdict[Atom, list[tuple[str, int]]] = defaultdict(list)
        for name, value in self.tensors.items():
            for dim, axis in enumerate(value.axes):
                for atom in atoms(axis):
                    members[atom].append((name, dim))
        computed = [self.values.get(node) for node in self.fed]
        fed = _atoms_of(computed)
        for atom in fed.intersection(members):  # in a product of two weights, one makes what the other reads
            if all(self.ties.roles.get(dimension) == {"in"} for dimension in members[atom]):
                freeze(atom, "no weight makes it")

    def freeze_statistics(self, because: str) -> None:
        """Freeze what statistics are taken over, where the graph could not be run to verify them."""
        for axes in self.ties.statistics.values():
            freeze(product(*axes), because)

    def _written(self, nodes: Iterable[Node]) -> dict[str, str]:
        """The model's tensors into which it writes what it computes, such as a cache, with the reason."""
        graph, names = self.graph, {}
        for node in filter(writes, nodes):
            target = node.args[0] if node.args else None
            while isinstance(target, Node) and is_view(target):
                target = target.args[0]
            if isinstance(target, Node) and target in graph.tensors:
                names[node] = graph.tensors[target]
        parameters = [n for n, name in graph.tensors.items() if isinstance(graph.state.get(name), torch.nn.Parameter)]
        computed = dependent([*graph.inputs, *parameters]) if names else set()
        return {name: f"the forward pass writes it into {name}" for node, name in names.items() if node in computed}

    def _value(self, node: Node) -> Any:
        if node.op == "placeholder":
            return self._placeholder(node)
        if node.op == "get_attr":
            constant = attribute(node.graph.owning_module, str(node.target))
            return fixed_value(constant.shape, "a constant") if isinstance(constant, Tensor) else constant
        if node.target is operator.getitem:
            operand, index = self.values[node.args[0]], node.args[1]  # type: ignore[index]
            return operand[index] if isinstance(operand, (list, tuple)) else operand  # type: ignore[index]
        return self._call(node)

    def _placeholder(self, node: Node) -> Value | None:
        traced_tensor = node.meta.get("val")
        if not isinstance(traced_tensor, Tensor):
            return None
        name = self.graph.tensors.get(node)
        if node in self.graph.sources:
            sources = [self.values.get(source) for source in self.graph.sources[node]]
            axes = sources[0].axes if sources[0] is not None else _tensor_value("", traced_tensor, False).axes
            return Value(axes, all(source is not None and source.zero for source in sources))
        if name is None:
            is_input = node in self.graph.inputs
            entering = "it enters a region from what cannot be traced" if self.graph.regions else "the model's input"
            return fixed_value(traced_tensor.shape, entering if is_input else "a constant made in the forward pass")
        tensor = self.graph.state.get(name)
        if id(tensor) not in self._shared:  # a tensor under two names is one tensor
            self._shared[id(tensor)] = _tensor_value(name, traced_tensor, isinstance(tensor, torch.nn.Parameter))
        self.tensors[name] = self._shared[id(tensor)]
        return self.tensors[name]

    def _overwrite(self, node: Node, output: Value) -> None:
        """What an in-place op writes into a view is written into everything that it is a view of."""
        target = node.args[0] if node.args else None
        while isinstance(target, Node):
            old = self.values.get(target)
            if isinstance(old, Value):
                self.values[target] = replace(old, zero=old.zero and output.zero)
            target = target.args[0] if target.args and is_view(target) else None

    def _call(self, node: Node) -> Any:
        if type(node.meta.get("val")) is int:  # a size that a value decides
            return node.meta["val"]
        name = op_name(node)
        arguments = bind(node, self.values)
        if name in INLINED:
            inner = next(a for a in arguments.values() if isinstance(a, fx.GraphModule))
            operands = list(arguments.values())[list(arguments.values()).index(inner) + 1 :]
            holders = [n for n in inner.graph.nodes if n.op == "placeholder"]
            return self.run(inner.graph, dict(zip(holders, operands, strict=True)) or {node: None})
        call = Call(node, arguments, self.ties)
        output = self._applied(call, name)
        draws = name in DRAWING or ("dropout" in name and arguments.get("train") and arguments.get("p"))
        if draws and not self.training:
            for leaf in leaves_of(output):
                call.freeze(*leaf.axes, because="random numbers are drawn, and of another number of units others")
        return output

    def _applied(self, call: Call, name: str) -> Any:
        """What the op's rule says of its output."""
        node, rule = call.node, RULES.get(name)
        if (rule is not None and call.values()) or name in MAKING:
            assert rule is not None
            output = rule(call)
            if writes(node) and isinstance(output, Value):
                self._overwrite(node, output)
            return output
        traced_output = node.meta.get("val")
        if not isinstance(traced_output, (Tensor, list, tuple)):
            return None
        return freeze_all(call, f"no rule for {name}" if call.values() else "made in the forward pass")


def _every(graph: Graph) -> list[Graph]:
    return [graph, *train_traces(graph), *turned_traces(graph)]


def _atoms_of(result: Any) -> set[Atom]:
    return {atom for leaf in leaves_of(result) for axis in leaf.axes for atom in atoms(axis)}


def _counted(graph: Graph) -> frozenset[Dimension]:
    """The dimensions whose size comes from an attribute or a shape, by every name of the module that sets it."""
    uses = reduce(both_uses, (traced.uses for traced in _every(graph) if traced.uses), Uses())
    return _by_every_name(uses, {d for dims in (*uses.sizes.values(), *uses.copied.values()) for d in dims})


def _written(traces: Iterable[Graph]) -> frozenset[Dimension]:
    """The dimensions whose size is a number in code that these traces alone run."""
    uses = [traced.uses for traced in traces if traced.uses]
    return frozenset().union(*(_by_every_name(u, u.written) for u in uses))


def _by_every_name(uses: Uses, dimensions: Iterable[Dimension]) -> frozenset[Dimension]:
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, first in uses.first_names.items():
        names[first].append(name)
    return frozenset(replace(d, path=name) for d in dimensions for name in (d.path, *names[d.path]))


def _tensor_value(name: str, tensor: Tensor, parameter: bool) -> Value:
    axes = tuple(Atom(int(s)) if s > 1 else fixed(int(s), f"size {int(s)}") for s in tensor.shape)
    return Value(axes, parameter, tuple((name, d) for d in range(len(axes))))


def attribute(module: Any, target: str) -> Any:
    """Return what stands at a dotted path under a module."""
    for part in target.split("."):
        module = getattr(module, part)
    return module
