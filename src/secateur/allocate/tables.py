"""What every site costs at every width, and what the loss rises by: measured once, kept in a file, used for every goal."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Any, Self

import numpy as np

from secateur.allocate.goals import allowed
from secateur.checks import check_name
from secateur.files import MALFORMED, from_json, read_text, write_text
from secateur.hints import Checked, from_plain
from secateur.types import FileError, InputError

__all__ = ["CostTable", "Losses", "SiteCosts"]

FORMAT = "secateur cost table 1"

MOST_UNITS = 1 << 53
"""More are not told apart by a float."""

Losses = Mapping[str, Sequence[float]]
"""For each site the rise of the loss when 0, 1, 2, … of its units go, as far as it is known."""


@dataclass(frozen=True)
class SiteCosts:
    """One site at several widths, all other sites whole.

    Attributes:
        units: how many it has.
        kept: the widths: numbers of units kept, falling from the widest that may be.
        costs: for each measure the whole model's cost at each width.
        losses: the rise of the loss at each width.
    """

    units: int
    kept: tuple[int, ...]
    costs: Mapping[str, tuple[float, ...]]
    losses: tuple[float, ...]

    def removed_share(self, width: float) -> float:
        """Return the part of the units that is gone."""
        return 1 - width / self.units

    def at(self, values: Sequence[float], width: int) -> float:
        """Return one of its series at any width; between those that it has it is a line.

        >>> site = SiteCosts(8, (8, 4), {}, (0.0, 1.0))
        >>> site.at(site.losses, 6)
        0.5
        """
        return float(np.interp(width, self.kept[::-1], values[::-1]))


@dataclass(frozen=True)
class CostTable(Checked):
    """The costs of a model by site and width, from which those of any widths are foretold.

    Savings of single sites do not add up: a layer between two sites is saved twice. With r the share of a site's units
    that is gone, the cost of any widths is foretold as whole − scale · (Σ savings − Σ over pairs of ``shared`` · r · r'),
    which is exact for parameters and multiply-accumulates of layers between two sites.

    Attributes:
        whole: the unpruned model's cost by measure: ``"macs"``, ``"parameters"``, ``"bytes"``, ``"latency"`` (seconds).
        sites: the costs of each site.
        shared: by measure, site and later site, what both remove of what lies between them, if all of both went.
        scale: by measure, what a foretold saving is to be multiplied by; learnt by `corrected`.
        about: where the numbers are from, in words.

    >>> site = SiteCosts(4, (4, 2), {"macs": (12.0, 6.0)}, (0.0, 0.5))
    >>> table = CostTable({"macs": 12.0}, {"a": site, "b": site}, {"macs": {"a": {"b": 8.0}}})
    >>> table.foretell({"a": 2, "b": 2})                 # 12 − (6 + 6 − 8 · ½ · ½)
    {'macs': 2.0}
    """

    whole: Mapping[str, float]
    sites: Mapping[str, SiteCosts]
    shared: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)

    def foretell(self, widths: Mapping[str, int]) -> dict[str, float]:
        """Return the cost by measure for a number of units kept by site; sites that are not named stay whole.

        Raises:
            UnknownNameError: there is no such site.
        """
        self._check_sites(widths)
        return {measure: self._cost(measure, widths) for measure in self.whole}

    @property
    def narrowest(self) -> dict[str, int]:
        """The least number of units of each site."""
        return {name: site.kept[-1] for name, site in self.sites.items()}

    def rise(self, widths: Mapping[str, int]) -> float:
        """Return the sum of the sites' losses for a number of units kept by site."""
        self._check_sites(widths)
        return sum(self.sites[name].at(self.sites[name].losses, count) for name, count in widths.items())

    def corrected(self, measure: str, widths: Mapping[str, int], measured: float) -> Self:
        """Return the table with its scale such that it foretells what was measured for these widths.

        Args:
            measure: of what.
            widths: units kept by site.
            measured: the cost, in the unit of `whole`.

        Raises:
            InputError: nothing was foretold to be saved, or nothing was, so that there is no scale.

        >>> site = SiteCosts(4, (4, 2), {"macs": (10.0, 6.0)}, (0.0, 0.5))
        >>> CostTable({"macs": 10.0}, {"a": site}).corrected("macs", {"a": 2}, 7.0).scale
        {'macs': 0.75}
        """
        foretold = self.whole[measure] - replace(self, scale={}).foretell(widths)[measure]
        if not foretold > 0 or not measured < self.whole[measure]:
            raise InputError(
                f"cost table: {measure} of {measured:g} tells no scale, as {self.whole[measure]:g} is the whole model's and "
                f"{foretold:g} was foretold to be saved; measure widths that save some"
            )
        return replace(self, scale={**self.scale, measure: float((self.whole[measure] - measured) / foretold)})

    def with_losses(self, losses: Losses) -> Self:
        """Return the table with other losses: by a criterion, by measuring, or by the errors of a solver.

        Sites keep those of their widths to which the losses go.

        Raises:
            InputError: a site has none, or one is not finite.

        >>> table = CostTable({}, {"a": SiteCosts(4, (4, 2, 1), {}, (0.0, 0.0, 0.0))})
        >>> table.with_losses({"a": [0.0, 0.1, 0.3]}).sites["a"]
        SiteCosts(units=4, kept=(4, 2), costs={}, losses=(0.0, 0.3))
        """
        return replace(self, sites={name: _with_losses(name, site, losses) for name, site in self.sites.items()})

    def within(self, widest: Mapping[str, int]) -> Self:
        """Return the table for a model that is cut already: no site may be wider than `widest` says; it may stay so.

        What `whole` says, and goals with it, stays that of the unpruned model.

        >>> table = CostTable({}, {"a": SiteCosts(4, (4, 2, 1), {"macs": (8.0, 4.0, 2.0)}, (0.0, 0.1, 0.2))})
        >>> table.within({"a": 3}).sites["a"].kept, table.within({"a": 3}).sites["a"].costs
        ((3, 2, 1), {'macs': (6.0, 4.0, 2.0)})
        """
        self._check_sites(widest)
        return replace(
            self, sites={name: _within(site, widest.get(name, site.units)) for name, site in self.sites.items()}
        )

    def at_least(self, share: float) -> Self:
        """Return the table without the widths that are less than a share of a site's units; the widest of each stays.

        >>> table = CostTable({}, {"a": SiteCosts(4, (4, 2, 1), {"macs": (8.0, 4.0, 2.0)}, (0.0, 0.1, 0.2))})
        >>> table.at_least(0.5).sites["a"].kept, table.at_least(0.5).sites["a"].costs
        ((4, 2), {'macs': (8.0, 4.0)})
        """
        return replace(self, sites={name: _at_least(site, share * site.units) for name, site in self.sites.items()})

    def limit(self, goal: Mapping[str, Any]) -> tuple[str, float]:
        """Return the measure of a goal such as ``{"macs": 0.5}``, and the cost that is allowed.

        Raises:
            InputError: there is not one measure, or its value is out of range.
            UnknownNameError: the table has no such measure.
        """
        if len(goal) != 1:
            raise InputError(f"goal: give one of {', '.join(self.whole)}; got {' and '.join(goal) or 'none'}")
        ((measure, value),) = goal.items()
        check_name("measure of the cost table", measure, self.whole)
        return measure, allowed(measure, value, self.whole[measure])

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the table as JSON, wholly or not at all."""
        write_text(Path(file), json.dumps({"format": FORMAT, **asdict(self)}, indent=1))

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Self:
        """Read a table that `save` wrote.

        Raises:
            FileError: there is none, or it is not one of ours.
        """
        path = Path(file)
        try:
            parts = from_json(read_text(path))
            if parts.pop("format") != FORMAT:
                raise ValueError("its format is another")
            table = from_plain(cls, parts)
            for name, site in table.sites.items():
                _check_series(name, site, table.whole)
            return table
        except (OSError, *MALFORMED) as error:
            raise FileError(f"cost table: {path} cannot be read as one that CostTable.save wrote: {error}") from error

    def _cost(self, measure: str, widths: Mapping[str, int]) -> float:
        gone = {name: self.sites[name].removed_share(count) for name, count in widths.items()}
        saved = sum(
            self.whole[measure] - site.at(site.costs[measure], widths[name])
            for name, site in self.sites.items()
            if name in widths
        )
        for name, others in self.shared.get(measure, {}).items():
            saved -= sum(gone.get(name, 0.0) * gone.get(other, 0.0) * both for other, both in others.items())
        return self.whole[measure] - self.scale.get(measure, 1.0) * saved

    def _check_sites(self, widths: Mapping[str, int]) -> None:
        for name in widths:
            check_name("site of the cost table", name, self.sites)


def _check_series(name: str, site: SiteCosts, measures: Mapping[str, float]) -> None:
    """Refuse a site of a file that no site can be.

    Raises:
        ValueError: its widths do not fall, or a series is of another length or missing.
    """
    widths = (site.units + 1, *site.kept, -1)
    if len(widths) == 2 or any(narrow >= wide for wide, narrow in pairwise(widths)) or site.units > MOST_UNITS:
        raise ValueError(f"the widths of site {name!r} do not fall from {site.units}")
    if site.units < 1 or {len(series) for series in (site.losses, *site.costs.values())} != {len(site.kept)}:
        raise ValueError(f"a series of site {name!r} has another length than its widths")
    if missing := sorted({*measures} - {*site.costs}):
        raise ValueError(f"site {name!r} has no costs in {missing[0]!r}")


def _with_losses(name: str, site: SiteCosts, losses: Losses) -> SiteCosts:
    series = [float(value) for value in losses.get(name, ())]
    widths = [place for place, width in enumerate(site.kept) if site.units - width < len(series)]
    if not widths:
        raise InputError(
            f"cost table: there are no losses of site {name!r}; give the rise of the loss for 0, 1, 2, … removed units"
        )
    rises = tuple(series[site.units - site.kept[place]] for place in widths)
    if not all(map(isfinite, rises)):
        raise InputError(f"cost table: a loss of site {name!r} is NaN or infinite")
    costs = {measure: tuple(values[place] for place in widths) for measure, values in site.costs.items()}
    return SiteCosts(site.units, tuple(site.kept[place] for place in widths), costs, rises)


def _at_least(site: SiteCosts, fewest: float) -> SiteCosts:
    count = max(sum(width >= fewest for width in site.kept), 1)
    costs = {measure: values[:count] for measure, values in site.costs.items()}
    return replace(site, kept=site.kept[:count], costs=costs, losses=site.losses[:count])


def _within(site: SiteCosts, widest: int) -> SiteCosts:
    widths = (widest, *(width for width in site.kept if width < widest))
    costs = {measure: tuple(site.at(values, width) for width in widths) for measure, values in site.costs.items()}
    return SiteCosts(site.units, widths, costs, tuple(site.at(site.losses, width) for width in widths))
