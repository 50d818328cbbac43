"""What a model loses without sets of its units: many sets, the model run once up to the first layer that reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import nan
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx import Node
from torch.nn.functional import one_hot
from torch.utils import _pytree as pytree

from secateur.labelled import Data, are_classes, check_data, check_outputs, iterate
from secateur.losses import check_loss, loss_function
from secateur.rate.samples import SampleLoss
from secateur.state import device_of, evaluating, usual
from secateur.structure.flow import Flow, Read
from secateur.structure.infer import Structure
from secateur.structure.rules import op_name
from secateur.structure.sites import check_keep, check_same_model, masked_tensors
from secateur.types import InputError, Keep, Loss, Sites
from secateur.untouched import run_with

__all__ = ["Evaluations", "LastRead", "Removals", "rate"]

MEMORY = 2**30
"""Bytes of activations that are kept between calls unless it is said otherwise."""

DOING = "rate"

WIDE = 2**24
"""Bytes of outputs that are made at a time where many masks share a matrix product; more falls out of the cache."""


@dataclass(frozen=True, eq=False)
class Evaluations:
    """The losses and accuracies of a model under each of several keep masks, over the same samples.

    Attributes:
        losses: mean loss of a sample, float64 ``(masks,)``.
        accuracy: fraction answered rightly, float64 ``(masks,)``; NaN where the targets are not classes.
        class_accuracy: the same for the samples of each class, ``(masks, classes)``; NaN for a class without samples.
            ``(masks, 0)`` where the targets are not classes.
        count: how many samples.
    """

    losses: Tensor
    accuracy: Tensor
    class_accuracy: Tensor
    count: int


def rate(
    model: nn.Module,
    sites: Sites,
    keeps: Sequence[Keep],
    data: Data,
    loss: str | Loss = "cross_entropy",
    *,
    max_memory: int | None = None,
    batch_size: int = 500,
) -> Evaluations:
    """Return the loss and accuracy of `model` under each of `keeps`, as those of ``mask(model, sites, keep)``.

    The model runs once up to the first layer that reads a masked unit, and only what follows runs for every mask. Where
    that layer is the last one, as in a network of one hidden layer, all masks share one matrix product.

    Args:
        model: the model; it is left as it is, and runs in eval mode.
        sites: from `channels` (or `weights`, where each mask is a whole forward pass).
        keeps: the masks: one bool tensor a site, True = keep; sites without one stay whole.
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        max_memory: bytes of activations to keep.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: there are no masks or no samples, or a mask does not fit its site.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False))
    >>> for layer in (0, 2):
    ...     model[layer].weight.data = torch.eye(2)
    >>> x, y = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    >>> sites = channels(model, x)
    >>> found = rate(model, sites, [{}, {"0": torch.tensor([True, False])}], [(x, y)])
    >>> found.accuracy.tolist(), found.class_accuracy.tolist()
    ([1.0, 0.5], [[1.0, 1.0], [1.0, 0.0]])
    """
    return Removals(model, sites, data, loss, max_memory, batch_size)(keeps)


@dataclass(eq=False)
class Removals:
    """What `rate` does, again and again: activations that fit into `max_memory` are kept between calls.

    While it is used, the model's weights and the samples must stay as they are.

    >>> from secateur.structure import channels
    >>> model, x = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)), torch.ones(4, 2)
    >>> removals = Removals(model, channels(model, x), [(x, torch.zeros(4, dtype=torch.int64))])
    >>> whole = removals([{}])
    >>> bool(whole.losses == removals([{"0": torch.tensor([True, True, True])}]).losses)
    True
    """

    model: nn.Module
    sites: Sites
    data: Data
    loss: str | Loss = "cross_entropy"
    max_memory: int | None = None
    batch_size: int = 500
    _flow: Flow | None = field(default=None, init=False, repr=False)
    _kept: dict[frozenset[str], list[_Part]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        check_same_model(self.model, self.sites)
        check_data(self.data, DOING)
        if isinstance(self.sites.structure, Structure):
            self._flow = Flow(self.model, self.sites)

    @usual
    def __call__(self, keeps: Sequence[Keep]) -> Evaluations:
        """Return what is left under each mask."""
        if not keeps:
            raise InputError("rate: there are no masks to evaluate; give at least one, {} for none removed")
        masks = [_less(check_keep(self.sites, keep)) for keep in keeps]
        tally = _Tally(len(masks), loss_function(self.loss))
        with torch.no_grad(), evaluating(self.model):
            for part in self._parts(frozenset(name for keep in masks for name in keep)):
                for first, outputs in part.outputs(masks):
                    tally.add(first, outputs, part.targets)
        return tally.result()

    @usual
    def last_layer(self) -> LastRead | None:
        """Return what the last layer reads of all samples; None where other layers read the sites, or memory is short.

        Each unit must be one of the layer's inputs.
        """
        names = frozenset(self.sites)
        with evaluating(self.model):
            for part in self._parts(names):
                if not isinstance(part, _Suffix) or part.last is None or not part.last.single:
                    return None
        parts = self._kept.get(names)
        if parts is None or any(part.targets.ndim != 1 or part.targets.is_floating_point() for part in parts):
            return None
        return LastRead.of([(part.last, part.targets) for part in parts if isinstance(part, _Suffix) and part.last])

    def _parts(self, names: frozenset[str]) -> Iterator[_Part]:
        """The batches, run as far as no mask of the sites `names` changes anything."""
        if names in self._kept:
            yield from self._kept[names]
            return
        found: list[_Part] | None = []
        room = MEMORY if self.max_memory is None else self.max_memory
        device = device_of(self.model)
        for inputs, targets in iterate(self.data, self.batch_size, DOING):
            part = self._part(names, inputs.to(device), targets.to(device))
            room -= part.bytes
            # All or nothing: batches that are drawn anew come in another order, and none may be counted twice.
            if found is not None and room >= 0:
                found.append(part)
            else:
                found = None
            yield part
        if found is not None:
            self._kept = {names: found}

    def _part(self, names: frozenset[str], inputs: Tensor, targets: Tensor) -> _Part:
        # What its reads do not show of a unit is seen only in a run of the masked model.
        if self._flow is None or names & set(self._flow.partial):
            return _Whole(self.model, self.sites, inputs, targets)
        return _Suffix(targets, self._flow, inputs, names)


@dataclass(frozen=True, eq=False)
class LastRead:
    """What a last linear layer reads of all samples.

    Attributes:
        x: its inputs, ``(samples, inputs)``.
        weight, bias: ``(classes, inputs)`` and ``(classes,)``.
        targets: ``(samples,)``.
        columns: for each site, which of the inputs are its units.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    targets: Tensor
    columns: Mapping[str, Tensor]

    @classmethod
    def of(cls, parts: Sequence[tuple[_LastLayer, Tensor]]) -> LastRead:
        """Put batches together."""
        first = parts[0][0]
        columns = {read.site: read.index[:, 0] for read in first.edges}
        x, targets = torch.cat([last.x for last, _ in parts]), torch.cat([targets for _, targets in parts])
        bias = None if first.bias is None else first.bias.detach()
        return cls(x.detach(), first.weight.detach(), bias, targets, columns)


def _less(keep: Keep) -> dict[str, Tensor]:
    """The masks that remove something."""
    return {name: kept for name, kept in keep.items() if not bool(kept.all())}


class _Part:
    """A batch of samples on which masks can be tried."""

    targets: Tensor
    bytes: int

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """The outputs under the masks, ``(masks, samples, …)`` block by block, each with the number of its first."""
        raise NotImplementedError


class _Whole(_Part):
    """A batch on which the masked model runs from the beginning."""

    def __init__(self, model: nn.Module, sites: Sites, inputs: Tensor, targets: Tensor) -> None:
        self.model, self.sites, self.inputs, self.targets = model, sites, inputs, targets
        self.bytes = _bytes(inputs) + _bytes(targets)

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """Run the masked model for each."""
        for number, keep in enumerate(masks):
            changed = masked_tensors(self.model, self.sites, keep)
            outputs = run_with(self.model, changed, (self.inputs,))
            yield number, _checked(outputs, self.targets).unsqueeze(0)


class _Suffix(_Part):
    """A batch that has run up to the first reads of the masked sites."""

    def __init__(self, targets: Tensor, flow: Flow, inputs: Tensor, names: frozenset[str]) -> None:
        self.targets, self.flow, self.inputs = targets, flow, inputs
        structure, reads = flow.at(inputs)
        edges = [read for name in names for read in reads[name]]
        late = _after(structure.graph.graph, {read.node for read in edges})
        self.known = flow.values(inputs, skip=late)
        own = [x for node, x in self.known.items() if node.op != "placeholder"]
        held = [x for x in pytree.tree_leaves(own) if isinstance(x, Tensor)]
        self.bytes = sum(map(_bytes, held)) + _bytes(inputs) + _bytes(targets)
        self.writes = any(_writes(node) for node in late)
        storages = {x.untyped_storage().data_ptr() for x in held}
        self.whole = self.writes and len(storages) != len(held)
        self.last = _LastLayer.of(structure, edges, self.known)

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """Run what follows; one matrix product for many masks where that is a linear layer alone."""
        if self.last is not None:
            yield from self.last.outputs(masks)
            return
        for number, keep in enumerate(masks):
            yield number, _checked(self._run(keep), self.targets).unsqueeze(0)

    def _run(self, keep: Keep) -> Any:
        def tap(read: Read, passing: Tensor) -> Tensor:
            kept = keep.get(read.site)
            return passing if kept is None else passing * read.spread(kept.to(passing))

        # Ops that write into their operands must not reach what is kept, nor may views be torn apart by copying.
        if self.whole:
            return self.flow(self.inputs.clone(), tap)
        if self.writes:
            known = pytree.tree_map_only(Tensor, torch.clone, self.known)
            return self.flow(self.inputs.clone(), tap, known=known)
        return self.flow(self.inputs, tap, known=self.known)


@dataclass(frozen=True, eq=False)
class _LastLayer:
    """A linear layer that takes up all masked units and gives the outputs: ``x_BI``, ``weight_OI``, ``bias_O``."""

    edges: Sequence[Read]
    x: Tensor
    weight: Tensor
    bias: Tensor | None

    @property
    def single(self) -> bool:
        """Whether each unit is one input."""
        return all(read.index.shape[1] == 1 for read in self.edges)

    @classmethod
    def of(cls, structure: Structure, edges: Sequence[Read], values: Mapping[Node, Any]) -> _LastLayer | None:
        """Return the layer, if that is all that follows the masked units."""
        nodes = {read.node for read in edges}
        output = next(node for node in structure.graph.nodes if node.op == "output")
        if len(nodes) != 1 or [*nodes] != output.all_input_nodes or [*next(iter(nodes)).users] != [output]:
            return None
        (node,) = nodes
        found = _operands(node)
        if found is None or any(read.source is not found[0] or read.dim != 1 for read in edges):
            return None
        x, weight = values[found[0]], values[found[1]]
        bias = None if found[2] is None else values[found[2]]
        return cls(edges, x, weight if op_name(node) == "linear" else weight.t(), bias) if x.ndim == 2 else None

    def outputs(self, masks: Sequence[Keep]) -> Iterator[tuple[int, Tensor]]:
        """One product for many masks: the masks are put on the weights, which are fewer than the activations."""
        step = max(1, WIDE // (len(self.x) * len(self.weight) * self.x.element_size()))
        for first in range(0, len(masks), step):
            chosen = masks[first : first + step]
            wide_KOI = self.weight * self._gates(chosen).unsqueeze(1)
            # Samples innermost: all that follows goes through the classes of many samples at a time.
            outputs_KOB = (wide_KOI.flatten(0, 1) @ self.x.t()).view(len(chosen), -1, len(self.x))
            if self.bias is not None:
                outputs_KOB += self.bias.unsqueeze(1)
            yield first, outputs_KOB.transpose(1, 2)

    def _gates(self, masks: Sequence[Keep]) -> Tensor:
        """1 where an input is kept, 0 where it is removed: ``(masks, inputs)``."""
        gates = self.x.new_ones(len(masks), self.x.shape[1])
        for read in self.edges:
            whole = torch.ones(len(read.index), dtype=torch.bool)
            gates *= read.spread(torch.stack([keep.get(read.site, whole) for keep in masks]).to(self.x))
        return gates


def _operands(node: Node) -> tuple[Node, Node, Node | None] | None:
    """The input, weight and bias of a linear layer's op; None for another op."""
    given = node.args
    if op_name(node) == "linear":
        picked = (given[0], given[1], given[2] if len(given) > 2 else None)
    elif op_name(node) == "addmm" and not node.kwargs:
        picked = (given[1], given[2], given[0])
    elif op_name(node) == "mm":
        picked = (given[0], given[1], None)
    else:
        return None
    return picked if all(n is None or isinstance(n, Node) for n in picked) else None  # type: ignore[return-value]


def _after(graph: fx.Graph, first: Set[Node]) -> set[Node]:
    """The ops given and all that depend on them."""
    late: set[Node] = set()
    for node in graph.nodes:
        if node.op != "output" and (node in first or any(source in late for source in node.all_input_nodes)):
            late.add(node)
    return late


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is None or schema.is_mutable) and node.op == "call_function" and node.target is not getitem


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _checked(outputs: Any, targets: Tensor) -> Tensor:
    check_outputs(outputs, targets, DOING)
    made: Tensor = outputs
    return made


def _right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Whether the greatest output ``(masks, samples, classes)``, the first of equals, is the target's."""
    greatest = outputs.amax(2, keepdim=True)
    if int((outputs == greatest).sum()) != greatest.numel():
        return outputs.argmax(2) == targets
    # A tenth of the time of argmax where the samples lie innermost; of NaN and of equals it would not know the first.
    own = outputs.gather(2, targets.expand(len(outputs), -1).unsqueeze(2))
    return (own == greatest).squeeze(2)


class _Tally:
    """Sums over batches, for each mask."""

    def __init__(self, masks: int, loss: Loss) -> None:
        self.each = SampleLoss(loss)
        self.sums = torch.zeros(masks, dtype=torch.float64)
        self.right = torch.zeros(masks, 0, dtype=torch.int64)
        self.seen: Tensor | None = None
        self.count = 0

    def add(self, first: int, outputs: Tensor, targets: Tensor) -> None:
        """Count the outputs of some masks, ``(masks, samples, …)``, on a batch."""
        block = slice(first, first + len(outputs))
        if first == 0:
            check_loss(self.each.loss, outputs[0], targets, DOING)
        losses = self.each.of_units(outputs, targets)
        self.sums[block] += losses.sum(1, dtype=torch.float64).cpu()
        if first == 0:
            self.each.check(losses[0], outputs[0], targets)
            self.count += len(targets)
        if are_classes(outputs[0], targets):
            self._count_right(block, outputs, targets)

    def _count_right(self, block: slice, outputs: Tensor, targets: Tensor) -> None:
        classes = outputs.shape[2]
        if self.seen is None:
            self.seen = torch.zeros(classes, dtype=torch.int64)
            self.right = torch.zeros(len(self.sums), classes, dtype=torch.int64)
        # Exact: a float32 counts to 16,777,216.
        hits = _right(outputs, targets).float() @ one_hot(targets, classes).float()
        self.right[block] += hits.long().cpu()
        if block.start == 0:
            self.seen += targets.bincount(minlength=classes).cpu()

    def result(self) -> Evaluations:
        """What was counted."""
        losses = self.sums / self.count
        if self.seen is None:
            nothing = torch.full_like(losses, nan)
            return Evaluations(losses, nothing, nothing.new_empty(len(losses), 0), self.count)
        accuracy = self.right.sum(1).double() / self.count
        return Evaluations(losses, accuracy, self.right.double() / self.seen, self.count)
