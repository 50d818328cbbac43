"""The whole line in one call: trace, score, select, cut, verify, measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from torch import nn

from secateur import solvers
from secateur.allocate import BUDGETS, Rounding, rounding
from secateur.allocate import budget as within
from secateur.allocate.multiples import select_rounded
from secateur.checks import check_name, check_whole
from secateur.criteria import by_name
from secateur.criteria.base import level_sites, scores_of
from secateur.repair.consumers import Repair
from secateur.repair.consumers import repair as repaired
from secateur.result import Method, Result
from secateur.runtimes import Runtime, timer
from secateur.selection import Scope, select
from secateur.solvers import Solver
from secateur.state import usual
from secateur.structure import channels, weights
from secateur.structure.cutting import Form
from secateur.train import Data
from secateur.train.options import describe
from secateur.types import Criterion, ExampleInputs, InputError, Keep, Loss, Scores, Sites, option_words, with_changes

__all__ = ["PruneOptions", "prune"]

Unit = Literal["channels", "weights"]
UNITS = ("channels", "weights")


@dataclass(frozen=True)
class PruneOptions:
    """What can be chosen about a pruning; the command line takes the same.

    Attributes:
        criterion: a criterion, or the name of one: ``"l2"``, ``"energy"``, …, or one that looks at data, such as
            ``"taylor"`` or ``"loss-change"``.
        sparsity: the fraction of units to remove, in [0, 1]; with scope "layer" also a mapping of site to fraction.
            Half of the units where neither this nor another rule is given, unless the criterion has a rule of its own,
            as `Energy` does.
        unit: ``"channels"`` are cut out and make the model smaller; ``"weights"`` are set to zero.
        scope: rank all units together (``"global"``), within each site (``"layer"``), or single weights within each row
            of a weight (``"row"``).
        cumulative, pattern, block: other rules of choosing; see `select`.
        budget: instead of a fraction, what the result may cost: ``{"macs": 0.5}``, or ``parameters``, ``bytes``,
            ``latency``; for channels; see `secateur.allocate.budget`.
        repair: what to repair without training before the cut, with data: ``"least-squares"``, ``"bias"``,
            ``"norms"``, or several; for channels; see `secateur.repair`.
        solver: in the place of a criterion, a scope and a repair: what finds masks and new weights together, such as
            `secateur.solvers.ThiNet` for channels or `SparseGPT` for weights, or its name; it takes a sparsity.
        loss: what a criterion that is given by name takes for the loss on the data: a name that `fit` takes, such as
            ``"mse"`` for a regression, or a function of (outputs, targets) that gives the mean; cross-entropy where it is
            None. One that looks at no loss does without it.
        ignore: sites to leave whole, by name or pattern.
        minimum: how many units every site keeps at least.
        round_to: keep a multiple of this many units in every site; ``"auto"`` takes for channels what the runtime and the
            processor like, learnt by timing small layers for a second or so (see `secateur.allocate.rounding`), and
            removes as near to the sparsity as that allows.
        runtime: where the model is to run: ``"eager"`` PyTorch, ``"onnxruntime"``, or a timer of your own, as for
            `secateur.measure.latency`. The report and a budget of latency time it there, and round_to rounds to what is
            good there; None times in eager PyTorch, and rounds to what is good in every runtime that is installed.
        form: what is returned for channels: see `cut`.

    >>> PruneOptions("l1", 0.3).scope
    'global'
    """

    criterion: str | Criterion = field(
        default="l2", metadata=option_words("What to score by (see `secateur list`).", "NAME")
    )
    sparsity: float | Mapping[str, float] | None = field(
        default=None, metadata=option_words("The fraction of units to remove, 0 to 1; 0.5 where no rule is given.")
    )
    unit: Unit = field(
        default="channels",
        metadata=option_words("channels (neurons and filters are cut out) or weights (set to zero).", "UNIT"),
    )
    scope: Scope = field(
        default="global",
        metadata=option_words(
            "global (all units ranked together), layer (within each), or row (weights, within each output's).", "SCOPE"
        ),
    )
    cumulative: float | None = field(
        default=None, metadata=option_words("Instead: in each site the lowest scores with this share of its total.")
    )
    pattern: str | None = field(
        default=None, metadata=option_words("Instead: keep N of every M single weights, such as 2:4.", "N:M")
    )
    block: tuple[int, int] | None = field(
        default=None,
        metadata=option_words("Choose single weights in blocks of this shape, such as 4,1.", "ROWS,COLUMNS"),
    )
    budget: Mapping[str, float | str] | None = field(
        default=None,
        metadata=option_words(
            "Instead: what may be used of macs, parameters, bytes or latency, such as macs=0.5.", "WHAT=LIMIT"
        ),
    )
    repair: Repair | Sequence[Repair] = field(
        default=(),
        metadata=option_words("What to repair from images: least-squares, bias or norms; may be repeated.", "HOW"),
    )
    solver: str | Solver | None = field(
        default=None,
        metadata=option_words(
            "Instead of a criterion: thinet (channels), sparse-gpt or wood-fisher (weights).", "NAME"
        ),
    )
    loss: str | Loss | None = field(
        default=None,
        metadata=option_words("What a criterion takes for the loss: cross-entropy (default), mse, l1 or bce.", "NAME"),
    )
    ignore: Iterable[str] = field(
        default=(), metadata=option_words("A site to leave whole, by name or pattern; may be repeated.", "SITE")
    )
    minimum: int = field(default=1, metadata=option_words("How many units every site keeps at least."))
    round_to: int | Literal["auto"] = field(
        default="auto",
        metadata=option_words(
            "Keep a multiple of this many units in every site; auto: of what the runtime likes, measured.", "NUMBER"
        ),
    )
    runtime: Runtime | None = field(
        default=None,
        metadata=option_words(
            "Where the model is to run and is timed: eager or onnxruntime, as in onnxruntime:threads=2.", "NAME"
        ),
    )
    form: Form = field(
        default="auto",
        metadata=option_words(
            "module (of the model's own class), graph (a torch.fx.GraphModule), or auto (a graph only where the model's code "
            "holds sizes as literals).",
            "FORM",
        ),
    )

    def __post_init__(self) -> None:
        check_name("unit", self.unit, UNITS)
        if self.round_to != "auto":
            check_whole("prune", 1, 'or "auto"', round_to=self.round_to)
        if self.runtime is not None:
            timer(self.runtime)
        if self.budget is not None:
            self._check_budget(self.budget)
        if self.solver is not None:
            self._check_solver()
        if self.repairs and self.unit == "weights":
            raise InputError('prune: repair makes up for channels that are cut out; it goes with unit="channels"')

    def _check_budget(self, budget: object) -> None:
        rules = {"sparsity": self.sparsity, "cumulative": self.cumulative, "pattern": self.pattern, "block": self.block}
        rival = next((name for name, value in rules.items() if value is not None), None)
        if rival is not None:
            raise InputError(f"prune: a budget says how much goes, and so does {rival}; give one of them")
        if not isinstance(budget, Mapping):
            raise InputError(f'prune: budget is {budget!r}; give what may be used of what, such as {{"macs": 0.5}}')
        for name in budget:
            check_name("budget", name, BUDGETS)

    def _check_solver(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in LEFT_TO_ALL and value != option.default:
                raise InputError(
                    f"prune: a solver decides by itself what goes and repairs what stays; leave out {option.name}"
                )

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """The repairs, in order."""
        return (self.repair,) if isinstance(self.repair, str) else tuple(self.repair)

    def completed(self, scorer: object) -> PruneOptions:
        """Return the options with a rule of choosing: the one given, the criterion's own, or half of the units."""
        rules = (self.sparsity, self.cumulative, self.pattern, self.budget)
        if any(rule is not None for rule in rules):
            return self
        return replace(self, **(getattr(scorer, "default_rule", None) or {"sparsity": 0.5}))


LEFT_TO_ALL = {"sparsity", "unit", "solver", "ignore", "form", "runtime"}
"""The options that go with a solver, too."""


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
        latency: whether to time the model before and after.
        changes: single options by name, such as ``scope="layer", budget={"macs": 0.5}``; they win over `options`.

    Raises:
        InputError, UnknownNameError, TraceError, CutError: see `PruneOptions`, `channels`, `select` and `cut`.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> result = prune(model, torch.zeros(1, 8), sparsity=0.5, latency=False)
    >>> result.model[0].out_features, result.report.parameters
    (8, (178, 90))
    """
    changes |= {n: v for n, v in (("criterion", criterion), ("sparsity", sparsity)) if v is not None}
    settled_options = with_changes(options or PruneOptions(), changes, "option of prune")
    result = (
        _solved(model, example_inputs, settled_options, data)
        if settled_options.solver
        else _scored(model, example_inputs, settled_options, data)
    )
    result = replace(result, inputs=example_inputs)
    if latency:
        result = result.timed(settled_options.runtime or "eager")
    _ = result.report  # counted now, before anybody trains one of the two models
    return result


def _sites(model: nn.Module, example_inputs: ExampleInputs, options: PruneOptions) -> Sites:
    channelled = options.unit == "channels"
    return channels(model, example_inputs, options.ignore) if channelled else weights(model, options.ignore)


def _solved(model: nn.Module, example_inputs: ExampleInputs, options: PruneOptions, data: Data | None) -> Result:
    """The result of a solver, which finds masks and weights together."""
    solver = _solver(options.solver, data)
    sites = _sites(model, example_inputs, options)
    sparsity = 0.5 if options.sparsity is None else options.sparsity
    solution = solver.solve(model, sites, sparsity)
    method = Method(repr(solver), "in its own scope", _plain(sparsity))
    return Result.of(model, sites, solution.keep, repaired=solution.apply(model), form=options.form, method=method)


def _scored(model: nn.Module, example_inputs: ExampleInputs, options: PruneOptions, data: Data | None) -> Result:
    """The result of a criterion and a rule of choosing."""
    scorer = _scorer(options.criterion, data, options.loss)
    options = options.completed(scorer)
    sites = _sites(model, example_inputs, options)
    scores = scores_of(scorer, model, sites, "prune")
    multiples = rounding(sites, options.round_to, options.runtime)
    keep = _keep(model, sites, scores, options, multiples)
    rules = {name: getattr(options, name) for name in ("cumulative", "pattern", "block", "budget")}
    method = Method(
        criterion=options.criterion if isinstance(options.criterion, str) else repr(options.criterion),
        scope=options.scope,
        sparsity=_plain(options.sparsity),
        rule={name: value for name, value in rules.items() if value is not None},
        repair=options.repairs,
        loss=None if options.loss is None else str(describe(options.loss)),
        rounding=str(multiples.seen_in(keep)),
        warnings=tuple(_by_position(scores, keep)),
    )
    ready = _repaired(model, sites, keep, options.repairs, data)
    return Result.of(model, sites, keep, repaired=ready, form=options.form, method=method)


def _keep(model: nn.Module, sites: Sites, scores: Scores, options: PruneOptions, rounds: Rounding) -> Keep:
    ways: dict[str, Any] = {"scope": options.scope, "minimum": options.minimum}
    if options.budget is not None:
        limits: Mapping[str, Any] = options.budget
        return within(model, sites, scores, **limits, **ways, round_to=options.round_to, runtime=options.runtime)
    rule: dict[str, Any] = {name: getattr(options, name) for name in ("cumulative", "pattern", "block")}
    if options.sparsity is not None and not any(rule.values()):
        return select_rounded(scores, options.sparsity, rounds, sites=sites, **ways)
    return select(scores, options.sparsity, sites=sites, round_to=rounds.multiples, **ways, **rule)


def _plain(sparsity: float | Mapping[str, float] | None) -> float | dict[str, float] | None:
    return dict(sparsity) if isinstance(sparsity, Mapping) else sparsity


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


def _solver(solver: object, data: Data | None) -> Solver:
    if isinstance(solver, str):
        return solvers.by_name(solver, data)
    if not isinstance(solver, Solver):
        raise InputError(
            f"prune: solver is {solver!r}; give one that is made, such as ThiNet(data), or the name of one, such as 'thinet'"
        )
    return solver


def _repaired(model: nn.Module, sites: Sites, keep: Keep, how: tuple[Repair, ...], data: Data | None) -> nn.Module:
    if not how:
        return model
    if data is None:
        raise InputError("prune: repair needs data; give a few hundred samples, such as (inputs, targets)")
    return repaired(model, sites, keep, data, how)
