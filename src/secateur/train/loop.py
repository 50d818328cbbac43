"""The training loop."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Generator, Tensor, nn

from secateur.labelled import (
    Data,
    are_classes,
    check_data,
    check_labels,
    count_batches,
    in_memory,
    iterate,
)
from secateur.losses import check_answers, loss_function
from secateur.randomness import seeded
from secateur.rate.tally import Tally
from secateur.rate.whole import tally_pass
from secateur.state import check_finite, check_module, check_ordinary, device_of, modes_kept, restore, snapshot, usual
from secateur.train.callbacks import Callback, KeepBest, Run, ShowProgress, StopEarly
from secateur.train.checkpoint import WriteCheckpoint, identify, resume
from secateur.train.history import EpochRecord, History
from secateur.train.options import TrainOptions
from secateur.types import FileError, InputError, Loss, with_changes

__all__ = ["fit"]

EVALUATION_BATCH = 256
CALMER = "the model is as it was before; train with a lower lr, or with clip_norm"


@usual
def fit(
    model: nn.Module,
    train: Data,
    validation: Data | None = None,
    options: TrainOptions | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    progress: bool = False,
    **changes: Any,
) -> History:
    """Train the model in place and return the history of its epochs.

    If anything goes wrong, an interruption included, the model is left as it was before; with a
    `checkpoint`, the same call takes the training up after its last whole epoch, and ends with the same
    weights and history, to the bit, as if nothing had happened. The whole model is put in training mode
    while it trains; afterwards each module is in the mode that it was in. The global random numbers are left
    as they were. It trains in the model's own dtype, an autocast around the call or not.

    Args:
        model: trained on the device that it is on.
        train: a `Split`, a pair (inputs, targets) of tensors, or batches that can be iterated again and
            again. Data in memory are shuffled every epoch; batches come in their own order. A last batch of
            one sample joins the one before it.
        validation: data of the same kinds, or None.
        options: what to choose; see `TrainOptions`.
        callbacks: what to do beside; see `Callback`.
        checkpoint: a file, written after every epoch; None writes none.
        progress: show a progress bar.
        changes: single training options by name, such as ``epochs=5, lr=0.1``; they win over `options`.

    Raises:
        InputError: empty data, values that are not finite, labels out of range, shapes that do not fit, an
            option out of range, or a loss that became NaN or infinite.
        UnknownNameError: an option, optimiser, schedule or loss that is not known.
        FileError: the checkpoint is damaged, belongs to another training, or cannot be written.

    >>> inputs = torch.tensor([[1.0], [2.0]])
    >>> model = nn.Linear(1, 1, bias=False)
    >>> history = fit(model, (inputs, 3 * inputs), epochs=50, loss="mse", optimizer="sgd", lr=0.1)
    >>> round(model.weight.item(), 4), len(history)
    (3.0, 50)
    """
    options = with_changes(options or TrainOptions(), changes, "training option")
    data = Sources(train, validation, options)
    data.check()
    check_module(model, "fit", compiled=True)
    check_ordinary(model, "fit")
    check_finite(model, "training", "repair them before training")
    before = snapshot(model)
    with modes_kept(model), seeded(device_of(model), options.seed):
        try:
            data.try_out(model)
            if options.epochs:
                return _train(model, data, options, tuple(callbacks), checkpoint, progress)
            return History()
        except BaseException:
            restore(model, before)
            raise
        finally:
            model.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Sources:
    """The data of a training, with how they are to be used."""

    train: Data
    validation: Data | None
    options: TrainOptions

    @property
    def loss(self) -> Loss:
        """The loss function."""
        return loss_function(self.options.loss)

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch's weights are wanted at the end."""
        choice = self.options.restore_best
        return self.validation is not None if choice is None else choice

    def check(self) -> None:
        """Refuse bad data, and options that need validation data where there are none."""
        check_data(self.train, "training data")
        if self.validation is not None:
            check_data(self.validation, "validation data")
            return
        for name, value in (
            ("patience", self.options.patience),
            ("restore_best", self.options.restore_best),
        ):
            if value:
                raise InputError(f"training option {name}={value!r} needs validation data; give them, or leave it out")

    def try_out(self, model: nn.Module) -> None:
        """Run the model on two samples of each source, to say what does not fit before training."""
        for role, data in (("training data", self.train), ("validation data", self.validation)):
            if data is None:
                continue
            pair = in_memory(data)
            inputs, targets = pair or next(iter(iterate(data, 1, role)))
            with modes_kept(model), torch.no_grad():
                model.eval()
                outputs = _try_model(model, inputs[:2], targets[:2], self.loss, role)
            if are_classes(outputs, targets):
                check_labels(targets, outputs.shape[1], role)


def _try_model(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, what: str) -> Tensor:
    device = device_of(model)
    shapes = f"inputs of shape {tuple(inputs.shape)} and {inputs.dtype}"
    try:
        outputs = model(inputs.to(device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{what}: the model does not take {shapes}: {error}") from error
    targets = targets.to(device)
    check_answers(outputs, targets, loss, what)
    shapes = f"outputs of shape {tuple(outputs.shape)} and {targets.dtype} targets of shape {tuple(targets.shape)}"
    try:
        value = loss(outputs, targets)
    except InputError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(f"{what}: the loss does not take {shapes}: {error}") from error
    if not isinstance(value, Tensor) or value.ndim:
        raise InputError(f"{what}: the loss must return a scalar tensor for {shapes}; take the mean over the batch")
    result: Tensor = outputs
    return result


def _train(
    model: nn.Module,
    data: Sources,
    options: TrainOptions,
    callbacks: tuple[Callback, ...],
    checkpoint: str | Path | None,
    progress: bool,
) -> History:
    run = _new_run(model, data)
    every = [*callbacks, *_built_in(data, progress)]
    if checkpoint is not None:
        path = _checkpoint_path(checkpoint)
        identity = identify(
            model, options, callbacks, {"training data": data.train, "validation data": data.validation}
        )
        resume(run, path, identity)
        every.append(WriteCheckpoint(path, identity))
    with _started(every, run):
        while len(run.records) < options.epochs and not run.stop:
            _epoch(run, data, every)
    if run.best is not None:
        restore(model, run.best)
    return run.history


def _new_run(model: nn.Module, data: Sources) -> Run:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("training: the model has no parameter that requires a gradient; there is nothing to train")
    optimizer = data.options.make_optimizer(parameters)
    steps = count_batches(data.train, data.options.batch_size)
    schedule = data.options.make_schedule(optimizer, steps)
    order = Generator().manual_seed(data.options.seed)
    return Run(model, device_of(model), data.options, optimizer, schedule, order)


def _built_in(data: Sources, progress: bool) -> list[Callback]:
    added: list[Callback] = []
    if data.keeps_best:
        added.append(KeepBest())
    if data.options.patience is not None:
        added.append(StopEarly(data.options.patience))
    if progress:
        added.append(ShowProgress())
    return added


def _checkpoint_path(checkpoint: str | Path) -> Path:
    path = Path(checkpoint)
    if path.is_dir():
        raise FileError(f"checkpoint {path} is a folder; give the path of a file in it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"checkpoint {path}: its folder cannot be made: {error}; choose another place") from error
    return path


@contextmanager
def _started(callbacks: list[Callback], run: Run) -> Iterator[None]:
    """Start the callbacks, and end those that were started, whatever happens."""
    started: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_start(run)
            started.append(callback)
        yield
    finally:
        for callback in reversed(started):
            callback.on_end(run)


def _epoch(run: Run, data: Sources, callbacks: list[Callback]) -> None:
    """Train one epoch, validate, and record it."""
    number = len(run.records) + 1
    started = perf_counter()
    for callback in callbacks:
        callback.on_begin(run)
    tally, lr = _steps(run, data, callbacks)
    check_finite(run.model, f"training, after epoch {number}", CALMER)
    validated = _validate(run, data)
    run.records.append(
        EpochRecord(
            epoch=number,
            train_loss=tally.loss,
            train_accuracy=tally.accuracy,
            validation_loss=validated.loss if validated else None,
            validation_accuracy=validated.accuracy if validated else None,
            lr=lr,
            seconds=perf_counter() - started,
        )
    )
    run.schedule.after_epoch(validated.loss if validated else tally.loss)
    for callback in callbacks:
        callback.on_epoch(run)


def _steps(run: Run, data: Sources, callbacks: list[Callback]) -> tuple[Tally, float]:
    """Take an epoch's steps; return what they counted, and the learning rate of the last."""
    tally, lr = Tally(), run.lr
    # Labels in memory were looked at once and for all.
    loss, checked = data.loss, in_memory(data.train) is not None
    run.model.train()
    for inputs, targets in iterate(data.train, run.options.batch_size, "training data", run.order):
        lr = run.lr
        outputs, targets = run.model(inputs.to(run.device)), targets.to(run.device)
        if not checked and are_classes(outputs, targets):
            check_labels(targets, outputs.shape[1], "training data")
        _step(run, outputs, targets, loss, tally, callbacks)
    return tally, lr


def _step(run: Run, outputs: Tensor, targets: Tensor, loss: Loss, tally: Tally, callbacks: list[Callback]) -> None:
    value = loss(outputs, targets)
    mean = float(value.detach())
    if not isfinite(mean):
        raise InputError(f"training: the loss became {mean} {_where(run)}; {CALMER}")
    run.optimizer.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    for callback in callbacks:
        callback.on_gradients(run)
    if run.options.clip_norm is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.options.clip_norm)
    run.optimizer.step()
    run.schedule.after_step()
    run.step += 1
    tally.add(outputs, targets, mean * len(targets))
    for callback in callbacks:
        callback.on_step(run)


def _where(run: Run) -> str:
    return f"in epoch {len(run.records) + 1}, at step {run.step + 1} of the training"


def _validate(run: Run, data: Sources) -> Tally | None:
    if data.validation is None:
        return None
    validated = tally_pass(run.model, data.validation, data.loss, EVALUATION_BATCH, "validation data")
    if not isfinite(validated.loss):
        raise InputError(
            f"training: the validation loss became {validated.loss} after epoch {len(run.records) + 1}; {CALMER}"
        )
    return validated
