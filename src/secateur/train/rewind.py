"""Retraining with the learning rate as it was earlier in the training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch.optim.lr_scheduler import ReduceLROnPlateau

from secateur.checks import check_whole
from secateur.train.callbacks import Callback, Run
from secateur.types import InputError

__all__ = ["RewindRate"]


@dataclass(frozen=True)
class RewindRate(Callback):
    """Trains what follows an epoch once more: the rate of the original schedule, the weights as they are.

    Learning-rate rewinding (Renda et al., 2020) instead of fine-tuning at the last, lowest rate. Give `fit` the
    original options, all epochs included; it then trains only what comes after `epoch`, with the rates of then. The
    epochs of a training that is taken up in the middle of one begin there, and so do those of its rate.

    Attributes:
        epoch: how many epochs of the schedule are taken as done, 0 or more and below the options' epochs.
        steps: how many steps after them are taken as done, too.

    Raises:
        InputError: nothing is left to be trained, or the schedule follows the loss.

    >>> import torch
    >>> from secateur.train import fit
    >>> model, data = torch.nn.Linear(1, 1), (torch.ones(4, 1), torch.ones(4, 1))
    >>> original = {"epochs": 4, "schedule": "step", "step_size": 1, "gamma": 0.1, "lr": 1.0, "loss": "mse"}
    >>> [round(record.lr, 6) for record in fit(model, data, callbacks=[RewindRate(2)], **original)]
    [0.01, 0.001]
    """

    epoch: int
    steps: int = 0

    def __post_init__(self) -> None:
        check_whole(self, 0, epoch=self.epoch, steps=self.steps)

    def identity(self) -> str:
        """Return the epoch that is rewound to, and the steps after it."""
        return f"RewindRate {self.epoch}" + (f" and {self.steps} steps" if self.steps else "")

    def on_start(self, run: Run) -> None:
        """Bring the schedule to where it was after that epoch."""
        done = self._done(run)
        if done >= run.total_steps:
            until = f"epoch {self.epoch}" + (f" and {self.steps} steps" if self.steps else "")
            raise InputError(
                f"RewindRate: {until} is not before the end of a training of {run.options.epochs} epochs "
                f"({run.total_steps} steps)"
            )
        scheduler = run.schedule.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            raise InputError("RewindRate: a schedule that follows the loss has no rate of its own to rewind to")
        if run.records:
            return  # resumed: the checkpoint holds the schedule
        with warnings.catch_warnings():
            # torch warns of a schedule that is ahead of its optimiser; here it is meant to be.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for _ in range(done if run.schedule.every_step else done // _steps_per_epoch(run)):
                scheduler.step()

    def on_step(self, run: Run) -> None:
        """Stop where the original training ended."""
        if self._done(run) + run.step >= run.total_steps:
            run.stop = True

    def _done(self, run: Run) -> int:
        """The steps that are taken as done."""
        return self.epoch * _steps_per_epoch(run) + self.steps


def _steps_per_epoch(run: Run) -> int:
    return max(run.total_steps // max(run.options.epochs, 1), 1)
