"""What a smaller model costs, as a fraction of the original, and what each site adds to that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from time import monotonic

from torch import nn

from secateur.allocate import CostTable, Rounding, cost_table, rounding
from secateur.compression.options import CompressOptions, Goal
from secateur.measure import compare_latency, file_bytes, latency, macs, parameters
from secateur.structure import channels
from secateur.types import ExampleInputs, ExportError, Sites

__all__ = ["Costs", "usable", "within_table"]

WIDTHS = {"latency": 6}
"""At how many widths of each site a cost is measured; those that are counted are counted at more."""

COUNTED_WIDTHS = 16

QUICK_ROUNDS: Mapping[str, int] = {"warmup": 2, "repeats": 15}
SURE_ROUNDS: Mapping[str, int] = {"warmup": 5, "repeats": 30}
"""How often a model is timed beside the original."""


@dataclass(eq=False)
class Costs:
    """Measures what the goal is about.

    Attributes:
        goal: what is to become less.
        original: what fractions are of.
        inputs: what both are called with.
        options: where latency is measured, and which widths there are.
        file: where the table is kept; None keeps it in memory.
        progress: show a bar.
        seconds: how long the table took to measure.
    """

    goal: Goal
    original: nn.Module
    inputs: ExampleInputs
    options: CompressOptions
    file: Path | None = None
    progress: bool = False
    seconds: float = 0.0
    _table: CostTable | None = None

    def __call__(self, model: nn.Module, quick: bool = False) -> float:
        """Return the cost of a model as a fraction of the original's; latency is measured in turns with it.

        Args:
            model: the smaller one.
            quick: it is one of many, of which the best is measured again.
        """
        if self.goal.what == "latency":
            both = {"original": self.original, "smaller": model}
            where = self.options.where
            rounds = QUICK_ROUNDS if quick else SURE_ROUNDS
            compared = compare_latency(both, self.inputs, runtime=where, quick=quick, **rounds)
            return 1 / compared.speedups["smaller"].median
        count = COUNTS[self.goal.what]
        return count(model, self.inputs) / count(self.original, self.inputs)

    @cached_property
    def sites(self) -> Sites:
        """The sites of the original."""
        return channels(self.original, self.inputs, self.options.ignore)

    @cached_property
    def rounding(self) -> Rounding:
        """Of how many units each site of the original keeps a multiple."""
        return rounding(self.sites, self.options.round_to, self.options.where)

    @property
    def table(self) -> CostTable:
        """What each site of the original costs at several widths: measured once, and kept."""
        if self._table is None and self.file is not None and self.file.exists():
            self._table = CostTable.load(self.file)
        if self._table is None:
            options, measure, began = self.options, self.goal.what, monotonic()
            self._table = cost_table(
                self.original,
                self.sites,
                measures=[measure],
                widths=WIDTHS.get(measure, COUNTED_WIDTHS),
                minimum=options.minimum,
                round_to=self.rounding.multiples,
                runtime=options.where,
                progress=self.progress,
            )
            self.seconds = monotonic() - began
            if self.file is not None:
                self._table.save(self.file)
        return self._table


def usable(options: CompressOptions, model: nn.Module, inputs: ExampleInputs) -> tuple[CompressOptions, float]:
    """Return the options with a runtime that takes the model, eager PyTorch where that by default does not, and the seconds
    of one pass there.

    Raises:
        MissingLibraryError, ExportError: the runtime that was asked for does not take it; said now, not after a training.
    """
    try:
        return options, latency(model, inputs, runtime=options.where, warmup=0, repeats=1).median
    except ExportError:
        if options.runtime is not None:
            raise
        return usable(replace(options, runtime="eager"), model, inputs)


def within_table(table: CostTable, sites: Sites) -> CostTable:
    """Return the original's table for a model that was cut already.

    Args:
        table: of the original.
        sites: of the model as it is now, under the original's names; a site of one unit is none any more.
    """
    table = replace(table, sites={name: site for name, site in table.sites.items() if name in sites})
    return table.within({name: sites[name].size for name in table.sites})


COUNTS: Mapping[str, Callable[[nn.Module, ExampleInputs], int]] = {
    "macs": macs,
    "parameters": lambda model, inputs: parameters(model).total,
    "bytes": lambda model, inputs: file_bytes(model),
}
