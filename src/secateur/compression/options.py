"""What can be chosen about a compression, and what its goal is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from typing import Any, Literal

from secateur.allocate import BUDGETS
from secateur.runtimes import Runtime, timer
from secateur.train.options import TrainOptions
from secateur.types import Criterion, InputError, Loss, RoundTo, unknown_name

__all__ = ["CompressOptions", "Goal", "Metric"]

Metric = Callable[[Any, Any], float]
"""Of (outputs, targets), all samples of the validation data together; high = good."""

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
        ((what, fraction),) = goal.items()
        if what not in BUDGETS:
            raise unknown_name("goal", what, BUDGETS)
        if isinstance(fraction, bool) or not isinstance(fraction, float | int) or not 0 < fraction < 1:
            raise InputError(
                f"compress: the goal {what}={fraction!r} must be a fraction of the original's, above 0 and below 1"
            )
        return cls(what, float(fraction))


@dataclass(frozen=True)
class CompressOptions:
    """What can be chosen about a compression.

    Attributes:
        max_drop: by how much the metric may be lower than the original's on the validation data.
        metric: of (outputs, targets), high = good, or a name: ``"accuracy"``, ``"agreement"`` (the share of samples on
            which the greatest output is the original's) or ``"fidelity"`` (the share of the variance of the original's
            outputs that is met). None: accuracy where the targets are classes, else fidelity.
        loss: of the true targets, as `fit` takes it; None trains on the original's answers alone.
        runtime: where it is to run: ``"onnxruntime"``, ``"eager"``, one with options, such as
            ``"onnxruntime:threads=2"``, or a function; see `secateur.runtimes`. None: ONNX Runtime where it is installed.
        steps: in how many cuts the goal is approached, each followed by a training.
        criterion: what is scored by in each step.
        train: the training after each cut.
        finish: the training at the goal, or None for that of each step.
        samples: how many training samples are scored and repaired with.
        retries: how many smaller steps are tried after those that cost too much.
        time_limit: seconds after which the best that there is comes back; None for none.
        ignore: sites to leave whole, by name or pattern.
        round_to: keep a multiple of this many units in every site; ``"auto"`` measures what the runtime likes.
        minimum: how many units every site keeps at least.
        seed: of the trainings.
    """

    max_drop: float = 0.01
    metric: str | Metric | None = None
    loss: str | Loss | None = None
    runtime: Runtime | None = None
    steps: int = 2
    criterion: str | Criterion = "joint-loss-change"
    train: TrainOptions = SHORT
    finish: TrainOptions | None = LONG
    samples: int = 1000
    retries: int = 2
    time_limit: float | None = None
    ignore: Iterable[str] = ()
    round_to: RoundTo | Literal["auto"] = "auto"
    minimum: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("samples", 1), ("retries", 0), ("minimum", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise InputError(f"compress: {name}={value!r} must be a whole number, {least} or more")
        if isinstance(self.max_drop, bool) or not isinstance(self.max_drop, float | int) or self.max_drop < 0:
            raise InputError(f"compress: max_drop={self.max_drop!r} must be 0 or more")
        if self.time_limit is not None and not self.time_limit > 0:
            raise InputError(f"compress: time_limit={self.time_limit!r} must be above 0 seconds")
        timer(self.where)

    @property
    def where(self) -> Runtime:
        """The runtime: the one that was asked for, or ONNX Runtime where it is installed, or eager PyTorch."""
        if self.runtime is not None:
            return self.runtime
        return "onnxruntime" if find_spec("onnxruntime") and find_spec("onnxscript") else "eager"

    def identity(self) -> dict[str, Any]:
        """Return what decides the outcome, as plain data."""
        values = {option.name: getattr(self, option.name) for option in fields(self) if option.name != "time_limit"}
        return {
            name: value if isinstance(value, int | float | str | None) else repr(value)
            for name, value in values.items()
        }
