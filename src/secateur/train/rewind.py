"""Retraining with the learning rate as it was earlier in the training."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from secateur.checks import check_whole
from secateur.train.callbacks import Callback, Run
from secateur.types import InputError

__all__ = ["RewindRate"]


@dataclass(frozen=True)
class RewindRate(Callback):
    """Trains the epochs that follow `epoch` once more: the rate of the original schedule, the weights as they are.

    Learning-rate rewinding (Renda et al., 2020) instead of fine-tuning at the last, lowest rate. Give `fit` the
    original options, all epochs included; it then trains only those after `epoch`, with the rates that they had.

    Attributes:
        epoch: how many epochs of the schedule are taken as done, 0 or more and below the options' epochs.

    Raises:
        InputError: `epoch` is out of range, or the schedule follows the loss.

    >>> import torch
    >>> from secateur.train import fit
    >>> model, data = torch.nn.Linear(1, 1), (torch.ones(4, 1), torch.ones(4, 1))
    >>> original = {"epochs": 4, "schedule": "step", "step_size": 1, "gamma": 0.1, "lr": 1.0, "loss": "mse"}
    >>> [round(record.lr, 6) for record in fit(model, data, callbacks=[RewindRate(2)], **original)]
    [0.01, 0.001]
    """

    epoch: int

    def __post_init__(self) -> None:
        check_whole(self, 0, epoch=self.epoch)

    def identity(self) -> str:
        """Return the epoch that is rewound to."""
        return f"RewindRate {self.epoch}"

    def on_start(self, run: Run) -> None:
        """Bring the schedule to where it was after that epoch."""
        epochs = run.options.epochs
        if self.epoch >= epochs:
            raise InputError(f"RewindRate: epoch {self.epoch} is not before the end of a training of {epochs} epochs")
        scheduler = run.schedule.scheduler
        if isinstance(scheduler, ReduceLROnPlateau):
            raise InputError("RewindRate: a schedule that follows the loss has no rate of its own to rewind to")
        if run.records:
            return  # resumed: the checkpoint holds the schedule
        steps = scheduler.total_steps // epochs if isinstance(scheduler, OneCycleLR) else 1
        with warnings.catch_warnings():
            # torch warns of a schedule that is ahead of its optimiser; here it is meant to be.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step", UserWarning)
            for _ in range(self.epoch * steps):
                scheduler.step()

    def on_epoch(self, run: Run) -> None:
        """Stop where the original training ended."""
        if self.epoch + len(run.records) >= run.options.epochs:
            run.stop = True
