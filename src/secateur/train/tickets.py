"""The trainings of schedules that train under masks: one round of a lottery ticket, or one sparse training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from secateur.checks import check_whole
from secateur.hints import Checked
from secateur.labelled import Samples, check_data
from secateur.losses import loss_function
from secateur.rate.whole import tally_pass
from secateur.schedules.tickets import Ticket, Training
from secateur.state import snapshot
from secateur.train.callbacks import Callback, Run
from secateur.train.history import History
from secateur.train.loop import EVALUATION_BATCH, fit
from secateur.train.masks import HoldZeros, TrainingMasks
from secateur.train.options import TrainOptions
from secateur.train.rewind import RewindRate
from secateur.types import InputError, Keep, Sites

__all__ = ["TrainSparse", "TrainTicket"]


@dataclass(frozen=True)
class TrainTicket(Checked):
    """Trains a ticket in place, for `secateur.schedules.Rewind`: `fit` with the masks held.

    Attributes:
        data: what to train on, as `fit` takes it.
        options: of every round's training, all steps included; the samples' order is the same in each.
        validation: data that tell where early stopping would end a round, as in `fit`; None measures none.
        callbacks: what to do beside, such as penalties.
        validate_every: steps between two looks at the validation loss; None looks after every epoch.
        on_round: called after each training with the round, the model and the history of its epochs.

    >>> import torch
    >>> model = nn.Linear(2, 1, bias=False)
    >>> masks = {"weight": torch.tensor([[True, False]])}
    >>> data = torch.ones(8, 2), torch.ones(8, 1)
    >>> train = TrainTicket(data, TrainOptions(epochs=3, batch_size=4, loss="mse"), validation=data)
    >>> training = train(model, Ticket(masks, masks, {}, round=1), None)
    >>> model.weight[0, 1].item(), training.steps, training.stopping_step
    (0.0, 6, 6)
    """

    data: Samples = field(repr=False)
    options: TrainOptions = field(default_factory=TrainOptions)
    validation: Samples | None = field(default=None, repr=False)
    callbacks: Sequence[Callback] = ()
    validate_every: int | None = None
    on_round: Callable[[int, nn.Module, History], object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        check_data(self)
        check_whole(self, or_none=True, validate_every=self.validate_every)
        if self.validate_every is not None and self.validation is None:
            raise InputError("TrainTicket: validate_every needs validation data; give them, or leave it out")

    def __call__(self, model: nn.Module, ticket: Ticket, early: int | None) -> Training:
        """Train; return what became of it."""
        watch = _TicketWatch(early, self.validation, self.validate_every)
        rate = [RewindRate(0, ticket.step)] if ticket.step else []
        beside = [*self.callbacks, HoldZeros(ticket.masks), *rate, watch]
        history = fit(model, self.data, self.validation, self.options, callbacks=beside)
        if self.on_round is not None:
            self.on_round(ticket.round, model, history)
        if not watch.looks:
            return Training(watch.steps, watch.early)
        best = min(watch.looks, key=lambda look: look.loss)
        return Training(watch.steps, watch.early, best.step + ticket.step, best.loss, best.accuracy)


@dataclass(frozen=True)
class _Look:
    """What the validation data told after a step."""

    step: int
    loss: float
    accuracy: float | None


class _TicketWatch(Callback):
    """Notes what a ticket's training is asked for; it belongs to one training, which no checkpoint takes up."""

    def __init__(self, early: int | None, validation: Samples | None, every: int | None) -> None:
        self.step, self.validation, self.every = early, validation, every
        self.steps, self.looks = 0, list[_Look]()
        self.early: Mapping[str, Tensor] | None = None

    def on_step(self, run: Run) -> None:
        """Keep the early tensors; look at the validation data where it is time."""
        self.steps = run.step
        if run.step == self.step:
            self.early = snapshot(run.model)
        if self.every is not None and run.step % self.every == 0:
            assert self.validation is not None
            with run.averaged():
                loss = loss_function(run.options.loss)
                tally = tally_pass(run.model, self.validation, loss, EVALUATION_BATCH, "validation data")
            self.looks.append(_Look(run.step, tally.loss, tally.accuracy))

    def on_epoch(self, run: Run) -> None:
        """Note what the epoch's validation told."""
        record = run.records[-1]
        if self.every is None and record.validation_loss is not None:
            self.looks.append(_Look(run.step, record.validation_loss, record.validation_accuracy))


@dataclass(frozen=True)
class TrainSparse(Checked):
    """Trains under masks that change on the way, for `secateur.schedules.SparseTraining`: one `fit` with them.

    Attributes:
        data: what to train on, as `fit` takes it.
        masks: what the masks are: `GradualMagnitude`, `SparseEvolution`, `RigL`, or `HoldZeros`.
        options, validation: of the training, as in `fit`.
        callbacks: what to do beside.

    >>> import torch
    >>> from secateur.structure import weights
    >>> from secateur.train.sparse import RigL
    >>> model, data = nn.Linear(8, 4), (torch.randn(32, 8), torch.randn(32, 4))
    >>> train = TrainSparse(data, RigL(0.75, every=2), TrainOptions(epochs=8, loss="mse"))
    >>> int(train(model, weights(model))["weight"].sum())
    8
    """

    data: Samples = field(repr=False)
    masks: TrainingMasks
    options: TrainOptions = field(default_factory=TrainOptions)
    validation: Samples | None = field(default=None, repr=False)
    callbacks: Sequence[Callback] = ()

    def __post_init__(self) -> None:
        check_data(self)

    def __call__(self, model: nn.Module, sites: Sites) -> Keep:
        """Train in place; return the masks that it ended with, by parameter."""
        ending = _Ending()
        fit(model, self.data, self.validation, self.options, callbacks=[*self.callbacks, self.masks, ending])
        return ending.masks


class _Ending(Callback):
    """Notes the masks of the end."""

    masks: Mapping[str, Tensor]

    def on_end(self, run: Run) -> None:
        """Note them."""
        self.masks = {name: mask.cpu() for name, mask in (run.masks or {}).items()}
