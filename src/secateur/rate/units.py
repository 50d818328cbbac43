"""The engine for any traced model: all that does not depend on a unit runs once, what follows it for many units at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.rate.memory import Budget
from secateur.rate.program import Line, Unfit, program
from secateur.rate.suffix import Suffix, after_parameters, after_reads
from secateur.rate.tally import Tally
from secateur.state import evaluating, own_tensors
from secateur.structure.flow import Flow, Read
from secateur.structure.infer import Structure
from secateur.types import Member, Site, Sites

__all__ = ["GraphEngine"]

TOLERANCE = 1e-3
"""The greatest relative difference between the graph's outputs and the model's own."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is run on inputs of one shape.

    Attributes:
        whole: all of the model; keeps what the suffixes take up.
        suffixes: for each site, what follows its units.
        output: the last node.
        kept: bytes of what is kept.
    """

    whole: Line
    suffixes: dict[str, Suffix]
    output: Node
    kept: int


class GraphEngine:
    """Measures units from the values of the whole model, which are computed once for each block of samples.

    Args:
        model: the model.
        sites: from `channels`.
        budget: how much memory there is.
        advance: called with the number of units that are done.
    """

    def __init__(
        self, model: nn.Module, sites: Sites, budget: Budget, advance: Callable[[float], None] = lambda units: None
    ) -> None:
        self.model, self.sites, self.budget, self.advance = model, sites, budget, advance
        self.flow = Flow(model, sites)
        self.plans: dict[int, Plan] = {}  # by the identity of the structure that the flow keeps
        self.checked: set[tuple[int, ...]] = set()

    def measure(self, inputs: Tensor, targets: Tensor, tally: Tally) -> None:
        """Add the changes of every unit on a batch.

        Raises:
            Unfit: the graph does not compute what the model does, or cannot be run in parts.
            TraceError, InputError: there is no graph for inputs of this shape.
        """
        size = self._samples(inputs)
        parts = list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))
        with evaluating(self.model):
            for x, _ in parts:
                self._plan(x)  # so that a part that cannot be traced is known before any is added
            self._check(inputs, parts[0][0])
            for x, y in parts:
                self._part(x, y, tally, len(x) / len(inputs))

    def _part(self, inputs: Tensor, targets: Tensor, tally: Tally, share: float) -> None:
        plan = self._plan(inputs)
        values = self._values(plan, inputs)
        outputs = values[plan.output]
        tally.start(outputs, targets)
        for name, suffix in plan.suffixes.items():
            chosen = tally.chosen[name]
            for units in torch.split(chosen, self.budget.units(suffix.unit_bytes)) if len(chosen) else ():
                made = suffix.outputs(values, units) if suffix.touched else outputs.expand(len(units), *outputs.shape)
                tally.add_outputs(name, units, made)
                self.advance(len(units) * share)

    def _values(self, plan: Plan, inputs: Tensor) -> dict[Node, Any]:
        values = self.flow.given(inputs)
        plan.whole.run(values)
        return values

    def _samples(self, inputs: Tensor) -> int:
        """How many samples fit at one time, so that at least one unit does."""
        plan = self._plan(inputs)
        unit = max((s.unit_bytes for s in plan.suffixes.values()), default=0)
        return self.budget.samples(plan.kept / len(inputs), unit / len(inputs), len(inputs))

    def _check(self, inputs: Tensor, first: Tensor) -> None:
        """Compare the graph with the model itself, once for each shape; parts of a batch with the whole batch."""
        if tuple(inputs.shape) in self.checked:
            return
        expected = self.model(inputs)
        if not isinstance(expected, Tensor):
            raise Unfit(f"the model returns a {type(expected).__name__}")
        plan = self._plan(first)
        made = self._values(plan, first)[plan.output]
        if len(expected) != len(inputs) or made.shape != expected[: len(first)].shape:
            raise Unfit("the samples do not lie along the first axis of the outputs")
        expected = expected[: len(first)]
        if not bool((made - expected).abs().max() <= TOLERANCE * expected.abs().max().clamp(min=1e-6)):
            raise Unfit("the model computes something else on other inputs than those that it was traced on")
        self.checked.add(tuple(inputs.shape))

    def _plan(self, inputs: Tensor) -> Plan:
        structure, reads = self.flow.at(inputs)
        if id(structure) not in self.plans:
            self.plans[id(structure)] = self._planned(structure, reads)
        return self.plans[id(structure)]

    def _planned(self, structure: Structure, reads: dict[str, tuple[Read, ...]]) -> Plan:
        steps, output = program(structure.graph)
        holders = self._holders(structure)
        partial, suffixes = self.flow.partial, {}
        for name, site in self.sites.items():
            if name in partial or not reads[name]:
                suffixes[name] = after_parameters(steps, output, _members(site, holders))
            else:
                suffixes[name] = after_reads(steps, output, reads[name])
        wanted = {output}.union(*(s.boundary for s in suffixes.values()))
        whole = Line(steps, wanted)
        return Plan(whole, suffixes, output, whole.peak)

    def _holders(self, structure: Structure) -> dict[str, list[Node]]:
        """The placeholders of each parameter, by every name of it: a parameter under two names is one."""
        own = own_tensors(self.model)
        nodes: dict[int, list[Node]] = {}
        for node, name in structure.graph.tensors.items():
            if name in own:
                nodes.setdefault(id(own[name]), []).append(node)
        return {name: nodes.get(id(tensor), []) for name, tensor in own.items()}


def _members(site: Site, holders: dict[str, list[Node]]) -> dict[Node, list[Member]]:
    found: dict[Node, list[Member]] = {}
    for member in site.members:
        for node in holders[member.parameter]:
            found.setdefault(node, []).append(member)
    return found
