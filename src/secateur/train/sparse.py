"""Masks that change while the weights are trained: gradual magnitude pruning, SET and RigL."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn

from secateur.allocate.ratios import erk, uniform
from secateur.checks import check_fraction, check_listed, check_name, check_number, check_whole
from secateur.schedules.goals import fraction_at
from secateur.selection import SCOPES, Scope, select
from secateur.structure.sites import weights
from secateur.train.callbacks import Run
from secateur.train.masks import TrainingMasks
from secateur.types import Keep

__all__ = ["DENSITIES", "DynamicMasks", "GradualMagnitude", "RigL", "SparseEvolution"]

Densities = Literal["erk", "uniform"]
DENSITIES = {"erk": erk, "uniform": uniform}


@dataclass(frozen=True)
class GradualMagnitude(TrainingMasks):
    """Prunes the smallest weights little by little while they are trained, much at first (Zhu and Gupta, 2017).

    At step t the sparsity is s + (s₀ − s)(1 − (t − t₀) / (t₁ − t₀))³, from s₀ at t₀ to s at t₁; what is pruned stays so.
    The best epoch, where there are validation data, is one after t₁.

    Attributes:
        sparsity: s, the fraction of the weights that is zero in the end.
        begin, end: t₀ and t₁ as shares of all steps of the training.
        every: steps between two prunings.
        initial: s₀.
        scope: rank the weights of all parameters together, or within each.
        ignore: parameters to leave whole, by name or pattern; biases and the scales of norms are never pruned.
        minimum: how many weights every parameter keeps at least.

    >>> from secateur.train import fit
    >>> model = nn.Linear(4, 1, bias=False)
    >>> data = torch.randn(32, 4), torch.randn(32, 1)
    >>> _ = fit(model, data, epochs=4, loss="mse", callbacks=[GradualMagnitude(0.5, every=1)])
    >>> int((model.weight == 0).sum())
    2
    """

    grows: ClassVar[bool] = False
    sparsity: float
    begin: float = 0.0
    end: float = 0.75
    every: int = 100
    initial: float = 0.0
    scope: Scope = "global"
    ignore: tuple[str, ...] = ()
    minimum: int = 1

    def __post_init__(self) -> None:
        check_listed(self, ignore=self.ignore)
        check_fraction(self, sparsity=self.sparsity, initial=self.initial, begin=self.begin)
        check_number(self, f"[{self.begin}, 1]", end=self.end)
        check_whole(self, every=self.every)
        check_whole(self, 0, minimum=self.minimum)
        check_name("scope", self.scope, SCOPES)

    def identity(self) -> str:
        """Return the options."""
        return repr(self)

    def first(self, run: Run) -> Keep:
        """Return masks that keep all."""
        sites = weights(run.model, self.ignore)
        return {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}

    def changed(self, run: Run, masks: Mapping[str, Tensor]) -> Keep | None:
        """Return the masks of this step's sparsity, where it is one to prune at."""
        first, last = self._span(run)
        since = run.step - first
        if since < 0 or run.step > last or (since % self.every and run.step != last):
            return None
        risen = fraction_at("cubic", 1.0, since, last - first) if last > first else 1.0
        sparsity = self.initial + (self.sparsity - self.initial) * risen
        sizes = {name: run.model.get_parameter(name).detach().abs().double() for name in masks}
        lowest = {name: size.masked_fill(~masks[name], -1.0) for name, size in sizes.items()}
        return select(lowest, sparsity, scope=self.scope, minimum=self.minimum)

    def _span(self, run: Run) -> tuple[int, int]:
        """The first and the last step to prune at."""
        last = max(run.total_steps - 1, 0)
        return min(round(self.begin * run.total_steps), last), min(round(self.end * run.total_steps), last)


@dataclass(frozen=True)
class DynamicMasks(TrainingMasks):
    """Sparse from the first step to the last, as many weights in each layer throughout: some go, as many others come.

    Attributes:
        sparsity: the fraction of the weights that is zero.
        densities: how it is spread over the layers: ``"erk"``, the larger a layer the sparser (see `allocate.erk`), or
            ``"uniform"``.
        drop: the share of a layer's weights that others take the place of, each time.
        every: steps between two changes; None changes once an epoch.
        until: the share of all steps after which the masks stay.
        ignore: parameters to leave whole, by name or pattern; biases and the scales of norms are never pruned.
        seed: of what is random.
    """

    sparsity: float
    densities: Densities = "erk"
    drop: float = 0.3
    every: int | None = 100
    until: float = 0.75
    ignore: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_listed(self, ignore=self.ignore)
        check_number(self, "(0, 1)", "the fraction of the weights that is zero", sparsity=self.sparsity)
        check_fraction(self, drop=self.drop, until=self.until)
        check_whole(self, or_none=True, every=self.every)
        check_whole(self, 0, seed=self.seed)
        check_name("densities", self.densities, DENSITIES)

    def identity(self) -> str:
        """Return the options."""
        return repr(self)

    def first(self, run: Run) -> Keep:
        """Return random masks, one weight a layer at least."""
        sites = weights(run.model, self.ignore)
        draws = _draws(self.seed, 0)
        scores = {name: torch.rand(site.shape, generator=draws, dtype=torch.float64) for name, site in sites.items()}
        return select(scores, DENSITIES[self.densities](sites, self.sparsity), scope="layer")

    def changed(self, run: Run, masks: Mapping[str, Tensor]) -> Keep | None:
        """Return masks in which some weights have the places of others, where it is a step to change at."""
        every = self.every or max(run.total_steps // run.options.epochs, 1)
        if not run.step or run.step % every or run.step >= self.until * run.total_steps:
            return None
        draws = _draws(self.seed, run.step)
        return {name: self._moved(run, run.model.get_parameter(name), mask, draws) for name, mask in masks.items()}

    def _moved(self, run: Run, parameter: nn.Parameter, mask: Tensor, draws: Generator) -> Tensor:
        stays = self.dropped(run, parameter.detach(), mask)
        count = int(mask.sum()) - int(stays.sum())
        if not count:
            return mask
        scores = self.growth(parameter, mask, stays, draws).to(mask.device).double()
        return stays | ~_without_lowest(-scores, count, ~stays)

    @abstractmethod
    def dropped(self, run: Run, weight: Tensor, mask: Tensor) -> Tensor:
        """Return a layer's mask without the weights that go."""

    @abstractmethod
    def growth(self, parameter: nn.Parameter, mask: Tensor, stays: Tensor, draws: Generator) -> Tensor:
        """Return scores of a layer's weights: of those that are not there, the highest come."""


@dataclass(frozen=True)
class SparseEvolution(DynamicMasks):
    """SET: the weights nearest to zero go, others come at random (Mocanu et al., 2018).

    The share `drop` of the positive weights and of the negative ones goes, those nearest to zero. A weight that comes
    begins at zero, and is none that has just gone. The published rule changes the masks after every epoch.

    The masks keep their number; the weights that are not zero may be fewer. A weight that came is active and is trained from
    zero on, as in the authors' implementation with masks, but stays at zero where it has no gradient (behind a unit that
    never fires, or an input that is always zero); it has its place until a change takes it.

    >>> from secateur.train import fit
    >>> model = nn.Linear(8, 4, bias=False)
    >>> data = torch.randn(32, 8), torch.randn(32, 4)
    >>> _ = fit(model, data, epochs=4, loss="mse", callbacks=[SparseEvolution(0.75)])
    >>> int((model.weight != 0).sum()) <= 8
    True
    """

    every: int | None = None
    until: float = 1.0

    def dropped(self, run: Run, weight: Tensor, mask: Tensor) -> Tensor:
        """Return the mask without the smallest positive and the largest negative weights."""
        stays = mask
        for sign in (mask & (weight >= 0), mask & (weight < 0)):
            stays = stays & _without_lowest(weight.abs(), round(self.drop * int(sign.sum())), sign)
        return stays

    def growth(self, parameter: nn.Parameter, mask: Tensor, stays: Tensor, draws: Generator) -> Tensor:
        """Return random scores, the lowest for what has just gone."""
        scores = torch.rand(parameter.shape, generator=draws, dtype=torch.float64).to(mask.device)
        return scores.masked_fill(mask & ~stays, -1.0)


@dataclass(frozen=True)
class RigL(DynamicMasks):
    """RigL: the smallest weights go, and those come that the gradient would change most (Evci et al., 2020).

    The share that goes falls with the step t as ``drop / 2 · (1 + cos(π t / (until · steps)))``. A weight that comes
    begins at zero; one that has just gone may come back as it was. The published rule takes no step of the optimizer
    where the masks change; here it is taken, by the gradients of the new masks.

    >>> from secateur.train import fit
    >>> model = nn.Linear(8, 4, bias=False)
    >>> data = torch.randn(32, 8), torch.randn(32, 4)
    >>> _ = fit(model, data, epochs=8, loss="mse", callbacks=[RigL(0.75, every=1)])
    >>> int((model.weight != 0).sum())
    8
    """

    def share(self, step: int, steps: int) -> float:
        """Return the share of the weights that goes at a step.

        >>> [round(RigL(0.9, drop=0.4, until=0.5).share(t, 100), 2) for t in (0, 25, 50)]
        [0.4, 0.2, 0.0]
        """
        return self.drop / 2 * (1 + cos(pi * step / (self.until * steps)))

    def dropped(self, run: Run, weight: Tensor, mask: Tensor) -> Tensor:
        """Return the mask without the smallest weights."""
        count = int(self.share(run.step, run.total_steps) * int(mask.sum()))
        return mask & _without_lowest(weight.abs(), count, mask)

    def growth(self, parameter: nn.Parameter, mask: Tensor, stays: Tensor, draws: Generator) -> Tensor:
        """Return the sizes of the gradients, which at this moment are those of pruned weights too."""
        return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.abs()


def _without_lowest(scores: Tensor, count: int, among: Tensor) -> Tensor:
    """False at the `count` lowest scores among some, at no more than there are; True elsewhere."""
    count = min(count, int(among.sum()))
    if not count:
        return torch.ones_like(among)
    ranked = scores.double().masked_fill(~among, torch.inf)
    return select({"": ranked}, count / ranked.numel(), minimum=0)[""]


def _draws(seed: int, step: int) -> Generator:
    """Random numbers of a step, the same however the training came there."""
    return Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
