"""The latency of a cost table: each site at each width, in turns with the unpruned model, and what two sites share of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from secateur.allocate.counting import examples
from secateur.measure import compare_latency, latency
from secateur.progress import bar
from secateur.runtimes import Runtime
from secateur.structure.cutting import draft
from secateur.types import Keep, Sites

__all__ = ["Clock", "Series", "Shared", "first_units"]

SECONDS = 1.0
"""About how long each width is timed."""

ROUNDS = (11, 101)
"""How often each width is timed, at least and at most."""

Series = dict[str, tuple[float, ...]]
"""The whole model's cost at each width of each site."""

Shared = dict[str, dict[str, float]]
"""What two sites both save, if all of both went."""

Widths = Mapping[str, tuple[int, ...]]


def first_units(sites: Sites, name: str, width: int) -> Keep:
    """Return a mask of a site; which of its units go makes no difference to the cost, as they are alike."""
    return {name: torch.arange(sites[name].size) < width}


@dataclass(frozen=True, eq=False)
class Clock:
    """Times drafts of a model in a runtime.

    Attributes:
        model, sites: the model, and where it is cut.
        runtime: where it is timed.
    """

    model: nn.Module
    sites: Sites
    runtime: Runtime

    @cached_property
    def whole(self) -> float:
        """The seconds of the unpruned model."""
        return latency(self.model, examples(self.sites), runtime=self.runtime, repeats=7).median

    def alone(self, widths_by_site: Widths, progress: bool) -> Series:
        """Return the seconds with each site at each of its widths, all widths of a site timed in turns."""
        series: Series = {}
        with bar(sum(len(widths) - 1 for widths in widths_by_site.values()), progress, "widths timed") as advance:
            for name, widths in widths_by_site.items():
                keeps = {str(width): first_units(self.sites, name, width) for width in widths[1:]}
                seconds = self._seconds(keeps)
                series[name] = (self.whole, *(seconds[str(width)] for width in widths[1:]))
                advance(len(keeps))
        return series

    def shared(self, widths_by_site: Widths, series: Mapping[str, Series], macs: float, shared_macs: Shared) -> Shared:
        """Return the seconds that two sites both save.

        They are the multiply-accumulates that both save, at the mean of the seconds for each that the two sites' own
        removals saved, times a share λ for all pairs: what sites save beside multiply-accumulates they do not share.
        Two cuts of all sites, to their middle and to their narrowest widths, are timed, and λ is such that the table
        foretells them best: with a what single sites save there, q what pairs share, and s what is saved,
        λ = Σ q (a − s) / Σ q².
        """
        rates = {
            name: _rate(self.whole - times[-1], macs - series["macs"][name][-1])
            for name, times in series["latency"].items()
        }
        pairs = {
            name: {other: count * (rates[name] + rates[other]) / 2 for other, count in others.items()}
            for name, others in shared_macs.items()
        }
        places = {
            "middle": {n: len(w) // 2 for n, w in widths_by_site.items()},
            "narrowest": {n: len(w) - 1 for n, w in widths_by_site.items()},
        }
        keeps = {label: self._keep(widths_by_site, at) for label, at in places.items()}
        seconds, above, below = self._seconds(keeps), 0.0, 0.0
        for label, at in places.items():
            added = sum(self.whole - series["latency"][name][place] for name, place in at.items())
            gone = {name: 1 - widths_by_site[name][place] / self.sites[name].size for name, place in at.items()}
            both = sum(
                gone[name] * gone[other] * time for name, others in pairs.items() for other, time in others.items()
            )
            above, below = above + both * (added - (self.whole - seconds[label])), below + both**2
        share = max(above / below, 0.0) if below else 0.0
        return {name: {other: share * time for other, time in others.items()} for name, others in pairs.items()}

    def _keep(self, widths_by_site: Widths, places: Mapping[str, int]) -> Keep:
        keep: dict[str, torch.Tensor] = {}
        for name, place in places.items():
            keep.update(first_units(self.sites, name, widths_by_site[name][place]))
        return keep

    def _seconds(self, keeps: Mapping[str, Keep]) -> dict[str, float]:
        """The seconds of drafts: the unpruned model's, times the median ratio within a round."""
        repeats = min(max(round(SECONDS / self.whole), ROUNDS[0]), ROUNDS[1])
        drafts = {label: draft(self.model, self.sites, keep) for label, keep in keeps.items()}
        compared = compare_latency(
            {"": self.model, **drafts},
            examples(self.sites),
            runtime=self.runtime,
            warmup=2,
            repeats=repeats,
            quick=True,
        )
        return {label: self.whole / compared.speedups[label].median for label in keeps}


def _rate(seconds: float, macs: float) -> float:
    return max(seconds, 0.0) / macs if macs > 0 else 0.0
