"""What the loss does when each unit alone is removed: the whole model once, then what follows a unit, many at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.labelled import SampleBatch
from secateur.losses import answers
from secateur.rate.chain.engine import ChainEngine, chain_engine
from secateur.rate.downdate import Downdate, downdate
from secateur.rate.memory import Budget
from secateur.rate.program import Line, Part, Program, Programs, Unfit, bytes_of
from secateur.rate.suffix import Shut, Suffix, Values, affected
from secateur.rate.tally import UnitTally
from secateur.rate.whole import PlainLoop
from secateur.state import device_of, evaluating, own_tensors
from secateur.structure.flow import Read
from secateur.structure.infer import Structure
from secateur.types import Loss, Member, Site, Sites, TraceError

__all__ = ["FirstThat", "GraphEngine", "UnitEngine", "unit_engine"]

Advance = Callable[[float], None]
"""Called with the number of units that are done."""


class UnitEngine(Protocol):
    """What measures the units of its sites on one batch after the other.

    Attributes:
        advance: called with the number of units that are done.
    """

    advance: Advance

    def measure(self, batch: SampleBatch, tally: UnitTally) -> None:
        """Add the changes of the units that the tally asks for on a batch.

        Raises:
            Unfit, TraceError: the engine does not take the model, or such inputs; nothing was added.
        """
        ...


def unit_engine(model: nn.Module, sites: Sites, loss: Loss, max_memory: int | None = None) -> FirstThat:
    """Return what measures units exactly: the fastest engine that takes the model, batch by batch.

    Args:
        model: the model, in float32.
        sites: whose units are measured.
        loss: of (outputs, targets).
        max_memory: bytes that the measuring may take.

    >>> from torch.nn.functional import cross_entropy
    >>> from secateur.structure import channels, weights
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [type(one).__name__ for one in unit_engine(model, channels(model, torch.zeros(1, 2)), cross_entropy).engines]
    ['ChainEngine', 'GraphEngine', 'PlainLoop']
    >>> [type(one).__name__ for one in unit_engine(model, weights(model), cross_entropy).engines]
    ['PlainLoop']
    """
    engines: list[UnitEngine] = [PlainLoop(model, sites)]
    if isinstance(sites.structure, Structure):
        part = partial(answers, loss=loss)
        engines.insert(0, GraphEngine(model, sites, Budget.of(device_of(model), max_memory), part=part))
    chain = chain_engine(model, sites, loss, max_memory)
    return FirstThat(engines if chain is None else [chain, *engines])


@dataclass(eq=False)
class FirstThat:
    """Several engines, of which the first that takes a batch measures it; the last takes any."""

    engines: list[UnitEngine]
    warned: bool = False

    @property
    def divides(self) -> bool:
        """Whether the first engine divides batches by itself, so that they may be large."""
        return isinstance(self.engines[0], ChainEngine)

    def report(self, advance: Advance) -> None:
        """Call `advance` with the number of units that are done, from now on."""
        for engine in self.engines:
            engine.advance = advance

    def measure(self, batch: SampleBatch, tally: UnitTally) -> None:
        """Add the changes of the units that the tally asks for on a batch."""
        for engine in self.engines[:-1]:
            try:
                engine.measure(batch, tally)
            except (Unfit, TraceError) as error:
                reason = error
            else:
                return
        if len(self.engines) > 1 and not self.warned:
            warnings.warn(
                f"LossChange runs the whole model once for each unit and each batch, which is slow: {reason}",
                stacklevel=5,
            )
            self.warned = True
        self.engines[-1].measure(batch, tally)


class GraphEngine:
    """Measures units of any traced model, from the values of the whole, computed once for each block of samples.

    Args:
        model: the model.
        sites: from `channels`.
        budget: how much memory there is.
        advance: called with the number of units that are done.
        part: what the loss is of, of the model's outputs.
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sites,
        budget: Budget,
        advance: Advance = lambda units: None,
        part: Part = lambda outputs: outputs,
    ) -> None:
        self.model, self.sites, self.budget, self.advance = model, sites, budget, advance
        self.programs = Programs(model, sites, part)
        self.parted: dict[Program, Parted] = {}

    def measure(self, batch: SampleBatch, tally: UnitTally) -> None:
        """Add the changes of the units that the tally asks for on a batch.

        Raises:
            Unfit: the graph does not compute what the model does, or cannot be run in parts.
            TraceError, InputError: there is no graph for inputs of this shape.
        """
        parts = batch.split(self._samples(batch))
        with evaluating(self.model):
            for part in parts:
                self._parted(part)  # so that a part that cannot be traced is known before any is added
            self.programs.check(batch, parts[0])
            for part in parts:
                self._part(part, tally, len(part) / len(batch))

    def _part(self, batch: SampleBatch, tally: UnitTally, share: float) -> None:
        parted = self._parted(batch)
        values = self.programs.run(parted.whole, batch)
        outputs = values[parted.program.output]
        tally.start(outputs, batch.targets, parted.program.packing)
        for name, site in parted.sites.items():
            asked = tally.chosen[name]
            for units in torch.split(asked, self.budget.units(site.unit_bytes)) if len(asked) else ():
                touched = site.suffix.touched
                without = site.outputs(values, units) if touched else outputs.expand(len(units), *outputs.shape)
                tally.add_outputs(name, units, without)
                self.advance(len(units) * share)

    def _samples(self, batch: SampleBatch) -> int:
        """How many samples fit at one time, so that at least one unit does."""
        parted = self._parted(batch)
        unit = max((site.unit_bytes for site in parted.sites.values()), default=0)
        return self.budget.samples(parted.whole.peak / len(batch), unit / len(batch), len(batch))

    def _parted(self, batch: SampleBatch) -> Parted:
        program = self.programs.at(batch)
        if program not in self.parted:
            partial, holders = self.programs.flow.partial, program.holders(own_tensors(self.model))
            sites = {
                name: _after_parameters(program, _members(site, holders))
                if name in partial or not program.reads[name]
                else _after_reads(program, program.reads[name])
                for name, site in self.sites.items()
            }
            ends = {program.output}.union(*(site.boundary for site in sites.values()))
            self.parted[program] = Parted(program, Line(program.steps, ends), sites)
        return self.parted[program]


@dataclass(frozen=True, eq=False)
class Parted:
    """What is run on inputs of one shape.

    Attributes:
        program: the model.
        whole: all of it; keeps what the suffixes take up.
        sites: for each site, what follows its units.
    """

    program: Program
    whole: Line
    sites: Mapping[str, SiteSuffix]


@dataclass(frozen=True, eq=False)
class SiteSuffix:
    """What follows the units of one site.

    Attributes:
        suffix: what is run again.
        downdates: ops whose new result is found from the old one.
        zeroed: parameters that lose the units, where the reads do not show all: what is zeroed in each.
    """

    suffix: Suffix
    downdates: Mapping[Node, Downdate]
    zeroed: Mapping[Node, list[Shut]]

    @property
    def boundary(self) -> set[Node]:
        """The nodes whose values are taken from the whole."""
        needs = {node for op, update in self.downdates.items() for node in (op, *update.needs)}
        return self.suffix.boundary | needs | set(self.zeroed)

    @property
    def unit_bytes(self) -> int:
        """Bytes for each unit in a block."""
        first = sum(3 * bytes_of(node) for node in self.downdates)
        shut = max((bytes_of(read.source) for read in self.suffix.shut), default=0)
        parameters = sum(4 * int(node.meta["val"].numel()) for node in self.suffix.replaced if node in self.zeroed)
        return max(first + shut + parameters + 2 * self.suffix.bytes, 1)

    def outputs(self, values: Values, units: Tensor) -> Tensor:
        """Return the outputs ``(units, samples, …)`` without each of the units, from the values of the whole model."""
        anew = [
            self.downdates[node](values[node], values, units)
            if node in self.downdates
            else self._without(values, node, units)
            for node in self.suffix.replaced
        ]
        return self.suffix.stacked(values, anew, [shut.without(units) for shut in self.suffix.shut])

    def _without(self, values: Values, node: Node, units: Tensor) -> Tensor:
        """A parameter without each of the units, ``(units, *shape)``."""
        parameter: Tensor = values[node]
        for shut in self.zeroed[node]:
            parameter = shut(parameter, shut.without(units))
        return parameter


def _after_reads(program: Program, reads: tuple[Read, ...]) -> SiteSuffix:
    """The suffix of a site whose units are gone when they are shut at their reads."""
    steps = {step.node: step for step in program.steps}
    shuts = {read.node: Shut.at(read, steps) for read in reads if read.node in steps}
    dirty = affected(program.steps, set(shuts), set())
    downdates = {}
    for read in reads:
        if read.node in steps and not dirty & steps[read.node].operands:
            update = downdate(steps[read.node], shuts[read.node].source, read)
            if update is not None:
                downdates[read.node] = update
    rest = [shut for node, shut in shuts.items() if node not in downdates]
    return SiteSuffix(Suffix(program, rest, downdates), downdates, {})


def _after_parameters(program: Program, members: Mapping[Node, list[Member]]) -> SiteSuffix:
    """The suffix of a site from the first op that takes any of its parameters."""
    zeroed = {node: [Shut(node, node, m.dim or 0, m.index) for m in parts] for node, parts in members.items()}  # type: ignore[arg-type]
    return SiteSuffix(Suffix(program, (), zeroed), {}, zeroed)


def _members(site: Site, holders: Mapping[str, list[Node]]) -> dict[Node, list[Member]]:
    members: dict[Node, list[Member]] = {}
    for member in site.members:
        for node in holders[member.parameter]:
            members.setdefault(node, []).append(member)
    return members
