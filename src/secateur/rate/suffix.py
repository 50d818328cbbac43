"""What follows the units of one site: the part of the program that is run again without them, for many at once."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur.rate.downdate import Downdate, downdate
from secateur.rate.program import Line, Step, bytes_of
from secateur.structure.flow import Read
from secateur.types import Member

__all__ = ["Suffix", "after_parameters", "after_reads"]

Values = Mapping[Node, Any]


class Suffix:
    """Runs the program again from where the units of a site are shut.

    Args:
        steps: the whole program.
        output: its last node.
        shut: for each op, which of its operands lose the units: the node, the dimension, and its positions by unit.
        downdates: ops whose new result is found from the old one.
        sources: parameters that lose the units, where the reads do not show all.
    """

    def __init__(
        self,
        steps: list[Step],
        output: Node,
        shut: Mapping[Node, tuple[Node, int, Tensor]],
        downdates: Mapping[Node, Downdate],
        sources: Mapping[Node, list[tuple[int, Tensor]]],
    ) -> None:
        self.output, self.downdates = output, dict(downdates)
        dirty = affected(steps, {*shut, *downdates}, set(sources))
        self.touched = output in dirty
        rerun = [step for step in steps if step.node in dirty and step.node not in downdates]
        self.line = Line(rerun, {output})
        used = {n for step in rerun for n in step.operands} | {output}
        self.shut = dict(shut)
        self.sources = {node: dims for node, dims in sources.items() if node in used}
        fresh = {step.node for step in rerun} | set(self.downdates)
        self.boundary = {n for n in used if n not in fresh} | {
            n for node, made in self.downdates.items() for n in (node, *made.needs)
        }
        self.vmapped = True

    @property
    def unit_bytes(self) -> int:
        """Bytes for each unit in a block."""
        first = sum(3 * bytes_of(node) for node in self.downdates)
        shut = max((bytes_of(s) for s, _, _ in self.shut.values()), default=0)
        parameters = sum(4 * int(node.meta["val"].numel()) for node in self.sources)
        return max(first + shut + parameters + 2 * self.line.peak, 1)

    def outputs(self, values: Values, units: Tensor) -> Tensor:
        """Return the outputs ``(units, samples, …)`` without each of the units, from the values of the whole model."""
        changed = [made(values[node], values, units) for node, made in self.downdates.items()]
        gates = [_gate(index[units], _size(s, d)) for s, d, index in self.shut.values()]
        gates += [_gate(index[units], _size(n, d)) for n, dims in self.sources.items() for d, index in dims]
        base = {node: values[node] for node in self.boundary}

        def one(changed: list[Tensor], gates: list[Tensor]) -> Tensor:
            return self._one(base, changed, gates)

        if self.vmapped and len(units) > 1:
            try:
                # Of the kinds of attention, only the plain one takes a further axis.
                with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
                    warnings.simplefilter("ignore")  # that an op has no rule of its own, and is run in a loop
                    return torch.vmap(one)(changed, gates)
            except Exception:  # noqa: BLE001  (whatever vmap does not take; a fault of the op itself comes again below)
                self.vmapped = False
        return torch.stack([one([c[i] for c in changed], [g[i] for g in gates]) for i in range(len(units))])

    def _one(self, base: Values, changed: list[Tensor], gates: list[Tensor]) -> Tensor:
        values = {**base, **dict(zip(self.downdates, changed, strict=True))}
        gate = dict(zip(self.shut, gates, strict=False))
        rest = iter(gates[len(self.shut) :])
        for node, dims in self.sources.items():
            for dim, _ in dims:
                values[node] = _shut(values[node], dim, next(rest))

        def instead(node: Node, values: Values) -> Values:
            if node not in gate:
                return {}
            source, dim, _ = self.shut[node]
            return {source: _shut(values[source], dim, gate[node])}

        self.line.run(values, instead)
        made: Tensor = values[self.output]
        return made


def after_reads(steps: list[Step], output: Node, reads: tuple[Read, ...]) -> Suffix:
    """Return the suffix of a site whose units are gone when they are shut at their reads."""
    at = {step.node: step for step in steps}
    found = {read.node: read for read in reads if read.node in at}
    dirty = affected(steps, set(found), set())
    downdates, shut = {}, {}
    for node, read in found.items():
        source = at[node].given[read.source]
        made = None if dirty & at[node].operands else downdate(at[node], source, read)
        if made is not None:
            downdates[node] = made
        else:
            shut[node] = (source, read.dim, read.index)
    return Suffix(steps, output, shut, downdates, {})


def after_parameters(steps: list[Step], output: Node, members: Mapping[Node, list[Member]]) -> Suffix:
    """Return the suffix of a site from the first op that takes any of its parameters."""
    sources = {node: [(m.dim, m.index) for m in found] for node, found in members.items()}
    return Suffix(steps, output, {}, {}, sources)  # type: ignore[arg-type]


def affected(steps: list[Step], at: set[Node], sources: set[Node]) -> set[Node]:
    """Return the nodes whose values change: those `at` which something is shut, and all that takes up what changed."""
    dirty = set(sources)
    for step in steps:
        if step.node in at or any(operand in dirty for operand in step.operands):
            dirty.add(step.node)
    return dirty


def _size(node: Node, dim: int) -> int:
    return int(node.meta["val"].shape[dim])


def _gate(rows: Tensor, size: int) -> Tensor:
    """Which positions stay when those of each row go, ``(units, size)``."""
    return torch.ones(len(rows), size, dtype=torch.bool).scatter_(1, rows.cpu(), False)


def _shut(x: Tensor, dim: int, gate: Tensor) -> Tensor:
    """Zero what the gate shuts along a dimension; not by a product, as an infinite entry would make it NaN."""
    return torch.where(gate.to(x.device).view(-1, *[1] * (x.ndim - dim - 1)), x, 0.0)
