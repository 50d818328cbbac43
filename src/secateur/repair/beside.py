"""The unpruned model and the one that is pruned, side by side over the same samples, one stage of the pass after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from secateur.deadline import check_time
from secateur.labelled import Samples, batches, logits_of
from secateur.losses import are_probabilities
from secateur.rate.memory import free_memory
from secateur.state import device_of
from secateur.structure.consumers import Consumer, layers_of
from secateur.structure.flow import Flow, Read
from secateur.structure.infer import Structure
from secateur.structure.rules import op_name
from secateur.structure.staged import Staged
from secateur.trees import tensors_within
from secateur.types import ExampleInputs, Sites

__all__ = ["HELD", "Beside", "See"]

See = Callable[[Node, Any], Any]
"""Called with a node of the graph and what it made; what it returns goes on in its place."""

HELD, SHARE = 2**30, 8
"""How many bytes of activations are held, or one in so many of those that are free; batches beyond are computed from the
start whenever they are asked for."""

SHAPING = {"view", "_unsafe_view", "reshape", "clone", "contiguous", "alias", "detach"}
"""Ops that leave all numbers, and the last dimension of a linear layer's outputs, as they are."""

UNCHANGED = {"clone", "contiguous", "alias", "detach"}
"""Ops that give what they are given."""


@dataclass(frozen=True, eq=False)
class _Layout:
    """Of inputs of one shape: where layers and sites are in the graph, in the order of the forward pass."""

    nodes: tuple[Node, ...]
    layers: Mapping[str, Consumer]
    consumers: Mapping[str, Consumer]
    first_reads: Mapping[str, Node]
    streams: Mapping[str, tuple[Node, Node]]

    @classmethod
    def of(cls, structure: Structure, reads: Mapping[str, tuple[Read, ...]]) -> _Layout:
        nodes = tuple(structure.graph.nodes)
        place = {node: number for number, node in enumerate(nodes)}
        firsts = {
            name: min((r.node for r in site_reads), key=place.__getitem__)
            for name, site_reads in reads.items()
            if site_reads
        }
        ordered = dict(sorted(firsts.items(), key=lambda item: place[item[1]]))
        layers = {layer.weight: layer for layer in layers_of(structure, reads)}
        streams = {name: ends for name, layer in layers.items() if (ends := _stream(layer.node)) is not None}
        consumers = {name: layer for name, layer in layers.items() if layer.reads}
        return cls(nodes, layers, consumers, ordered, streams)


def _stream(node: Node) -> tuple[Node, Node] | None:
    """The sum of a residual stream that a layer's outputs are added to, and the stream before; None where there is none."""
    while len(node.users) == 1:
        user = next(iter(node.users))
        if op_name(user) in {"add", "add_"} and not user.kwargs and len(user.all_input_nodes) == 2:
            before = next(source for source in user.all_input_nodes if source is not node)
            same = before.meta["val"].shape == user.meta["val"].shape == node.meta["val"].shape
            return (user, before) if same else None
        if op_name(user) not in UNCHANGED:
            return None
        node = user
    return None


@dataclass(eq=False)
class _Batch:
    """One batch on its way through both models."""

    layout: _Layout
    teacher: Staged
    student: Staged
    stream: bool = False

    def look(self, weight: str) -> tuple[Tensor, Tensor]:
        """What a layer reads in the student, and what it is to make of it."""
        consumer = self.layout.consumers[weight]
        inputs = self.student.before(consumer.node, consumer.product.source)
        ends = self.layout.streams.get(weight) if self.stream else None
        if ends is None:
            aims: Tensor = self.teacher.after(consumer.node)
            return inputs, aims
        # With the student's stream h and the teacher's sum s, the outputs that make h + outputs = s.
        total, before = ends
        return inputs, self.teacher.after(total) - self.student.held(before)

    def fork(self, site: str) -> _Batch:
        """Go on to the first read of a site, and return a second pass from there."""
        for staged in (self.teacher, self.student):
            staged.until(self.layout.first_reads[site])
        return replace(self, teacher=self.teacher.fork(), student=self.student.fork())


class Beside:
    """What the layers of a pruned model read, beside what those of the unpruned one make of the same samples.

    Args:
        teacher: the unpruned model.
        student: a copy of it, whose weights may change between two calls.
        sites: of the teacher.
        keep: what is removed from the student: its units are zeros wherever they are read. Entries may come as the pass
            goes on, each before the first read of its site.
        data: samples; targets are not used.
        batch_size: samples a pass, where the data are in memory.
        doing: who asks, for the errors.
        pruned_data: what the student reads in the place of `data`, batch by batch, where layers before it were pruned.
        stream: whether layers that write into a residual stream aim at what the stream is behind them in the teacher, so
            that they make up for what was lost before them as well; else at what they make in the teacher.
        flow: of the teacher, where there is one already; it may hold the weights of another model of the same structure.

    Attributes:
        classes: whether the targets are class labels, one for each sample.
        numbers: whether they are numbers that are no probabilities either, so that outputs are not the scores of classes.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        sites: Sites,
        keep: dict[str, Tensor],
        data: Samples,
        batch_size: int,
        doing: str,
        *,
        pruned_data: Samples | None = None,
        stream: bool = False,
        flow: Flow | None = None,
    ) -> None:
        self.teacher, self.student, self.sites, self.keep = teacher, student, sites, keep
        # One trace does for both, as they differ in the values of their tensors alone.
        self._flow = first = flow or Flow(teacher, sites)
        self._pruned_flow = replace(first, model=student)
        device = device_of(teacher)
        self._free = free_memory(device)
        layouts: dict[int, _Layout] = {}
        self._batches: list[_Batch] = []
        self._inputs: list[ExampleInputs] = []
        both = zip(
            batches(data, batch_size, doing),
            batches(data if pruned_data is None else pruned_data, batch_size, doing),
            strict=True,
        )
        for samples, pruned_samples in both:
            x, targets = samples.to(device).inputs, samples.targets
            self._inputs.append(x)
            structure, reads = first.at(x)
            if id(structure) not in layouts:
                layouts[id(structure)] = _Layout.of(structure, reads)
            pruned = Staged(self._pruned_flow, pruned_samples.to(device).inputs, self._gate)
            self._batches.append(_Batch(layouts[id(structure)], Staged(first, x), pruned, stream))
            self.classes = isinstance(targets, Tensor) and targets.ndim == 1 and not targets.is_floating_point()
            floats = [part for part in tensors_within(targets) if part.is_floating_point()]
            self.numbers = bool(floats) and not all(map(are_probabilities, floats))

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The layers that read units and can be fitted anew, in the order of the forward pass."""
        return tuple(self._batches[0].layout.consumers.values())

    def read_before(self, consumer: Consumer) -> list[str]:
        """Return the sites of which something is read before a layer has run, in the order of their first reads."""
        layout = self._batches[0].layout
        done = set(layout.nodes[: layout.nodes.index(consumer.node) + 1])
        return [name for name, node in layout.first_reads.items() if node in done and name in self.sites]

    @property
    def count(self) -> int:
        """How many batches there are."""
        return len(self._batches)

    def layers(self, number: int = 0) -> Mapping[str, Consumer]:
        """Return all layers that can be fitted anew, as they are in the graph of a batch, by the names of their weights."""
        return self._batches[number].layout.layers

    def unpruned(self, number: int, see: See | None = None) -> Any:
        """Return the outputs of a whole pass of the unpruned model over a batch; `see` is that of `Flow`."""
        return self._flow(self._inputs[number], see=see)

    def pruned(self, number: int, see: See | None = None, tensors: Mapping[str, Tensor] | None = None) -> Any:
        """Return the outputs of a whole pass of the pruned model over a batch, with some of its tensors replaced."""
        return self._pruned_flow(self._inputs[number], self._gate, tensors, see)

    def outputs(self) -> Iterator[tuple[Any, Any]]:
        """Go on to the end; yield for each batch what the teacher and the student return."""
        for batch in self._batches:
            check_time()
            yield batch.teacher.outputs(), batch.student.outputs()

    @property
    def last(self) -> Consumer | None:
        """The layer whose outputs are the model's only output, or the logits that it names, in another shape at most."""
        layout = self._batches[0].layout
        by_node = {consumer.node: consumer for consumer in layout.consumers.values()}
        answer = self._flow.answer(self._inputs[0], logits_of)
        sources = [] if answer is None else [answer]
        while len(sources) == 1 and sources[0] not in by_node and op_name(sources[0]) in SHAPING:
            sources = sources[0].all_input_nodes
        return by_node.get(sources[0]) if len(sources) == 1 else None

    def at(self, weight: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Go on to a layer; yield for each batch what it reads in the student, and what it makes in the teacher."""
        for batch in self._batches:
            check_time()
            yield batch.look(weight)
        self._bound()

    def ahead(self, site: str, weights: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Go on to the first read of a site; look ahead at its readers in their order, batch by batch."""
        for batch in self._batches:
            check_time()
            fork = batch.fork(site)
            for weight in weights:
                yield weight, *fork.look(weight)
        self._bound()

    def _bound(self) -> None:
        """Let go of activations beyond those that may be held."""
        nbytes, most = 0, max(HELD, self._free // SHARE)
        for batch in self._batches:
            for staged in (batch.teacher, batch.student):
                nbytes += staged.nbytes
                if nbytes > most:
                    staged.forget()

    def _gate(self, read: Read, x: Tensor) -> Tensor:
        mask = self.keep.get(read.site)
        return x if mask is None or bool(mask.all()) else x * read.spread(mask.to(x))
