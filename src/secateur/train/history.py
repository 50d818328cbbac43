"""What a training leaves behind: one record an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.hints import Checked

__all__ = ["EpochRecord", "History"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch of a training. Two records are equal when all but their `seconds` are.

    Attributes:
        epoch: counted from 1.
        train_loss: mean over the samples, each taken when its batch was trained on.
        train_accuracy: likewise; None where the targets are not classes.
        validation_loss, validation_accuracy: after the epoch; None without validation data.
        lr: learning rate of the epoch's last step.
        seconds: wall-clock time of the epoch, validation included.
    """

    epoch: int
    train_loss: float
    train_accuracy: float | None
    validation_loss: float | None
    validation_accuracy: float | None
    lr: float
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class History(Checked):
    """The epochs of a training, in order.

    >>> history = History((EpochRecord(1, 0.9, 0.5, 0.8, 0.6, 0.1, seconds=2.0),
    ...                    EpochRecord(2, 0.5, 0.8, 0.9, 0.6, 0.1, seconds=2.0)))
    >>> history.best_epoch, history[-1].train_loss, len(history)
    (1, 0.5, 2)
    """

    epochs: tuple[EpochRecord, ...] = ()

    @property
    def best_epoch(self) -> int | None:
        """The epoch (from 1) of the lowest validation loss, the first of equals; None without validation."""
        losses = [(record.validation_loss, record.epoch) for record in self.epochs]
        validated = [(loss, epoch) for loss, epoch in losses if loss is not None]
        return min(validated)[1] if validated else None

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the records as dictionaries, ready for JSON or a table."""
        return [asdict(record) for record in self.epochs]

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[EpochRecord]:
        return iter(self.epochs)

    def __getitem__(self, index: int) -> EpochRecord:
        return self.epochs[index]
