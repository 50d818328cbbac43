"""Where the feature maps of a site's units lie: behind their activation, before pools and what else readies them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node

from secateur.structure.axes import Atom, positions
from secateur.structure.flow import Flow, Read
from secateur.structure.infer import Structure
from secateur.structure.layers import MOVES
from secateur.structure.makers import root_of
from secateur.structure.ops import NORMS, bind, product_of, writes
from secateur.structure.ops import POOLS as MAP_BY_MAP
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.reductions import POOLS
from secateur.structure.trace import Graph
from secateur.types import ExampleInputs

__all__ = ["MapPass", "feature_maps", "watching"]

PASSED = {*MOVES, *MAP_BY_MAP, *POOLS, "mean", "dropout", "feature_dropout"} - {"select", "slice"}
"""Ops between a map and the layer that reads it."""


def feature_maps(structure: Structure, reads: Mapping[str, tuple[Read, ...]]) -> dict[str, tuple[Read, ...]]:
    """Return for each site its maps, each as a read at which it is to be looked at: one that is read twice is one map.

    From where a layer reads the units the way goes back through pools, flattening, dropout and means over places; through
    a norm only where a ReLU stands before it.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.structure.flow import reads
    >>> from secateur.structure.infer import infer
    >>> from secateur.structure.trace import trace
    >>> layers = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 1)
    >>> structure = infer(trace(nn.Sequential(*layers), torch.zeros(1, 1, 6, 6)))
    >>> maps = feature_maps(structure, reads(structure))
    >>> [(read.source.name, tuple(read.source.meta["val"].shape)) for read in maps["0"]]
    [('relu_default', (1, 2, 4, 4))]
    """
    maps_by_site: dict[str, tuple[Read, ...]] = {}
    for name, site_reads in reads.items():
        by_source: dict[Node, Read] = {}
        for read in site_reads:
            at = _map_of(structure, read)
            by_source.setdefault(at.source, at)
        maps_by_site[name] = tuple(by_source.values())
    return maps_by_site


def watching(places: Iterable[Read], add: Callable[[Read, Tensor], object]) -> Callable[[Node, Any], Any]:
    """Return what `Flow` is to show its ops to (``see``): `add` is called with what each source holds when its op has run."""
    by_node: dict[Node, list[Read]] = {}
    for read in places:
        by_node.setdefault(read.node, []).append(read)
    waiting = Counter(read.source for reads in by_node.values() for read in reads)
    values: dict[Node, Tensor] = {}

    def see(node: Node, value: Any) -> Any:
        if node in waiting:
            values[node] = value
        for read in by_node.get(node, ()):
            add(read, values[read.source])
            waiting[read.source] -= 1
            if not waiting[read.source]:
                del values[read.source]
        return value

    return see


MapsOf = Callable[[Structure, Mapping[str, tuple[Read, ...]]], Mapping[str, tuple[Read, ...]]]


Showing = Callable[[Read, Tensor, bool], object]
"""Called with a map's read, what the map holds, and whether nothing reads it afterwards, so that it may be written into."""


@dataclass(eq=False)
class MapPass:
    """Runs a model as far as its maps need, and shows each before it is read: no op behind the last map runs.

    For each shape of inputs the graph is written as a module of its own, which runs as fast as the model; it takes the
    model's tensors that there are when it is written.

    Attributes:
        flow: the model and its sites.
        add: called with each map; see `Showing`.
        maps: from a structure and its reads to the maps of each site.

    >>> import torch
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> x, shapes = torch.ones(4, 1), []
    >>> run = MapPass(Flow(model, channels(model, x)), lambda read, activations, spent: shapes.append(activations.shape))
    >>> run(x)
    >>> shapes
    [torch.Size([4, 2])]
    """

    flow: Flow
    add: Showing
    maps: MapsOf = feature_maps
    _runs: dict[int, Callable[[ExampleInputs], object]] = field(default_factory=dict, repr=False)

    def __call__(self, inputs: ExampleInputs) -> None:
        """Run on inputs of any shape that the model takes."""
        structure = self.flow.at(inputs)[0]  # the flow keeps it, so that its id stays its own
        if id(structure) not in self._runs:
            self._runs[id(structure)] = self._run_of(structure, inputs)
        self._runs[id(structure)](inputs)

    def _run_of(self, structure: Structure, inputs: ExampleInputs) -> Callable[[ExampleInputs], object]:
        """What runs on inputs of one shape."""
        graph = structure.graph
        maps_by_site = self.maps(structure, self.flow.reads(inputs))
        module = _showing(graph, [read for site_maps in maps_by_site.values() for read in site_maps], self.add)
        if not isinstance(inputs, Tensor) or any(map(writes, graph.nodes)):
            return lambda inputs: module(*self.flow.given(inputs).values())
        # Looking the model's tensors up takes as long as a small layer.
        values = self.flow.given(inputs)
        position = list(values).index(graph.inputs[0])
        before, after = list(values.values())[:position], list(values.values())[position + 1 :]
        return lambda inputs: module(*before, inputs, *after)


class _Shows(nn.Module):
    """Hands on what one map holds."""

    def __init__(self, read: Read, add: Showing) -> None:
        super().__init__()
        self.read, self.add, self.spent = read, add, False

    def forward(self, activations: Tensor) -> None:
        self.add(self.read, activations, self.spent)


def _showing(graph: Graph, places: Sequence[Read], add: Showing) -> fx.GraphModule:
    """A graph's ops before the last of some places, as a module that is given what the graph's placeholders stand for."""
    waiting = {read.node: [other for other in places if other.node is read.node] for read in places}
    parts: dict[str, Any] = {}
    copies: dict[Node, Node] = {}
    written = fx.Graph()
    for node in graph.nodes:
        for read in waiting.pop(node, ()):
            parts[f"map_{len(parts)}"] = _Shows(read, add)
            written.call_module(f"map_{len(parts) - 1}", (copies[read.source],))
        if node.op == "placeholder":
            copies[node] = written.placeholder(
                f"tensor_{len(copies)}"
            )  # a parameter's own name may be no name in Python
        elif waiting:
            copies[node] = written.node_copy(node, copies.__getitem__)
        if node.op == "get_attr" and node in copies:
            parts[str(node.target)] = attrgetter(str(node.target))(root_of(graph))
    written.output(None)
    _write_in_place(written, parts)
    return fx.GraphModule(parts, written)


def _write_in_place(written: fx.Graph, parts: Mapping[str, Any]) -> None:
    """Let a ReLU write into what it alone reads, and mark the maps that only their showing reads: new memory costs time."""
    for node in written.nodes:
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or len(source.users) > 1 or not _made_new(source):
            continue
        if node.target is torch.ops.aten.relu.default:
            node.target = torch.ops.aten.relu_.default
        elif node.op == "call_module":
            parts[str(node.target)].spent = True


def _made_new(node: Node) -> bool:
    """Whether what a node made shares its memory with nothing that its own readers do not name."""
    if node.op != "call_function":
        return False
    if node.target is torch.ops.aten.relu_.default:
        (source,) = node.all_input_nodes
        return len(source.users) == 1 and _made_new(source)
    if op_name(node) == "getitem":
        return op_name(node.all_input_nodes[0]) in NORMS
    return node.target in NEW or op_name(node) in NORMS or product_of(node) is not None


NEW = {torch.ops.aten.relu.default, torch.ops.aten.add.Tensor}
"""Beside norms and products, what makes a tensor of its own whatever it is given."""


def _map_of(structure: Structure, read: Read) -> Read:
    plain = _back(structure, read, PASSED)
    behind_norm = _back(structure, plain, PASSED | NORMS)
    return behind_norm if _is_rectifier(behind_norm.source) else plain


def _is_rectifier(node: Node) -> bool:
    """Whether an op leaves out what is below zero; a ReLU6 is traced as what clamps between two numbers."""
    return op_name(node) in {"relu", "relu6"} or (op_name(node) == "hardtanh" and bind(node, {})["min_val"] == 0)


def _back(structure: Structure, read: Read, passed: set[str]) -> Read:
    """The read of the first source on the way back that is not made by one of these ops, by the op next to it."""
    node = read.source
    while node.op == "call_function" and op_name(node) in passed and node.all_input_nodes:
        consumer, node = node, node.all_input_nodes[0]
        value = structure.values.get(node)
        if isinstance(value, Value):  # an op of several results has none: the way goes on through it
            dims = _dims(value, structure.units[read.site])
            if len(dims) != 1:
                break
            read = Read(read.site, consumer, node, *dims[0])
    return read


def _dims(value: Value, atom: Atom) -> list[tuple[int, Tensor]]:
    """The dimensions along which the units lie, with their positions."""
    indices = ((dim, positions(axis, atom)) for dim, axis in enumerate(value.axes))
    return [(dim, index) for dim, index in indices if index is not None]
