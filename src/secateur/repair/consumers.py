"""Layers that lost inputs: their weights and biases set so that they give what they gave before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.checks import check_name, check_number
from secateur.equations import LayerEquations
from secateur.labelled import Data, check_data, iterate
from secateur.repair.norms import norms_of, recalibrate
from secateur.state import device_of, evaluating, own_tensors, usual
from secateur.structure import Structure, mask
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.flow import Flow, Read
from secateur.structure.ops import Product, product_of
from secateur.structure.rules import op_name
from secateur.structure.sites import check_keep
from secateur.types import InputError, Keep, Sites
from secateur.untouched import copied

__all__ = ["REPAIRS", "Repair", "repair"]

Repair = Literal["least-squares", "bias", "norms"]
REPAIRS = ("least-squares", "bias", "norms")
"""What can be repaired without training: weights and bias of consumers, their bias alone, statistics of batch norms."""


@usual
def repair(
    model: nn.Module,
    sites: Sites,
    keep: Keep,
    data: Data,
    how: Repair | Sequence[Repair] = ("least-squares", "norms"),
    *,
    ridge: float = 1e-4,
    batch_size: int = 256,
) -> nn.Module:
    """Return a copy of `model`, of full size, whose kept part makes up for what `keep` removes: cut that one.

    - ``"least-squares"``: each linear layer and convolution that reads removed units gets the weights with which its
      outputs, from the kept units, are nearest to those of the unpruned model (He et al., 2017; Luo et al., 2017).
    - ``"bias"``: it gets only the bias with which its outputs have the mean that they had (Nagel et al., 2019).
    - ``"norms"``: `recalibrate`, on the masked model.

    Layers are repaired in the order of the forward pass, each with the repaired ones before it, so errors do not add
    up. Layers without a bias get none, transposed convolutions and weights that several ops share stay as they are.
    The cost is two forward passes over the data for each layer that is repaired, and its normal equations.

    Args:
        model: the unpruned model, which `sites` were found in; it is left as it is.
        sites: from `channels`.
        keep: what is going to be cut.
        data: a `Split`, a pair (inputs, targets) or batches of such pairs; a few hundred samples; the targets are not
            used.
        how: one repair or several, done in the order least-squares, bias, norms.
        ridge: what a change of weights costs, relative to the mean square of the inputs; 0 is plain least squares.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: a norm takes statistics over a site that is cut or a recurrent layer reads its own units, so that
            the activations of the pruned model are not known here; data that are empty; `ridge` below 0.
        UnknownNameError: `how` is not known.

    >>> from secateur.structure import channels, cut
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1, bias=False))
    >>> for parameter, values in zip(model.parameters(), ([[1.0, 2], [2, 4]], [0, 0], [[1, 1]])):
    ...     _ = parameter.data.copy_(torch.tensor(values))
    >>> x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> sites, keep = channels(model, x), {"0": torch.tensor([True, False])}      # unit 1 is twice unit 0
    >>> repaired = repair(model, sites, keep, (x, torch.zeros(2)), "least-squares", ridge=0.0)
    >>> cut(repaired, sites, keep)[1].weight.item()     # 1 of its own, and 1 for each half of what is gone
    3.0
    """
    methods = (how,) if isinstance(how, str) else tuple(how)
    for method in methods:
        check_name("repair", method, REPAIRS)
    check_number("repair", "[0, inf)", ridge=ridge)
    check_data(data, "repair")
    checked = check_keep(sites, keep)
    _check_visible(model, sites, checked)
    repaired = copied(model)
    work = _Work(model, repaired, sites, checked, data, batch_size)
    for method in ("least-squares", "bias"):
        if method in methods:
            for name in work.consumers():
                work.correct(name, ridge, weights=method == "least-squares")
    # Asked for alone, it is an error where there is none.
    if "norms" in methods and (len(methods) == 1 or norms_of(repaired)):
        _take_statistics(repaired, recalibrate(mask(repaired, sites, keep), data, batch_size=batch_size))
    return repaired


def _check_visible(model: nn.Module, sites: Sites, keep: Keep) -> None:
    if not isinstance(sites.structure, Structure):
        raise InputError("repair: units that others can make up for are channels; find the sites with channels(...)")
    hidden = Flow(model, sites).partial
    for name, site_mask in keep.items():
        if name in hidden and not bool(site_mask.all()):
            raise InputError(
                f"repair: {hidden[name]} of {name!r}, so what the pruned model computes is not known before it is cut; "
                "keep that site whole (ignore=), or train the cut model instead"
            )


def _take_statistics(model: nn.Module, other: nn.Module) -> None:
    for mine, theirs in zip(norms_of(model), norms_of(other), strict=True):
        for buffer, new in zip(mine.buffers(), theirs.buffers(), strict=True):
            buffer.copy_(new)


@dataclass(frozen=True, eq=False)
class _Consumer:
    """An op that multiplies the units it reads with a weight of the model's: their names, and which inputs stay."""

    product: Product
    weight: str
    bias: str | None
    input_mask: Tensor
    inputs_first: bool


@dataclass(eq=False)
class _Work:
    """A model that is repaired layer by layer, beside the unpruned one."""

    teacher: nn.Module
    student: nn.Module
    sites: Sites
    keep: Keep
    data: Data
    batch_size: int

    def __post_init__(self) -> None:
        self.flows = Flow(self.teacher, self.sites), Flow(self.student, self.sites)

    def consumers(self) -> list[str]:
        """The weights that read removed units, in the order of the forward pass."""
        inputs, _ = next(iter(self.batches()))
        return [consumer.weight for consumer in self._consumers(self.flows[1], inputs)]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = device_of(self.teacher)
        for inputs, targets in iterate(self.data, self.batch_size, "repair"):
            yield inputs.to(device), targets

    def correct(self, name: str, ridge: float, *, weights: bool) -> None:
        """Change one layer of the student so that it gives what the teacher's gives."""
        equations: LayerEquations | None = None
        with evaluating(self.teacher), evaluating(self.student):
            for inputs, _ in self.batches():
                consumer = next(c for c in self._consumers(self.flows[1], inputs) if c.weight == name)
                before = self._input(self.flows[0], inputs, name, gate=False)
                after = self._input(self.flows[1], inputs, name, gate=True)
                equations = equations or _equations(consumer, _weight(consumer, self.student), weights)
                equations.add(after, _run(consumer, before, self.teacher) - _run(consumer, after, self.student))
        assert equations is not None
        change, shift = equations.solve(ridge)
        with torch.no_grad():
            weight = _weight(consumer, self.student)
            weight += change.to(weight)
            if consumer.bias and shift is not None:
                bias = own_tensors(self.student)[consumer.bias]
                bias += shift.to(bias)

    def _input(self, flow: Flow, inputs: Tensor, name: str, *, gate: bool) -> Tensor:
        """What a layer reads, from the kept units alone where they are gated."""
        node = next(c.product.node for c in self._consumers(flow, inputs) if c.weight == name)
        inputs_by_node: dict[Node, Tensor] = {}

        def tap(read: Read, x: Tensor) -> Tensor:
            passed = x * read.spread(self.keep[read.site].to(x)) if gate and read.site in self.keep else x
            if read.node is node:
                inputs_by_node[node] = passed
            return passed

        flow(inputs, tap)
        return inputs_by_node[node]

    def _consumers(self, flow: Flow, inputs: Tensor) -> list[_Consumer]:
        structure, reads = flow.at(inputs)
        gone = {structure.units[name]: site_mask for name, site_mask in self.keep.items() if not bool(site_mask.all())}
        nodes = {r.node: r for name, site_reads in reads.items() for r in site_reads if structure.units[name] in gone}
        ordered = [nodes[node] for node in structure.graph.nodes if node in nodes]
        return [consumer for read in ordered if (consumer := _consumer(structure, read, gone))]


def _consumer(structure: Structure, read: Read, gone: Mapping[Atom, Tensor]) -> _Consumer | None:
    """What reads removed units, where it is a layer that can be repaired."""
    product = product_of(read.node)
    if product is None or not product.plain or product.kind == "matmul":
        return None
    weight, bias = product.weight, product.bias
    turned = isinstance(weight, Node) and weight.op == "call_function" and op_name(weight) in {"t", "transpose"}
    holder: Any = weight.args[0] if isinstance(weight, Node) and turned else weight
    names, state = structure.graph.tensors, structure.graph.state
    if holder not in names or read.source is not product.source or (bias is not None and bias not in names):
        return None
    if any(_uses(structure, names[tensor]) > 1 for tensor in (holder, bias) if tensor is not None):
        return None
    space = state[names[holder]].ndim - 2
    if space < 0 or (space and read.dim != 1) or (bias is not None and state[names[bias]].ndim != 1):
        return None
    input_mask = keep_vector(structure.values[read.source].axes[read.dim], gone)
    inputs_first = not (product.out_first or turned)
    return _Consumer(product, names[holder], None if bias is None else names[bias], input_mask, inputs_first)


def _uses(structure: Structure, name: str) -> int:
    """How many ops take a tensor, under all its names."""
    state = structure.graph.state
    same = (holder for holder, other in structure.graph.tensors.items() if state.get(other) is state[name])
    return sum(len(holder.users) for holder in same)


def _weight(consumer: _Consumer, model: nn.Module) -> Tensor:
    """The layer's weight with outputs along dimension 0, inputs along dimension 1: a view."""
    weight = own_tensors(model)[consumer.weight]
    return weight.mT if consumer.inputs_first else weight


def _run(consumer: _Consumer, x: Tensor, model: nn.Module) -> Tensor:
    """The layer's outputs with the model's weight and bias."""
    weight = _weight(consumer, model)
    bias = own_tensors(model)[consumer.bias] if consumer.bias else None
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    arguments = {**consumer.product.arguments, "input": x, "weight": weight, "bias": bias}
    result: Tensor = consumer.product.node.target(**arguments)  # type: ignore[operator]
    return result


def _equations(consumer: _Consumer, weight: Tensor, weights: bool) -> LayerEquations:
    """The equations of the kept columns of each group's input matrix; of none of them for the bias alone."""
    group_masks = consumer.input_mask.reshape(consumer.product.groups, -1).repeat_interleave(weight[0, 0].numel(), 1)
    columns = [(group & weights).nonzero().flatten().to(weight.device) for group in group_masks]
    return LayerEquations(weight, consumer.product.arguments, columns, bias=consumer.bias is not None)
