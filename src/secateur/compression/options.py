"""What can be chosen about a compression, and what its goal is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from typing import Any, Literal

from secateur.allocate import BUDGETS
from secateur.checks import check_number, check_options, check_whole, wrong_value
from secateur.losses import loss_function
from secateur.pruning import Prune
from secateur.runtimes import Runtime, timer
from secateur.train.options import TrainOptions, describe
from secateur.transforms import TRANSFORMS, Transform
from secateur.types import Criterion, InputError, Loss, Metric, RoundTo, brief, option_words, unknown_name

__all__ = ["CompressOptions", "Goal", "Step"]

Step = Prune | Transform
"""One of the steps that are combined: called with (model, example inputs), it returns a `Result`."""

SHORT = TrainOptions(epochs=2, lr=1e-3, optimizer="adam", schedule="cosine")
LONG = TrainOptions(epochs=6, lr=1e-3, optimizer="adam", schedule="cosine")
"""The trainings of a step and of the end: chosen on validation images of the networks in docs/results/worth.md."""


@dataclass(frozen=True)
class Goal:
    """What the compressed model may use: a fraction of the original's latency, MACs, parameters or bytes.

    >>> Goal.of({"macs": 0.5})
    Goal(what='macs', fraction=0.5)
    """

    what: str
    fraction: float

    @classmethod
    def of(cls, goal: object) -> Goal:
        """Return the goal that ``{"latency": 0.5}`` names.

        Raises:
            InputError: it is no such mapping, or the fraction is not in (0, 1).
            UnknownNameError: it is a goal of something else.
        """
        if not isinstance(goal, Mapping) or len(goal) != 1:
            raise InputError(f'compress: the goal is {goal!r}; give one, such as {{"latency": 0.5}} or {{"macs": 0.3}}')
        ((measure, fraction),) = goal.items()
        if measure not in BUDGETS:
            raise unknown_name("goal", measure, BUDGETS)
        if isinstance(fraction, bool) or not isinstance(fraction, float | int) or not 0 < fraction < 1:
            raise InputError(
                f"compress: the goal {measure}={fraction!r} must be a fraction of the original's, above 0 and below 1"
            )
        return cls(measure, float(fraction))


@dataclass(frozen=True)
class CompressOptions:
    """What can be chosen about a compression.

    Attributes:
        max_drop: by how much the metric may be lower than the original's on the validation data.
        metric: of (outputs, targets), high = good, or a name: ``"accuracy"``, ``"agreement"`` (the share of samples on
            which the greatest output is the original's) or ``"fidelity"`` (the share of the variance of the original's
            outputs that is met), or an import path, ``"package.module:name"``. None: accuracy where the targets are
            classes, else fidelity.
        loss: of the true targets, as `fit` takes it; None trains on the original's answers alone.
        runtime: where it is to run: ``"onnxruntime"``, ``"eager"``, one with options, such as
            ``"onnxruntime:threads=2"``, or a function; see `secateur.runtimes`. None: ONNX Runtime where it is installed.
        steps: in how many cuts the goal is approached, each followed by a training. Or the steps themselves, in their order:
            `secateur.pruning.Prune` and `secateur.transforms`; then criterion, retries, ignore, round_to and minimum are
            theirs.
        criterion: what is scored by in each step.
        train: the training after each cut; its loss is `loss`.
        finish: the training at the goal, or None for that of each step. It is gone through again while the metric is a
            little too low and rises.
        samples: how many training samples are scored and repaired with.
        retries: how many smaller steps are tried after those that cost too much.
        time_limit: seconds after which the best that there is comes back; None for none.
        ignore: sites to leave whole, by name or pattern.
        round_to: keep a multiple of this many units in every site; ``"auto"`` measures what the runtime likes.
        minimum: how many units every site keeps at least.
        uniform: keep the same share of all sites whose widths follow from one size of the model's config, as `prune` does:
            None where the model is made of one.
        seed: of the trainings.
    """

    max_drop: float = field(
        default=0.01, metadata=option_words("By how much the metric may be lower than the unpruned model's.")
    )
    metric: str | Metric | None = field(
        default=None,
        metadata=option_words(
            "accuracy, agreement or fidelity, or package.module:function; accuracy where there are classes, else fidelity.",
            "NAME",
        ),
    )
    loss: str | Loss | None = field(
        default=None,
        metadata=option_words(
            "The loss of the labels: cross_entropy, mse, l1, bce or package.module:function.", "NAME"
        ),
    )
    runtime: Runtime | None = field(
        default=None,
        metadata=option_words(
            "Where it is to run: onnxruntime (default where it is installed) or eager, as in onnxruntime:threads=2.",
            "NAME",
        ),
    )
    steps: int | Sequence[Step] = field(default=2, metadata=option_words("In how many cuts the goal is approached."))
    criterion: str | Criterion = field(
        default="joint-loss-change", metadata=option_words("What to score by (see `secateur list`).", "NAME")
    )
    train: TrainOptions = field(
        default=SHORT,
        metadata=option_words(
            "The training after each cut, such as epochs=2 or lr=0.001, as JSON; may be repeated.", "KEY=VALUE"
        ),
    )
    finish: TrainOptions | None = field(
        default=LONG,
        metadata=option_words("The training at the goal, such as epochs=6, as JSON; may be repeated.", "KEY=VALUE"),
    )
    samples: int = field(default=1000, metadata=option_words("How many training samples are scored and repaired with."))
    retries: int = field(
        default=2, metadata=option_words("How many smaller steps are tried after those that cost too much.")
    )
    time_limit: float | None = field(
        default=None, metadata=option_words("Seconds after which the best that there is comes back.", "SECONDS")
    )
    ignore: Iterable[str] = field(
        default=(), metadata=option_words("A site to leave whole, by name or pattern; may be repeated.", "SITE")
    )
    round_to: RoundTo | Literal["auto"] = field(
        default="auto",
        metadata=option_words(
            "Keep a multiple of this many units in every site; auto: of what the runtime likes, measured.", "NUMBER"
        ),
    )
    minimum: int = field(default=1, metadata=option_words("How many units every site keeps at least."))
    uniform: bool | None = field(
        default=None,
        metadata=option_words("Equal widths where the model's config says them (default where it does).", "BOOL"),
    )
    seed: int = field(default=0, metadata=option_words("Of the trainings, and of the samples that are scored with."))

    def __post_init__(self) -> None:
        check_whole("compress", samples=self.samples, minimum=self.minimum)
        self._check_steps(self.steps)
        check_whole("compress", 0, retries=self.retries)
        check_whole("compress", 0, most=2**63 - 1, seed=self.seed)
        check_number("compress", "[0, inf]", max_drop=self.max_drop)
        if self.time_limit is not None:
            check_number("compress", "(0, inf]", "seconds", time_limit=self.time_limit)
        check_options("compress", TrainOptions, train=self.train)
        check_options("compress", TrainOptions, or_none=True, finish=self.finish)
        if self.loss is not None:
            loss_function(self.loss)
        self._check_trainings()
        if not (self.metric is None or isinstance(self.metric, str) or callable(self.metric)):
            raise InputError(
                f"compress: metric={brief(self.metric)} must be a name, a function of (outputs, targets), or None"
            )
        if not (self.uniform is None or isinstance(self.uniform, bool)):
            raise wrong_value("compress", "uniform", self.uniform, "True, False", "", or_none=True)
        timer(self.where)

    def _check_steps(self, steps: object) -> None:
        if not isinstance(steps, tuple | list):
            check_whole("compress", 1, "or a list of steps, such as [LowRank(), Share()]", steps=steps)
            return
        for step in steps:
            if not isinstance(step, Step):
                known_steps = ", ".join(["Prune", *(transform.__name__ for transform in TRANSFORMS.values())])
                raise InputError(f"compress: {brief(step)} in steps is no step; make each with one of {known_steps}")
        if not steps:
            raise InputError("compress: steps is empty; give at least one, such as LowRank()")
        for option in fields(self):
            if option.name in OF_STEPS and getattr(self, option.name) != option.default:
                raise InputError(f"compress: {option.name} does nothing where the steps are given; give it to them")

    @property
    def given_steps(self) -> tuple[Step, ...]:
        """The steps that were given; none where their number was."""
        return () if isinstance(self.steps, int) else tuple(self.steps)

    @property
    def count(self) -> int:
        """How many steps there are, or cuts to the goal."""
        return self.steps if isinstance(self.steps, int) else len(self.steps)

    def _check_trainings(self) -> None:
        """Refuse a loss that would be ignored in silence."""
        for name, training in (("train", self.train), ("finish", self.finish)):
            if training is not None and training.loss not in (TrainOptions.loss, self.loss):
                raise InputError(
                    f"compress: {name}=TrainOptions(loss={describe(training.loss)!r}) is not what is trained by, as scores and "
                    "all trainings share one loss; give it to compress itself, as loss="
                )

    @property
    def where(self) -> Runtime:
        """The runtime: the one that was asked for, or ONNX Runtime where it is installed, or eager PyTorch."""
        if self.runtime is not None:
            return self.runtime
        return "onnxruntime" if find_spec("onnxruntime") and find_spec("onnxscript") else "eager"

    def identity(self) -> dict[str, Any]:
        """Return what decides the outcome, as plain data that are the same in every process."""
        values = {option.name: getattr(self, option.name) for option in fields(self) if option.name != "time_limit"}
        return {name: _plain(value) for name, value in {**values, "runtime": self.where}.items()}


OF_STEPS = {"criterion", "retries", "ignore", "round_to", "minimum"}
"""Options that each step has for itself."""


def _plain(value: Any) -> Any:
    if isinstance(value, int | float | str | None):
        return value
    if isinstance(value, TrainOptions):
        return value.to_dict()
    if isinstance(value, tuple | list) and all(isinstance(part, Step) for part in value):
        return [_plain_step(step) for step in value]
    # The text of a function has its address; one of a criterion or a loss that is made has its options.
    return describe(value) if hasattr(value, "__qualname__") or hasattr(value, "func") else repr(value)


def _plain_step(step: Step) -> dict[str, Any]:
    """The options of a step, by name; its data are not among them."""
    values = {option.name: getattr(step, option.name) for option in fields(step)}  # type: ignore[arg-type]
    return {"step": step.kind, **{n: _plain(value) for n, value in values.items() if n not in ("data", "validation")}}
