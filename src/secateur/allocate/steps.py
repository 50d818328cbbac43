"""Keep masks in a row, from nothing removed to all that may go: what a bisection walks over."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any

from torch import Tensor

from secateur.allocate.joint import descent
from secateur.allocate.plans import Problem, plan_within
from secateur.allocate.tables import CostTable
from secateur.criteria.joint_loss_change import JointWorth
from secateur.selection import Scope, select
from secateur.selection.uniform import uniform
from secateur.structure.configs import ConfigWidth
from secateur.types import RoundTo, Scores, unknown_name

__all__ = ["Steps", "by_costs", "by_scores", "evened"]

STEPS = 4096
"""Into how many steps the costs that a plan may have are divided."""


@dataclass(frozen=True)
class Steps:
    """The masks of step 0 (nothing removed) to step `last`; each step removes no less than the one before.

    Attributes:
        last: the last step.
        at: the masks of a step.
        expected: the last step that is foretold not to be below a cost; None where nothing foretells it.
    """

    last: int
    at: Callable[[int], dict[str, Tensor]]
    expected: Callable[[float], int] | None = None


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
    """Return steps along a foretold cost, from the whole model's to that of the narrowest widths.

    Each is the best plan for its cost; with scores that know pairs of units (`JointWorth`), each is a place on one greedy
    walk.

    Raises:
        UnknownNameError: the table lacks a site, or the measure.
        InputError: the table does not fit the units.
    """
    for name in scores:
        if name not in costs.sites:
            raise unknown_name("site of the cost table", name, costs.sites)
    if measure not in costs.whole:
        raise unknown_name("measure of the cost table", measure, costs.whole)
    if isinstance(scores, JointWorth):
        masks = [scores.by_site(mask) for _, mask in descent(scores, Problem.of(costs, measure))]
        return Steps(len(masks) - 1, masks.__getitem__)
    whole, least = costs.whole[measure], costs.foretell(costs.narrowest)[measure]

    def at(step: int) -> dict[str, Tensor]:
        """The masks of a plan whose cost lies so far between the whole and the least."""
        fractions = plan_within(costs, measure, whole + (least - whole) * step / STEPS).fractions
        return select(scores, {name: fractions[name] for name in scores}, scope="layer", **options)

    def expected(cost: float) -> int:
        share = (whole - cost) / (whole - least) if whole > least else 0.0
        return min(max(floor(STEPS * share), 0), STEPS)

    return Steps(STEPS, at, expected)


def evened(steps: Steps, scores: Scores, widths: Sequence[ConfigWidth], round_to: RoundTo) -> Steps:
    """Return the steps with equal shares of the sites whose widths follow from one size of a config."""
    if not widths:
        return steps
    return Steps(steps.last, lambda step: uniform(steps.at(step), scores, widths, round_to))
