"""The trace of the Hessian over each unit's weights, by random draws, as many as the ranks need (Yu et al., 2022)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil, nan

import torch
from torch import Tensor, nn

from secateur.checks import check_number, check_whole
from secateur.criteria.base import LossCriterion
from secateur.criteria.batches import moved
from secateur.criteria.parameter_gradients import Objective, UnitSums, by_weight, coordinates
from secateur.criteria.weight_rows import Side, check_side, parameters_of, side_members, side_rows
from secateur.measure.agree import spearman
from secateur.state import device_of
from secateur.structure.piecewise import is_piecewise_linear
from secateur.structure.trace import trace
from secateur.types import Site, Sites, TraceError

__all__ = ["HessianTrace", "TraceScores"]

FIRST, MOST = 16, 256
"""Probes to begin with, and at most, where their number is left open."""

MARGIN = 0.6
"""What part of 1 − `reach` may be missing in the correlation that is foretold, as that is not certain itself."""


class TraceScores(dict[str, Tensor]):
    """Scores by site, and how sure they are.

    Attributes:
        error: the standard error of each score by the chance of the probes (not of the samples), of the site's shape;
            nan after a single probe.
        probes: how many probes each site took.
        correlation: the rank correlation within each site that is foretold between two seeds; nan where it cannot be.
    """

    def __init__(self, scores: Mapping[str, Tensor]) -> None:
        super().__init__(scores)
        self.error: dict[str, Tensor] = {}
        self.probes: dict[str, int] = {}
        self.correlation: dict[str, float] = {}

    def __repr__(self) -> str:
        sites = ", ".join(
            f"{name}: {x.numel()} units, {self.probes[name]} probes, ρ {self.correlation[name]:.2f}"
            for name, x in self.items()
        )
        return f"TraceScores({sites})"


@dataclass(frozen=True)
class HessianTrace(LossCriterion):
    """Scores a channel by the mean curvature over its weights times half their squared norm (Yu et al., 2022).

    The mean curvature is the trace of the Hessian over the channel's weights, divided by their number. It is estimated
    from random probes, and comes with its standard error (see `TraceScores`); probes go on until two seeds would rank
    the units of every site alike. Where the model is piecewise linear in each weight (layers, ReLUs, pools, norms in
    eval mode), the trace is that of the Gauss–Newton matrix, and a probe is the squared gradient along random roots of
    the loss's curvature at the outputs: one backward pass, and never below zero. Elsewhere a probe is z · Hz for random
    signs z on the weights of one site at a time (Hutchinson, as the authors have it): two backward passes for each site.

    With ``weighted=False`` the score is the mean curvature alone, whose mean over a layer is the sensitivity by which
    HAWQ orders layers (Dong et al., 2020).

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        probes: how many random vectors for each sample or batch; None for as many as it takes, 16 to 256.
        seed: of what is drawn.
        weighted: whether to multiply by half the squared norm of the weights.
        side: the weights of a channel that count.
        reach: the rank correlation between two seeds, in every site, that ``probes=None`` goes on to.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 2.0]])
    >>> data = [(torch.eye(2), torch.zeros(2, 1))]       # ½ w1² + ½ w2², so the Hessian is diagonal, 1 and 1
    >>> scores = HessianTrace(data, nn.functional.mse_loss)(model, weights(model))
    >>> scores["weight"], scores.error["weight"], scores.probes
    (tensor([[0.5000, 2.0000]]), tensor([[0., 0.]]), {'weight': 16})
    """

    probes: int | None = None
    seed: int = 0
    weighted: bool = True
    side: Side = "incoming"
    reach: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, or_none=True, probes=self.probes)
        check_number(self, "(0, 1)", "a rank correlation; 0.9 is usual", reach=self.reach)
        check_side(self, self.side)

    def __call__(self, model: nn.Module, sites: Sites) -> TraceScores:
        """Return the scores, high = keep; each has its site's shape."""
        scores = super().__call__(model, sites)
        assert isinstance(scores, TraceScores)
        return scores

    def _score(self, model: nn.Module, sites: Sites) -> TraceScores:
        parameters = {name: p.detach() for name, p in parameters_of(model, sites).items()}
        weights_of = {
            name: replace(site, members=tuple(side_members(parameters, site, self.side)))
            for name, site in sites.items()
        }
        generator = torch.Generator().manual_seed(self.seed)
        tallies = {name: _Estimates() for name in sites}
        for names, draws in self._probing(model, Sites(weights_of, structure=sites.structure)):
            unit = self._unit_sums({name: weights_of[name] for name in names}, parameters)
            self._settle({name: tallies[name] for name in names}, partial(draws, generator, unit))
        return _scores(tallies, sites)

    def _probing(self, model: nn.Module, sites: Sites) -> Iterator[tuple[list[str], Draws]]:
        """The sites that share their probes, with what draws them."""
        if self._is_piecewise_linear(model, sites):
            yield list(sites), self._objective(model, sites).gauss_newton_draws
            return
        for name, site in sites.items():
            yield [name], self._objective(model, Sites({name: site}, structure=sites.structure)).hessian_draws

    def _objective(self, model: nn.Module, sites: Sites) -> Objective:
        return Objective(model, sites, self.data, self.batch_size, self._loss, "HessianTrace")

    def _is_piecewise_linear(self, model: nn.Module, sites: Sites) -> bool:
        names = {member.parameter for site in sites.values() for member in site.members}
        batch = next(moved(self.data, self.batch_size, "HessianTrace", device_of(model)))
        try:
            return is_piecewise_linear(trace(model, batch.inputs), names)
        except TraceError:
            return False

    def _unit_sums(self, sites: Mapping[str, Site], parameters: Mapping[str, Tensor]) -> UnitSums:
        """From the diagonal of the curvature to scores, which are linear in it."""
        factors = {name: self._factor(site, parameters) for name, site in sites.items()}

        def sums(diagonal: dict[str, Tensor]) -> dict[str, Tensor]:
            by_name = {name: by_weight(curved, parameters[name]) for name, curved in diagonal.items()}
            return {name: _total(by_name, site, self.side) * factors[name] for name, site in sites.items()}

        return sums

    def _factor(self, site: Site, parameters: Mapping[str, Tensor]) -> Tensor:
        own = {m.parameter: parameters[m.parameter] for m in site.members}
        squares = {n: by_weight(coordinates(p).double().square(), p) for n, p in own.items()}
        # Counts, as the rows of blocks are filled up with zeros.
        ones = {n: by_weight(torch.ones_like(coordinates(p), dtype=torch.float64), p) for n, p in own.items()}
        counts = _total(ones, site, self.side).clamp(min=1)
        return _total(squares, site, self.side) / 2 / counts if self.weighted else 1 / counts

    def _settle(self, tallies: Mapping[str, _Estimates], draw: Callable[[int], list[dict[str, Tensor]]]) -> None:
        """Draw until every site's ranks are settled; so many probes where their number is given."""
        count = self.probes or FIRST
        while True:
            for estimate in draw(count):
                for name, tally in tallies.items():
                    tally.add(estimate[name])
            probes_so_far = next(iter(tallies.values())).count
            left = [n for n, tally in tallies.items() if tally.correlation < 1 - MARGIN * (1 - self.reach)]
            if self.probes or not left or probes_so_far >= MOST:
                break
            count = min(probes_so_far, MOST - probes_so_far)
        if left and not self.probes:
            self._warn(tallies, left)

    def _warn(self, tallies: Mapping[str, _Estimates], left: list[str]) -> None:
        worst = min(left, key=lambda name: tallies[name].correlation)
        if tallies[worst].correlation < self.reach:
            warnings.warn(
                f"HessianTrace: after {MOST} probes two seeds would rank the units of {worst!r} alike only to "
                f"{tallies[worst].correlation:.2f}; give more samples, or probes=... above {MOST}",
                stacklevel=6,
            )


Draws = Callable[[torch.Generator, UnitSums, int], list[dict[str, Tensor]]]


class _Estimates:
    """Estimates of a site's scores, one for each probe: how many, their mean, and how far they lie apart."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, estimate: Tensor) -> None:
        """Add what one probe gives, by Welford's recurrence, which does not cancel where all are equal."""
        self.count += 1
        apart = estimate - self.mean
        self.mean = self.mean + apart / self.count
        self.squares = self.squares + apart * (estimate - self.mean)

    @property
    def error(self) -> Tensor:
        """The standard error of the mean; nan after one."""
        return (self.squares / (self.count - 1) / self.count).sqrt() if self.count > 1 else self.squares * nan

    @property
    def correlation(self) -> float:
        """The rank correlation that is foretold between these scores and those of another seed.

        Another seed's mean lies from this one's by a normal deviate of √2 standard errors. A mean of eight such draws.
        """
        step = ceil(self.mean.numel() / 10_000)
        mean, error = self.mean.flatten()[::step].cpu(), self.error.flatten()[::step].cpu()
        if bool(error.isnan().any()):
            return nan
        if not bool(error.any()):
            return 1.0
        generator = torch.Generator().manual_seed(0)
        others = [mean + 2**0.5 * error * torch.randn(mean.shape, generator=generator).double() for _ in range(8)]
        return sum(spearman(mean, other) for other in others) / len(others)


def _scores(tallies: Mapping[str, _Estimates], sites: Sites) -> TraceScores:
    scores = TraceScores({name: tally.mean.reshape(sites[name].shape).float() for name, tally in tallies.items()})
    for name, tally in tallies.items():
        scores.error[name] = tally.error.reshape(sites[name].shape).float()
        scores.probes[name], scores.correlation[name] = tally.count, tally.correlation
    return scores


def _total(values: Mapping[str, Tensor], site: Site, side: Side) -> Tensor:
    if site.kind == "weight":
        return values[site.name]
    return torch.cat(side_rows(values, site, side), dim=1).sum(1)
