"""What can be chosen about a pruning, and what is taken where nothing is chosen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from secateur.allocate import BUDGETS
from secateur.checks import check_name, check_whole
from secateur.losses import loss_function
from secateur.repair.consumers import Repair
from secateur.runtimes import Runtime, timer
from secateur.selection import SCOPES, Scope
from secateur.solvers import Solver
from secateur.structure.cutting import TOLERANCE, Form
from secateur.types import Criterion, InputError, Loss, option_words

__all__ = ["BY_DEFAULT", "HALF", "PruneOptions"]

Unit = Literal["channels", "weights"]
UNITS = ("channels", "weights")


@dataclass(frozen=True)
class PruneOptions:
    """What can be chosen about a pruning; the command line takes the same.

    Attributes:
        criterion: a criterion, or the name of one: ``"l2"``, ``"energy"``, …, or one that looks at data, such as
            ``"taylor"`` or ``"loss-change"``. None takes ``"l2"``, and for channels with data ``"joint-loss-change"``.
        sparsity: the fraction of units to remove, in [0, 1]; with scope "layer" also a mapping of site to fraction.
            Where neither this nor another rule is given, half of the multiply-accumulates go with channels (or half of
            the units of each site, where three tenths of each would have to be given up for that), and half of single
            weights, unless the criterion has a rule of its own, as `Energy` does.
        unit: ``"channels"`` are cut out and make the model smaller; ``"weights"`` are set to zero.
        scope: rank all units together (``"global"``), within each site (``"layer"``), or single weights within each row
            of a weight (``"row"``); with a budget also ``"balanced"``: each site loses what leaves the most of the scores
            on the way through the model, for what it saves (see `secateur.allocate.budget`). None is the safe choice:
            for channels ``"balanced"`` with a budget and ``"layer"`` without, neither of which empties a site;
            ``"global"`` for single weights.
        cumulative, pattern, block: other rules of choosing; see `select`.
        budget: instead of a fraction, what the result may cost: ``{"macs": 0.5}``, or ``parameters``, ``bytes``,
            ``latency``; for channels; see `secateur.allocate.budget`.
        repair: what to repair without training before the cut, with data: ``"least-squares"``, ``"bias"``,
            ``"norms"``, ``"kl"``, or several; for channels; see `secateur.repair`. None repairs by least squares and norms where
            data are given and no criterion, as far as the model lets it; ``()`` nothing.
        solver: in the place of a criterion, a scope and a repair: what finds masks and new weights together, such as
            `secateur.solvers.StructuredOBS` for channels or `SparseGPT` for weights, or its name; it takes a sparsity.
        loss: what a criterion or solver that is given by name takes for the loss on the data: a name that `fit` takes, such as
            ``"mse"`` for a regression, an import path (``"package.module:name"``), or a function of (outputs, targets) that
            gives the mean; cross-entropy where it is None. One that looks at no loss does without it.
        ignore: sites to leave whole, by name or pattern.
        minimum: how many units every site keeps at least.
        round_to: keep a multiple of this many units in every site; ``"auto"`` takes for channels what the runtime and the
            processor like, learnt by timing small layers for a second or so (see `secateur.allocate.rounding`), and
            removes as near to the sparsity as that allows.
        runtime: where the model is to run: ``"eager"`` PyTorch, ``"onnxruntime"``, or a timer of your own, as for
            `secateur.measure.latency`. The report and a budget of latency time it there, and round_to rounds to what is
            good there; None times in eager PyTorch, and rounds to what is good in every runtime that is installed.
        form: what is returned for channels: see `cut`.
        uniform: keep the same share of all sites whose widths follow from one size of the model's config, as in
            transformers, and leave those whole that follow from none: the config then says the new sizes, and
            ``save_pretrained`` and ``from_pretrained`` take the model as any other. None does so where a config says
            some widths; True is an error where none does, and False lets every site have a width of its own.
        tolerance: by how much the outputs on the example may differ from the masked model's: see `cut`.
        fold: make plain weights first of those that `torch.nn.utils.prune` masks, and of those that a parametrization or
            a norm makes: see `secateur.structure.folded`. Without it they are cut as they are, where that is exact.

    >>> PruneOptions("l1", 0.3).scope is None
    True
    """

    criterion: str | Criterion | None = field(
        default=None,
        metadata=option_words(
            "What to score by (see `secateur list`): l2 by default, with images joint-loss-change.", "NAME"
        ),
    )
    sparsity: float | Mapping[str, float] | None = field(
        default=None,
        metadata=option_words("The fraction of units to remove, 0 to 1; half of the MACs where no rule is given."),
    )
    unit: Unit = field(
        default="channels",
        metadata=option_words("channels (neurons and filters are cut out) or weights (set to zero).", "UNIT"),
    )
    scope: Scope | Literal["balanced"] | None = field(
        default=None,
        metadata=option_words(
            "global (all units ranked together), layer (within each), row (weights, within each output's), or balanced "
            "(with a budget: what costs least of the scores for what it saves).",
            "SCOPE",
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
    repair: Repair | Sequence[Repair] | None = field(
        default=None,
        metadata=option_words("What to repair from images: least-squares, bias, norms or kl; may be repeated.", "HOW"),
    )
    solver: str | Solver | None = field(
        default=None,
        metadata=option_words(
            "Instead of a criterion: structured-obs or thinet (channels), sparse-gpt or wood-fisher (weights).", "NAME"
        ),
    )
    loss: str | Loss | None = field(
        default=None,
        metadata=option_words(
            "What a criterion or solver takes for the loss: cross-entropy (default), mse, l1, bce or "
            "package.module:function.",
            "NAME",
        ),
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
            "Where the model is to run and is timed: eager, onnxruntime, openvino, ..., as in onnxruntime:threads=2.",
            "NAME",
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
    tolerance: float = field(
        default=TOLERANCE,
        metadata=option_words(
            "The greatest relative difference from the masked model's outputs on the example.", "NUMBER"
        ),
    )
    uniform: bool | None = field(
        default=None,
        metadata=option_words(
            "Equal widths where the model's config says them, so that from_pretrained loads it (default where it does).",
            "BOOL",
        ),
    )
    fold: bool = field(
        default=False,
        metadata=option_words("Make plain weights first of masked, normalised and parametrized ones.", "BOOL"),
    )

    def __post_init__(self) -> None:
        check_name("unit", self.unit, UNITS)
        if self.scope is not None:
            check_name("scope", self.scope, (*SCOPES, "balanced"))
        if self.loss is not None:
            loss_function(self.loss)
        if self.round_to != "auto":
            check_whole("prune", 1, 'or "auto"', round_to=self.round_to)
        if self.runtime is not None:
            timer(self.runtime)
        if self.budget is not None:
            self._check_budget(self.budget)
        if self.solver is not None:
            self._check_solver()
        if self.scope == "balanced" and (self._rules or self.unit == "weights"):
            raise InputError('prune: scope="balanced" goes with a budget for channels; take "layer" or "global"')
        if not isinstance(self.repair, str | tuple | list | None):
            raise InputError(f"prune: repair is {self.repair!r}; give a name of a repair, several, or () for none")
        if self.repairs and self.unit == "weights":
            raise InputError('prune: repair makes up for channels that are cut out; it goes with unit="channels"')

    def _check_budget(self, budget: object) -> None:
        for rival in (*self._rules, *(() if self.block is None else ("block",))):
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
        return (self.repair,) if isinstance(self.repair, str) else tuple(self.repair or ())

    @property
    def _rules(self) -> list[str]:
        """The rules of choosing that are given, but for a budget."""
        return [name for name in ("sparsity", "cumulative", "pattern") if getattr(self, name) is not None]

    def settled(self, has_data: bool) -> PruneOptions:
        """Return the options with a criterion; where none is given and there are data, they are scored and repaired with."""
        if self.criterion is not None:
            return self
        if not has_data or self.unit == "weights":
            return replace(self, criterion="l2")
        return replace(self, criterion="joint-loss-change", repair=BY_DEFAULT if self.repair is None else self.repair)

    def completed(self, scorer: object = None) -> PruneOptions:
        """Return the options with a rule of choosing and a scope: what is given, the criterion's own, or the default."""
        rule: dict[str, Any] = {}
        if not self._rules and self.budget is None:
            default = {"sparsity": 0.5} if self.unit == "weights" or self.block is not None else {"budget": HALF}
            rule = getattr(scorer, "default_rule", None) or default
        ready = replace(self, **rule)
        if ready.scope is not None:
            return ready
        scope: Literal["global", "layer", "balanced"] = (
            "global" if self.unit == "weights" else "layer" if ready.budget is None else "balanced"
        )
        return replace(ready, scope=scope)


HALF: Mapping[str, float | str] = {"macs": 0.5}
"""The budget where no rule is given."""

BY_DEFAULT: tuple[Repair, ...] = ("least-squares", "norms")
"""What is repaired where nothing is chosen but data are given."""

LEFT_TO_ALL = {
    "sparsity",
    "unit",
    "solver",
    "loss",
    "ignore",
    "form",
    "tolerance",
    "uniform",
    "fold",
    "runtime",
    "data",
}
"""The options that go with a solver, too."""
