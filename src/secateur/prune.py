"""The whole line in one call: trace, score, select, cut, verify,"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from secateur.criteria import by_name
from secateur.measure import compare_latency, file_bytes, macs, parameters
from secateur.saving import save as save_folder
from secateur.select import Scope, select
from secateur.structure import channels, mask, weights
from secateur.structure.cut import Form, Plan, cut_with_plan
from secateur.types import Criterion, ExampleInputs, Keep, Sites, unknown_name

__all__ = ["PruneReport", "Result", "SiteReport", "prune"]

Unit = Literal["channels", "weights"]


@dataclass(frozen=True)
class SiteReport:
    """How many units a site had and has."""

    name: str
    units: int
    kept: int


@dataclass(frozen=True)
class PruneReport:
    """What a pruning removed, what it left, and what it took.

    Attributes:
        unit: ``"channels"`` (cut out) or ``"weights"`` (set to zero).
        criterion, scope, sparsity: the recipe.
        units_removed, units: how many of how many units went.
        parameters, nonzero, macs, bytes: before and after; MACs for the example inputs, bytes of a safetensors file.
        latency: median seconds of a forward pass before and after, interleaved, at one thread; None if not asked.
        difference: the greatest relative difference between the cut and the masked model's outputs; None for weights.
        sites: the units of every site.
        frozen: what could not be pruned, with the reason.
        versions: what it was done with.
    """

    unit: str
    criterion: str
    scope: str
    sparsity: float | Mapping[str, float]
    units_removed: int
    units: int
    parameters: tuple[int, int]
    nonzero: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    latency: tuple[float, float] | None
    difference: float | None
    sites: tuple[SiteReport, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        rows = [
            f"{self.units_removed:,} of {self.units:,} units removed ({self.units_removed / self.units:.1%}): "
            f"{self.unit} by {self.criterion}, {self.scope}",
            _change("parameters", *self.parameters),
            _change("non-zero", *self.nonzero),
            _change("MACs", *self.macs),
            _change("bytes", *self.bytes),
        ]
        if self.latency:
            before, after = (1000 * s for s in self.latency)
            rows.append(f"{'latency':<11}{before:>14.3f} → {after:>14.3f} ms  (speedup {before / after:.2f}×)")
        if self.difference is not None:
            rows.append(f"verified: cut and masked model differ by {self.difference:.1e} (relative)")
        return "\n".join(rows)


def _change(what: str, before: int, after: int) -> str:
    share = f"{1 - after / before:.1%} removed" if before else "none"
    return f"{what:<11}{before:>14,} → {after:>14,}     ({share})"


@dataclass(frozen=True, eq=False)
class Result:
    """A pruned model with all that is known of how it was made.

    Attributes:
        model: the pruned model, an ordinary module.
        report: what was removed and what was measured.
        sites, keep: the sites of the original model and the masks that were chosen.
        plan: what the cut did, as plain data.
    """

    model: nn.Module
    report: PruneReport
    sites: Sites
    keep: Keep
    plan: Plan

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the model to `folder` as safetensors and JSON; `secateur.load` reads it in another process."""
        return save_folder(folder, self.model, self.plan, self.report.to_dict())


def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    criterion: str | Criterion = "l2",
    sparsity: float | Mapping[str, float] = 0.5,
    *,
    unit: Unit = "channels",
    scope: Scope = "global",
    ignore: Iterable[str] = (),
    minimum: int = 1,
    round_to: int = 1,
    form: Form = "auto",
    latency: bool = True,
) -> Result:
    """Return a pruned copy of `model`, verified and measured; the model itself is left as it is.

    Args:
        model: a trained module.
        example_inputs: what the model is called with: a tensor, a tuple of positional or a mapping of keyword inputs.
        criterion: a criterion, or the name of one that needs no data (``"l1"``, ``"l2"``, ``"random"``, …).
        sparsity: the fraction of units to remove, in [0, 1]; with scope "layer" also a mapping of site to fraction.
        unit: ``"channels"`` are cut out and make the model smaller; ``"weights"`` are set to zero.
        scope: rank all units together (``"global"``) or within each site (``"layer"``).
        ignore: sites to leave whole, by name or pattern.
        minimum: how many units every site keeps at least.
        round_to: keep a multiple of this many units in every site.
        form: what is returned for channels: see `cut`.
        latency: whether to time the model before and after.

    Raises:
        InputError, UnknownNameError, TraceError, CutError: see `channels`, `select` and `cut`.

    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> result = prune(model, torch.zeros(1, 8), sparsity=0.5, latency=False)
    >>> result.model[0].out_features, result.report.parameters
    (8, (178, 90))
    """
    if unit not in ("channels", "weights"):
        raise unknown_name("unit", unit, ("channels", "weights"))
    scorer = by_name(criterion) if isinstance(criterion, str) else criterion
    sites = channels(model, example_inputs, ignore) if unit == "channels" else weights(model, ignore)
    keep = select(scorer(model, sites), sparsity, scope=scope, minimum=minimum, round_to=round_to)
    if unit == "channels":
        made = cut_with_plan(model, sites, keep, form=form)
        small, plan, difference = made.model, made.plan, made.difference
    else:
        small, plan, difference = mask(model, sites, keep), Plan(), None
    counts = parameters(model), parameters(small)
    report = PruneReport(
        unit=unit,
        criterion=criterion if isinstance(criterion, str) else repr(criterion),
        scope=scope,
        sparsity=sparsity,
        units_removed=sum(int((~k).sum()) for k in keep.values()),
        units=sum(k.numel() for k in keep.values()),
        parameters=(counts[0].total, counts[1].total),
        nonzero=(counts[0].nonzero, counts[1].nonzero),
        macs=(macs(model, example_inputs), macs(small, example_inputs)),
        bytes=(file_bytes(model), file_bytes(small)),
        latency=_latency(model, small, example_inputs) if latency else None,
        difference=difference,
        sites=tuple(SiteReport(n, k.numel(), int(k.sum())) for n, k in keep.items()),
        frozen=dict(sites.frozen),
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )
    return Result(small, report, sites, keep, plan)


def _latency(model: nn.Module, small: nn.Module, example_inputs: ExampleInputs) -> tuple[float, float]:
    found = compare_latency({"before": model, "after": small}, example_inputs)
    return found.latencies["before"].median, found.latencies["after"].median
