"""Layers that lost inputs: their weights and biases set so that they give what they gave before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.equations import Normal, input_rows, output_rows
from secateur.labelled import Data, check_data, iterate
from secateur.repair.norms import norms_of, recalibrate
from secateur.state import device_of, evaluating, own_tensors
from secateur.structure import Structure, mask
from secateur.structure.axes import Atom, keep_vector
from secateur.structure.flow import Flow, Read
from secateur.structure.infer import bind
from secateur.structure.rules import op_name
from secateur.structure.rules.contractions import CONVOLUTIONS
from secateur.structure.sites import check_keep
from secateur.types import InputError, Keep, Sites, unknown_name
from secateur.untouched import copied

__all__ = ["REPAIRS", "Repair", "repair"]

Repair = Literal["least-squares", "bias", "norms"]
REPAIRS = ("least-squares", "bias", "norms")
"""What can be repaired without training: weights and bias of consumers, their bias alone, statistics of batch norms."""


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
    chosen = (how,) if isinstance(how, str) else tuple(how)
    for one in chosen:
        if one not in REPAIRS:
            raise unknown_name("repair", one, REPAIRS)
    if isinstance(ridge, bool) or not isinstance(ridge, (int, float)) or not 0 <= ridge < float("inf"):
        raise InputError(f"repair: ridge must be a finite number, 0 or more; got {ridge!r}")
    check_data(data, "repair")
    checked = check_keep(sites, keep)
    _check_visible(model, sites, checked)
    made = copied(model)
    work = _Work(model, made, sites, checked, data, batch_size)
    for one in ("least-squares", "bias"):
        if one in chosen:
            for name in work.consumers():
                work.correct(name, ridge, weights=one == "least-squares")
    # Asked for alone, it is an error where there is none.
    if "norms" in chosen and (len(chosen) == 1 or norms_of(made)):
        _take_statistics(made, recalibrate(mask(made, sites, keep), data, batch_size=batch_size))
    return made


def _check_visible(model: nn.Module, sites: Sites, keep: Keep) -> None:
    if not isinstance(sites.structure, Structure):
        raise InputError("repair: units that others can make up for are channels; find the sites with channels(...)")
    hidden = Flow(model, sites).partial
    for name, kept in keep.items():
        if name in hidden and not bool(kept.all()):
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
    """An op that multiplies the units it reads with a weight of the model's."""

    node: Node
    weight: str
    bias: str | None
    given: Mapping[str, Any]
    kept: Tensor
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
        return [consumer.weight for consumer in self._found(self.flows[1], inputs)]

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        device = device_of(self.teacher)
        for inputs, targets in iterate(self.data, self.batch_size, "repair"):
            yield inputs.to(device), targets

    def correct(self, name: str, ridge: float, *, weights: bool) -> None:
        """Change one layer of the student so that it gives what the teacher's gives."""
        equations: list[Normal] = []
        with evaluating(self.teacher), evaluating(self.student):
            for inputs, _ in self.batches():
                consumer = next(c for c in self._found(self.flows[1], inputs) if c.weight == name)
                self._gather(consumer, inputs, equations, weights)
        with torch.no_grad():
            bias = own_tensors(self.student)[consumer.bias] if consumer.bias else None
            changes = [equation.solve(ridge) for equation in equations]
            _apply(_weight(consumer, self.student), bias, consumer, changes, weights)

    def _gather(self, consumer: _Consumer, inputs: Tensor, equations: list[Normal], weights: bool) -> None:
        theirs = self._input(self.flows[0], inputs, consumer.weight, gate=False)
        mine = self._input(self.flows[1], inputs, consumer.weight, gate=True)
        weight = _weight(consumer, self.student)
        missing = _run(consumer, theirs, self.teacher) - _run(consumer, mine, self.student)
        groups = int(consumer.given.get("groups") or 1)
        equations.extend(Normal(consumer.bias is not None) for _ in range(groups if not equations else 0))
        for part, rows in input_rows(mine, weight, consumer.given):
            lacking = output_rows(missing[part], weight, groups)
            for group, equation in enumerate(equations):
                columns = _columns(consumer, weight, groups, group) if weights else slice(0, 0)
                equation.add(rows[:, group][:, columns], lacking[:, group])

    def _input(self, flow: Flow, inputs: Tensor, name: str, *, gate: bool) -> Tensor:
        """What a layer reads, from the kept units alone where they are gated."""
        node = next(c.node for c in self._found(flow, inputs) if c.weight == name)
        seen: dict[Node, Tensor] = {}

        def tap(read: Read, x: Tensor) -> Tensor:
            passed = x * read.spread(self.keep[read.site].to(x)) if gate and read.site in self.keep else x
            if read.node is node:
                seen[node] = passed
            return passed

        flow(inputs, tap)
        return seen[node]

    def _found(self, flow: Flow, inputs: Tensor) -> list[_Consumer]:
        structure, reads = flow.at(inputs)
        gone = {structure.units[name]: kept for name, kept in self.keep.items() if not bool(kept.all())}
        nodes = {r.node: r for name, found in reads.items() for r in found if structure.units[name] in gone}
        ordered = [nodes[node] for node in structure.graph.nodes if node in nodes]
        return [consumer for read in ordered if (consumer := _consumer(structure, read, gone))]


# The arguments of the products of a matrix of activations with a weight; all else among linear ops multiplies no inputs.
PRODUCTS = {"linear": ("input", "weight", "bias"), "addmm": ("mat1", "mat2", "self"), "mm": ("self", "mat2", "")}
PRODUCTS |= dict.fromkeys(CONVOLUTIONS.split(), ("input", "weight", "bias"))


def _consumer(structure: Structure, read: Read, gone: Mapping[Atom, Tensor]) -> _Consumer | None:
    """What reads removed units, where it is a layer that can be repaired."""
    kind = op_name(read.node)
    given = bind(read.node, {n: n for n in read.node.all_input_nodes})
    if kind not in PRODUCTS or given.get("transposed") or (given.get("alpha", 1), given.get("beta", 1)) != (1, 1):
        return None
    source, weight, bias = (given.get(name) for name in PRODUCTS[kind])
    turned = isinstance(weight, Node) and weight.op == "call_function" and op_name(weight) in {"t", "transpose"}
    holder: Any = weight.args[0] if isinstance(weight, Node) and turned else weight
    names, state = structure.graph.tensors, structure.graph.state
    if holder not in names or read.source is not source or (bias is not None and bias not in names):
        return None
    if any(_uses(structure, names[own]) > 1 for own in (holder, bias) if own is not None):
        return None
    space = state[names[holder]].ndim - 2
    if space < 0 or (space and read.dim != 1) or (bias is not None and state[names[bias]].ndim != 1):
        return None
    kept = keep_vector(structure.values[source].axes[read.dim], gone)
    return _Consumer(
        read.node,
        names[holder],
        names[bias] if bias is not None else None,
        given,
        kept,
        kind in {"addmm", "mm"} and not turned,
    )


def _uses(structure: Structure, name: str) -> int:
    """How many ops take a tensor, under all its names."""
    state = structure.graph.state
    same = (holder for holder, other in structure.graph.tensors.items() if state.get(other) is state[name])
    return sum(len(holder.users) for holder in same)


def _weight(consumer: _Consumer, model: nn.Module) -> Tensor:
    """The layer's weight with outputs along dimension 0, inputs along dimension 1: a view."""
    found = own_tensors(model)[consumer.weight]
    return found.mT if consumer.inputs_first else found


def _run(consumer: _Consumer, x: Tensor, model: nn.Module) -> Tensor:
    """The layer's outputs with the model's weight and bias."""
    weight = _weight(consumer, model)
    bias = own_tensors(model)[consumer.bias] if consumer.bias else None
    if weight.ndim == 2:
        return nn.functional.linear(x, weight, bias)
    result: Tensor = consumer.node.target(**{**consumer.given, "input": x, "weight": weight, "bias": bias})  # type: ignore[operator]
    return result


def _columns(consumer: _Consumer, weight: Tensor, groups: int, group: int) -> Tensor:
    """The kept columns of a group's input matrix."""
    kernel = weight[0, 0].numel()
    return consumer.kept.reshape(groups, -1)[group].repeat_interleave(kernel).nonzero().flatten().to(weight.device)


def _apply(weight: Tensor, bias: Tensor | None, consumer: _Consumer, changes: list[Tensor], weights: bool) -> None:
    size = weight.shape[0] // len(changes)
    for group, change in enumerate(changes):
        outputs = slice(group * size, (group + 1) * size)
        if weights:
            columns = _columns(consumer, weight, len(changes), group)
            flat = weight[outputs].flatten(1).index_add(1, columns, change[: len(columns)].T.to(weight))
            weight[outputs] = flat.view_as(weight[outputs])
        if bias is not None:
            bias[outputs] += change[-1].to(bias)
