"""Gates on the units of a model: how each sample's loss answers to each unit, from one backward pass.

A gate multiplies a unit where it is read. Its derivative at 1 is activation times gradient, summed over all that passes
there, so shutting it changes the sample's loss by minus that, to first order. The gates themselves are never built:
the backward pass gives the gradient at each read, and the activations are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.criteria.batches import check_labels, checked
from secateur.state import check_finite, device_of, own_tensors
from secateur.structure.axes import Atom, atoms, positions
from secateur.structure.flow import Flow, Read, Tap
from secateur.structure.infer import Structure
from secateur.structure.rules import Value, op_name
from secateur.structure.rules.recurrent import GATES
from secateur.types import Batches, InputError, Loss, Member, Sites

__all__ = ["Gated", "by_unit", "estimate", "gradient"]

REPAIR = "load a good checkpoint, or repair the tensor, first"


@dataclass(frozen=True, eq=False)
class _Places:
    """Which sample and which unit the positions of a read's tensor belong to.

    Attributes:
        read: the read.
        samples: the dimension along which the samples lie, and their positions ``(samples, places)``; None where no
            dimension has them.
    """

    read: Read
    samples: tuple[int, Tensor] | None

    def sums(self, values: Tensor, count: int) -> Tensor:
        """Return the sums of `values` by sample and unit, ``(samples, units)``.

        What belongs to no sample in particular is divided among all evenly.
        """
        dim, index = self.read.dim, self.read.index.to(values.device)
        if self.samples is None:
            rows = _over(values, (dim,))[index].sum(1)
            return (rows / count).expand(count, -1)
        along, places = self.samples[0], self.samples[1].to(values.device)
        if along == dim:
            return _crossed(_over(values, (dim,)), places, index)
        table = _over(values, (along, dim))
        table = table if places.shape[1] == 1 else table[places].sum(1)
        return table if _is_whole(self.read) else table[:, index].sum(2)


def _is_whole(read: Read) -> bool:
    """Whether the units are all there is along their dimension, in their order."""
    size = int(read.source.meta["val"].shape[read.dim])
    return read.index.shape[1] == 1 and torch.equal(read.index[:, 0], torch.arange(size))


def _over(values: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Sum over all dimensions but `dims`, which come first and in this order."""
    moved = values.movedim(dims, tuple(range(len(dims))))
    return moved.sum(tuple(range(len(dims), moved.ndim))) if moved.ndim > len(dims) else moved


def _crossed(flat: Tensor, samples: Tensor, units: Tensor) -> Tensor:
    """Sums by sample and unit where both lie along one dimension."""
    sample = _owners(samples, len(flat))
    unit = _owners(units, len(flat))
    there = (sample >= 0) & (unit >= 0)
    made = flat.new_zeros(len(samples), len(units))
    return made.index_put_((sample[there], unit[there]), flat[there], accumulate=True)


def _owners(index: Tensor, size: int) -> Tensor:
    """For each position the row of `index` that names it, -1 where none does."""
    rows = torch.arange(len(index), device=index.device).unsqueeze(1).expand_as(index)
    return index.new_full((size,), -1).index_put_((index.flatten(),), rows.flatten())


def _samples(structure: Structure, read: Read, count: int) -> tuple[int, Tensor] | None:
    """Where the samples lie in a read's tensor: the first axis of an input, wherever it went."""
    axes = structure.values[read.source].axes
    for holder in structure.graph.inputs:
        value = structure.values.get(holder)
        batch = next(atoms(value.axes[0]), None) if isinstance(value, Value) and value.axes else None
        for dim, axis in enumerate(axes) if batch is not None and batch.size == count else ():
            found = positions(axis, batch)  # type: ignore[arg-type]
            if found is not None:
                return dim, found
    shape = read.source.meta["val"].shape
    return (0, torch.arange(count).unsqueeze(1)) if shape[0] == count and read.dim else None


@dataclass(eq=False)
class Gated:
    """A batch that has run through a model, ready for backward passes to the reads.

    Attributes:
        outputs: what the model returned, without gradient.
        targets: the batch's targets.
        loss: the loss of (outputs, targets), a mean over the batch.
        again: runs the batch once more, with a tap of one's own at the reads.
    """

    outputs: Tensor
    targets: Tensor
    loss: Loss
    again: Callable[[Tap], Tensor] = field(repr=False)
    _root: Tensor = field(repr=False)
    _points: list[tuple[_Places, Tensor]] = field(repr=False)
    _loops: list[tuple[str, Member, Tensor]] = field(repr=False)

    @property
    def count(self) -> int:
        """How many samples the batch has."""
        return len(self.outputs)

    def changes(self, along: Tensor, last: bool = True) -> dict[str, Tensor]:
        """Return for each site how each sample's ``(outputs · along)`` changes to first order without each unit.

        Args:
            along: a vector for each sample, of the outputs' shape, such as the gradient of its loss.
            last: whether no other backward pass follows.

        Returns:
            One tensor a site, ``(samples, units)``.
        """
        points = [point for _, point in self._points]
        grads = torch.autograd.grad(self._root, points, along, retain_graph=not last, allow_unused=True)
        found: dict[str, Tensor] = {}
        for (places, point), grad in zip(self._points, grads, strict=True):
            products = point.detach() * grad if grad is not None else torch.zeros_like(point)
            made = places.sums(products, self.count).neg()
            name = places.read.site
            found[name] = found[name] + made if name in found else made
        return found

    def loops(self, along: Tensor) -> dict[str, Tensor]:
        """Return, for sites that a recurrent layer reads inside its loop, the change through the loop: ``(units,)``.

        It is summed over the batch, and comes from the recurrent weights that read the units. Call it before the last
        `changes`.
        """
        if not self._loops:
            return {}
        tensors = {id(tensor): tensor for _, _, tensor in self._loops}
        grads = torch.autograd.grad(self._root, list(tensors.values()), along, retain_graph=True, allow_unused=True)
        by_id = dict(zip(tensors, grads, strict=True))
        found: dict[str, Tensor] = {}
        for name, member, tensor in self._loops:
            grad = by_id[id(tensor)]
            products = -tensor.detach() * grad if grad is not None else torch.zeros_like(tensor)
            made = by_unit(products, member)
            found[name] = found[name] + made if name in found else made
        return found


def by_unit(values: Tensor, member: Member) -> Tensor:
    """Return the sums of a parameter-shaped tensor over what belongs to each unit of a member: ``(units,)``."""
    assert member.dim is not None
    assert member.index is not None
    return _over(values, (member.dim,))[member.index.to(values.device)].sum(1)


def gradient(outputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    """Return the gradient of each sample's own loss at its outputs; `loss` is a mean over the samples.

    >>> gradient(torch.zeros(2, 2), torch.tensor([0, 1]), nn.functional.cross_entropy).tolist()
    [[-0.5, 0.5], [0.5, -0.5]]
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (found,) = torch.autograd.grad(loss(leaf, targets), leaf)
    return found * len(outputs)


PerBatch = Callable[[Gated], Mapping[str, Tensor]]


def estimate(
    model: nn.Module, sites: Sites, batches: Batches, loss: Loss, doing: str, per_batch: PerBatch
) -> dict[str, Tensor]:
    """Return the mean over all samples of what `per_batch` sums over the samples of a batch, ``(units,)`` a site.

    Sums are kept in float64. The model is left as it is.

    Raises:
        InputError: unfit batches, NaN in the model, or outputs or losses that are not finite.
    """
    check_finite(model, doing, REPAIR)
    totals = {name: torch.zeros(site.shape, dtype=torch.float64) for name, site in sites.items()}
    count, dtype, run = 0, torch.float32, _Runner(Flow(model, sites), loss)
    for number, (inputs, targets) in enumerate(checked(batches, doing, device_of(model)), 1):
        with torch.enable_grad():
            batch = run(inputs, targets, f"{doing}, batch {number}")
            found = per_batch(batch)
        for name, sums in found.items():
            totals[name] += sums.detach().double().cpu()
        count, dtype = count + batch.count, torch.promote_types(dtype, batch.outputs.dtype)
    device = device_of(model)
    return {name: (total / count).to(device, dtype) for name, total in totals.items()}


@dataclass(eq=False)
class _Runner:
    """Runs batches through a model with a point for gradients at every read."""

    flow: Flow
    loss: Loss
    places: dict[Read, _Places] = field(default_factory=dict)

    def __call__(self, inputs: Tensor, targets: Tensor, doing: str) -> Gated:
        """Run one batch, in a context with gradients."""
        structure, _ = self.flow.at(inputs)
        names = {atom: name for name, atom in structure.units.items() if name in self.flow.sites}
        inside = {node: {names[a] for a in own if a in names} for node, own in _recurrent(structure)}
        tensors = {name: tensor.detach() for name, tensor in own_tensors(self.flow.model).items()}
        loops = [
            (member, name)
            for node, own in inside.items()
            for name in own
            for member in _read_inside(structure, node, self.flow.sites[name].members)
        ]
        for member, _ in loops:
            tensors[member.parameter] = tensors[member.parameter].detach().requires_grad_()
        points: list[tuple[_Places, Tensor]] = []
        # What is changed in place after it was read would no longer be what was read.
        kept = any(_writes(node) for node in structure.graph.nodes)

        def point(read: Read, passing: Tensor) -> Tensor:
            made = passing.clone() if kept else passing.view_as(passing)
            made = made if made.requires_grad else made.detach().requires_grad_()
            points.append((self._places(structure, read, len(inputs)), made))
            return made

        def again(tap: Tap) -> Tensor:
            outside: Tap = lambda read, x: x if read.site in inside.get(read.node, ()) else tap(read, x)  # noqa: E731
            return check_labels(self.flow(inputs, outside, tensors), targets, doing)

        outputs = again(point)
        if not bool(torch.isfinite(outputs.detach()).all()):
            raise InputError(f"{doing}: the model's outputs hold NaN or infinite values; look for them in its inputs")
        found = [(name, member, tensors[member.parameter]) for member, name in loops]
        return Gated(outputs.detach(), targets, self.loss, again, outputs, points, found)

    def _places(self, structure: Structure, read: Read, count: int) -> _Places:
        if read not in self.places:
            self.places[read] = _Places(read, _samples(structure, read, count))
        return self.places[read]


def _recurrent(structure: Structure) -> Iterator[tuple[Node, set[Atom]]]:
    """The recurrent layers, with the units that each reads inside its loop."""
    for node in structure.graph.nodes:
        if node.op == "call_function" and op_name(node) in GATES:
            yield node, {atom for value in structure.values[node] for axis in value.axes for atom in atoms(axis)}


def _read_inside(structure: Structure, node: Node, members: tuple[Member, ...]) -> Iterator[Member]:
    """The weights of a recurrent layer that read units inside it."""
    weights = {structure.graph.tensors.get(source) for source in node.all_input_nodes}
    return (member for member in members if member.role == "in" and member.parameter in weights)


def _writes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)
