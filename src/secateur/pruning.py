"""The whole line in one call: trace, score, select, cut, verify, measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import nn

from secateur.allocate import BUDGETS
from secateur.allocate import budget as within
from secateur.criteria import Energy, by_name
from secateur.criteria.base import level_sites, scores_of
from secateur.measure import compare_latency
from secateur.repair.consumers import Repair
from secateur.repair.consumers import repair as repaired
from secateur.result import Method, Result
from secateur.selection import Scope, select
from secateur.solvers import Solver
from secateur.state import usual
from secateur.structure import channels, weights
from secateur.structure.cutting import Form
from secateur.train import Data
from secateur.train.options import describe
from secateur.types import Criterion, ExampleInputs, InputError, Keep, Loss, Scores, Sites, unknown_name

__all__ = ["prune"]

Unit = Literal["channels", "weights"]


@usual
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
    loss: str | Loss | None = None,
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
            ``latency``; for channels; see `secateur.allocate.budget`.
        repair: what to repair without training before the cut, with `data`: ``"least-squares"``, ``"bias"``,
            ``"norms"``, or several; for channels; see `secateur.repair`.
        solver: in the place of a criterion, a scope and a repair: what finds masks and new weights together, such as
            `secateur.solvers.ThiNet` for channels or `SparseGPT` for weights; it takes a sparsity.
        data: labelled samples for a criterion given by name to look at, and to repair with; a few hundred or thousand.
        loss: what such a criterion takes for the loss on them: a name that `fit` takes, such as ``"mse"`` for a regression,
            or a function of (outputs, targets) that gives the mean; cross-entropy where it is None. One that looks at
            no loss does without it.
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
    scorer = _scorer(criterion, data, loss)
    if solver is not None:
        others = {"criterion": criterion, **options, **rule, "budget": budget, "repair": chosen, "loss": loss}
        _check_solver(solver, others)
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
    scores: Scores = {} if solver is not None else scores_of(scorer, model, sites, "prune")
    if solver is not None:
        solved = solver.solve(model, sites, 0.5 if sparsity is None else sparsity)
        ready, keep = solved.apply(model), solved.keep
    elif limits is not None:
        keep = within(model, sites, scores, **limits, **options)
    else:
        keep = select(scores, sparsity, sites=sites, **options, **rule)
    if unit == "weights" and chosen:
        raise InputError('prune: repair makes up for channels that are cut out; it goes with unit="channels"')
    method = Method(
        criterion=repr(solver or criterion) if solver or not isinstance(criterion, str) else criterion,
        scope=scope if solver is None else "in its own scope",
        sparsity=dict(sparsity) if isinstance(sparsity, Mapping) else sparsity,
        rule={name: value for name, value in {**rule, "budget": budget}.items() if value is not None},
        repair=chosen,
        loss=None if loss is None else str(describe(loss)),
        warnings=tuple(_by_position(scores, keep)),
    )
    ready = _repaired(ready, sites, keep, chosen, data)
    result = Result.of(model, sites, keep, repaired=ready, form=form, method=method)
    taken = _latency(model, result.model, example_inputs) if latency else None
    result = replace(result, latency=taken, inputs=example_inputs)
    _ = result.report  # counted now, before anybody trains one of the two models
    return result


def _by_position(scores: Scores, keep: Keep) -> Iterator[str]:
    """A warning for each site that lost some of its units though no score told which."""
    for name in level_sites(scores):
        if bool(keep[name].any()) and not bool(keep[name].all()):
            yield f"all scores of {name!r} are equal, so the position of its units decided which of them went"


def _scorer(criterion: object, data: Data | None, loss: str | Loss | None) -> Criterion:
    if isinstance(criterion, str):
        return by_name(criterion, data, loss)
    if loss is not None:
        raise InputError(
            "prune: loss goes with a criterion that is given by its name; one that is made brings its own, as in "
            "Taylor(data, loss='mse')"
        )
    if isinstance(criterion, type) or not callable(criterion):
        raise InputError(
            f"prune: criterion is {criterion!r}; give the name of one, such as 'l2', or one that is made, "
            "such as Magnitude(p=2)"
        )
    return criterion


def _check_solver(solver: Solver, others: Mapping[str, Any]) -> None:
    if isinstance(solver, type) or not callable(solver):
        raise InputError(f"prune: solver is {solver!r}; give one that is made, such as ThiNet(data)")
    defaults = {"criterion": "l2", "scope": "global", "minimum": 1, "round_to": 1, "repair": ()}
    for name, value in others.items():
        if value != defaults.get(name):
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


def _latency(model: nn.Module, small: nn.Module, example_inputs: ExampleInputs) -> tuple[float, float]:
    found = compare_latency({"before": model, "after": small}, example_inputs)
    return found.latencies["before"].median, found.latencies["after"].median
