"""Measure a cost table: counts from the structure, times of cut models in turns with the unpruned one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from torch import nn

from secateur.allocate.clock import Clock, Series, Shared, first_units
from secateur.allocate.counting import COUNTED, Counter, counter_by_cutting, quick_counter, size
from secateur.allocate.tables import CostTable, Losses, SiteCosts
from secateur.calls import usual
from secateur.checks import check_number, check_whole
from secateur.deadline import check_time
from secateur.labelled import Data
from secateur.rate.masks import rate
from secateur.runtimes import Runtime
from secateur.selection import select
from secateur.selection.nested import multiple_of, nearest_multiple
from secateur.structure import Structure
from secateur.structure.sites import check_same_model
from secateur.types import InputError, Keep, Loss, RoundTo, Scores, Sites, unknown_name

__all__ = ["cost_table", "measured_losses", "widths_of"]

ALL_PAIRS = 64
"""Up to so many sites every pair is looked at for what it shares; of more sites those that share a parameter."""


@usual
def measured_losses(
    model: nn.Module,
    sites: Sites,
    scores: Scores,
    data: Data,
    loss: str | Loss = "cross_entropy",
    *,
    widths: int | Mapping[str, Sequence[int]] = 8,
    least: float = 0.1,
    minimum: int = 1,
    round_to: RoundTo = 1,
) -> dict[str, list[float]]:
    """Return for each site the measured rise of the loss when 0, 1, 2, … of its lowest scores go, all others whole.

    The model is rated at several widths, all of a site at once (`secateur.measure.rate`); between them it is a line.

    Args:
        model, sites: the model, and its sites; it is left as it is.
        scores: which units go first.
        data: labelled samples, as for `secateur.measure.rate`.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean over a batch.
        widths, least, minimum, round_to: as for `cost_table`.

    Raises:
        InputError: unfit data, or an argument out of range.

    >>> import torch
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> model[0].weight.data, model[1].weight.data = torch.ones(2, 1), torch.tensor([[1.0, 2.0]])
    >>> x, y = torch.ones(4, 1), torch.full((4, 1), 3.0)
    >>> measured_losses(model, channels(model, x), {"0": torch.tensor([1.0, 2.0])}, (x, y), "mse")
    {'0': [0.0, 1.0]}
    """
    check_same_model(model, sites)
    losses = {}
    for name, site_widths in widths_of(sites, widths, least, minimum, round_to).items():
        units, mine = sites[name].size, {name: scores[name]}
        keeps = [select(mine, {name: 1 - width / units}, scope="layer", minimum=0) for width in site_widths]
        rises = rate(model, sites, keeps, data, loss).losses
        gone = [units - width for width in site_widths]
        losses[name] = np.interp(np.arange(gone[-1] + 1), gone, (rises - rises[0]).numpy()).tolist()
    return losses


@usual
def cost_table(
    model: nn.Module,
    sites: Sites,
    losses: Losses | None = None,
    *,
    measures: Sequence[str] = COUNTED,
    widths: int | Mapping[str, Sequence[int]] = 8,
    least: float = 0.1,
    minimum: int = 1,
    round_to: RoundTo = 1,
    runtime: Runtime = "eager",
    progress: bool = False,
) -> CostTable:
    """Return what each site costs at several widths, all others whole.

    Counts are found from the structure. With ``"latency"`` among the measures each site is cut to each width, and its
    widths are timed in turns with the unpruned model. What two sites share is counted in multiply-accumulates, and goes
    into the latency at as many seconds for each as the two sites' own removals saved.

    Args:
        model: the model that `sites` were found in; it is left as it is.
        sites: from `channels`.
        losses: for each site the rise of the loss when 0, 1, 2, … units go: of `JointWorth.losses`, of
            `measured_losses`, of a solver. None leaves them 0; see `CostTable.with_losses`.
        measures: what is measured: ``"macs"``, ``"parameters"``, ``"bytes"``, ``"latency"``.
        widths: how many widths of each site, evenly from all of its units down; or by site the numbers of units kept.
        least: the narrowest width, as a share of the site's units.
        minimum, round_to: as for `select`: at least so many units stay, and a multiple of so many.
        runtime: where the latency is measured, as for `secateur.measure.latency`.
        progress: draw a bar on standard error.

    Raises:
        InputError: an argument is out of range, or the sites are those of single weights.

    >>> import torch
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))       # 10 multiply-accumulates a unit
    >>> table = cost_table(model, channels(model, torch.zeros(1, 8)), measures=["macs"], widths=3, least=0.0)
    >>> table.sites["0"].kept, table.sites["0"].costs["macs"]
    ((16, 8, 1), (160.0, 80.0, 10.0))
    """
    check_same_model(model, sites)
    if not isinstance(sites.structure, Structure):
        raise InputError("cost_table: zeros make a model no smaller or faster; find the sites with channels(...)")
    for measure in measures:
        if measure not in (*COUNTED, "latency"):
            raise unknown_name("measure", measure, (*COUNTED, "latency"))
    widths_by_site = widths_of(sites, widths, least, minimum, round_to)
    series: dict[str, Series] = {}
    whole: dict[str, float] = {}
    shared: dict[str, Shared] = {}
    counters = {measure: _counter(model, sites, measure) for measure in (*measures, "macs") if measure in COUNTED}
    for measure, count in counters.items():
        whole[measure], series[measure] = float(size(measure, model, sites)), _counted(sites, widths_by_site, count)
        shared[measure] = _shared(sites, widths_by_site, count, whole[measure], series[measure])
    if "latency" in measures:
        clock = Clock(model, sites, runtime)
        whole["latency"], series["latency"] = clock.whole, clock.alone(widths_by_site, progress)
        shared["latency"] = clock.shared(widths_by_site, series, whole["macs"], shared["macs"])
    entries = {
        name: SiteCosts(
            site.size, widths_by_site[name], {m: series[m][name] for m in measures}, (0.0,) * len(widths_by_site[name])
        )
        for name, site in sites.items()
    }
    about = {"latency": f"a forward pass in {runtime}"} if "latency" in measures else {}
    table = CostTable({m: whole[m] for m in measures}, entries, {m: shared[m] for m in measures}, about=about)
    return table if losses is None else table.with_losses(losses)


def widths_of(
    sites: Sites, widths: int | Mapping[str, Sequence[int]], least: float, minimum: int, round_to: RoundTo
) -> dict[str, tuple[int, ...]]:
    """Return numbers of units to keep of each site, falling, all of them first; see `cost_table`.

    Raises:
        InputError: numbers out of range.
    """
    if isinstance(widths, Mapping):
        return {name: _asked(name, site.size, widths.get(name, ())) for name, site in sites.items()}
    check_whole("cost_table", 1, "or give numbers by site", widths=widths)
    check_number("cost_table", "[0, 1]", "a share of each site's units", least=least)
    return {
        name: _evenly(site.size, widths, least, minimum, multiple_of(round_to, name)) for name, site in sites.items()
    }


def _asked(name: str, units: int, widths: Sequence[int]) -> tuple[int, ...]:
    asked = sorted({units, *widths}, reverse=True)
    if asked[0] > units or asked[-1] < 1:
        raise InputError(f"cost_table: widths of {name!r} must lie in 1 … {units}; got {list(widths)}")
    return tuple(asked)


def _evenly(units: int, count: int, least: float, minimum: int, multiple: int) -> tuple[int, ...]:
    narrowest = min(max(minimum, round(least * units), 1), units)
    evenly = np.linspace(units, narrowest, count) if count > 1 else np.array([units])
    rounded = {nearest_multiple(round(width), units, multiple) for width in evenly.tolist()}
    return tuple(sorted({units, *(width for width in rounded if width >= minimum)}, reverse=True))


def _counter(model: nn.Module, sites: Sites, measure: str) -> Counter:
    return quick_counter(model, sites, measure) or counter_by_cutting(model, sites, measure)


def _counted(sites: Sites, widths_by_site: Mapping[str, tuple[int, ...]], count: Counter) -> Series:
    return {
        name: tuple(_count(count, first_units(sites, name, width)) for width in widths)
        for name, widths in widths_by_site.items()
    }


def _count(count: Counter, keep: Keep) -> float:
    check_time()  # it may cut the model
    return float(count(keep))


def _shared(
    sites: Sites,
    widths_by_site: Mapping[str, tuple[int, ...]],
    count: Counter,
    whole: float,
    series: Mapping[str, Sequence[float]],
) -> Shared:
    """What two sites both save, counted with both at their narrowest, and taken to grow with either's removed share."""
    shared: Shared = {}
    for name, other in _neighbours(sites):
        gone = (1 - widths_by_site[name][-1] / sites[name].size) * (1 - widths_by_site[other][-1] / sites[other].size)
        if gone:
            both = count(
                {
                    **first_units(sites, name, widths_by_site[name][-1]),
                    **first_units(sites, other, widths_by_site[other][-1]),
                }
            )
            twice = (both - series[name][-1] - series[other][-1] + whole) / gone
            if twice:
                shared.setdefault(name, {})[other] = twice
    return shared


def _neighbours(sites: Sites) -> list[tuple[str, str]]:
    """Pairs of sites between which a layer may lie."""
    parameters = {name: {member.parameter for member in site.members} for name, site in sites.items()}
    pairs = combinations(sites, 2)
    return [(a, b) for a, b in pairs if len(sites) <= ALL_PAIRS or parameters[a] & parameters[b]]
