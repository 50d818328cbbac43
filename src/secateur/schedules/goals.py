"""Where a pruning in steps goes: to a fraction of the units, or to a budget, a part of the way at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateur.allocate.budgets import BUDGETS, budget
from secateur.allocate.counting import examples, size
from secateur.allocate.goals import allowed
from secateur.measure import compare_latency, latency
from secateur.types import InputError, Scores, Sites

__all__ = ["CURVES", "BudgetPath", "Curve", "check_budget", "fraction_at"]

Curve = Literal["linear", "cubic", "geometric"]
CURVES = ("linear", "cubic", "geometric")

ROUNDING = 1e-6
"""What a count loses by the way through a share of it."""


def fraction_at(curve: Curve, sparsity: float, step: int, steps: int) -> float:
    """Return the fraction that is removed after `step` of `steps`.

    ``"linear"``: equal parts of the original; ``"cubic"``: much at first and ever less, s(1 − (1 − t/T)³) (Zhu and
    Gupta, 2017); ``"geometric"``: the same fraction of what is left each time (Han et al., 2015).

    >>> [fraction_at("cubic", 0.5, t, 2) for t in (1, 2)], [fraction_at("geometric", 0.75, t, 2) for t in (1, 2)]
    ([0.4375, 0.5], [0.5, 0.75])
    """
    done = step / steps
    if step == steps:
        return sparsity
    if curve == "cubic":
        return sparsity * (1 - (1 - done) ** 3)
    if curve == "geometric":
        return float(1 - (1 - sparsity) ** done)
    return sparsity * done


def check_budget(schedule: str, goal: Mapping[str, Any]) -> None:
    """Refuse a goal that names no measure, or several."""
    if not isinstance(goal, Mapping) or sum(name in BUDGETS for name in goal) != 1:
        raise InputError(
            f"{schedule}: budget={goal!r} must name one of {', '.join(BUDGETS)}, such as {{'macs': 0.5}}; what else it "
            "names are options of allocate.budget"
        )


@dataclass(frozen=True, eq=False)
class BudgetPath:
    """A budget that is reached over several steps.

    Attributes:
        model, sites: unpruned.
        measure: what the budget is of.
        whole: how much the unpruned model has: a count, or seconds.
        share: the share of the whole that is to go in the end.
        options: what `budget` takes beside.
    """

    model: nn.Module
    sites: Sites
    measure: str
    whole: float
    share: float
    options: Mapping[str, Any]

    @classmethod
    def of(
        cls, model: nn.Module, sites: Sites, goal: Mapping[str, Any], defaults: Mapping[str, Any], whole: float | None
    ) -> BudgetPath:
        """Return the way of an unpruned model to a goal.

        Args:
            model, sites: unpruned.
            goal: what `check_budget` let pass: one of `BUDGETS` with its limit, and options of `budget`.
            defaults: options of `budget` where the goal has none.
            whole: what the unpruned model has, where it is known already: a resumed pruning must not measure anew.
        """
        (measure,) = (name for name in goal if name in BUDGETS)
        options = {**defaults, **{name: value for name, value in goal.items() if name != measure}}
        if whole is None and measure == "latency":
            whole = latency(model, examples(sites), runtime=options.get("runtime") or "eager").median
        elif whole is None:
            whole = size(measure, model, sites)
        share = max(1 - allowed(measure, goal[measure], whole) / whole, 0.0)
        return cls(model, sites, measure, whole, share, options)

    def check(self) -> None:
        """Refuse a count that no cut of the model comes down to; a time would have to be measured for that.

        Raises:
            InputError: with what can be reached.
        """
        if self.measure != "latency":
            scores = {name: torch.arange(site.size, dtype=torch.float64) for name, site in self.sites.items()}
            self.masks(self.model, self.sites, scores, self.share)

    def masks(self, model: nn.Module, sites: Sites, scores: Scores, share: float) -> dict[str, Tensor]:
        """Return the masks under which a share of the whole is gone.

        Args:
            model, sites, scores: unpruned, or on the way.
            share: of the unpruned model's count or time.
        """
        limit: Any = max(int(self.whole * (1 - share) + ROUNDING), 1)
        if self.measure == "latency":
            limit = (1 - share) / self._time_left(model)
            if limit >= 1:
                return {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
        return budget(model, sites, scores, **{self.measure: limit, **self.options})

    def _time_left(self, model: nn.Module) -> float:
        """The time of a model on the way as a share of the unpruned one's, both timed in turns."""
        if model is self.model:
            return 1.0
        both = {"before": self.model, "after": model}
        timed = compare_latency(both, examples(self.sites), runtime=self.options.get("runtime") or "eager")
        return 1 / timed.speedups["after"].median
