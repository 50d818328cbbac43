"""Scores and a budget → keep masks: bisection over how much is removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from secateur.allocate.latency import closest_in_time
from secateur.allocate.scan import Sensitivity
from secateur.allocate.steps import Steps, by_scores, by_sensitivity
from secateur.criteria.base import check_scores
from secateur.measure import file_bytes
from secateur.measure import macs as measured_macs
from secateur.measure import parameters as measured_parameters
from secateur.runtimes import Runtime
from secateur.selection import Scope
from secateur.state import usual
from secateur.structure import Structure
from secateur.structure.cost import Cost
from secateur.structure.cutting import draft
from secateur.structure.sites import check_same_model
from secateur.types import ExampleInputs, InputError, Keep, Scores, Sites, unknown_name

__all__ = ["BUDGETS", "budget"]

BUDGETS = ("macs", "parameters", "bytes", "latency")
"""What a budget can be of."""

Counter = Callable[[Keep], int]


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
    scope: Scope = "global",
    sensitivity: Sensitivity | None = None,
    metric: str = "loss",
    minimum: int = 1,
    round_to: int = 1,
    runtime: Runtime = "eager",
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
        scope: ``"global"`` removes the lowest scores of all sites, ``"layer"`` the same fraction of each.
        sensitivity: a scan of these sites; then each site loses what costs least by the scan for what it saves (dynamic
            programming), instead of what `scope` says, and the scores only tell which units go first.
        metric: which figure of the scan is the loss; ``"-accuracy"`` takes one that is high = good.
        minimum, round_to: as for `select`.
        runtime: where a latency is measured; see `secateur.measure.latency`.

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
    what, wanted = _the_one(dict(zip(BUDGETS, (macs, parameters, bytes, latency), strict=True)))
    check_same_model(model, sites)
    check_scores(scores, "budget: what scores")
    if sites.structure is None:
        raise InputError("budget: zeros make a model no smaller or faster; find the sites with channels(...)")
    if scope == "row":
        raise unknown_name("scope of a budget", scope, ("global", "layer"))
    options: dict[str, Any] = {"minimum": minimum, "round_to": round_to, "sites": sites}
    quick = None if what == "latency" else _quick(model, sites, what)
    if sensitivity is None:
        steps = by_scores(scores, scope, options)
    else:
        count = quick or _quick(model, sites, "macs") or _by_cutting(model, sites, "macs")
        steps = by_sensitivity(scores, sensitivity, metric, count, options)
    if what == "latency":
        return closest_in_time(model, sites, steps, wanted, examples(sites), runtime, _share_of_macs(model, sites))
    goal = _target(what, wanted, _size(what, model, sites))
    slow = _by_cutting(model, sites, what)
    keep = _fewest(steps, quick or slow, goal, what)
    # The count from the structure may miss what a cut changes beside; then cutting decides.
    return keep if quick is None or slow(keep) <= goal else _fewest(steps, slow, goal, what)


def _fewest(steps: Steps, count: Counter, goal: int, what: str) -> dict[str, Tensor]:
    """The first step that is within the goal; the count falls from step to step."""
    low, high = -1, steps.last
    least = count(steps.at(high))
    if least > goal:
        whole = count(steps.at(0))
        raise InputError(
            f"budget: {what} cannot come down to {goal:,}; with as much removed as may be, {least:,} of {whole:,} are "
            f"left ({least / whole:.2%}). Ask for that or more, lower minimum, or ignore fewer sites"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(steps.at(middle)) <= goal else (middle, high)
    return steps.at(high)


def _the_one(given: Mapping[str, Any]) -> tuple[str, Any]:
    named = {what: value for what, value in given.items() if value is not None}
    if len(named) != 1:
        raise InputError(f"budget: give one of {', '.join(BUDGETS)}; got {' and '.join(named) or 'none'}")
    return next(iter(named.items()))


def _target(what: str, value: Any, whole: int) -> int:
    """How many are allowed."""
    if isinstance(value, float) and 0 < value <= 1:
        return int(value * whole)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return value
    raise InputError(
        f"budget: {what}={value!r} must be a fraction of the unpruned model's in (0, 1], such as 0.5, or a whole number"
    )


def examples(sites: Sites) -> ExampleInputs:
    """Return the inputs that the sites were found on."""
    held = sites.structure.graph if isinstance(sites.structure, Structure) else sites.structure
    found: ExampleInputs = held.args or dict(held.kwargs)
    return found


def _size(what: str, model: nn.Module, sites: Sites) -> int:
    if what == "macs":
        return measured_macs(model, examples(sites))
    return measured_parameters(model).total if what == "parameters" else file_bytes(model)


def _by_cutting(model: nn.Module, sites: Sites, what: str) -> Counter:
    return lambda keep: _size(what, draft(model, sites, keep), sites)


def _share_of_macs(model: nn.Module, sites: Sites) -> Callable[[Keep], float] | None:
    count = _quick(model, sites, "macs")
    whole = 0 if count is None else count({})
    return (lambda keep: count(keep) / whole) if count is not None and whole else None


def _quick(model: nn.Module, sites: Sites, what: str) -> Counter | None:
    """Counting from the structure; None where that does not see all that is to be counted."""
    if not isinstance(sites.structure, Structure):
        return None
    cost, whole = Cost(sites.structure), _size(what, model, sites)
    if what == "parameters":
        return lambda keep: whole - cost.parameters_removed(keep)
    if what == "bytes":
        # The file's header gets no longer when sizes get smaller.
        saved = model.state_dict()
        return lambda keep: whole - cost.bytes_removed(keep, saved)
    return cost.macs if cost.macs({}) == whole else None
