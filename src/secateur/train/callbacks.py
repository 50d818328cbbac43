"""What can be added to the training loop: small callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor, nn
from torch.optim.optimizer import Optimizer

from secateur.checks import check_whole
from secateur.hints import Checked
from secateur.state import restore, snapshot, tensors
from secateur.train.devices import ALONE, Ranks
from secateur.train.history import EpochRecord, History
from secateur.train.options import LearningRateSchedule, TrainOptions
from secateur.trees import changed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["Callback", "KeepBest", "LogEpochs", "Run", "ShowProgress", "StopEarly"]


@dataclass
class Run:
    """A training that is under way, as callbacks see it.

    Attributes:
        model: the model that is trained, in place.
        device: the device that the model is on.
        options: what was chosen.
        optimizer, schedule: made from the options.
        order: the generator of the samples' order.
        records: the epochs that are done.
        step: the steps that are done, over all epochs.
        total_steps: how many steps all epochs of the options have.
        average: the running average of the model's tensors, with the option `ema`.
        best: the model's tensors (their average, with `ema`) after the epoch of the lowest validation loss, where they
            are kept.
        masks: the masks of the weights that are trained under masks, by parameter; None without any.
        settled: how many epochs were done when the masks last changed: only the later ones can be the best.
        stop: set it to end the training: after a step, its epoch ends there; after an epoch, none follows.
        ranks: which of several processes this is that train the model together.
        replica: the model as it is called in training by one of several processes; None where it is alone.
    """

    model: nn.Module
    device: torch.device
    options: TrainOptions
    optimizer: Optimizer
    schedule: LearningRateSchedule
    order: Generator
    records: list[EpochRecord] = field(default_factory=list)
    step: int = 0
    total_steps: int = 0
    average: dict[str, Tensor] | None = None
    best: dict[str, Tensor] | None = None
    masks: dict[str, Tensor] | None = None
    settled: int = 0
    stop: bool = False
    ranks: Ranks = ALONE
    replica: nn.Module | None = None

    @property
    def history(self) -> History:
        """The epochs that are done."""
        return History(tuple(self.records))

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the lowest validation loss among those since the masks last changed; None without validation."""
        return History(tuple(self.records[self.settled :])).best_epoch

    @property
    def lr(self) -> float:
        """The learning rate of the optimiser's first group of parameters."""
        return float(self.optimizer.param_groups[0]["lr"])

    def answer(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model answers, computed as the option `amp` says."""
        return self.answer_of(self.model if self.replica is None else self.replica, *args, **kwargs)

    def answer_of(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The same for another model, such as a teacher."""
        if not self.options.amp:
            return model(*args, **kwargs)
        with torch.autocast(self.device.type, torch.bfloat16):
            outputs = model(*args, **kwargs)
        # The loss is computed in full precision.
        return changed(outputs, lambda x: x.float() if x.dtype is torch.bfloat16 else x)

    def weights(self) -> dict[str, Tensor]:
        """The tensors that the training would end with now: the model's own, or their running average."""
        return tensors(self.model) if self.average is None else self.average

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the model hold the running average for a while, where there is one."""
        if self.average is None:
            yield
            return
        trained = snapshot(self.model)
        restore(self.model, self.average)
        try:
            yield
        finally:
            restore(self.model, trained)


class Callback(Checked):
    """Something to do in a training; override what is needed.

    A resumed training calls only what is still to come, so keep no state of your own: read it from `run`. In a training on
    several devices every process has the callback; what one keeps of its own stays there.

    Attributes:
        only_tells: whether it changes nothing of the training, so that of several processes only the first calls it.
    """

    only_tells = False

    def identity(self) -> str:
        """Return a text that differs where the training does; a checkpoint of another is refused."""
        return ""

    def on_start(self, run: Run) -> None:
        """Called before the first epoch, and again when a training is resumed."""

    def on_begin(self, run: Run) -> None:
        """Called before every epoch; ``run.records`` are those that are done. Here the model may be changed."""

    def penalty(self, run: Run) -> Tensor | None:
        """Called after every forward pass of the training: a scalar that is added to the batch's loss; None adds none."""

    def on_gradients(self, run: Run) -> None:
        """Called in every step when the gradients are there, before they are clipped."""

    def on_step(self, run: Run) -> None:
        """Called after every step."""

    def on_epoch(self, run: Run) -> None:
        """Called after every epoch; its record is ``run.records[-1]``."""

    def on_end(self, run: Run) -> None:
        """Called at the end, after an error too."""


class KeepBest(Callback):
    """Keeps the model's tensors of the epoch with the lowest validation loss."""

    def on_epoch(self, run: Run) -> None:
        """Keep this epoch's tensors if it is the best so far."""
        if run.best_epoch == run.records[-1].epoch:
            run.best = {name: tensor.clone() for name, tensor in run.weights().items()}


@dataclass(frozen=True)
class StopEarly(Callback):
    """Stops after `patience` epochs without a lower validation loss."""

    patience: int

    def __post_init__(self) -> None:
        check_whole(self, patience=self.patience)

    def on_epoch(self, run: Run) -> None:
        """Stop if the best epoch is long ago."""
        best = run.best_epoch
        if best is not None and run.records[-1].epoch - best >= self.patience:
            run.stop = True


@dataclass(frozen=True, eq=False)
class LogEpochs(Callback):
    """Tells something else the figures of every epoch, such as TensorBoard or MLflow.

    Attributes:
        log: called with name, value and epoch (from 1): ``SummaryWriter(…).add_scalar``, ``mlflow.log_metric``,
            or a function of one's own. What an epoch does not have (no validation data) is left out.

    >>> from secateur.train import fit
    >>> seen = []
    >>> _ = fit(nn.Linear(2, 1), (torch.ones(4, 2), torch.ones(4, 1)), epochs=2, loss="mse",
    ...         callbacks=[LogEpochs(lambda name, value, epoch: seen.append((name, epoch)))])
    >>> seen[:3]
    [('train_loss', 1), ('lr', 1), ('seconds', 1)]
    """

    log: Callable[[str, float, int], object]
    only_tells = True

    def on_epoch(self, run: Run) -> None:
        """Tell the figures of the epoch that is done."""
        figures = asdict(run.records[-1])
        epoch = figures.pop("epoch")
        for name, value in figures.items():
            if value is not None:
                self.log(name, value, epoch)


class ShowProgress(Callback):
    """Shows a progress bar on the standard error stream, with the last epoch's figures."""

    only_tells = True

    def __init__(self) -> None:
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def on_start(self, run: Run) -> None:
        """Open the bar."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        # The figures come first and are never cut; what is left of the line is the bar's.
        columns = (
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(*columns, console=Console(stderr=True), expand=True)
        self._task = self._bar.add_task(_describe(run), total=run.options.epochs, completed=len(run.records))
        self._bar.start()

    def on_epoch(self, run: Run) -> None:
        """Move the bar on."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=1, description=_describe(run))

    def on_end(self, run: Run) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.stop()


def _describe(run: Run) -> str:
    return summary(run.records[-1], run.options.epochs) if run.records else f"epoch 0/{run.options.epochs}"


def summary(record: EpochRecord, epochs: int) -> str:
    """Return an epoch's figures in half a line.

    Accuracy is that on the validation data where there are any, else that on the training data.

    >>> summary(EpochRecord(3, 0.25, 0.9, 0.5, 0.875, 0.1, seconds=1.0), 10)
    'epoch 3/10  loss 0.250  val 0.500  val acc 87.5 %'
    >>> summary(EpochRecord(3, 0.25, 0.9, None, None, 0.1, seconds=1.0), 10)
    'epoch 3/10  loss 0.250  acc 90.0 %'
    """
    parts = [f"epoch {record.epoch}/{epochs}", f"loss {record.train_loss:.3f}"]
    if record.validation_loss is not None:
        parts.append(f"val {record.validation_loss:.3f}")
    if record.validation_accuracy is not None:
        parts.append(f"val acc {100 * record.validation_accuracy:.1f} %")
    elif record.train_accuracy is not None:
        parts.append(f"acc {100 * record.train_accuracy:.1f} %")
    return "  ".join(parts)
