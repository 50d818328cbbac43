"""The training of one cycle of `secateur.schedules.Cycles`: distort, then fit, always with the same optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn
from torch.optim import Optimizer

from secateur.hints import Checked
from secateur.labelled import Samples, check_data
from secateur.train.callbacks import Callback
from secateur.train.history import History
from secateur.train.loop import fit
from secateur.train.options import TrainOptions

__all__ = ["TrainCycle"]


@dataclass(frozen=True)
class TrainCycle(Checked):
    """Trains a model for one cycle, in place, with the optimizer of the cycles before.

    Attributes:
        data: what to train on, as `fit` takes it.
        options: of each cycle's training; the samples' order differs from cycle to cycle.
        callbacks: what to do beside, such as penalties.
        distort: called with the model and the cycle's number before each training but the first, such as `Distortion`.
        on_cycle: called after each training with the cycle's number, the model and its history.

    >>> import torch
    >>> data, model = (torch.rand(8, 1), torch.rand(8, 1)), nn.Linear(1, 1)
    >>> train = TrainCycle(data, TrainOptions(epochs=1, loss="mse", optimizer="sgd", momentum=0.5))
    >>> optimizer = train.optimizer(model)
    >>> for cycle in (1, 2):
    ...     train(model, optimizer, cycle)
    >>> "momentum_buffer" in optimizer.state[model.weight]
    True
    """

    data: Samples = field(repr=False)
    options: TrainOptions = field(default_factory=TrainOptions)
    callbacks: Sequence[Callback] = ()
    distort: Callable[[nn.Module, int], object] | None = None
    on_cycle: Callable[[int, nn.Module, History], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_data(self)

    def optimizer(self, model: nn.Module) -> Optimizer:
        """Return the optimizer that the options name, of this model's parameters."""
        return self.options.make_optimizer([p for p in model.parameters() if p.requires_grad])

    def __call__(self, model: nn.Module, optimizer: Optimizer, cycle: int) -> None:
        """Train."""
        if self.distort is not None and cycle > 1:
            self.distort(model, cycle - 1)
        for group in optimizer.param_groups:
            # A schedule of the learning rate begins anew with each cycle.
            group["lr"] = group.setdefault("cycle_lr", group["lr"])
        history = fit(model, self.data, options=_carrying(self.options, optimizer, cycle), callbacks=self.callbacks)
        if self.on_cycle is not None:
            self.on_cycle(cycle, model, history)


def _carrying(options: TrainOptions, optimizer: Optimizer, cycle: int) -> TrainOptions:
    """The same options with an optimizer that is there already, and another order of the samples."""
    plain: dict[str, Any] = {"lr": 1e-3, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    return replace(options, optimizer=lambda _: optimizer, seed=options.seed + cycle - 1, **plain)
