"""Plans in which units of all sites go by what they cost together: greedy over the loss's pairs, by the loss for the saving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.allocate.plans import Allocation, Problem, Widths, enough
from secateur.allocate.tables import CostTable
from secateur.criteria.joint_loss_change import JointWorth
from secateur.criteria.quadratic import Descent
from secateur.deadline import check_time
from secateur.types import InputError, unknown_name

__all__ = ["JointAllocation", "descent", "plan_jointly"]

AHEAD = 3
"""How many narrower widths of a site are looked at: the next one may save nothing in a runtime."""


@dataclass(frozen=True)
class JointAllocation(Allocation):
    """An allocation with the units that go.

    Attributes:
        keep: the keep masks.
    """

    keep: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


def plan_jointly(worth: JointWorth, costs: CostTable, goal: Mapping[str, Any]) -> JointAllocation:
    """Return keep masks whose foretold cost is within a goal, by a greedy walk over what units cost together.

    At each step the site and the width are taken that cost the least loss for what they save, given all that is gone
    already: both the loss and the saving have pairs in them, where `plan` adds up losses of single sites. A site that
    can be widened again within the goal is, when the end is reached.

    Args:
        worth: of the model, from `JointLossChange`.
        costs: from `cost_table`; its losses are not looked at. For a model that is cut already take
            ``costs.within(kept)``.
        goal: one measure of the table, and what is allowed, as for `plan`.

    Raises:
        InputError: the goal is out of range, or the table's widest widths are not those that `worth` has units for.
        UnknownNameError: the table has no such measure, or lacks a site.

    >>> from secateur.allocate.tables import SiteCosts
    >>> from secateur.criteria.joint_loss_change import joint_worth
    >>> from secateur.criteria.quadratic import Quadratic
    >>> twins = Quadratic({"a": 3}, np.array([0.0, 0.0, 1.0]), np.array([[2.0, 2, 0], [2, 2, 0], [0, 0, 0]]))
    >>> table = CostTable({"macs": 3.0}, {"a": SiteCosts(3, (3, 2, 1), {"macs": (3.0, 2.0, 1.0)}, (0.0, 0.0, 0.0))})
    >>> plan_jointly(joint_worth(twins, "global", 1, samples=1), table, {"macs": 0.4}).keep
    {'a': tensor([False,  True, False])}
    """
    measure, limit = costs.limit(goal)
    problem = Problem.of(costs, measure)
    needed = problem.needed(limit)
    path = descent(worth, problem)
    widths, mask = next(place for place in path if enough(problem.saved(place[0]), needed))
    counts, keep = _widened(worth, problem, widths, needed), worth.by_site(mask)
    if counts != problem.kept(widths) or worth.foretell(worth.choose(counts)) < worth.foretell(keep):
        keep = worth.choose(counts)
    units = {name: site.units for name, site in costs.sites.items()}
    return JointAllocation(counts, units, costs.foretell(counts), worth.foretell(keep), keep)


def descent(worth: JointWorth, problem: Problem) -> Iterator[tuple[Widths, Tensor]]:
    """Yield widths and the mask of all units in a row, from nothing removed to the narrowest widths.

    Raises:
        InputError, UnknownNameError: the table does not fit the units.
    """
    _check_fits(worth, problem.costs)
    walk, widths = Descent(worth.model), np.zeros(len(problem.gone), dtype=np.int64)
    yield widths, torch.from_numpy(~walk.gone)
    while bool((widths < problem.narrowest).any()):
        check_time()
        site, to, units = _cheapest(walk, problem, widths)
        walk.remove(units)
        widths = widths.copy()
        widths[site] = to
        yield widths, torch.from_numpy(~walk.gone)


def _cheapest(walk: Descent, problem: Problem, widths: Widths) -> tuple[int, int, list[int]]:
    """The site, its new width, and the units that go, with the least loss for the saving."""
    savings = problem.changes(widths)
    best: tuple[tuple[bool, float], int, int, list[int]] | None = None
    for number, (name, site) in enumerate(problem.costs.sites.items()):
        last = min(int(widths[number]) + AHEAD, int(problem.narrowest[number]))
        order = walk.cheapest(name, site.kept[widths[number]] - site.kept[last])
        rises = np.concatenate([[0.0], np.cumsum(order.rises)])
        for to in range(int(widths[number]) + 1, last + 1):
            count = site.kept[widths[number]] - site.kept[to]
            saving = float(savings[number, to])
            # What saves nothing comes last, the least loss first.
            price = (False, rises[count] / saving) if saving > 0 else (True, rises[count])
            if best is None or price < best[0]:
                best = price, number, to, order.units[:count].tolist()
    assert best is not None
    return best[1:]


def _widened(worth: JointWorth, problem: Problem, widths: Widths, needed: float) -> dict[str, int]:
    """The units kept once every site is as wide again as the goal leaves room for, the dearest first."""
    loss = worth.foretell(worth.choose(problem.kept(widths)))
    while True:
        saved = problem.saved(widths) + problem.changes(widths)
        wider = [np.where(problem.rows == site, widths - 1, widths) for site in problem.rows if widths[site]]
        fit = [w for w in wider if enough(saved[problem.rows, w].min(initial=np.inf), needed)]
        tried = [(worth.foretell(worth.choose(problem.kept(w))), w) for w in fit]
        better = min(tried, key=lambda pair: pair[0], default=(np.inf, widths))
        if better[0] >= loss:
            return problem.kept(widths)
        loss, widths = better


def _check_fits(worth: JointWorth, costs: CostTable) -> None:
    for name, size in worth.model.sizes.items():
        if name not in costs.sites:
            raise unknown_name("site of the cost table", name, costs.sites)
        if costs.sites[name].kept[0] != size:
            raise InputError(
                f"plan_jointly: {name!r} has {size} units, and the table's widest width is {costs.sites[name].kept[0]}; "
                "pass costs.within(kept) with the units that the model has"
            )
    for name in costs.sites:
        if name not in worth.model.sizes:
            raise unknown_name("site of the model that was scored", name, worth.model.sizes)
