"""Scores and a budget → keep masks: bisection over how much is removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

from torch import Tensor, nn

from secateur.allocate.balance import LEAST_SHARES, foretold_losses
from secateur.allocate.costing import cost_table
from secateur.allocate.counting import Counter, counter_by_cutting, examples, quick_counter, size
from secateur.allocate.goals import UnreachableError, allowed
from secateur.allocate.latency import closest_in_time
from secateur.allocate.multiples import Rounding, filled, rounding
from secateur.allocate.scan import Sensitivity
from secateur.allocate.steps import Steps, by_costs, by_scores, evened
from secateur.allocate.tables import CostTable
from secateur.calls import usual
from secateur.checks import check_fraction, check_name
from secateur.criteria.base import check_scores
from secateur.runtimes import Runtime
from secateur.structure.configs import ConfigWidth
from secateur.structure.sites import check_same_model
from secateur.types import InputError, Keep, RoundTo, Scores, Sites, unknown_name

__all__ = ["BUDGETS", "budget"]

BudgetScope = Literal["global", "layer", "balanced"]

BUDGET_SCOPES = ("global", "layer", "balanced")
"""What decides how much goes where."""

BUDGETS = ("macs", "parameters", "bytes", "latency")
"""What a budget can be of."""


@usual
def budget(
    model: nn.Module,
    sites: Sites,
    scores: Scores,
    *,
    macs: float | None = None,
    parameters: float | None = None,
    bytes: float | None = None,  # noqa: A002  (the word that the reports use)
    latency: float | str | None = None,
    scope: BudgetScope = "global",
    costs: CostTable | None = None,
    sensitivity: Sensitivity | None = None,
    metric: str = "loss",
    minimum: int = 1,
    round_to: RoundTo | Rounding | Literal["auto"] = 1,
    runtime: Runtime | None = None,
    least: float | None = None,
    widths: Sequence[ConfigWidth] = (),
) -> dict[str, Tensor]:
    """Return the keep masks that remove the fewest units for which the cut model is within a budget.

    The number of units to remove is found by bisection. Multiply-accumulates, parameters and bytes of a candidate are
    counted from the structure without cutting, and the last one is cut and counted for certain; one unit more would be
    over the budget. Latency is measured: candidates are cut and timed in turns with the unpruned model, until the
    median of the ratios is within 5 % of what was asked for, or below it where no cut comes so near.

    Args:
        model: the model that `sites` were found in; it is left as it is.
        sites: from `channels`.
        scores: what goes first, as for `select`.
        macs, parameters, bytes: a fraction of the unpruned model's (a float up to 1), or a whole number; give one.
        latency: a fraction of the unpruned model's time of a forward pass on the example inputs in `runtime`, or a time
            such as ``"2.5 ms"`` or ``"0.1 s"``.
        scope: ``"global"`` removes the lowest scores of all sites, ``"layer"`` the same fraction of each, and
            ``"balanced"`` from each site what leaves the most of the scores on the way through the model
            (`foretold_losses`) for what it saves.
        costs: a table of these sites with losses (`cost_table`); then each site loses what costs least for what it saves
            (`plan`), instead of what `scope` says, and the scores only tell which units go first.
        sensitivity: in its place a scan of these sites, for the losses; what widths save is counted.
        metric: which figure of the scan is the loss; ``"-accuracy"`` takes one that is high = good.
        minimum, round_to: as for `select`; ``"auto"`` takes the multiples that the runtime likes (`rounding`).
        runtime: where a latency is measured; see `secateur.measure.latency`. None is eager PyTorch.
        least: with scope ``"balanced"`` the share of its units that every site keeps at least; None keeps three tenths,
            or less where the budget asks for it.
        widths: sizes of the model's config (`secateur.structure.configs.config_widths`): sites whose widths follow from
            one of them keep the same share.

    Raises:
        InputError: none or several budgets, one out of range, or one that cannot be reached; the message says what can.

    >>> import torch
    >>> from secateur.criteria import Magnitude
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))       # 10 multiply-accumulates a unit
    >>> sites = channels(model, torch.zeros(1, 8))
    >>> keep = budget(model, sites, Magnitude()(model, sites), macs=0.5)
    >>> int(keep["0"].sum())
    8
    """
    quantity, limit = _the_one(dict(zip(BUDGETS, (macs, parameters, bytes, latency), strict=True)))
    check_same_model(model, sites)
    check_scores(scores, "budget: what scores")
    if sites.structure is None:
        raise InputError("budget: zeros make a model no smaller or faster; find the sites with channels(...)")
    check_name("scope of a budget", scope, BUDGET_SCOPES)
    if least is not None:
        check_fraction("budget", least=least)
    if costs is not None and sensitivity is not None:
        raise InputError("budget: give costs or sensitivity, as each says what the sites bear")
    request = _Request(
        model, sites, scores, quantity, limit, scope, costs, sensitivity, metric, minimum, runtime, widths
    )
    rounds = rounding(sites, round_to, runtime)
    if request.is_balanced:
        rounds = replace(rounds, coarse={})  # sites that are left whole are the plan's to choose
    rungs = rounds.ladder(limit if isinstance(limit, float) else 1.0)
    shares = LEAST_SHARES if least is None else (least,)
    *tries, (last, finest) = product(shares if request.is_balanced else shares[-1:], rungs)
    for share, rung in tries:
        with suppress(UnreachableError):
            return request.masks(rung, share)
    return request.masks(finest, last)


@dataclass(frozen=True, eq=False)
class _Request:
    """What is asked for, but for how it is rounded."""

    model: nn.Module
    sites: Sites
    scores: Scores
    quantity: str
    limit: Any
    scope: BudgetScope
    costs: CostTable | None
    sensitivity: Sensitivity | None
    metric: str
    minimum: int
    runtime: Runtime | None
    widths: Sequence[ConfigWidth]

    @property
    def is_balanced(self) -> bool:
        """Whether nothing but the scores says what the sites bear."""
        return self.scope == "balanced" and self.costs is None and self.sensitivity is None

    def masks(self, rounds: Rounding, least: float) -> dict[str, Tensor]:
        """The masks of the first step that is within the budget, filled up."""
        model, sites, quantity = self.model, self.sites, self.quantity
        steps = evened(self.steps(rounds.multiples, least), self.scores, self.widths, rounds.multiples)
        if quantity == "latency":
            share = _share_of_macs(model, sites) if self.costs is None else _share_foretold(self.costs)
            return closest_in_time(model, sites, steps, self.limit, examples(sites), self.runtime or "eager", share)
        quick = quick_counter(model, sites, quantity)
        goal = int(allowed(quantity, self.limit, size(quantity, model, sites)))
        slow = counter_by_cutting(model, sites, quantity)

        def within(count: Counter) -> dict[str, Tensor]:
            keep = _fewest(steps, count, goal, quantity)
            for finer in [] if self.widths else rounds.to_fill_up:
                if count(keep) < FULL * goal:
                    keep = filled(keep, self.scores, finer, self.scope, lambda more: count(more) <= goal)
            return keep

        keep = within(quick or slow)
        # The count from the structure may miss what a cut changes beside; then cutting decides.
        return keep if quick is None or slow(keep) <= goal else within(slow)

    def steps(self, multiples: RoundTo, least: float) -> Steps:
        """The candidates, from nothing removed to all that may go."""
        options: dict[str, Any] = {"minimum": self.minimum, "round_to": multiples, "sites": self.sites}
        measure = "macs" if self.quantity == "latency" else self.quantity
        if self.sensitivity is not None:
            return by_costs(self.scores, self.of_scan(self.sensitivity, measure, multiples), measure, options)
        if self.costs is not None:
            return by_costs(self.scores, self.costs, self.quantity, options)
        if self.scope == "balanced":
            return by_costs(self.scores, self.of_scores(measure, multiples, least), measure, options)
        return by_scores(self.scores, self.scope, options)

    def of_scores(self, measure: str, multiples: RoundTo, least: float) -> CostTable:
        """What is counted of the sites, and the losses that their scores let expect."""
        return cost_table(
            self.model,
            self.sites,
            foretold_losses(self.scores, self.sites),
            measures=[measure],
            widths=WIDTHS,
            least=least,
            minimum=self.minimum,
            round_to=multiples,
        )

    def of_scan(self, scan: Sensitivity, measure: str, multiples: RoundTo) -> CostTable:
        """A scan's losses, and what is counted for its sites."""
        for name in self.sites:
            if name not in scan.units:
                raise unknown_name("site of the sensitivity scan", name, scan.units)
        ways: dict[str, Any] = {"minimum": self.minimum, "round_to": multiples}
        counted = cost_table(self.model, self.sites, measures=[measure], widths=FINEST, least=0.0, **ways)
        return counted.with_losses(scan.losses(self.metric, self.minimum))


WIDTHS = 16
"""At how many widths of a site its saving is counted, where its losses are those that scores let expect."""

FINEST = 64
"""At how many widths of a site its saving is counted, where its losses are those of a scan."""

FULL = 0.95
"""A budget that is used to this share is not filled up any more."""


def _share_of_macs(model: nn.Module, sites: Sites) -> Callable[[Keep], float] | None:
    count = quick_counter(model, sites, "macs")
    whole = 0 if count is None else count({})
    return (lambda keep: count(keep) / whole) if count is not None and whole else None


def _share_foretold(costs: CostTable) -> Callable[[Keep], float]:
    def share(keep: Keep) -> float:
        widths = {name: int(mask.sum()) for name, mask in keep.items()}
        return costs.foretell(widths)["latency"] / costs.whole["latency"]

    return share


def _fewest(steps: Steps, count: Counter, goal: int, quantity: str) -> dict[str, Tensor]:
    """The first step that is within the goal; the count falls from step to step."""
    if steps.expected is not None:
        foretold = steps.expected(goal)
        for keep in (steps.at(step) for step in (foretold, foretold + 1) if step <= steps.last):
            if count(keep) <= goal:
                return keep
    low, high = -1, steps.last
    least = count(steps.at(high))
    if least > goal:
        whole = count(steps.at(0))
        raise UnreachableError(
            f"budget: {quantity} cannot come down to {goal:,}; with as much removed as may be, {least:,} of {whole:,} are "
            f"left ({least / whole:.2%}). Ask for that or more, lower minimum, or ignore fewer sites",
            least / whole,
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(steps.at(middle)) <= goal else (middle, high)
    return steps.at(high)


def _the_one(budgets: Mapping[str, Any]) -> tuple[str, Any]:
    named = {quantity: value for quantity, value in budgets.items() if value is not None}
    if len(named) != 1:
        raise InputError(f"budget: give one of {', '.join(BUDGETS)}; got {' and '.join(named) or 'none'}")
    return next(iter(named.items()))
