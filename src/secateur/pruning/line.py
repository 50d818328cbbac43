"""The whole line in one call: trace, score, select, cut, verify, measure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur import solvers
from secateur.allocate import Rounding, rounding
from secateur.allocate import budget as within
from secateur.allocate.balance import LEAST_SHARES
from secateur.allocate.goals import UnreachableError
from secateur.allocate.multiples import select_rounded
from secateur.calls import usual
from secateur.checks import check_options
from secateur.criteria import JointLossChange, LossCriterion, by_name
from secateur.criteria.base import level_sites, scores_of
from secateur.labelled import SampleBatch, batches
from secateur.pruning.configured import without_cache
from secateur.pruning.options import BY_DEFAULT, HALF, PruneOptions
from secateur.rate.masks import rate
from secateur.repair.consumers import repair as repaired
from secateur.result import UNREPAIRED, JointCut, Method, Result
from secateur.selection import select
from secateur.selection.uniform import uniform, uniform_sites
from secateur.solvers import Solver
from secateur.structure import Structure, channels, folded, folding, weights
from secateur.structure.configs import ConfigWidth
from secateur.train import Data
from secateur.train.options import describe
from secateur.types import Criterion, ExampleInputs, InputError, Keep, Scores, Sites, some_of, with_changes

__all__ = ["prune"]

COMPARED = 256
"""On so many samples of the data the outputs are compared."""


@usual
def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    criterion: str | Criterion | None = None,
    sparsity: float | Mapping[str, float] | None = None,
    options: PruneOptions | None = None,
    *,
    data: Data | None = None,
    latency: bool = True,
    **changes: Any,
) -> Result:
    """Return a pruned copy of `model`, verified and measured; the model itself is left as it is.

    Args:
        model: a trained module.
        example_inputs: what the model is called with: a tensor, a tuple of positional or a mapping of keyword inputs.
        criterion, sparsity: the two options that are given most; see `PruneOptions`. None leaves them as in `options`.
        options: what to choose; see `PruneOptions`.
        data: labelled samples for a criterion given by name to look at, and to repair with; a few hundred or thousand.
            Where no criterion is given, they are scored and repaired with; the outputs are compared on them.
        latency: whether to time the model before and after.
        changes: single options by name, such as ``scope="layer", budget={"macs": 0.5}``; they win over `options`.

    Raises:
        InputError, UnknownNameError, TraceError, CutError: see `PruneOptions`, `channels`, `select` and `cut`.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> result = prune(model, torch.zeros(1, 8), latency=False)                    # half of the multiply-accumulates
    >>> result.model[0].out_features, result.report.parameters
    (8, (178, 90))
    """
    changes |= {n: v for n, v in (("criterion", criterion), ("sparsity", sparsity)) if v is not None}
    check_options("prune", PruneOptions, or_none=True, options=options)
    settled_options = with_changes(options or PruneOptions(), changes, "option of prune")
    plain = _folding(model) if settled_options.fold else ()
    model = folded(model) if plain else model
    example_inputs = without_cache(model, example_inputs)
    result = (
        _solved(model, example_inputs, settled_options, data)
        if settled_options.solver
        else _scored(model, example_inputs, settled_options, data)
    )
    method = replace(result.method, warnings=(*result.method.warnings, *plain))
    result = replace(result, inputs=example_inputs, method=method).compared(None if data is None else _first(data))
    if latency:
        result = result.timed(settled_options.runtime or "eager")
    _ = result.report  # counted now, before anybody trains one of the two models
    return result


def _folding(model: nn.Module) -> tuple[str, ...]:
    """What the report says of layers whose weights are made plain first; nothing where there are none."""
    layers = folding(model)
    listed = ", ".join(layers[:3]) + (", …" if len(layers) > 3 else "")
    said = f"the weights of {listed} were made plain first (fold=True); load takes secateur.structure.folded(model)"
    return (said,) if layers else ()


def _sites(
    model: nn.Module, example_inputs: ExampleInputs, options: PruneOptions
) -> tuple[Sites, Sequence[ConfigWidth]]:
    if options.unit == "weights":
        return weights(model, options.ignore), ()
    return uniform_sites(model, channels(model, example_inputs, options.ignore), options.uniform)


def _solved(model: nn.Module, example_inputs: ExampleInputs, options: PruneOptions, data: Data | None) -> Result:
    """The result of a solver, which finds masks and weights together."""
    solver = _solver(options, data)
    sites, _ = _sites(model, example_inputs, options)
    sparsity = 0.5 if options.sparsity is None else options.sparsity
    solution = solver.solve(model, sites, sparsity)
    method = Method(repr(solver), "in its own scope", _plain(sparsity))
    ways: dict[str, Any] = {"form": options.form, "tolerance": options.tolerance, "method": method}
    return Result.of(model, sites, solution.keep, repaired=solution.apply(model), **ways)


def _scored(model: nn.Module, example_inputs: ExampleInputs, options: PruneOptions, data: Data | None) -> Result:
    """The result of a criterion and a rule of choosing."""
    asked = options
    scorer, options = _settled(asked, data, by_data=data is not None)
    sites, widths = _sites(model, example_inputs, options)
    unused = []
    if data is not None and asked.criterion is None and _in_regions(sites):
        scorer, options = _settled(asked, data, by_data=False)
        unused = ["not scored by the data, as the model was traced in regions; criterion='loss-change' scores by them"]
    scores = scores_of(scorer, model, sites, "prune")
    multiples = rounding(sites, options.round_to, options.runtime)
    options, keep = _chosen(model, sites, scores, options, _Widths(multiples, widths))
    ready, refusals = _repaired(model, sites, keep, options, data)
    rules = {name: getattr(options, name) for name in ("cumulative", "pattern", "block", "budget")}
    method = Method(
        criterion=options.criterion if isinstance(options.criterion, str) else repr(options.criterion),
        scope=options.scope,
        sparsity=_plain(options.sparsity),
        rule={name: value for name, value in rules.items() if value is not None},
        repair=() if refusals else options.repairs,
        loss=None if options.loss is None else str(describe(options.loss)),
        rounding=str(multiples.seen_in(keep)),
        warnings=(*unused, *_unscored(scorer, scores, sites), *_by_position(scores, keep), *refusals),
        joint=_joint(scorer, scores, keep, sites, (model, ready)),
    )
    ways: dict[str, Any] = {"form": options.form, "tolerance": options.tolerance, "method": method}
    return Result.of(model, sites, keep, repaired=ready, **ways)


def _settled(options: PruneOptions, data: Data | None, *, by_data: bool) -> tuple[Criterion, PruneOptions]:
    """The criterion, and the options with a rule of choosing."""
    options = options.settled(by_data)
    scorer = _scorer(options, data)
    return scorer, options.completed(scorer)


def _in_regions(sites: Sites) -> bool:
    return isinstance(sites.structure, Structure) and bool(sites.structure.graph.regions)


@dataclass(frozen=True)
class _Widths:
    """What widths may be: rounded to multiples, and equal where a config says them."""

    rounds: Rounding
    uniform: Sequence[ConfigWidth]


def _chosen(
    model: nn.Module, sites: Sites, scores: Scores, options: PruneOptions, widths: _Widths
) -> tuple[PruneOptions, Keep]:
    """The masks, and the options that they were chosen by: where half of the MACs cannot go, half of each site does."""
    if options.budget is not HALF:
        return options, _keep(model, sites, scores, options, widths)
    with suppress(UnreachableError):
        keep = _keep(model, sites, scores, options, widths)
        if not all(bool(mask.all()) for mask in keep.values()):
            return options, keep
    scope = "layer" if options.scope == "balanced" else options.scope
    halved = replace(options, budget=None, sparsity=0.5, scope=scope)
    return halved, _keep(model, sites, scores, halved, widths)


def _keep(model: nn.Module, sites: Sites, scores: Scores, options: PruneOptions, widths: _Widths) -> Keep:
    ways: dict[str, Any] = {"scope": options.scope, "minimum": options.minimum}
    rounds = widths.rounds
    if options.budget is not None:
        limits: Mapping[str, Any] = options.budget
        least = LEAST_SHARES[0] if options.budget is HALF else None
        ways |= {"round_to": rounds, "runtime": options.runtime, "least": least, "widths": widths.uniform}
        return within(model, sites, scores, **limits, **ways)
    rule: dict[str, Any] = {name: getattr(options, name) for name in ("cumulative", "pattern", "block")}
    if options.sparsity is not None and not any(rule.values()):
        keep = select_rounded(scores, options.sparsity, rounds, sites=sites, **ways)
    else:
        keep = select(scores, options.sparsity, sites=sites, round_to=rounds.multiples, **ways, **rule)
    return uniform(keep, scores, widths.uniform, rounds.multiples)


def _plain(sparsity: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    return dict(sparsity) if isinstance(sparsity, Mapping) else sparsity


def _unscored(scorer: Criterion, scores: Scores, sites: Sites) -> Iterator[str]:
    """A warning where the criterion scored only some of the sites."""
    left = [name for name in sites if name not in scores]
    if left:
        name = getattr(scorer, "__name__", None) or type(scorer).__name__
        yield f"{name} scored {len(scores)} of {len(sites)} sites; left whole without a score: {some_of(left)}"


def _by_position(scores: Scores, keep: Keep) -> Iterator[str]:
    """A warning for each site that lost some of its units though no score told which."""
    for name in level_sites(scores):
        if bool(keep[name].any()) and not bool(keep[name].all()):
            yield f"all scores of {name!r} are equal, so the position of its units decided which of them went"


def _joint(
    scorer: Criterion, scores: Scores, keep: Keep, sites: Sites, models: tuple[nn.Module, nn.Module]
) -> JointCut | None:
    """What the cut does to the loss on the criterion's own samples, where its scores foretell that.

    Not for models in half precision, which the criterion's samples may not fit.
    """
    if not isinstance(scorer, LossCriterion) or any(p.dtype.itemsize < 4 for p in models[0].parameters()):
        return None
    foretold = scorer.foretold(scores, keep)
    if foretold is None or all(bool(mask.all()) for mask in keep.values()):
        return None
    whole, masked = models
    empty = {name: mask.new_zeros(mask.shape) for name, mask in keep.items()}
    before = rate(whole, sites, [{}, empty], scorer.data, scorer.loss, batch_size=scorer.batch_size)
    after = rate(masked, sites, [keep], scorer.data, scorer.loss, batch_size=scorer.batch_size)
    loss, nothing = before.losses.tolist()
    return JointCut(loss, loss + foretold, float(after.losses[0]), nothing, before.count)


def _scorer(options: PruneOptions, data: Data | None) -> Criterion:
    criterion: object = options.criterion
    if isinstance(criterion, str):
        scorer = by_name(criterion, data, options.loss)
        if isinstance(scorer, JointLossChange) and options.completed(scorer).scope == "layer":
            return replace(scorer, scope="layer", minimum=options.minimum)
        return scorer
    if options.loss is not None:
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


def _solver(options: PruneOptions, data: Data | None) -> Solver:
    solver: object = options.solver
    if isinstance(solver, str):
        return solvers.by_name(solver, data, options.loss)
    if options.loss is not None:
        raise InputError(
            "prune: loss goes with a solver that is given by its name; one that is made brings its own: leave out loss"
        )
    if not isinstance(solver, Solver):
        raise InputError(
            f"prune: solver is {solver!r}; give one that is made, such as ThiNet(data), or the name of one, such as 'thinet'"
        )
    return solver


def _repaired(
    model: nn.Module, sites: Sites, keep: Keep, options: PruneOptions, data: Data | None
) -> tuple[nn.Module, list[str]]:
    """The model that is to be cut, and why it was not repaired though that is the default."""
    if not options.repairs:
        return model, []
    if data is None:
        raise InputError("prune: repair needs data; give a few hundred samples, such as (inputs, targets)")
    try:
        return repaired(model, sites, keep, data, options.repairs), []
    except InputError as error:
        if options.repair is not BY_DEFAULT:
            raise
        return model, [f"{UNREPAIRED}: {error}"]


def _first(data: Data) -> SampleBatch:
    """Some samples to compare outputs on."""
    batch = next(iter(batches(data, COMPARED, "prune")))
    return batch.rows(slice(COMPARED))
