"""Score, cut, train, and again: one shot, step by step, or along the cubic of gradual pruning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.allocate.multiples import Rounding, rounding, select_rounded
from secateur.checks import check_fraction, check_name, check_whole
from secateur.criteria.base import scores_of
from secateur.labelled import Data
from secateur.result import Result
from secateur.runtimes import Runtime
from secateur.schedules.goals import CURVES, BudgetPath, Curve, check_budget, fraction_at
from secateur.schedules.options import check_rating
from secateur.schedules.shrinking import Shrinking, loss_and_accuracy
from secateur.schedules.walk import Schedule, Walk
from secateur.selection import SCOPES, Scope, layer_fractions
from secateur.selection.uniform import uniform, uniform_sites
from secateur.state import snapshot
from secateur.structure.configs import config_widths
from secateur.structure.depth import BlockStructure
from secateur.structure.infer import Structure
from secateur.types import Criterion, InputError, Keep, Loss, RoundTo, Scores, Sites

__all__ = ["Curve", "Iterative", "Train"]

Train = Callable[[nn.Module, Keep], object]
"""Trains the model in place; for single weights the masks are given too, by parameter (`HoldZeros` takes them)."""


@dataclass(frozen=True)
class Iterative(Schedule):
    """Scores, removes the lowest, trains what is left, and so on up to a goal; in one step it is one-shot pruning.

    Channels are cut before each training, so that it is that of the smaller model; single weights are set to zero, and
    again after the training. Without training in between, steps differ from one shot only by the new scores.

    Attributes:
        criterion: what scores; at each step it is asked about the model as it is then.
        sparsity: the fraction of all units that is removed in the end; give this or a budget.
        steps: in how many steps.
        curve: how much goes when; see `fraction_at`.
        scope: rank all units together (``"global"``) or within each site (``"layer"``), where sites that lie in one
            axis of a tensor share what is removed, as in `select`.
        train: called with (model, masks) after each step; it trains the model in place. It may be killed: a checkpoint
            goes on with the step that was under way.
        data: labelled samples to log the loss on, after training; None logs none.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        minimum: how many units every site keeps at least.
        budget: what the model may have in the end: one of ``macs``, ``parameters``, ``bytes``, ``latency`` with its
            limit, such as ``{"macs": 0.5}``, and with it other options of `allocate.budget`. At each step the curve says
            how much of what is over the limit is gone.
        round_to, runtime: of how many units every channel site keeps a multiple, and where the model is to run, as for
            `prune`; learnt once, before the first step.
        uniform: keep the same share of all sites whose widths follow from one size of the model's config, as `prune` does:
            None where the model is made of one.

    >>> from secateur.criteria import Magnitude
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> pruned = Iterative(Magnitude(), 0.5, steps=2, curve="cubic")(model, channels(model, torch.zeros(1, 2)))
    >>> [len(step.units) for step in pruned.history.steps], pruned.model[0].out_features
    ([4], 4)
    >>> pruned = Iterative(Magnitude(), budget={"macs": 0.25}, steps=3)(model, channels(model, torch.zeros(1, 2)))
    >>> [len(step.units) for step in pruned.history.steps], pruned.report.macs
    ([2, 2, 2], (32, 8))
    """

    criterion: Criterion
    sparsity: float | None = None
    steps: int = 1
    curve: Curve = "linear"
    scope: Scope = "global"
    train: Train | None = None
    data: Data | None = field(default=None, repr=False)
    loss: str | Loss = "cross_entropy"
    minimum: int = 1
    budget: Mapping[str, Any] | None = None
    round_to: RoundTo | Literal["auto"] = "auto"
    runtime: Runtime | None = None
    uniform: bool | None = None

    remembers: ClassVar[Mapping[str, Any]] = {"step": int, "whole": int | float, "rounding": Rounding}

    def __post_init__(self) -> None:
        if (self.sparsity is None) == (self.budget is None):
            raise InputError("Iterative: give either sparsity= or budget=: how much is removed in the end")
        if self.budget is not None:
            check_budget("Iterative", self.budget)
        else:
            check_fraction(self, sparsity=self.sparsity)
        check_whole(self, steps=self.steps)
        for option, value, choices in (("curve", self.curve, CURVES), ("scope", self.scope, SCOPES)):
            check_name(option, value, choices)
        check_rating(self)

    def _prune(self, walk: Walk) -> Result:
        if isinstance(walk.sites.structure, BlockStructure):
            raise InputError("Iterative: sites of blocks cannot be found again in a model without some of them")
        path = self._path(walk)
        # Only a training has to be that of the smaller model, whose ties may be others than the original's.
        now = Shrinking.of(walk, masked=self.train is None or not isinstance(walk.sites.structure, Structure))
        walk.begin(*loss_and_accuracy(walk.model, self.data, self.loss))
        for step in range(walk.memory.get("step", 0) + 1, self.steps + 1):
            keep = self._choose(walk, now, path, step)
            gone = now.remove(keep)
            if self.train is not None:
                self.train(now.model, dict(keep) if now.masked else {})
                now.hold(keep)
            walk.memory["step"] = step
            walk.tensors = snapshot(now.model) if self.train is not None else {}
            if gone or self.train is not None:
                walk.remove(gone, *loss_and_accuracy(now.model, self.data, self.loss))
        return walk.finish(now.model if self.train is not None else None)

    def _path(self, walk: Walk) -> BudgetPath | None:
        """The way to the budget, where there is one; see that the goal can be reached."""
        if self.budget is not None:
            defaults: dict[str, Any] = {"scope": self.scope, "minimum": self.minimum, "runtime": self.runtime}
            defaults["round_to"] = self._rounding(walk)
            path = BudgetPath.of(walk.model, walk.sites, self.budget, defaults, walk.memory.get("whole"))
            walk.memory["whole"] = path.whole
            path.check()
            return path
        assert self.sparsity is not None
        if self.scope == "global":
            walk.goal(self.sparsity)
        return None

    def _choose(self, walk: Walk, now: Shrinking, path: BudgetPath | None, step: int) -> dict[str, Tensor]:
        """Masks over the sites as they are now, of equal widths where a config is to say them."""
        if not now.sites:
            return {}
        scores: Scores = scores_of(self.criterion, now.model, now.sites, "Iterative")
        keep = self._any(walk, now, path, step, scores)
        widths = () if self.uniform is False else config_widths(now.model, now.sites)
        if not widths:
            return keep
        multiples = self._rounding(walk).multiples
        if not now.masked:
            return uniform(keep, scores, widths, multiples)
        # What is gone stays gone: nothing is lower.
        lowest = {n: x.double().masked_fill(~walk.keep[n].to(x.device), -torch.inf) for n, x in scores.items()}
        even = uniform(keep, lowest, widths, multiples)
        return {name: kept & walk.keep[name].to(kept.device) for name, kept in even.items()}

    def _able(self, model: nn.Module, sites: Sites) -> Sites:
        return uniform_sites(model, sites, self.uniform, "Iterative")[0]

    def _any(self, walk: Walk, now: Shrinking, path: BudgetPath | None, step: int, scores: Scores) -> dict[str, Tensor]:
        """Masks over the sites as they are now, of any widths."""
        if path is not None:
            share = fraction_at(self.curve, path.share, step, self.steps)
            return self._within(walk, now, path, share, scores)
        assert self.sparsity is not None
        return self._lowest(walk, now, fraction_at(self.curve, self.sparsity, step, self.steps), scores)

    def _within(self, walk: Walk, now: Shrinking, path: BudgetPath, share: float, scores: Scores) -> dict[str, Tensor]:
        """Masks of a model that is within a part of the budget."""
        if not now.masked:
            return path.masks(now.model, now.sites, scores, share)
        # What is gone stays gone: it goes first, and a budget takes no infinite scores.
        below = min(float(x.min()) for x in scores.values()) - 1
        lowest = {n: x.double().masked_fill(~walk.keep[n].to(x.device), below) for n, x in scores.items()}
        keep = path.masks(walk.model, walk.sites, lowest, share)
        return {name: site_mask.cpu() & walk.keep[name] for name, site_mask in keep.items()}

    def _lowest(self, walk: Walk, now: Shrinking, fraction: float, scores: Scores) -> dict[str, Tensor]:
        """Masks that keep all but a fraction of the original units."""
        sparsity: float | dict[str, float] = fraction
        if now.masked:
            # What is gone stays gone: nothing is lower.
            scores = {n: x.double().masked_fill(~walk.keep[n].to(x.device), -torch.inf) for n, x in scores.items()}
            sparsity = self._shares(walk, fraction) if self.scope == "layer" else fraction
        elif self.scope == "global":
            more = round(fraction * (sum(walk.left.values()) + walk.gone)) - walk.gone
            sparsity = max(more, 0) / sum(site.size for site in now.sites.values())
        else:
            whole = {n: round(share * walk.sites[n].size) for n, share in self._shares(walk, fraction).items()}
            parts = {n: whole[n] - (walk.sites[n].size - walk.left[n]) for n in now.sites}
            sparsity = {n: max(more, 0) / walk.left[n] for n, more in parts.items()}
        keep = select_rounded(scores, sparsity, self._rounding(walk), scope=self.scope, minimum=self.minimum)
        return {name: mask & walk.keep[name].to(mask.device) for name, mask in keep.items()} if now.masked else keep

    def _rounding(self, walk: Walk) -> Rounding:
        """The multiples, learnt once: a resumed pruning goes on by the same."""
        if "rounding" not in walk.memory:
            walk.memory["rounding"] = rounding(walk.sites, self.round_to, self.runtime)
        multiples: Rounding = walk.memory["rounding"]
        return multiples

    def _shares(self, walk: Walk, fraction: float) -> dict[str, float]:
        """The fraction of each original site that is to be gone."""
        return layer_fractions(walk.sites, fraction, minimum=self.minimum, left=walk.left)
