"""A cost table and a goal → how many units each site keeps: dynamic programming, then exchanges between sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from secateur.allocate.dynamic import Choices, Floats, Portions
from secateur.allocate.goals import UnreachableError
from secateur.allocate.tables import CostTable

__all__ = ["Allocation", "Problem", "Widths", "enough", "plan", "plan_within"]

Widths = NDArray[np.int64]
"""For each site the place of its width among those of the table."""

ROUNDS = 12
"""How often savings are counted anew around the widths found; they settle in three or four."""

SETTLED = 1e-2
"""By how much of a site's units the widths may differ from those that savings were counted around."""

EXCHANGES = 1000


@dataclass(frozen=True)
class Allocation:
    """How many units each site keeps, with what that is foretold to cost.

    Attributes:
        kept: units kept by site.
        units: units that each site has in the unpruned model.
        costs: the foretold cost by measure.
        loss: the foretold rise of the loss.
    """

    kept: Mapping[str, int]
    units: Mapping[str, int]
    costs: Mapping[str, float]
    loss: float

    @property
    def fractions(self) -> dict[str, float]:
        """The fraction that each site loses, for ``select(scores, fractions, scope="layer")`` and `prune`."""
        return {name: 1 - count / self.units[name] for name, count in self.kept.items()}


def plan(costs: CostTable, goal: Mapping[str, Any]) -> Allocation:
    """Return the widths that lose least among those whose foretold cost is within a goal.

    One width of the table is taken for each site, so that the sum of the sites' losses is least: a knapsack with a choice
    a site (Shen et al., 2022, HALP, for latency; Kurtić et al., 2023, ZipLM, for measured latency and losses). As two
    sites that share a layer save it together, the savings of each are counted in the middle between the others whole and
    the others at the widths found last, where those of all add up; the knapsack is solved anew until they stay. Then any
    site is widened for which another can be narrowed, while that makes the loss less.

    Args:
        costs: from `cost_table`, with losses.
        goal: one measure of the table, and what is allowed: ``{"macs": 0.5}``, ``{"latency": "2 ms"}``.

    Raises:
        InputError: the goal is out of range, or below what the narrowest widths cost.
        UnknownNameError: the table has no such measure.

    >>> from secateur.allocate.tables import SiteCosts
    >>> dear = SiteCosts(2, (2, 1), {"macs": (10.0, 6.0)}, (0.0, 5.0))
    >>> cheap = SiteCosts(2, (2, 1), {"macs": (10.0, 7.0)}, (0.0, 1.0))
    >>> plan(CostTable({"macs": 10.0}, {"a": dear, "b": cheap}), {"macs": 0.7}).kept
    {'a': 2, 'b': 1}
    """
    return plan_within(costs, *costs.limit(goal))


def plan_within(costs: CostTable, measure: str, limit: float) -> Allocation:
    """Return what `plan` does for so much of a measure, in its unit."""
    problem = Problem.of(costs, measure)
    widths = problem.solved(problem.needed(limit))
    widths_kept = problem.kept(widths)
    units = {name: site.units for name, site in costs.sites.items()}
    return Allocation(widths_kept, units, costs.foretell(widths_kept), problem.loss_of(widths))


@dataclass(frozen=True, eq=False)
class Problem:
    """Widths to choose, in arrays ``(sites, widths)``, filled up with widths of infinite loss.

    Attributes:
        gone: the share of the units that is gone.
        saving: what each width saves with all other sites whole.
        loss: the rise of the loss.
        shared: what two sites both save, if all of both went, symmetric ``(sites, sites)``.
        costs, measure: the table, and what of it is counted.
    """

    gone: Floats
    saving: Floats
    loss: Floats
    shared: Floats
    costs: CostTable
    measure: str

    @classmethod
    def of(cls, costs: CostTable, measure: str) -> Self:
        """Read it from a table."""
        names, sites = list(costs.sites), list(costs.sites.values())
        most = max((len(site.kept) for site in sites), default=1)
        shape = len(sites), most
        gone, saving, loss = np.zeros(shape), np.zeros(shape), np.full(shape, np.inf)
        for place, site in enumerate(sites):
            widths = slice(0, len(site.kept))
            gone[place, widths] = [site.removed_share(width) for width in site.kept]
            saving[place, widths] = costs.whole[measure] - np.array(site.costs[measure])
            loss[place, widths] = site.losses
        shared = np.zeros((len(sites), len(sites)))
        for name, others in costs.shared.get(measure, {}).items():
            for other, both in others.items():
                if name in costs.sites and other in costs.sites:
                    ends = names.index(name), names.index(other)
                    shared[ends] = shared[ends[::-1]] = both
        return cls(gone, saving, loss, shared, costs, measure)

    def needed(self, limit: float) -> float:
        """Return the saving, before the table's scale, that a limit asks for.

        Raises:
            InputError: the narrowest widths do not save as much.
        """
        whole, scale = self.costs.whole[self.measure], self.costs.scale.get(self.measure, 1.0)
        least = whole - scale * self.saved(self.narrowest)
        if least > limit * (1 + 1e-9):
            raise UnreachableError(
                f"plan: {self.measure} cannot come down to {limit:.6g}; with as much removed as the table has, {least:.6g} "
                f"of {whole:.6g} are left ({least / whole:.2%}). Ask for that or more, or make a table with narrower widths",
                least / whole,
            )
        return (whole - limit) / scale

    def kept(self, widths: Widths) -> dict[str, int]:
        """Return the units that each site keeps."""
        return {name: site.kept[place] for (name, site), place in zip(self.costs.sites.items(), widths, strict=True)}

    @cached_property
    def narrowest(self) -> Widths:
        """The last width of every site."""
        return np.asarray(np.isfinite(self.loss).sum(1) - 1, dtype=np.int64)

    @cached_property
    def rows(self) -> Widths:
        """The sites, by number."""
        return np.arange(len(self.gone))

    def loss_of(self, widths: Widths) -> float:
        """Return the sum of the sites' losses."""
        return float(self.loss[self.rows, widths].sum())

    def saved(self, widths: Widths) -> float:
        """Return the saving, before the table's scale."""
        gone = self.gone[self.rows, widths]
        return float(self.saving[self.rows, widths].sum() - gone @ self.shared @ gone / 2)

    def changes(self, widths: Widths) -> Floats:
        """Return by how much the saving grows when one site alone takes each of its widths, ``(sites, widths)``."""
        gone = self.gone[self.rows, widths]
        alone = self.saving - self.saving[self.rows, widths][:, None]
        return alone - (self.gone - gone[:, None]) * (self.shared @ gone)[:, None]

    def solved(self, needed: float) -> Widths:
        """The best widths that exchanges make of those found by knapsacks."""
        whole, narrow = np.zeros(len(self.gone)), self.gone[self.rows, self.narrowest]
        knapsacks = (widths for around in (whole, narrow) for widths in self._knapsacks(around, needed))
        starts = {tuple(widths.tolist()): widths for widths in (*knapsacks, self.narrowest)}
        return min((self._improved(start, needed) for start in starts.values()), key=self.loss_of)

    def _knapsacks(self, others: Floats, needed: float) -> Iterator[Widths]:
        """Widths that save enough, by savings counted first around a share gone of each site, then around the last ones."""
        target = needed
        for _ in range(ROUNDS):
            widths = self._knapsack(others, target)
            saved, gone = self.saved(widths), self.gone[self.rows, widths]
            if enough(saved, needed):
                yield widths
            elif np.abs(gone - others).max(initial=0.0) < SETTLED:
                target += needed - saved  # savings are rounded down, or a layer lies between more than two sites
            others = (others + gone) / 2

    def _knapsack(self, others: Floats, wanted: float) -> Widths:
        """The least loss for a saving, in which pairs are counted half with each site, the others being at `others`."""
        halves = self.shared @ others / 2
        choices = {}
        for site in self.rows.tolist():
            finite = slice(0, int(self.narrowest[site]) + 1)
            saving = np.maximum(self.saving[site, finite] - self.gone[site, finite] * halves[site], 0.0)
            choices[str(site)] = Choices(saving.tolist(), self.loss[site, finite].tolist())
        table = Portions(choices)
        return np.array(list(table.at(max(min(wanted, table.most), 0.0)).values()), dtype=np.int64)

    def _improved(self, widths: Widths, needed: float) -> Widths:
        """Exchanges of one site's width, or of two sites', each the best there is, until none makes the loss less."""
        widths, loss = widths.copy(), self.loss_of(widths)
        for _ in range(EXCHANGES):
            better = min(
                (self._exchange(widths, site, to, needed) for site, to in self._moves(widths)),
                key=lambda exchange: exchange[0],
            )
            if better[0] >= loss - 1e-12 * max(abs(loss), 1e-12):
                break
            loss, widths = better
        return widths

    def _moves(self, widths: Widths) -> list[tuple[int, int]]:
        return [(site, to) for site in self.rows.tolist() for to in range(int(self.narrowest[site]) + 1)]

    def _exchange(self, widths: Widths, site: int, to: int, needed: float) -> tuple[float, Widths]:
        """The best widths, with their loss, in which one site has a certain width and at most one other a new one."""
        moved = widths.copy()
        moved[site] = to
        saved = self.saved(moved)
        loss = self.loss - self.loss[self.rows, moved][:, None]
        loss = np.where(enough(saved + self.changes(moved), needed), loss, np.inf)
        loss[site] = np.inf
        if enough(saved, needed):
            loss[site, to] = 0.0
        other, place = np.unravel_index(int(np.argmin(loss)), loss.shape)
        if not np.isfinite(loss[other, place]):
            return np.inf, widths
        moved[other] = place
        return self.loss_of(moved), moved


def enough(saved: Floats | float, needed: float) -> Any:
    """Return whether as much is saved as needed, but for rounding."""
    return saved >= needed - 1e-9 * abs(needed)
