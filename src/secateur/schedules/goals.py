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
from secateur.measure import latency
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


@dataclass(frozen=True)
class BudgetPath:
    """A budget that is reached over several steps.

    Attributes:
        measure: what it is of.
        whole: how much the unpruned model has: a count, or seconds.
        share: the share of the whole that is to go in the end.
        options: what else `budget` takes.
    """

    measure: str
    whole: float
    share: float
    options: Mapping[str, Any]

    @classmethod
    def of(cls, model: nn.Module, sites: Sites, goal: Mapping[str, Any], whole: float | None) -> BudgetPath:
        """Return the way of an unpruned model to a goal that `check_budget` let pass.

        Args:
            model, sites: unpruned.
            goal: one of `BUDGETS` with its limit, and options of `budget`.
            whole: what the unpruned model has, where it is known already: a resumed pruning must not measure anew.
        """
        (measure,) = (name for name in goal if name in BUDGETS)
        if whole is None:
            timed = measure == "latency"
            whole = latency(model, examples(sites), repeats=21).median if timed else size(measure, model, sites)
        options = {name: value for name, value in goal.items() if name != measure}
        return cls(measure, whole, max(1 - allowed(measure, goal[measure], whole) / whole, 0.0), options)

    def check(self, model: nn.Module, sites: Sites, options: Mapping[str, Any]) -> None:
        """Refuse a count that no cut of the model comes down to; of times this would have to be measured.

        Raises:
            InputError: with what can be reached.
        """
        if self.measure != "latency":
            scores = {name: torch.arange(site.size, dtype=torch.float64) for name, site in sites.items()}
            self.masks(model, sites, scores, self.share, options)

    def masks(
        self, model: nn.Module, sites: Sites, scores: Scores, share: float, options: Mapping[str, Any]
    ) -> dict[str, Tensor]:
        """Return the masks under which a share of the whole is gone.

        Args:
            model, sites, scores: unpruned, or on the way.
            share: of the unpruned model's count or time.
            options: of `budget`.
        """
        left = self.whole * (1 - share)
        limit = f"{1000 * left:.9f} ms" if self.measure == "latency" else max(int(left + ROUNDING), 1)
        return budget(model, sites, scores, **{self.measure: limit, **options, **self.options})
