"""Where the units of a site flow: the edges at which layers read them, and runs of the traced graph with taps on those.

Every way from a unit to the model's output crosses exactly one *read*: an edge into an op that takes the units up, so
that its result no longer has them (a linear layer, a convolution, a mean over channels). So zeroing a unit at its reads
removes it, a gate at its reads has the unit's whole gradient, and what passes there are the unit's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from secateur.state import arguments_of, own_tensors
from secateur.structure.axes import Atom, atoms, positions, resolve
from secateur.structure.both_modes import trace_both
from secateur.structure.infer import Structure, infer
from secateur.structure.makers import Maker, OwnTensors, makers_of, root_of, weight_nodes
from secateur.structure.ops import writes
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.parts import picks_from_alike
from secateur.structure.rules.recurrent import GATES
from secateur.structure.sites import check_same_model
from secateur.structure.trace import Graph, trace
from secateur.trees import leaves_within
from secateur.types import ExampleInputs, InputError, Sites, TraceError

__all__ = ["Flow", "Read", "Tap", "Tapped", "outputs_of", "reads", "returned", "tensor_names"]


PICKING = {"select", "select_copy", "slice", "narrow", "slice_copy"}
"""Ops that take some entries; of a tensor in which all are alike, they stand for no unit."""


@dataclass(frozen=True, eq=False)
class Read:
    """An edge of the traced graph at which the units of a site are taken up.

    Attributes:
        site: the site's name.
        node: the op that takes them up.
        source: the tensor that holds their activations there.
        dim: the dimension of `source` along which the units lie.
        index: positions along `dim`, one row for each unit, int64 ``(units, positions)``.
    """

    site: str
    node: Node
    source: Node
    dim: int
    index: Tensor

    def rows(self, activations: Tensor) -> Tensor:
        """Return what passes here by unit: ``(units, samples, values)``, samples along dimension 0 of `activations`.

        Where the units lie along dimension 0 themselves, all is one sample.
        """
        index = self.index.to(activations.device)
        picked = activations.movedim(self.dim, 0)[index]
        if self.dim == 0:
            return picked.reshape(len(index), 1, -1)
        return picked.transpose(1, 2).reshape(len(index), len(activations), -1)

    def spread(self, gates: Tensor) -> Tensor:
        """Return one gate a unit, ``(units,)`` or ``(samples, units)``, in a shape that multiplies `source`'s tensor."""
        size = int(self.source.meta["val"].shape[self.dim])
        index = self.index.to(gates.device)
        wide = gates.new_ones(*gates.shape[:-1], size)
        flat = gates.unsqueeze(-1).expand(*gates.shape, index.shape[1]).flatten(-2)
        wide = wide.index_copy(-1, index.flatten(), flat)
        after = self.source.meta["val"].ndim - self.dim - 1
        between = self.dim - (gates.ndim - 1)
        return wide.reshape(*wide.shape[:-1], *([1] * between), size, *([1] * after))


Tap = Callable[[Read, Tensor], Tensor]
"""Called with what passes a read; what it returns goes on in its place."""


def reads(structure: Structure) -> dict[str, tuple[Read, ...]]:
    """Return the reads of every site, in the order in which they happen.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> site_reads = reads(infer(trace(model, torch.zeros(1, 4))))
    >>> [(read.source.name, read.dim, read.index.tolist()) for read in site_reads["0"]]
    [('relu_default', 1, [[0], [1], [2]])]
    """
    names = {atom: name for name, atom in structure.units.items()}
    reads_by_site: dict[str, list[Read]] = {name: [] for name in structure.sites}
    weights = weight_nodes(structure)
    for node in structure.graph.nodes:
        if node.op != "call_function" or (op_name(node) in PICKING and picks_from_alike(node)):
            continue
        left = _atoms(structure.values.get(node)) - _made_anew(structure, node, weights)
        for atom, source, dim in _operands(structure, node, weights):
            name = names.get(atom)
            # Where two operands meet in the same units, as in a dot product, one edge is enough.
            if name is None or atom in left or any(r.node is node for r in reads_by_site[name]):
                continue
            index = positions(structure.values[source].axes[dim], atom)
            assert index is not None
            reads_by_site[name].append(Read(name, node, source, dim, index))
    return {name: tuple(edges) for name, edges in reads_by_site.items()}


def _operands(structure: Structure, node: Node, weights: set[Node]) -> Iterator[tuple[Atom, Node, int]]:
    """The units among the activations that an op is given."""
    for source in node.all_input_nodes:
        value = structure.values.get(source)
        if isinstance(value, Value) and source not in weights:
            for dim, axis in enumerate(value.axes):
                for atom in dict.fromkeys(atoms(axis)):
                    yield atom, source, dim


def _made_anew(structure: Structure, node: Node, weights: set[Node]) -> set[Atom]:
    """Units that a layer both reads and produces, as one between two tensors that are added up: its weight has them twice."""
    anew: set[Atom] = set()
    for source in node.all_input_nodes:
        value = structure.values.get(source)
        if isinstance(value, Value) and source in weights:
            dims = [set(atoms(axis)) for axis in value.axes]
            anew |= {atom for dim_atoms in dims for atom in dim_atoms if sum(atom in other for other in dims) > 1}
    return anew


def _summed_in_weights(structure: Structure, weights: set[Node]) -> set[Atom]:
    """Units that are taken up where weights are made from others, before any activation is read."""
    summed_atoms: set[Atom] = set()
    for node in weights:
        if node.op == "call_function":
            operands = set().union(*(_atoms(structure.values.get(source)) for source in node.all_input_nodes))
            summed_atoms |= operands - _atoms(structure.values.get(node))
    return summed_atoms


def _atoms(value: Any) -> set[Atom]:
    if isinstance(value, Value):
        return {atom for axis in value.axes for atom in atoms(resolve(axis))}
    if isinstance(value, (list, tuple)):
        return {atom for part in value for atom in _atoms(part)}
    return set()


@dataclass(eq=False)
class Flow:
    """Runs a model op by op, with taps where the units of its sites are read.

    It follows the model: the graph is traced once for each shape of inputs that it meets, and the model's tensors are
    taken as they are at each run. What it computes is what the model computes in eval mode.

    Args:
        model: the model; it is left as it is.
        sites: from `channels` on this model.

    Raises:
        InputError: the sites are those of single weights, or of another model.

    >>> import torch
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> x = torch.ones(4, 2)
    >>> flow = Flow(model, channels(model, x[:1]))
    >>> torch.equal(flow(x), model(x))
    True
    >>> bool((flow(x, lambda read, h: h * read.spread(torch.zeros(2))) == model[2].bias).all())
    True
    """

    model: nn.Module
    sites: Sites
    _traced: dict[Any, tuple[Structure, dict[str, tuple[Read, ...]]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_same_model(self.model, self.sites)
        if self.sites and not isinstance(self.sites.structure, Structure):
            raise InputError("activations are those of channels; find the sites with channels(model, example_inputs)")

    def __call__(
        self,
        inputs: ExampleInputs,
        tap: Tap | None = None,
        tensors: Mapping[str, Tensor] | None = None,
        see: Callable[[Node, Any], Any] | None = None,
        computed: Mapping[Node, Any] | None = None,
    ) -> Any:
        """Return the model's outputs on `inputs`; each read's tensor goes through `tap` on its way.

        Parameters and buffers named in `tensors` are taken from there instead of from the model. `see` is called with
        every node and what it made; what it returns goes on in its place. Ops that `computed` (from `values`) has do
        not run again.
        """
        structure, reads_by_site = self.at(inputs)
        edges: dict[Node, list[Read]] = {}
        for name in self.sites if tap is not None else ():
            for read in reads_by_site[name]:
                edges.setdefault(read.node, []).append(read)
        flat = self._flat(structure.graph, inputs, tensors or {})
        run = Tapped(structure.graph, edges, tap, see)
        # Placeholders are filled one after the other at each run, so all of them or none would have to be known.
        initial_env = {node: value for node, value in (computed or {}).items() if node.op != "placeholder"}
        return outputs_of(structure.graph, run.run(*flat, initial_env=initial_env))

    def values(self, inputs: ExampleInputs, skip: Set[Node]) -> dict[Node, Any]:
        """Run all ops but those of `skip`, and return what these and the output take up (else None), to go on from."""
        graph = self.at(inputs)[0].graph
        run = fx.Interpreter(root_of(graph), garbage_collect_values=False, graph=graph.graph)
        run.run(*self._flat(graph, inputs, {}), initial_env=dict.fromkeys(skip))
        consumed_nodes = {
            source for node in graph.nodes if node in skip or node.op == "output" for source in node.all_input_nodes
        }
        done = (node for node in graph.nodes if node not in skip and node.op != "output")
        return {node: run.env[node] if node in consumed_nodes else None for node in done}

    @property
    def partial(self) -> dict[str, str]:
        """The sites whose units do more than their reads show, with the reason.

        Shutting all reads of a unit removes it, except where a norm takes statistics over the units before they are
        read, where a weight is made from others by a sum over its units, as a standardised one is, and where a
        recurrent layer reads its own units inside its loop.
        """
        structure: Structure = self.sites.structure
        reasons: dict[str, str] = {}
        names = {atom: name for name, atom in structure.units.items() if name in self.sites}
        for axes in structure.ties.statistics.values():
            for atom in _atoms(Value(axes)):
                reasons.setdefault(names.get(atom, ""), "a norm takes statistics over the units")
        weights = weight_nodes(structure)
        for atom in _summed_in_weights(structure, weights):
            reasons.setdefault(names.get(atom, ""), "a weight is made by a sum over the units")
        for node in structure.graph.nodes:
            if node.op == "call_function" and op_name(node) in GATES:
                only_read = {a for a, _, _ in _operands(structure, node, weights)} - _atoms(structure.values[node])
                for source in node.all_input_nodes:
                    for atom in _atoms(structure.values.get(source)) - only_read:
                        reasons.setdefault(names.get(atom, ""), "a recurrent layer reads its own units")
        return {name: reason for name, reason in reasons.items() if name}

    def reads(self, inputs: ExampleInputs) -> dict[str, tuple[Read, ...]]:
        """Return the reads of the sites in the graph for inputs of this shape."""
        reads_by_site = self.at(inputs)[1]
        return {name: reads_by_site[name] for name in self.sites}

    def at(self, inputs: ExampleInputs) -> tuple[Structure, dict[str, tuple[Read, ...]]]:
        """Return the structure, and the reads of all its sites, for inputs of this shape."""
        leaves, spec = _flattened(inputs)
        key = (spec, tuple((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in leaves))
        if key not in self._traced:
            self._check_whole()
            structure = infer((trace_both if self._has_train_code else trace)(self.model, inputs))
            missing = [name for name in self.sites if name not in structure.units]
            if missing:
                raise InputError(
                    f"on inputs of this shape the model has no site {missing[0]!r}; find the sites on such inputs"
                )
            self._traced[key] = (structure, reads(structure))
        return self._traced[key]

    @property
    def _has_train_code(self) -> bool:
        """Whether train mode ties units, too."""
        structure = self.sites.structure
        return isinstance(structure, Structure) and structure.graph.trained is not None

    def _check_whole(self) -> None:
        """Refuse a model that was traced in regions: nothing runs what stands between them but the model itself."""
        if isinstance(self.sites.structure, Structure) and self.sites.structure.graph.regions:
            raise TraceError(
                f"{type(self.model).__name__} cannot be traced whole, and this runs the traced graph on data; choose a "
                "criterion of the weights, such as 'l2', or one that runs the model itself, such as 'loss-change', "
                "'energy' or 'snip'"
            )

    def answer(self, inputs: ExampleInputs, of: Callable[[Any], Any]) -> Node | None:
        """Return the node of the one tensor in a part of the outputs on inputs of this shape; None where it has several.

        Args:
            inputs: what the model is called with.
            of: from the outputs, in the form in which the model returns them, to the part.
        """
        nodes = dict.fromkeys(leaves_within(of(returned(self.at(inputs)[0].graph)), Node))
        return next(iter(nodes)) if len(nodes) == 1 else None

    def makers(self) -> dict[str, tuple[Maker, ...]]:
        """Return the convolutions and linear layers that produce the units of each site, in their order."""
        structure: Structure = self.sites.structure
        makers_by_site = makers_of(structure, OwnTensors(structure.graph, self._own(structure.graph, {})))
        return {name: makers_by_site[name] for name in self.sites}

    def given(self, inputs: ExampleInputs) -> dict[Node, Any]:
        """Return what the placeholders of the graph for inputs of this shape stand for."""
        graph = self.at(inputs)[0].graph
        holders = [node for node in graph.nodes if node.op == "placeholder"]
        return dict(zip(holders, self._flat(graph, inputs, {}), strict=True))

    def _own(self, graph: Graph, tensors: Mapping[str, Tensor]) -> dict[Node, Tensor]:
        """The model's tensors, or those in their place, by the placeholders that stand for them."""
        tensors_by_name = {**graph.state, **own_tensors(self.model), **tensors}
        if any(map(writes, graph.nodes)):
            # What the ops write into a buffer, as a counter of calls, stays out of the model.
            tensors_by_name = {
                name: x if isinstance(x, nn.Parameter) else x.clone() for name, x in tensors_by_name.items()
            }
        return {node: tensors_by_name[name] for node, name in tensor_names(graph).items()}

    def _flat(self, graph: Graph, inputs: ExampleInputs, tensors: Mapping[str, Tensor]) -> list[Any]:
        """What the graph's placeholders stand for, in their order."""
        tensors_by_node = self._own(graph, tensors)
        leaves = iter(x for x in _flattened(inputs)[0] if graph.program or isinstance(x, Tensor))
        return [
            tensors_by_node[n] if n in tensors_by_node else next(leaves) for n in graph.nodes if n.op == "placeholder"
        ]


def _flattened(inputs: ExampleInputs) -> tuple[list[Any], str]:
    """What a model is called with, one after the other, and how it is put together."""
    if isinstance(inputs, Tensor):  # by far the most, and flattening takes as long as a small layer
        return [*arguments_of(inputs)[0]], "one tensor"
    leaves, spec = pytree.tree_flatten(arguments_of(inputs))
    return leaves, str(spec)


def tensor_names(graph: Graph) -> dict[Node, str]:
    """Return the name of every tensor of the model that a placeholder stands for, constants included."""
    names = dict(graph.tensors)
    if graph.program is not None:
        lifted = graph.program.graph_signature.inputs_to_lifted_tensor_constants
        names |= {n: lifted[n.name] for n in graph.nodes if n.op == "placeholder" and n.name in lifted}
    return names


def returned(graph: Graph) -> Any:
    """Return the nodes that the graph returns, in the form in which the model returns their tensors."""
    return outputs_of(graph, next(node for node in graph.nodes if node.op == "output").args[0])


def outputs_of(graph: Graph, leaves: Any) -> Any:
    """Return what the graph made in the form in which the model returns it."""
    if graph.tree is not None:
        return graph.tree.filled(list(leaves))
    if graph.program is None:
        return leaves[0]
    return pytree.tree_unflatten(list(leaves), graph.program.call_spec.out_spec)


class Tapped(fx.Interpreter):
    """Runs a graph; what passes the edges given goes through the tap."""

    def __init__(
        self,
        graph: Graph,
        edges: Mapping[Node, list[Read]],
        tap: Tap | None,
        see: Callable[[Node, Any], Any] | None = None,
    ) -> None:
        super().__init__(root_of(graph), graph=graph.graph)
        self.edges, self.tap, self.see = edges, tap, see

    def run_node(self, n: Node) -> Any:
        """Run one op, and show what it made."""
        output = self._run(n)
        return output if self.see is None else self.see(n, output)

    def _run(self, n: Node) -> Any:
        if n not in self.edges:
            return super().run_node(n)
        operands = self.taken(n)
        args, kwargs = fx.map_arg((n.args, n.kwargs), lambda a: operands.get(a, self.env[a]))
        return n.target(*args, **kwargs)  # type: ignore[operator]

    def taken(self, n: Node) -> dict[Any, Any]:
        """Return what an op takes up in the place of those of its operands that are read through the tap."""
        operands: dict[Any, Any] = {}
        for read in self.edges.get(n, ()):
            assert self.tap is not None
            operands[read.source] = self.tap(read, operands.get(read.source, self.env[read.source]))
        return operands

    def forked(self) -> Tapped:
        """Return one that has computed as much, and goes on by itself."""
        other = copy(self)
        other.env = dict(self.env)
        return other
