"""Gates on the units of a model: how each sample's loss answers to each unit, from one backward pass.

A gate multiplies a unit where it is read. Its derivative at 1 is activation times gradient, summed over all that passes
there, so shutting it changes the sample's loss by minus that, to first order. The gates themselves are never built:
the backward pass gives the gradient at each read, and the activations are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.criteria.batches import moved
from secateur.criteria.read_sums import Places, over, samples_of
from secateur.labelled import SampleBatch, Samples
from secateur.losses import answers, check_answers, check_slope, gives_numbers, packed
from secateur.state import check_finite, device_of, own_tensors
from secateur.structure.axes import Atom, atoms
from secateur.structure.flow import Flow, Read, Tap
from secateur.structure.infer import Structure
from secateur.structure.ops import writes
from secateur.structure.rules import op_name
from secateur.structure.rules.recurrent import GATES
from secateur.structure.sites import REPAIR
from secateur.types import ExampleInputs, Loss, Member

__all__ = ["Gated", "by_unit", "each_batch", "estimate", "gradient", "real_product"]


@dataclass(eq=False)
class Gated:
    """A batch that has run through a model, ready for backward passes to the reads.

    Attributes:
        inputs: its inputs.
        outputs: what the loss is of, without gradient, a row for each sample; several outputs as one tensor of rows.
        targets: the batch's targets.
        loss: the loss of (outputs, targets), a mean over the batch; that of the outputs as one tensor.
        numbers: whether the outputs are numbers, as in a regression, and not the logits of classes.
        again: runs the batch once more, with a tap of one's own at the reads.
        numbers_by_node: what the nodes made that were asked for, without gradient.
    """

    inputs: ExampleInputs
    outputs: Tensor
    targets: Any
    loss: Loss
    numbers: bool
    again: Callable[[Tap], Tensor] = field(repr=False)
    numbers_by_node: dict[Node, Any] = field(repr=False)
    _root: Tensor = field(repr=False)
    _points: list[tuple[Places, Tensor]] = field(repr=False)
    _loops: list[tuple[str, Member, Tensor]] = field(repr=False)
    _tensors_by_node: dict[Node, Any] = field(repr=False)

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
        changes_by_site: dict[str, Tensor] = {}
        for read, read_changes in self.by_read(along, last):
            changes_by_site[read.site] = (
                changes_by_site[read.site] + read_changes if read.site in changes_by_site else read_changes
            )
        return changes_by_site

    def by_read(self, along: Tensor, last: bool = True) -> Iterator[tuple[Read, Tensor]]:
        """Yield each read with its part of `changes`."""
        points = [point for _, point in self._points]
        grads = torch.autograd.grad(self._root, points, along, retain_graph=not last, allow_unused=True)
        for (places, point), grad in zip(self._points, grads, strict=True):
            products = real_product(point.detach(), grad) if grad is not None else torch.zeros_like(point)
            yield places.read, places.sums(products, self.count).neg_()

    def slopes(self, along: Tensor, nodes: list[Node]) -> tuple[Tensor | None, ...]:
        """Return the gradients of ``outputs · along`` at nodes of `numbers_by_node`; call it before the last `changes`."""
        node_values = [self._tensors_by_node[node] for node in nodes]
        grads: list[Tensor | None] = [None] * len(node_values)
        on = [at for at, tensor in enumerate(node_values) if tensor.requires_grad]
        if on:
            node_grads = torch.autograd.grad(
                self._root, [node_values[at] for at in on], along, retain_graph=True, allow_unused=True
            )
            for at, grad in zip(on, node_grads, strict=True):
                grads[at] = grad
        return tuple(grads)

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
        changes_by_site: dict[str, Tensor] = {}
        for name, member, tensor in self._loops:
            grad = by_id[id(tensor)]
            products = -real_product(tensor.detach(), grad) if grad is not None else torch.zeros_like(tensor)
            loop_changes = by_unit(products, member)
            changes_by_site[name] = changes_by_site[name] + loop_changes if name in changes_by_site else loop_changes
        return changes_by_site


def real_product(numbers: Tensor, gradients: Tensor) -> Tensor:
    """Return what a real sum gains to first order where numbers grow by themselves; of complex ones both parts count.

    >>> real_product(torch.tensor([1 + 2j]), torch.tensor([3 + 4j])).tolist()    # 1·3 + 2·4
    [11.0]
    """
    products = numbers.conj() * gradients
    return products.real if products.is_complex() else products


def by_unit(values: Tensor, member: Member) -> Tensor:
    """Return the sums of a parameter-shaped tensor over what belongs to each unit of a member: ``(units,)``."""
    assert member.dim is not None
    assert member.index is not None
    return over(values, (member.dim,))[member.index.to(values.device)].sum(1)


def gradient(outputs: Tensor, targets: Any, loss: Loss) -> Tensor:
    """Return the gradient of each sample's own loss at its outputs; `loss` is a mean over the samples.

    Raises:
        InputError: the loss does not depend on the outputs in a way that can be derived.

    >>> gradient(torch.zeros(2, 2), torch.tensor([0, 1]), torch.nn.functional.cross_entropy).tolist()
    [[-0.5, 0.5], [0.5, -0.5]]
    """
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        mean = loss(leaf, targets)
        check_slope(mean)
        (grad,) = torch.autograd.grad(mean, leaf)
    return grad * len(outputs)


PerBatch = Callable[[Gated], Mapping[str, Tensor]]
Watch = Callable[[ExampleInputs], set[Node]]


def estimate(
    flow: Flow,
    data: Samples,
    batch_size: int,
    loss: Loss,
    doing: str,
    per_batch: PerBatch,
    watch: Watch | None = None,
) -> dict[str, Tensor]:
    """Return the mean over all samples of what `per_batch` sums over the samples of a batch, ``(units,)`` a site.

    Sums are kept in float64. The model is left as it is. `watch` says, for inputs, which nodes
    `Gated.numbers_by_node` is to hold.

    Raises:
        InputError: unfit batches, NaN in the model, or outputs or losses that are not finite.
    """
    totals = {name: torch.zeros(site.shape, dtype=torch.float64) for name, site in flow.sites.items()}
    dtype = torch.float32

    def add(batch: Gated) -> None:
        nonlocal dtype
        for name, sums in per_batch(batch).items():
            totals[name] += sums.detach().double().cpu()
        dtype = torch.promote_types(dtype, batch.outputs.dtype.to_real())

    count = each_batch(flow, data, batch_size, loss, doing, add, watch)
    return {name: (total / count).to(device_of(flow.model), dtype) for name, total in totals.items()}


def each_batch(
    flow: Flow,
    data: Samples,
    batch_size: int,
    loss: Loss,
    doing: str,
    visit: Callable[[Gated], None],
    watch: Watch | None = None,
) -> int:
    """Call `visit` with every batch, run through the model with gradients on; return how many samples there were.

    Raises:
        InputError: unfit batches, NaN in the model, or outputs or losses that are not finite.
    """
    check_finite(flow.model, doing, REPAIR)
    count, run = 0, _Runner(flow, loss, watch or (lambda inputs: set()))
    for number, samples in enumerate(moved(data, batch_size, doing, device_of(flow.model)), 1):
        with torch.enable_grad():
            batch = run(samples, f"{doing}, batch {number}")
            visit(batch)
        count += batch.count
    return count


See = Callable[[Node, Any], Any]


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is known of a graph before it runs.

    Attributes:
        inside: for each recurrent layer the sites whose units it reads inside its loop.
        loops: those sites, with the weights that read them there.
        writes: whether an op changes a tensor in place; what was read before would no longer be what was read.
        places: where the samples and units lie in each read.
    """

    inside: Mapping[Node, set[str]]
    loops: tuple[tuple[str, Member], ...]
    writes: bool
    places: Mapping[Read, Places]


def _plan(flow: Flow, inputs: ExampleInputs, count: int) -> _Plan:
    structure, _ = flow.at(inputs)
    names = {atom: name for name, atom in structure.units.items() if name in flow.sites}
    inside = {node: {names[a] for a in looped if a in names} for node, looped in _recurrent(structure)}
    loops = tuple(
        (name, member)
        for node, site_names in inside.items()
        for name in sorted(site_names)
        for member in _read_inside(structure, node, flow.sites[name].members)
    )
    changes = any(writes(node) for node in structure.graph.nodes)
    reads = [read for several in flow.reads(inputs).values() for read in several]
    places = {read: Places(read, samples_of(structure, read, count)) for read in reads}
    return _Plan(inside, loops, changes, places)


@dataclass(eq=False)
class _Runner:
    """Runs batches through a model with a point for gradients at every read."""

    flow: Flow
    loss: Loss
    watch: Watch
    plans: dict[tuple[object, ...], _Plan] = field(default_factory=dict)

    def __call__(self, samples: SampleBatch, doing: str) -> Gated:
        """Run one batch, in a context with gradients."""
        inputs = samples.inputs
        key = tuple((name, tensor.shape, tensor.dtype) for name, tensor in samples.without_targets().named())
        if key not in self.plans:
            self.plans[key] = _plan(self.flow, inputs, len(samples))
        plan, tensors = self.plans[key], self._tensors(self.plans[key])
        points: list[tuple[Places, Tensor]] = []
        tensors_by_node: dict[Node, Any] = {}
        numbers_by_node: dict[Node, Any] = {}

        def answered(tap: Tap, see: See | None = None) -> Any:
            outside: Tap = lambda read, x: x if read.site in plan.inside.get(read.node, ()) else tap(read, x)  # noqa: E731
            return answers(self.flow(inputs, outside, tensors, see), self.loss)

        watched = self.watch(inputs)
        several = answered(
            _point(plan, points), _see(plan, watched, tensors_by_node, numbers_by_node) if watched else None
        )
        check_answers(several, samples.targets, self.loss, doing)
        outputs, loss = packed(several, self.loss, len(samples))
        loops = [(name, member, tensors[member.parameter]) for name, member in plan.loops]
        return Gated(
            inputs,
            outputs.detach(),
            samples.targets,
            loss,
            gives_numbers(self.loss, several, samples.targets),
            lambda tap: packed(answered(tap), self.loss, len(samples))[0],
            numbers_by_node,
            outputs,
            points,
            loops,
            tensors_by_node,
        )

    def _tensors(self, plan: _Plan) -> dict[str, Tensor]:
        """The model's tensors, those with a gradient that stand for reads inside a loop."""
        tensors = {name: tensor.detach() for name, tensor in own_tensors(self.flow.model).items()}
        for _, member in plan.loops:
            tensors[member.parameter].requires_grad_()
        return tensors


def _point(plan: _Plan, points: list[tuple[Places, Tensor]]) -> Tap:
    """A tap that notes what passes, as a tensor of its own that can be asked for its gradient."""

    def tap(read: Read, passing: Tensor) -> Tensor:
        point = passing.clone() if plan.writes else passing.view_as(passing)
        point = point if point.requires_grad else point.detach().requires_grad_()
        points.append((plan.places[read], point))
        return point

    return tap


def _see(plan: _Plan, watched: set[Node], tensors_by_node: dict[Node, Any], numbers_by_node: dict[Node, Any]) -> See:
    """Notes what the watched nodes make: the tensors themselves, and their numbers."""

    def see(node: Node, value: Any) -> Any:
        if node in watched:
            tensors_by_node[node] = value
            numbers = value.detach() if isinstance(value, Tensor) else value
            numbers_by_node[node] = numbers.clone() if plan.writes and isinstance(value, Tensor) else numbers
        return value

    return see


def _recurrent(structure: Structure) -> Iterator[tuple[Node, set[Atom]]]:
    """The recurrent layers, with the units that each reads inside its loop."""
    for node in structure.graph.nodes:
        if node.op == "call_function" and op_name(node) in GATES:
            yield node, {atom for value in structure.values[node] for axis in value.axes for atom in atoms(axis)}


def _read_inside(structure: Structure, node: Node, members: tuple[Member, ...]) -> Iterator[Member]:
    """The weights of a recurrent layer that read units inside it."""
    weights = {structure.graph.tensors.get(source) for source in node.all_input_nodes}
    return (member for member in members if member.role == "in" and member.parameter in weights)
