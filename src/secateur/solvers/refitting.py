"""From the first layer to the last: which units go is chosen where they are read, and what reads them is refitted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.criteria.reconstruction import unread
from secateur.equations import LayerEquations
from secateur.repair.beside import Beside
from secateur.repair.consumers import layer_equations, take_change
from secateur.solvers.elimination import LeastSquares, removals
from secateur.structure.consumers import Consumer
from secateur.types import InputError

__all__ = ["Choose", "Reader", "Refitting", "by_elimination", "by_fluctuation", "by_output"]

TINY = 1e-30
"""In the place of a spread of 0, where a layer's outputs are the same everywhere."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads a site, with its equations while all of the site's units are there.

    Attributes:
        layer: the layer.
        equations: with all inputs; their aims are what is missing of what the layer makes now.
        metric: the root of what errors of its outputs count by, ``(outputs, any)``.
        ridge: what a change of its weights costs.
    """

    layer: Consumer
    equations: LayerEquations
    metric: Tensor
    ridge: float


Choose = Callable[[str, int, int, list[Reader]], list[int]]
"""From a site, how many units it has, how many go, and its readers, to the units that go."""


def by_elimination(site: str, size: int, count: int, readers: list[Reader]) -> list[int]:
    """Return the units that the readers miss least, each time once they are refitted (`removals`)."""
    problems = [problem for reader in readers for problem in _problems(reader, site)]
    return [unit for unit, _ in removals(problems, size, count)]


def by_output(site: str, size: int, count: int, readers: list[Reader]) -> list[int]:
    """Return the units that add least to their readers' outputs, as those are before any refit.

    Of a unit whose inputs are g that is tr(W_g H_gg W_gᵀ), the square of what it adds, summed over the data: for a neuron
    the square of its activations' root mean square times the norm of its column of weights.
    """
    return _least(site, size, count, readers, centred=False)


def by_fluctuation(site: str, size: int, count: int, readers: list[Reader]) -> list[int]:
    """Return the units whose part in their readers' outputs varies least about its mean (FLAP: An et al., 2024).

    The same as `by_output` with the covariance of the inputs in the place of their second moments: what does not vary, a bias
    can stand for. For a neuron it is the variance of its activations times the square of the norm of its column of weights.
    """
    return _least(site, size, count, readers, centred=True)


def _least(site: str, size: int, count: int, readers: list[Reader], *, centred: bool) -> list[int]:
    scores = torch.zeros(size, dtype=torch.float64)
    for reader in readers:
        for owner, weights, (moments, _), root in _by_group(reader, site):
            gram = moments[: len(owner), : len(owner)]
            if centred:  # Σ x xᵀ − (Σ x)(Σ x)ᵀ / rows
                sums, rows = moments[: len(owner), -1], moments[-1, -1]
                gram = gram - torch.outer(sums, sums) / rows
            felt = root.mT @ weights
            shares = (felt.mT @ felt) * gram
            within = shares.masked_fill(owner.unsqueeze(0) != owner.unsqueeze(1), 0.0).sum(1)
            scores.index_add_(0, owner[owner >= 0].cpu(), within[owner >= 0].cpu())
    return scores.sort(stable=True).indices[:count].tolist()


@dataclass(eq=False)
class Refitting:
    """What is read by the next layer is chosen, then that layer is refitted, and so on to the last.

    Attributes:
        beside: the unpruned model and the one that is pruned; masks that it has already stay.
        counts: how many units of each site go.
        ridge: what a change of weights costs, relative to the mean square of the inputs.
        doing: who asks, for the errors.
        choose: which units go.
        refits: whether layers get new weights and biases (``"weights"``), or biases alone (``"bias"``); None where the units
            are chosen and that is all.
        metrics: roots of what errors of a layer's outputs count by, by weight; else all count as a share of their spread.
    """

    beside: Beside
    counts: Mapping[str, int]
    ridge: float
    doing: str
    choose: Choose = by_elimination
    refits: Literal["weights", "bias"] | None = "weights"
    metrics: Mapping[str, Tensor] = field(default_factory=dict)

    def run(self) -> None:
        """Fill the masks, and change the student's weights."""
        keep, sites = self.beside.keep, self.beside.sites
        for name, count in self.counts.items():
            if not count:
                keep[name] = torch.ones(sites[name].size, dtype=torch.bool)
            elif name not in keep and not self._readers(name):
                raise unread(sites[name], self.doing)
        if any(self.counts.values()):
            for consumer in self.beside.consumers:
                self._refit(consumer, self._choose_before(consumer))

    def _choose_before(self, consumer: Consumer) -> LayerEquations | None:
        """Choose what stays of sites that are read before a layer has run; return its equations if they are still right."""
        equations = None
        for name in self.beside.read_before(consumer):
            if name not in self.beside.keep:
                equations = self._choose(name).get(consumer.weight)
        return equations

    def _choose(self, name: str) -> dict[str, LayerEquations]:
        """Choose what stays of a site; return the equations of its readers with all of its units, by weight."""
        readers, student, ridge = self._readers(name), self.beside.student, self.ridge
        centred = True if self.choose is by_fluctuation else None
        equations = {n: layer_equations(reader, student, {}, ridge, bias=centred) for n, reader in readers.items()}
        spreads = dict.fromkeys(readers, 0.0)
        for weight, inputs, aims in self.beside.ahead(name, list(readers)):
            equations[weight].add(inputs, aims - readers[weight].run(inputs, student))
            spreads[weight] += _spread(aims, -1 if readers[weight].matrix(student).ndim == 2 else 1)
        given = []
        for weight, reader in readers.items():
            plain = torch.eye(len(reader.matrix(student)), dtype=torch.float64) / max(spreads[weight], TINY) ** 0.5
            metric = self.metrics.get(weight, plain.to(reader.matrix(student).device))
            given.append(Reader(reader, equations[weight], metric, ridge))
        size = self.beside.sites[name].size
        gone = self.choose(name, size, self.counts[name], given)
        self.beside.keep[name] = torch.ones(size, dtype=torch.bool).index_fill(0, torch.tensor(gone), False)
        return equations

    def _readers(self, name: str) -> dict[str, Consumer]:
        return {c.weight: c for c in self.beside.consumers if c.units(name) is not None}

    def _refit(self, consumer: Consumer, equations: LayerEquations | None) -> None:
        beside, ridge = self.beside, self.ridge
        if self.refits is None or bool(consumer.kept(beside.keep).all()):
            return
        if self.refits == "bias" and consumer.bias is None:
            raise InputError(
                f"{self.doing}: {consumer.weight!r} lost inputs, and its layer has no bias to make up for them; take another "
                "repair (repair='stream'), or load the model with biases, where its config has a word for them (mlp_bias=True)"
            )
        fitted = layer_equations(consumer, beside.student, beside.keep, ridge, weights=self.refits == "weights")
        if equations is not None and self.refits == "weights" and _are_of_one_form(fitted, equations):
            fitted = equations.restricted(fitted.inputs)
        else:
            for inputs, aims in beside.at(consumer.weight):
                fitted.add(inputs, aims - consumer.run(inputs, beside.student))
        take_change(consumer, beside.student, *fitted.solve(ridge))


def _are_of_one_form(fitted: LayerEquations, whole: LayerEquations) -> bool:
    return (fitted.weight.shape, fitted.each, fitted.bias) == (whole.weight.shape, whole.each, whole.bias)


def _by_group(reader: Reader, site: str) -> Iterator[tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor]]:
    """By group of a layer: the unit of each column (-1 for others), its weights, its moments, and its outputs' metric."""
    consumer, equations = reader.layer, reader.equations
    index, groups = consumer.units(site), len(equations.inputs)
    assert index is not None
    owners = torch.full((consumer.inputs,), -1)
    owners[index.flatten()] = torch.arange(len(index)).repeat_interleave(index.shape[1])
    # Where features that follow each other are one input, one of each says whose it is.
    owners = owners[:: consumer.inputs // sum(map(len, equations.inputs))].reshape(groups, -1)
    columns = equations.columns()
    for group, (owner, weights, moments) in enumerate(zip(owners, columns, equations.sums(), strict=True)):
        outputs = slice(group * len(weights), (group + 1) * len(weights))
        root = torch.linalg.qr(reader.metric[outputs].mT).R.mT
        yield owner.repeat_interleave(equations.each).to(weights.device), weights, moments, root


def _problems(reader: Reader, site: str) -> Iterator[LeastSquares]:
    """The least-squares problems of a layer's groups, with the columns of each unit.

    Errors count by the metric, whose root is given; which weights are the best does not depend on it.
    """
    each_group = zip(_by_group(reader, site), reader.equations.changes(reader.ridge), strict=True)
    for (of_column, weights, _, root), (change, moments) in each_group:
        best = change.clone()
        best[:, : weights.shape[1]] += weights
        units = torch.unique(of_column[of_column >= 0])
        if len(units):
            rows = [(of_column == unit).nonzero().flatten() for unit in units]
            yield LeastSquares(moments, best.mT @ root, units, nn.utils.rnn.pad_sequence(rows, True, -1))


def _spread(outputs: Tensor, dim: int) -> float:
    """The squares of outputs about the mean of each channel, summed."""
    rows = outputs.movedim(dim, -1).flatten(0, -2).double()
    return float((rows - rows.mean(0)).square().sum())
