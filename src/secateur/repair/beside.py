"""The unpruned model and the one that is pruned, side by side over the same samples, one stage of the pass after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor, nn
from torch.fx import Node

from secateur.labelled import Data, iterate
from secateur.state import device_of
from secateur.structure.consumers import Consumer, consumers_of
from secateur.structure.flow import Flow, Read
from secateur.structure.staged import Staged
from secateur.types import Sites

__all__ = ["HELD", "Beside"]

HELD = 2**30
"""How many bytes of activations are held; batches beyond are computed from the start whenever they are asked for."""


@dataclass(eq=False)
class _Batch:
    """One batch on its way through both models."""

    consumers: dict[str, Consumer]
    teacher: Staged
    student: Staged

    def look(self, weight: str) -> tuple[Tensor, Tensor]:
        """What a layer reads in the student, and what it makes in the teacher."""
        consumer = self.consumers[weight]
        aims: Tensor = self.teacher.after(consumer.node)
        return self.student.before(consumer.node, consumer.product.source), aims

    def fork(self) -> _Batch:
        return _Batch(self.consumers, self.teacher.fork(), self.student.fork())


@dataclass(eq=False)
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
    """

    teacher: nn.Module
    student: nn.Module
    sites: Sites
    keep: dict[str, Tensor]
    data: Data
    batch_size: int
    doing: str
    _batches: list[_Batch] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._flow = Flow(self.teacher, self.sites)
        # One trace does for both, as they differ in the values of their tensors alone.
        other = Flow(self.student, self.sites, self._flow._known)
        device, known = device_of(self.teacher), {}
        self._batches = []
        for inputs, _ in iterate(self.data, self.batch_size, self.doing):
            x = inputs.to(device)
            structure, reads = self._flow.at(x)
            if id(structure) not in known:
                known[id(structure)] = {c.weight: c for c in consumers_of(structure, reads)}
            pair = Staged(self._flow, x), Staged(other, x, self._gate)
            self._batches.append(_Batch(known[id(structure)], *pair))
            self._first = self._first if len(self._batches) > 1 else x

    @property
    def consumers(self) -> tuple[Consumer, ...]:
        """The layers that read units and can be fitted anew, in the order of the forward pass."""
        return tuple(self._batches[0].consumers.values())

    @cached_property
    def _places(self) -> dict[Node, int]:
        structure, _ = self._flow.at(self._first)
        return {node: number for number, node in enumerate(structure.graph.nodes)}

    def read_before(self, consumer: Consumer) -> list[str]:
        """Return the sites of which something is read before a layer has run, in the order of their first reads."""
        reads = self._flow.at(self._first)[1]
        places = {name: min(self._places[read.node] for read in reads[name]) for name in self.sites if reads[name]}
        before = [name for name, place in places.items() if place <= self._places[consumer.node]]
        return sorted(before, key=places.__getitem__)

    def at(self, weight: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Go on to a layer; yield for each batch what it reads in the student, and what it makes in the teacher."""
        held = 0
        for batch in self._batches:
            yield batch.look(weight)
            for staged in (batch.teacher, batch.student):
                held += staged.nbytes
                if held > HELD:
                    staged.forget()

    def ahead(self, weights: Sequence[str]) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Look ahead at layers in their order, batch by batch, without going on."""
        for batch in self._batches:
            fork = batch.fork()
            for weight in weights:
                yield weight, *fork.look(weight)

    def _gate(self, read: Read, x: Tensor) -> Tensor:
        kept = self.keep.get(read.site)
        return x if kept is None or bool(kept.all()) else x * read.spread(kept.to(x))
