"""Structured OBS: units by what their removal costs once the layers that read them are refitted exactly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from secateur.criteria.batches import check_batches
from secateur.equations import LayerEquations
from secateur.labelled import Data
from secateur.repair.beside import Beside
from secateur.repair.consumers import kept_inputs, layer_equations, take_change
from secateur.repair.norms import norms_of, recalibrate
from secateur.solvers.elimination import Problem, removals
from secateur.solvers.solution import Fractions, Solution, Solver, fractions_of
from secateur.state import own_tensors, usual
from secateur.structure.consumers import Consumer
from secateur.structure.sites import masked_tensors
from secateur.types import InputError, Sites
from secateur.untouched import copied

__all__ = ["StructuredOBS"]


@dataclass(frozen=True)
class StructuredOBS(Solver):
    """todo"""

    data: Data = field(repr=False)
    ridge: float = 1e-4
    batch_size: int = 500
    norms: bool = True

    def __post_init__(self) -> None:
        check_batches("StructuredOBS", self.data, self.batch_size)

    @usual
    def solve(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Solution:
        if sparsity is None or pattern is not None:
            raise InputError("StructuredOBS: give a sparsity (a fraction, or one by site); channels have no pattern")
        fractions = fractions_of(sparsity, sites, "StructuredOBS")
        counts = {n: min(round(fractions[n] * s.size), s.size - 1) for n, s in sites.items()}
        student = copied(model).requires_grad_(False)
        beside = Beside(model, student, sites, {}, self.data, self.batch_size, "StructuredOBS")
        _Work(self, beside, counts).run()
        keep = {n: beside.keep.get(n, torch.ones(s.size, dtype=torch.bool)) for n, s in sites.items()}
        with torch.no_grad():
            for name, tensor in masked_tensors(student, sites, keep).items():
                own_tensors(student)[name].copy_(tensor)
        if self.norms and norms_of(student):
            student = recalibrate(student, self.data, batch_size=self.batch_size)
        before = own_tensors(model)
        changed = {n: t.detach().clone() for n, t in own_tensors(student).items() if not torch.equal(t, before[n])}
        return Solution(keep, changed)


class _Work:
    """A model that is pruned site by site, in the order in which its layers read them, beside the unpruned one."""

    def __init__(self, options: StructuredOBS, beside: Beside, counts: Mapping[str, int]) -> None:
        self.options, self.beside, self.counts = options, beside, counts
        self.keep = beside.keep

    def run(self) -> None:
        for consumer in self.beside.consumers:
            equations = None
            for name in self.beside.read_before(consumer):
                if name not in self.keep:
                    equations = self._choose(name).get(consumer.weight)
            if not bool(consumer.kept(self.keep).all()):
                self._refit(consumer, equations)

    def _choose(self, name: str) -> dict[str, LayerEquations]:
        """Choose what stays of a site; return the equations of the layers that read it, by weight."""
        size = self.beside.sites[name].size
        self.keep[name] = torch.ones(size, dtype=torch.bool)
        if not self.counts[name]:
            return {}
        readers = {c.weight: c for c in self.beside.consumers if c.units(name) is not None}
        if not readers:
            raise unread("StructuredOBS", name)
        student = self.beside.student
        equations = {weight: layer_equations(c, student, {}, self.options.ridge) for weight, c in readers.items()}
        energies = dict.fromkeys(readers, 0.0)
        for weight, after, aims in self.beside.ahead(list(readers)):
            equations[weight].add(after, aims - readers[weight].run(after, student))
            energies[weight] += _spread(aims, 1 if readers[weight].matrix(student).ndim > 2 else -1)
        problems = [
            problem
            for weight, consumer in readers.items()
            for problem in _problems(consumer, name, equations[weight], student, self.options.ridge, 1 / max(energies[weight], 1e-30))
        ]
        for unit, _ in removals(problems, size, self.counts[name]):
            self.keep[name][unit] = False
        return equations

    def _refit(self, consumer: Consumer, equations: LayerEquations | None) -> None:
        student = self.beside.student
        if equations is None:
            equations = layer_equations(consumer, student, self.keep, self.options.ridge)
            for after, aims in self.beside.at(consumer.weight):
                equations.add(after, aims - consumer.run(after, student))
        else:
            equations = equations.restricted(kept_inputs(consumer, self.keep))
        take_change(consumer, student, *equations.solve(self.options.ridge))


def _problems(
    consumer: Consumer, site: str, equations: LayerEquations, model: nn.Module, ridge: float, scale: float
) -> Iterator[Problem]:
    """The least-squares problems of a layer's groups, with the columns of each unit."""
    index = consumer.units(site)
    assert index is not None
    weight, groups = consumer.matrix(model), consumer.product.groups
    change, shift = equations.solve(ridge)
    best = (weight + change.to(weight)).reshape(groups, -1, weight[0].numel()).double()
    owners = torch.full((consumer.inputs,), -1)
    for unit, positions in enumerate(index):
        owners[positions] = unit
    places = weight[0, 0].numel()
    for group, (moments, of_group) in enumerate(zip(equations.loaded(ridge), owners.reshape(groups, -1), strict=True)):
        columns = best[group].mT
        if equations.bias:
            columns = torch.cat([columns, columns.new_zeros(1, columns.shape[1])])
        owner = of_group.repeat_interleave(places)
        here = owner[owner >= 0].unique()
        if len(here):
            rows = nn.utils.rnn.pad_sequence([(owner == unit).nonzero().flatten() for unit in here], True, -1)
            yield Problem(moments, columns, here, rows, scale)


def _spread(outputs: Tensor, dim: int) -> float:
    """The squares of outputs about the mean of each channel, summed."""
    rows = outputs.movedim(dim, -1).flatten(0, -2).double()
    return float((rows - rows.mean(0)).square().sum())
