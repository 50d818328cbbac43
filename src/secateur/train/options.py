"""What can be chosen about a training: the optimiser, the learning rate, the loss, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
    StepLR,
)
from torch.optim.optimizer import Optimizer

from secateur.checks import check_name, check_number, check_whole, is_whole
from secateur.hints import Checked
from secateur.losses import loss_function
from secateur.types import InputError, Loss

__all__ = ["OPTIMIZERS", "SCHEDULES", "LearningRateSchedule", "TrainOptions"]

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]

OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], tuple[str, ...]]] = {
    "sgd": (torch.optim.SGD, ("momentum", "nesterov")),
    "adam": (torch.optim.Adam, ()),
    "adamw": (torch.optim.AdamW, ()),
    "rmsprop": (torch.optim.RMSprop, ("momentum",)),
}
"""The optimisers that have a name, with the options that each takes beside `lr` and `weight_decay`."""

FUSED = ("sgd", "adam", "adamw")
"""The optimisers of which torch has a fused step: the same numbers but for rounding, in a third of the time."""

SCHEDULES: dict[str, tuple[str, ...]] = {
    "constant": (),
    "cosine": (),
    "step": ("step_size", "gamma"),
    "multistep": ("milestones", "gamma"),
    "exponential": ("gamma",),
    "onecycle": (),
}
"""The learning-rate schedules that have a name, with the options that each takes."""


@dataclass(frozen=True)
class TrainOptions(Checked):
    """How to train: a plain value that can be compared, copied with changes, and kept beside the result.

    Attributes:
        epochs: how often the training data are gone through; 0 trains nothing.
        batch_size: samples a step; without meaning where the training data come in batches already.
        optimizer: ``sgd``, ``adam``, ``adamw``, ``rmsprop``, or a callable that makes one of the parameters.
        lr: learning rate.
        momentum, nesterov: of ``sgd`` (and momentum of ``rmsprop``).
        weight_decay: of the named optimisers; decoupled in ``adamw``, added to the gradient in the others.
        schedule: ``constant``; ``cosine`` to zero over all epochs; ``step`` (every `step_size` epochs, by
            default a third of them); ``multistep`` (at the epochs `milestones`, by default a half and three
            quarters); ``exponential`` (every epoch); ``onecycle`` (every step, peak at `lr`, Smith & Topin,
            2019); or a callable that makes torch's scheduler from the optimiser, stepped once an epoch.
        step_size, milestones, gamma: of the schedules; `gamma` is 0.1 by default, 0.95 for ``exponential``.
        loss: ``cross_entropy``, ``mse`` or ``l1`` (class labels stand for one-hot vectors), ``bce`` (each output a yes
            or no), or a callable of (outputs, targets) that returns the mean over the batch: see `fit`.
        clip_norm: the largest norm that the gradient of all parameters together may have; None does not clip.
        accumulate: batches a step: the gradient is that of the mean loss over the samples of them all, so that a large
            batch needs the memory of a small one. Norms see each batch by itself.
        amp: compute the forward and backward passes in bfloat16 where that is safe (torch's autocast); the weights, the
            loss, the steps and the validation stay in the model's dtype. No scaling of the loss is needed, as bfloat16
            has the range of float32. It saves time where the processor has instructions for it, and memory.
        ema: the decay of a running average of the weights, in (0, 1), such as 0.999; the average is validated, and is
            what the model ends with. None keeps none.
        freeze_norms: leave the running statistics of batch norms as they are, and normalise by them while training, as
            in evaluation: for small batches, or few data. Their scales and shifts are trained all the same; call
            ``requires_grad_(False)`` on those that should stay. Norms without running statistics (layer and group
            norms) are as ever.
        patience: stop after this many epochs without a lower validation loss; None never stops early.
        restore_best: end with the weights of the lowest validation loss; None means: where there are
            validation data.
        seed: of the order of the samples and of what is random in the model (dropout).

    Raises:
        InputError: a value is out of range, or does not belong to the chosen optimiser or schedule.
        UnknownNameError: the optimiser, schedule or loss has no such name.

    >>> TrainOptions(optimizer="sgd", lr=0.1, momentum=0.9).momentum
    0.9
    >>> TrainOptions(momentum=0.9)
    Traceback (most recent call last):
    secateur.types.InputError: training option momentum=0.9 does not belong to optimizer 'adam'; leave it out
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str | OptimizerFactory = "adam"
    lr: float = 1e-3
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str | ScheduleFactory = "constant"
    step_size: int | None = None
    milestones: Sequence[int] | None = None
    gamma: float | None = None
    loss: str | Loss = "cross_entropy"
    clip_norm: float | None = None
    accumulate: int = 1
    amp: bool = False
    ema: float | None = None
    freeze_norms: bool = False
    patience: int | None = None
    restore_best: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.milestones, Iterable):
            object.__setattr__(self, "milestones", tuple(self.milestones))
        self._check_names()
        self._check_ranges()
        self._check_belonging()

    def _check_names(self) -> None:
        for role, value, registry in (
            ("optimizer", self.optimizer, OPTIMIZERS),
            ("learning-rate schedule", self.schedule, SCHEDULES),
        ):
            if not callable(value):
                check_name(role, value, registry)
        loss_function(self.loss)

    def _check_ranges(self) -> None:
        check_whole("training", 0, epochs=self.epochs)
        check_whole("training", 0, most=2**63 - 1, seed=self.seed)
        check_whole("training", batch_size=self.batch_size, accumulate=self.accumulate)
        check_whole("training", or_none=True, step_size=self.step_size, patience=self.patience)
        check_number("training", "(0, inf)", lr=self.lr)
        check_number("training", "(0, inf)", or_none=True, gamma=self.gamma, clip_norm=self.clip_norm)
        check_number("training", "(0, 1)", or_none=True, ema=self.ema)
        check_number("training", "[0, inf)", weight_decay=self.weight_decay)
        check_number("training", "[0, 1)", momentum=self.momentum)
        for name in ("amp", "freeze_norms", "nesterov"):
            _require(name, getattr(self, name), isinstance(getattr(self, name), bool), "True or False")
        at = self.milestones
        whole = isinstance(at, tuple) and all(is_whole(epoch, 1) for epoch in at)
        rising = at is None or (whole and list(at) == sorted(set(at)))
        _require("milestones", at, rising, "rising whole numbers of epochs, 1 or more")

    def _check_belonging(self) -> None:
        """Refuse what would be ignored in silence."""
        default = {field.name: field.default for field in fields(self)}
        for choice, takes, all_of_them in (
            ("optimizer", self._optimizer_takes(), ("lr", "weight_decay", "momentum", "nesterov")),
            ("schedule", self._schedule_takes(), ("step_size", "milestones", "gamma")),
        ):
            for name in all_of_them:
                value = getattr(self, name)
                if name not in takes and value != default[name]:
                    raise InputError(
                        f"training option {name}={value!r} does not belong to {choice} "
                        f"{describe(getattr(self, choice))!r}; leave it out"
                    )
        if self.nesterov and not self.momentum:
            raise InputError("training option nesterov=True needs a momentum above 0, such as momentum=0.9")

    def _optimizer_takes(self) -> tuple[str, ...]:
        if isinstance(self.optimizer, str):
            return ("lr", "weight_decay", *OPTIMIZERS[self.optimizer][1])
        return ()

    def _schedule_takes(self) -> tuple[str, ...]:
        return SCHEDULES[self.schedule] if isinstance(self.schedule, str) else ()

    def make_optimizer(self, parameters: Iterable[nn.Parameter], *, fused: bool = False) -> Optimizer:
        """Return the optimiser of these parameters; `fused`, one that has a name by torch's fused steps where it has them."""
        if callable(self.optimizer):
            return _stepping_alone(self.optimizer(parameters))
        make, _ = OPTIMIZERS[self.optimizer]
        extra = {"fused": True} if fused and self.optimizer in FUSED else {}
        return make(parameters, **{name: getattr(self, name) for name in self._optimizer_takes()}, **extra)

    def make_schedule(self, optimizer: Optimizer, steps_per_epoch: int) -> LearningRateSchedule:
        """Return the schedule of this optimiser's learning rate."""
        if callable(self.schedule):
            return LearningRateSchedule(self.schedule(optimizer))
        if self.schedule == "onecycle":
            # Momentum stays what the options say it is.
            peaks = [float(group["lr"]) for group in optimizer.param_groups]
            steps = max(1, self.epochs * steps_per_epoch)
            cycle = OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, cycle_momentum=False)
            return LearningRateSchedule(cycle, every_step=True)
        return LearningRateSchedule(self._epoch_schedule(self.schedule, optimizer))

    def _epoch_schedule(self, name: str, optimizer: Optimizer) -> LRScheduler:
        gamma = 0.1 if self.gamma is None else self.gamma
        if name == "cosine":
            return CosineAnnealingLR(optimizer, T_max=max(1, self.epochs))
        if name == "step":
            return StepLR(optimizer, self.step_size or max(1, self.epochs // 3), gamma)
        if name == "multistep":
            default = sorted({max(1, self.epochs // 2), max(1, self.epochs * 3 // 4)})
            return MultiStepLR(optimizer, list(self.milestones or default), gamma)
        if name == "exponential":
            return ExponentialLR(optimizer, 0.95 if self.gamma is None else self.gamma)
        return ConstantLR(optimizer, factor=1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain values; callables by their names."""
        return {field.name: describe(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class LearningRateSchedule:
    """One of torch's schedulers, and when it is stepped: after every step, or after every epoch."""

    scheduler: LRScheduler
    every_step: bool = False

    def after_step(self) -> None:
        """Tell the scheduler that a step is done."""
        if self.every_step:
            self.scheduler.step()

    def after_epoch(self, loss: float) -> None:
        """Tell the scheduler that an epoch is done; `loss` is what a plateau is seen by."""
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif not self.every_step:
            self.scheduler.step()


def describe(value: Any) -> Any:
    """Return a plain value that stands for an option; a callable by its name and bound arguments."""
    if isinstance(value, tuple):
        return [describe(item) for item in value]
    if not callable(value):
        return value
    inner = getattr(value, "func", None)
    if inner is not None:
        bound = ", ".join([*map(repr, value.args), *(f"{k}={v!r}" for k, v in sorted(value.keywords.items()))])
        return f"{describe(inner)}({bound})"
    owner = value if hasattr(value, "__qualname__") else type(value)
    return f"{owner.__module__}.{owner.__qualname__}"


def _stepping_alone(optimizer: Optimizer) -> Optimizer:
    """Refuse an optimiser whose step calls for the loss again and again, as L-BFGS does."""
    closure = signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is Parameter.empty:
        raise InputError(
            f"training option optimizer makes a {type(optimizer).__name__}, whose steps compute the loss several times, "
            "which no training here does; take one that steps from the gradient, such as 'sgd' or 'adam'"
        )
    return optimizer


def _require(name: str, value: object, right: bool, what: str) -> None:
    if not right:
        raise InputError(f"training option {name}={value!r} must be {what}")
