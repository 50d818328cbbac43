"""How many units of each site stay: planned by scores and a table of costs, measured, and planned nearer to what may be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from torch import nn

from secateur.allocate import plan_jointly
from secateur.allocate.goals import UnreachableError
from secateur.allocate.tables import CostTable
from secateur.compression.costs import Costs, within_table
from secateur.criteria.joint_loss_change import JointWorth
from secateur.deadline import check_time
from secateur.selection.nested import multiple_of
from secateur.structure.cutting import draft
from secateur.types import Keep, Sites

__all__ = ["plans_within"]

CORRECTIONS = 6
"""How often a cut is planned at most: anew where it was measured and found too slow, or faster than it needs to be."""

UNUSED = 0.03
"""What part of the original's latency a cut may save beyond what was asked before it is planned anew."""

LEAST = 1e-3
"""By how much less than a plan that is too slow is foretold the table is asked for at least."""

WIDENINGS = {"latency": 12}
"""How often a wider site is tried at most where costs are timed; else `COUNTED_WIDENINGS` times."""

COUNTED_WIDENINGS = 64

SHARES = (0.5, 0.25)
"""What every site keeps of its units at least in other allocations."""

PORTION = 16
"""A site is widened by one part in so many of its units, or by what the runtime likes if that is more."""


def plans_within(model: nn.Module, sites: Sites, worth: JointWorth, asked: float, costs: Costs) -> list[Keep]:
    """Return masks of several allocations whose cost is within what was asked, as near to it as can be.

    The first loses least as the scores foretell it. They do not know what the refitted readers make up for, so that there are
    others, by which no site loses more than a share of the original's units.

    Args:
        model, sites: as it is now; it is left so.
        worth: of the model.
        asked: the fraction of what the original uses that it may use.
        costs: what is used, and by what.

    Raises:
        UnreachableError: no widths cost so little.
    """
    plans = _Plans(model, sites, worth, asked, costs)
    allocations = [plans.widened(plans.planned(plans.table))]
    for share in SHARES:
        try:
            widths = plans.widened(plans.planned(plans.table.at_least(share)))
        except UnreachableError:
            continue
        if widths not in allocations and plans.cost(widths) <= asked:
            allocations.append(widths)
    return [plans.keep(widths) for widths in allocations]


Widths = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class _Plans:
    """The plans of one cut.

    Attributes:
        model, sites, worth, asked, costs: as for `plans_within`.
        cost_by_widths: what plans were found to cost.
        keep_by_widths: the units that stay, where a plan says which.
    """

    model: nn.Module
    sites: Sites
    worth: JointWorth
    asked: float
    costs: Costs
    cost_by_widths: dict[tuple[int, ...], float] = field(default_factory=dict)
    keep_by_widths: dict[tuple[int, ...], Keep] = field(default_factory=dict)

    def planned(self, table: CostTable) -> Widths:
        """Return widths by a table, planned anew for more or less where they were found to cost something else.

        What the table is asked for is corrected as if all that it foretells to be saved were too much or too little by the
        same part, and halved in once it is known to lie between two. Of what was measured, the dearest is taken that is within
        what was asked; where none is, the cheapest.
        """
        measure, limit, low, high = self.costs.goal.what, self.asked, 0.0, 1.0
        aim = self.asked - UNUSED / 2
        plans: list[Widths] = []
        for _ in range(CORRECTIONS):
            try:
                plan = plan_jointly(self.worth, table, {measure: limit})
            except UnreachableError:
                if not plans:
                    raise
                break
            plans.append(plan.kept)
            self.keep_by_widths.setdefault(self._key(plan.kept), plan.keep)
            cost = self.cost(plan.kept)
            # Counts are as the table has them.
            if measure != "latency" or cost >= 1 or self.asked - UNUSED <= cost <= self.asked:
                break
            low, high = (low, self._foretold(plan.kept)) if cost > self.asked else (limit, high)
            scaled = 1 - (1 - limit) * (1 - aim) / (1 - cost)
            limit = (low + high) / 2 if low > 0 and high < 1 else min(scaled, high - LEAST)
        return max(plans, key=self._rank)

    def widened(self, widths: Widths) -> Widths:
        """Return widths with units given back, while they still cost no more than was asked.

        At each turn the site is widened that regains most of the foretold loss for what the table foretells it to cost;
        one that turned out to cost too much stays as it is.
        """
        if self.cost(widths) > self.asked:
            return widths
        left = {name for name in self.worth.model.sizes if widths[name] < self.worth.model.sizes[name]}
        for _ in range(WIDENINGS.get(self.costs.goal.what, COUNTED_WIDENINGS)):
            name = max(sorted(left), key=lambda site: self._gain(widths, self._wider(widths, site)), default=None)
            if name is None:
                break
            wider = self._wider(widths, name)
            if self.cost(wider) > self.asked:
                left.discard(name)
            else:
                widths = wider
            if widths[name] == self.worth.model.sizes[name]:
                left.discard(name)
        return widths

    @cached_property
    def table(self) -> CostTable:
        """What each site costs, as far as it is there."""
        return within_table(self.costs.table, self.sites)

    def keep(self, widths: Widths) -> Keep:
        """Return which units stay."""
        key = self._key(widths)
        if key not in self.keep_by_widths:
            self.keep_by_widths[key] = self.worth.choose(widths)
        return self.keep_by_widths[key]

    def cost(self, widths: Widths) -> float:
        """Return what the model costs with so many units of each site, as a fraction of the original's."""
        key = self._key(widths)
        if key not in self.cost_by_widths:
            check_time()
            self.cost_by_widths[key] = self.costs(draft(self.model, self.sites, self.keep(widths)), quick=True)
        return self.cost_by_widths[key]

    def _rank(self, widths: Widths) -> tuple[bool, float]:
        cost = self.cost(widths)
        return cost <= self.asked, cost if cost <= self.asked else -cost

    def _wider(self, widths: Widths, name: str) -> Widths:
        """Widths with a little more of one site: whole multiples of what the runtime likes."""
        units, multiple = self.worth.model.sizes[name], multiple_of(self.costs.rounding.multiples, name)
        portion = max(-(-units // PORTION), 1)
        wider = widths[name] + -(-portion // multiple) * multiple
        return {**widths, name: min(wider - wider % multiple, units)}

    def _gain(self, widths: Widths, wider: Widths) -> float:
        """How much of the loss is regained for the cost, both foretold."""
        loss, cost = (f(widths) - f(wider) for f in (self._loss, self._foretold))
        return loss / max(-cost, 1e-9)

    def _loss(self, widths: Widths) -> float:
        return self.worth.foretell(self.keep(widths))

    def _foretold(self, widths: Widths) -> float:
        measure = self.costs.goal.what
        return self.table.foretell(widths)[measure] / self.table.whole[measure]

    def _key(self, widths: Widths) -> tuple[int, ...]:
        return tuple(widths[name] for name in self.worth.model.sizes)
