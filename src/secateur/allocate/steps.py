"""Keep masks in a row, from nothing removed to all that may go: what a bisection walks over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from secateur.allocate.cost_table import CostTable
from secateur.allocate.plans import plan_within
from secateur.checks import check_name
from secateur.selection import Scope, select
from secateur.types import Scores

__all__ = ["Steps", "by_costs", "by_scores"]

STEPS = 4096
"""Into how many steps the costs that a plan may have are divided."""


@dataclass(frozen=True)
class Steps:
    """The masks of step 0 (nothing removed) to step `last`; each step removes no less than the one before."""

    last: int
    at: Callable[[int], dict[str, Tensor]]


def by_scores(scores: Scores, scope: Scope, options: Mapping[str, Any]) -> Steps:
    """Return one step a unit: the lowest scores of all sites, or the same fraction of each.

    >>> import torch
    >>> steps = by_scores({"a": torch.tensor([1.0, 3.0]), "b": torch.tensor([2.0, 4.0])}, "global", {"minimum": 1})
    >>> [[int(kept.sum()) for kept in steps.at(step).values()] for step in range(steps.last + 1)]
    [[2, 2], [1, 2], [1, 1]]
    """
    total = sum(score.numel() for score in scores.values())
    most = sum(max(score.numel() - options["minimum"], 0) for score in scores.values())
    last = most if scope == "global" else total
    return Steps(last, lambda step: select(scores, step / max(total, 1), scope=scope, **options))


def by_costs(scores: Scores, costs: CostTable, measure: str, options: Mapping[str, Any]) -> Steps:
    """Return steps along a foretold cost, from the whole model's to that of the narrowest widths: each the best plan.

    Raises:
        UnknownNameError: the table lacks a site, or the measure.
    """
    for name in scores:
        check_name("site of the cost table", name, costs.sites)
    check_name("measure of the cost table", measure, costs.whole)
    whole, least = costs.whole[measure], costs.foretell(costs.narrowest)[measure]

    def at(step: int) -> dict[str, Tensor]:
        planned = plan_within(costs, measure, whole + (least - whole) * step / STEPS).fractions
        fractions = {name: planned[name] for name in scores}
        return select(scores, fractions, scope="layer", **options)

    return Steps(STEPS, at)
