"""The training loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Generator, Tensor, nn

from secateur.calls import usual
from secateur.checks import check_number, check_options
from secateur.labelled import (
    Samples,
    are_classes,
    batches,
    check_labels,
    check_samples,
    count_batches,
    logits_of,
    together,
)
from secateur.losses import answers, check_slope, loss_function
from secateur.randomness import seeded
from secateur.rate.tally import Tally
from secateur.rate.trying import try_loss
from secateur.rate.whole import tally_pass
from secateur.state import check_finite, check_ordinary, device_of, modes_kept, restore, snapshot
from secateur.train.average import AverageWeights
from secateur.train.callbacks import Callback, KeepBest, Run, ShowProgress, StopEarly
from secateur.train.checkpoint import WriteCheckpoint, identify, resume
from secateur.train.devices import ALONE, Portion, Ranks, check_devices, train_on
from secateur.train.history import EpochRecord, History
from secateur.train.masks import check_mask_callbacks
from secateur.train.options import TrainOptions
from secateur.types import FileError, InputError, Loss, with_changes
from secateur.wrappers import COMPILED, DISTRIBUTED, check_module

__all__ = ["fit"]

EVALUATION_BATCH = 256
CALMER = "the model is as it was before; train with a lower lr, or with clip_norm"


@partial(usual, keeping=(COMPILED, DISTRIBUTED))
def fit(
    model: nn.Module,
    train: Samples,
    validation: Samples | None = None,
    options: TrainOptions | None = None,
    *,
    callbacks: Sequence[Callback] = (),
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 0.0,
    progress: bool = False,
    devices: int = 1,
    **changes: Any,
) -> History:
    """Train the model in place and return the history of its epochs.

    If anything goes wrong, an interruption included, the model is left as it was before; with a
    `checkpoint`, the same call takes the training up after its last whole epoch, and ends with the same
    weights and history, to the bit, as if nothing had happened. The whole model is put in training mode
    while it trains (but for norms, with `freeze_norms`); afterwards each module is in the mode that it was in. The
    global random numbers are left as they were. It trains in the model's own dtype, an autocast around the call or
    not, unless the option `amp` says otherwise.

    A loss that has a name is of one tensor, or of the ``logits`` among the outputs that a model names. A model that
    returns several takes a function of your own, ``loss(outputs, targets)``: it is given what the model returns and
    what the data hold, None where they hold no targets.

    Args:
        model: trained on the device that it is on.
        train: a `Split`, a pair (inputs, targets), or batches that can be iterated again and again, such as a
            DataLoader's: each a pair too, ``(x1, x2, targets)`` of tensors, or a mapping of keyword inputs with the
            targets under ``"labels"``. Inputs and targets are a tensor, or several in a tuple or mapping. Data in
            memory are shuffled every epoch; batches come in their own order. A last batch of one sample joins the one
            before it.
        validation: data of the same kinds, or None.
        options: what to choose; see `TrainOptions`.
        callbacks: what to do beside; see `Callback`.
        checkpoint: a file, written after every epoch; None writes none.
        checkpoint_seconds: write it only where so many seconds have gone since the last; a killed training loses those.
        progress: show a progress bar.
        devices: on how many devices of this machine to train, each in a process of its own that takes its share of every
            batch (torch's DDP, by Lightning Fabric: the extra ``devices``): graphics processors where the model is on
            one, else processes. The steps are those of one process on the same batches, to rounding; norms see each share
            by itself, and dropout draws otherwise. What is given is sent to the processes, so a loss or callback is
            defined in a module, and a script trains under ``if __name__ == "__main__":``.
        changes: single training options by name, such as ``epochs=5, lr=0.1``; they win over `options`.

    Raises:
        InputError: empty data, values that are not finite, labels out of range, shapes that do not fit, an
            option out of range, a loss that became NaN or infinite, or a callback that brings pruned weights back
            (`TrainingMasks.grows`) beside another that holds some.
        UnknownNameError: an option, optimiser, schedule or loss that is not known.
        CheckpointError: the checkpoint is damaged, or belongs to another training.
        FileError: it cannot be written.
        MissingLibraryError: several devices, without Lightning Fabric.

    >>> inputs = torch.tensor([[1.0], [2.0]])
    >>> model = nn.Linear(1, 1, bias=False)
    >>> history = fit(model, (inputs, 3 * inputs), epochs=50, loss="mse", optimizer="sgd", lr=0.1)
    >>> round(model.weight.item(), 4), len(history)
    (3.0, 50)
    """
    check_options("fit", TrainOptions, or_none=True, options=options)
    check_number("fit", "[0, inf)", checkpoint_seconds=checkpoint_seconds)
    check_mask_callbacks(callbacks)
    options = with_changes(options or TrainOptions(), changes, "training option")
    data = Sources(train, validation, options)
    data.check()
    check_module(model, "fit", compiled=True)
    check_ordinary(model, "fit")
    check_devices(devices, device_of(model))
    check_finite(model, "training", "repair them before training")
    before = snapshot(model)
    with modes_kept(model), seeded(device_of(model), options.seed):
        try:
            data.try_out(model)
            if not options.epochs:
                return History()
            arguments = (data, options, tuple(callbacks), checkpoint, checkpoint_seconds, progress)
            if devices > 1:
                return train_on(devices, _train, model, options.seed, arguments)
            return _train(model, *arguments)
        except BaseException:
            restore(model, before)
            raise
        finally:
            model.zero_grad(set_to_none=True)


@dataclass(frozen=True)
class Sources:
    """The data of a training, with how they are to be used."""

    train: Samples
    validation: Samples | None
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
        check_samples(self.train, "training data")
        if self.validation is not None:
            check_samples(self.validation, "validation data")
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
            batch = together(data) or next(batches(data, 2, role))
            with modes_kept(model), torch.no_grad():
                model.eval()
                outputs = try_loss(model, batch.rows(slice(2)).to(device_of(model)), self.loss, role)
            if are_classes(outputs, batch.targets):
                check_labels(batch.targets, outputs.shape[1], role)


def _train(
    model: nn.Module,
    data: Sources,
    options: TrainOptions,
    callbacks: tuple[Callback, ...],
    checkpoint: str | Path | None,
    checkpoint_seconds: float,
    progress: bool,
    ranks: Ranks = ALONE,
) -> History:
    run = _new_run(model, data, ranks)
    every = [*callbacks, *_built_in(data, progress)]
    if checkpoint is not None:
        path = _checkpoint_path(checkpoint)
        identity = identify(
            model, options, callbacks, {"training data": data.train, "validation data": data.validation}
        )
        resume(run, path, identity)
        every.append(WriteCheckpoint(path, identity, checkpoint_seconds))
    every = [callback for callback in every if ranks.is_first or not callback.only_tells]
    with _started(every, run):
        while len(run.records) < options.epochs and not run.stop:
            _epoch(run, data, every)
    if ending := run.best or run.average:
        restore(model, ending)
    return run.history


def _new_run(model: nn.Module, data: Sources, ranks: Ranks) -> Run:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("training: the model has no parameter that requires a gradient; there is nothing to train")
    optimizer = data.options.make_optimizer(parameters)
    steps = -(-count_batches(data.train, data.options.batch_size) // data.options.accumulate)
    schedule = data.options.make_schedule(optimizer, steps)
    order = Generator().manual_seed(data.options.seed)
    total = steps * data.options.epochs
    return Run(model, device_of(model), data.options, optimizer, schedule, order, total_steps=total, ranks=ranks)


def _built_in(data: Sources, progress: bool) -> list[Callback]:
    added: list[Callback] = []
    if data.options.ema is not None:
        added.append(AverageWeights(data.options.ema))
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
    run.replica = run.ranks.replica(run.model)
    tally, lr = _steps(run, data, callbacks)
    check_finite(run.model, f"training, after epoch {number}", CALMER)
    validated = _validate(run, data) if run.ranks.is_first else None
    record = EpochRecord(
        epoch=number,
        train_loss=tally.loss,
        train_accuracy=tally.accuracy,
        validation_loss=validated.loss if validated else None,
        validation_accuracy=validated.accuracy if validated else None,
        lr=lr,
        seconds=perf_counter() - started,
    )
    run.records.append(run.ranks.agreed(record))
    loss = run.records[-1].validation_loss
    run.schedule.after_epoch(tally.loss if loss is None else loss)
    for callback in callbacks:
        callback.on_epoch(run)


def _steps(run: Run, data: Sources, callbacks: list[Callback]) -> tuple[Tally, float]:
    """Take an epoch's steps; return what they counted, and the learning rate of the last."""
    tally, lr = Tally(), run.lr
    # Labels in memory were looked at once and for all.
    loss, checked = data.loss, together(data.train) is not None
    _set_modes(run)
    source = run.ranks.portions(data.train, run.options.batch_size, run.order)
    for group in _groups(source, run.options.accumulate):
        lr = run.lr
        run.optimizer.zero_grad(set_to_none=True)
        count = sum(portion.whole for portion in group)
        with run.ranks.chance(run.device, run.options.seed, run.step):
            for portion in group:
                _gradients(run, portion, loss, count, tally, checked, callbacks)
        _step(run, callbacks)
        if run.stop:
            break
    return run.ranks.summed(tally), lr


def _set_modes(run: Run) -> None:
    """Put the model in training mode; norms that keep running statistics only where these are not frozen."""
    run.model.train()
    if run.options.freeze_norms:
        for module in run.model.modules():
            if isinstance(getattr(module, "running_mean", None), Tensor):
                module.training = False


def _groups(source: Iterable[Portion], size: int) -> Iterator[list[Portion]]:
    """The batches of each step."""
    rest = iter(source)
    while group := list(islice(rest, size)):
        yield group


def _gradients(
    run: Run,
    portion: Portion,
    loss: Loss,
    count: int,
    tally: Tally,
    checked: bool,
    callbacks: Sequence[Callback],
) -> None:
    """Add the gradients of a batch's share in the mean loss of `count` samples, penalties included."""
    batch = portion.batch.to(run.device)
    outputs = answers(batch.run(run.answer), loss)
    if not checked and are_classes(outputs, batch.targets):
        check_labels(batch.targets, outputs.shape[1], "training data")
    value = loss(outputs, batch.targets)
    check_slope(value)
    mean = float(value.detach())
    if not isfinite(mean):
        raise InputError(f"training: the loss became {mean} {_where(run)}; {CALMER}")
    # The penalties are trained on, and stay out of the loss that is recorded.
    value = sum((term for callback in callbacks if (term := callback.penalty(run)) is not None), value)
    share = value if portion.weight == count else value * (portion.weight / count)
    share.backward()  # type: ignore[no-untyped-call]
    if portion.counted:
        tally.add(logits_of(outputs), batch.targets, mean * len(batch), len(batch))


def _step(run: Run, callbacks: list[Callback]) -> None:
    for callback in callbacks:
        callback.on_gradients(run)
    if run.options.clip_norm is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), run.options.clip_norm)
    run.optimizer.step()
    run.schedule.after_step()
    run.step += 1
    for callback in callbacks:
        callback.on_step(run)


def _where(run: Run) -> str:
    return f"in epoch {len(run.records) + 1}, at step {run.step + 1} of the training"


def _validate(run: Run, data: Sources) -> Tally | None:
    if data.validation is None:
        return None
    with run.averaged():
        validated = tally_pass(run.model, data.validation, data.loss, EVALUATION_BATCH, "validation data")
    if not isfinite(validated.loss):
        raise InputError(
            f"training: the validation loss became {validated.loss} after epoch {len(run.records) + 1}; {CALMER}"
        )
    return validated
