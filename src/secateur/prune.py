"""The whole line in one call: trace, score, select, cut, verify, measure."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.fx import GraphModule

from secateur.budget import BUDGETS
from secateur.budget import budget as within
from secateur.criteria import Energy, by_name
from secateur.measure import compare_latency, file_bytes, macs, parameters
from secateur.repair.consumers import Repair
from secateur.repair.consumers import repair as repaired
from secateur.saving import save as save_folder
from secateur.select import Scope, select
from secateur.solvers import Solver
from secateur.structure import channels, mask, weights
from secateur.structure.cut import Form, Plan, cut_with_plan
from secateur.train import Data
from secateur.types import Criterion, ExampleInputs, InputError, Keep, Sites, unknown_name

__all__ = ["PruneReport", "Result", "SiteReport", "prune"]

Unit = Literal["channels", "weights"]

SHOWN = 4
"""How many layers the report's text names for one reason."""


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
        form: ``"module"`` (of the model's own class), or ``"graph"`` (a `torch.fx.GraphModule`: see `cut`).
        sites: the units of every site.
        frozen: what could not be pruned, with the reason.
        versions: what it was done with.
        rule: how units were chosen where it was not by sparsity: cumulative, pattern, block, budget.
        repair: what was repaired without training, in the order of doing.
    """

    unit: str
    criterion: str
    scope: str
    sparsity: float | Mapping[str, float] | None
    units_removed: int
    units: int
    parameters: tuple[int, int]
    nonzero: tuple[int, int]
    macs: tuple[int, int]
    bytes: tuple[int, int]
    latency: tuple[float, float] | None
    difference: float | None
    form: str = "module"
    sites: tuple[SiteReport, ...] = ()
    frozen: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    rule: Mapping[str, Any] = field(default_factory=dict)
    repair: tuple[str, ...] = ()

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
        return "\n".join([*rows, *self._notes()])

    def _notes(self) -> list[str]:
        """What a reader of the numbers should know."""
        notes = []
        if self.repair:
            notes.append(f"repaired without training: {', '.join(self.repair)}")
        if self.form == "graph":
            notes.append("form: a graph (torch.fx.GraphModule), for inference with the example inputs' batch size")
        if self.unit == "weights":
            notes.append("zeros are not cut out: the shapes stay, so the model is neither smaller nor faster")
        if self.frozen:
            notes.append(f"left whole: {_left_whole(self.frozen)}")
        return notes


def _change(what: str, before: int, after: int) -> str:
    share = f"{1 - after / before:.1%} removed" if before else "none"
    return f"{what:<11}{before:>14,} → {after:>14,}     ({share})"


def _left_whole(frozen: Mapping[str, str]) -> str:
    """The layers that stayed whole, by reason.

    >>> _left_whole({"a": "ignored, as asked", "fc": "the model's output", "b": "ignored, as asked"})
    "a, b (ignored, as asked); fc (the model's output)"
    """
    groups: dict[str, list[str]] = {}
    for name, reason in frozen.items():
        groups.setdefault(reason, []).append(name)
    return "; ".join(f"{_some(names)} ({reason})" for reason, names in groups.items())


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")


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
        """Write the model to `folder` as safetensors and JSON; `secateur.load` reads it in another process.

        Raises:
            FileError: the folder holds other files or cannot be written; or the model is in graph form and its
                example inputs hold something else than tensors and plain values.
        """
        graph = (self.sites, self.keep) if self.report.form == "graph" else None
        return save_folder(folder, self.model, self.plan, self.report.to_dict(), graph)


def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    criterion: str | Criterion = "l2",
    sparsity: float | Mapping[str, float] | None = None,
    *,
    unit: Unit = "channels",
    scope: Scope = "global",
    cumulative: float | None = None,
    pattern: str | None = None,
    block: tuple[int, int] | None = None,
    budget: Mapping[str, float | str] | None = None,
    repair: Repair | Sequence[Repair] = (),
    solver: Solver | None = None,
    data: Data | None = None,
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
        criterion: a criterion, or the name of one: ``"l2"``, ``"energy"``, …, or one that looks at `data`, such as
            ``"taylor"`` or ``"loss-change"``.
        sparsity: the fraction of units to remove, in [0, 1]; with scope "layer" also a mapping of site to fraction.
            Half of the units where neither this nor another rule is given, unless the criterion has a threshold of its
            own, as `Energy` does.
        unit: ``"channels"`` are cut out and make the model smaller; ``"weights"`` are set to zero.
        scope: rank all units together (``"global"``), within each site (``"layer"``), or single weights within each row
            of a weight (``"row"``).
        cumulative, pattern, block: other rules of choosing; see `select`.
        budget: instead of a fraction, what the result may cost: ``{"macs": 0.5}``, or ``parameters``, ``bytes``,
            ``latency``; for channels; see `secateur.budget`.
        repair: what to repair without training before the cut, with `data`: ``"least-squares"``, ``"bias"``,
            ``"norms"``, or several; for channels; see `secateur.repair`.
        solver: in the place of a criterion, a scope and a repair: what finds masks and new weights together, such as
            `secateur.solvers.ThiNet` for channels or `SparseGPT` for weights; it takes a sparsity.
        data: labelled samples for a criterion given by name to look at, and to repair with; a few hundred or thousand.
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
    options: dict[str, Any] = {"scope": scope, "minimum": minimum, "round_to": round_to}
    rule: dict[str, Any] = {"cumulative": cumulative, "pattern": pattern, "block": block}
    limits: Mapping[str, Any] | None = budget
    chosen = (repair,) if isinstance(repair, str) else tuple(repair)
    scorer = _scorer(criterion, data)
    if solver is not None:
        _check_solver(solver, {"criterion": criterion, **options, **rule, "budget": budget, "repair": chosen})
    if limits is not None:
        _check_budget(limits, {"sparsity": sparsity, **rule})
    elif sparsity is None and cumulative is None and pattern is None:
        if isinstance(scorer, Energy):
            rule["cumulative"] = scorer.threshold
        else:
            sparsity = 0.5
    sites = channels(model, example_inputs, ignore) if unit == "channels" else weights(model, ignore)
    ready: nn.Module = model
    keep: Keep
    if solver is not None:
        solved = solver(model, sites, 0.5 if sparsity is None else sparsity)
        ready, keep = solved.apply(model), solved.keep
    elif limits is not None:
        keep = within(model, sites, scorer(model, sites), **limits, **options)
    else:
        keep = select(scorer(model, sites), sparsity, **options, **rule)
    if unit == "channels":
        made = cut_with_plan(_repaired(ready, sites, keep, chosen, data), sites, keep, form=form)
        small, plan, difference = made.model, made.plan, made.verification.example
    else:
        if chosen:
            raise InputError('prune: repair makes up for channels that are cut out; it goes with unit="channels"')
        small, plan, difference = mask(ready, sites, keep), Plan(), None
    told = {
        "unit": unit,
        "criterion": repr(solver or criterion) if solver or not isinstance(criterion, str) else criterion,
        "scope": scope if solver is None else "in its own scope",
        "sparsity": dict(sparsity) if isinstance(sparsity, Mapping) else sparsity,
        "rule": {name: value for name, value in {**rule, "budget": budget}.items() if value is not None},
        "repair": chosen,
        "difference": difference,
        "latency": _latency(model, small, example_inputs) if latency else None,
    }
    return Result(small, _report(model, small, example_inputs, sites, keep, told), sites, keep, plan)


def _report(
    before: nn.Module, after: nn.Module, inputs: ExampleInputs, sites: Sites, keep: Keep, told: Mapping[str, Any]
) -> PruneReport:
    """Count what went, and join it to what is told of the pruning."""
    counts = parameters(before), parameters(after)
    return PruneReport(
        units_removed=sum(int((~k).sum()) for k in keep.values()),
        units=sum(k.numel() for k in keep.values()),
        parameters=(counts[0].total, counts[1].total),
        nonzero=(counts[0].nonzero, counts[1].nonzero),
        macs=(macs(before, inputs), macs(after, inputs)),
        bytes=(file_bytes(before), file_bytes(after)),
        form="graph" if told["unit"] == "channels" and _is_graph(before, after) else "module",
        sites=tuple(SiteReport(n, k.numel(), int(k.sum())) for n, k in keep.items()),
        frozen=dict(sites.frozen),
        versions={"python": platform.python_version(), "torch": torch.__version__},
        **told,
    )


def _scorer(criterion: object, data: Data | None) -> Criterion:
    if isinstance(criterion, str):
        return by_name(criterion, data)
    if isinstance(criterion, type) or not callable(criterion):
        raise InputError(
            f"prune: criterion is {criterion!r}; give the name of one, such as 'l2', or one that is made, "
            "such as Magnitude(p=2)"
        )
    return criterion


def _check_solver(solver: Solver, others: Mapping[str, Any]) -> None:
    if isinstance(solver, type) or not callable(solver):
        raise InputError(f"prune: solver is {solver!r}; give one that is made, such as ThiNet(batches)")
    usual = {"criterion": "l2", "scope": "global", "minimum": 1, "round_to": 1, "repair": ()}
    for name, value in others.items():
        if value != usual.get(name):
            raise InputError(f"prune: a solver decides by itself what goes and repairs what stays; leave out {name}")


def _check_budget(budget: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise InputError(f"prune: a budget says how much goes, and so does {given[0]}; give one of them")
    if not isinstance(budget, Mapping):
        raise InputError(f'prune: budget is {budget!r}; give what may be used of what, such as {{"macs": 0.5}}')
    for name in budget:
        if name not in BUDGETS:
            raise unknown_name("budget", name, BUDGETS)


def _repaired(model: nn.Module, sites: Sites, keep: Keep, how: tuple[Repair, ...], data: Data | None) -> nn.Module:
    if not how:
        return model
    if data is None:
        raise InputError("prune: repair needs data; give a few hundred samples, such as (inputs, targets)")
    return repaired(model, sites, keep, data, how)


def _is_graph(model: nn.Module, small: nn.Module) -> bool:
    # A model that was a graph module before is cut as the module that it is: a copy runs the same code.
    copied = isinstance(model, GraphModule) and isinstance(small, GraphModule) and small.code == model.code
    return isinstance(small, GraphModule) and not copied


def _latency(model: nn.Module, small: nn.Module, example_inputs: ExampleInputs) -> tuple[float, float]:
    found = compare_latency({"before": model, "after": small}, example_inputs)
    return found.latencies["before"].median, found.latencies["after"].median
