"""Train, prune, go back, and again: iterative magnitude pruning with resetting (Frankle and Carbin, 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from secateur.calls import usual
from secateur.checks import check_listed, check_name, check_number, check_whole
from secateur.criteria.base import scores_of
from secateur.criteria.magnitude import Magnitude
from secateur.labelled import Data
from secateur.result import Result
from secateur.schedules.options import check_rating
from secateur.schedules.shrinking import loss_and_accuracy
from secateur.schedules.tickets import Ticket, TicketTraining, TrainedTicket, lowest_removed
from secateur.schedules.walk import Round, Schedule, Unit, Walk
from secateur.selection import Scope
from secateur.state import snapshot
from secateur.types import Criterion, InputError, Keep, Loss, Sites, unknown_name

__all__ = ["RESETS", "Reset", "Rewind", "gone_between"]

Reset = Literal["weights", "rate"]
RESETS = ("weights", "rate")
POOLS = ("global", "layer")


@dataclass(frozen=True)
class Rewind(Schedule):
    """Trains the network, removes the lowest of what is left, goes back to the beginning, and so on, round by round.

    The model that it is called with is the untrained one. Round 0 trains it whole; each of the `rounds` then scores the
    trained network, removes the fraction `rate` of what is left, resets what stays, and trains it again under the masks:

    * ``reset="weights"``: all tensors become what they were before the training (lottery tickets; Frankle and Carbin,
      2019), or after its first `step` steps (late rewinding; Frankle et al., 2020);
    * ``reset="rate"``: the weights stay as they are, and only the learning rate goes back (Renda et al., 2020).

    A training after the first takes its steps from `step` on. ``history.rounds`` has the figures of each training, and
    the result is the last trained network: single weights are zero, channels are cut out at the end. Masked norms of
    channels (a layer norm) see other statistics than cut ones.

    `ticket` and `trained` are the halves of a round, for controls (`reinitialised`, `random_ticket`, `shuffled`) and for
    whoever keeps rounds one by one: ``trained(model, ticket(model, sites, last))`` is the next.

    Attributes:
        train: what trains; see `TicketTraining`.
        rounds: how often it prunes; 1 is one-shot.
        rate: the fraction of what is left that each round removes.
        output_rate: the same for the output layer, which few weights feed; None is half the rate, as in the paper.
        outputs: the sites that are output layers; None takes the last site of single weights, and no site of channels.
        scope: rank what has one rate together (``"global"``), or each site by itself (``"layer"``, as the paper does).
        reset: what goes back.
        step: to after how many steps of the first training.
        criterion: what scores the trained networks.
        data: labelled samples to log the loss on, after training; None logs none.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        minimum: how many units every site keeps at least.

    >>> from secateur.structure import weights
    >>> from secateur.train import TrainOptions, TrainTicket
    >>> data = torch.randn(64, 4), torch.randint(2, (64,))
    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> rewind = Rewind(TrainTicket(data, TrainOptions(epochs=1)), rounds=2, rate=0.5, data=data)
    >>> pruned = rewind(model, weights(model))
    >>> [round(r.sparsity, 3) for r in pruned.history.rounds], {name: int(m.sum()) for name, m in pruned.keep.items()}
    ([0.0, 0.417, 0.65], {'0.weight': 10, '2.weight': 11})
    """

    train: TicketTraining
    rounds: int = 10
    rate: float = 0.2
    output_rate: float | None = None
    outputs: Sequence[str] | None = None
    scope: Scope = "layer"
    reset: Reset = "weights"
    step: int = 0
    criterion: Criterion = field(default_factory=Magnitude)
    data: Data | None = field(default=None, repr=False)
    loss: str | Loss = "cross_entropy"
    minimum: int = 1

    remembers: ClassVar[Mapping[str, Any]] = {"rounds": tuple[Round, ...]}

    def __post_init__(self) -> None:
        check_whole(self, rounds=self.rounds)
        check_whole(self, 0, step=self.step)
        check_number(self, "(0, 1)", "the fraction of what is left that a round removes", rate=self.rate)
        share = "the fraction of what is left of the output layer that a round removes"
        check_number(self, "[0, 1)", share, or_none=True, output_rate=self.output_rate)
        check_listed(self, outputs=self.outputs)
        check_name("scope", self.scope, POOLS)
        check_name("reset", self.reset, RESETS)
        check_rating(self)

    @usual
    def ticket(self, model: nn.Module, sites: Sites, last: TrainedTicket | None = None) -> Ticket:
        """Return what is trained next.

        Args:
            model: the untrained model; it is left as it is.
            sites: of the model.
            last: the round before; None begins with the whole network.

        Raises:
            UnknownNameError: `outputs` names no site.
            InputError: scores that are not finite.
        """
        rates = self._rates(sites)
        if last is None:
            return Ticket.of(
                sites, {name: torch.ones(s.shape, dtype=torch.bool) for name, s in sites.items()}, snapshot(model)
            )
        scores = scores_of(self.criterion, last.model(model), sites, "Rewind")
        keep = lowest_removed(scores, last.keep, rates, pooled=self.scope == "global", minimum=self.minimum)
        reset_to = last.early or snapshot(model)
        start = last.weights if self.reset == "rate" else reset_to
        return Ticket.of(sites, keep, start, last.round + 1, self.step)

    @usual
    def trained(self, model: nn.Module, ticket: Ticket, last: TrainedTicket | None = None) -> TrainedTicket:
        """Return a ticket after its training.

        Args:
            model: of the architecture; its weights do not matter, and it is left as it is.
            ticket: what to train.
            last: the round before, whose early tensors are handed on; None for the first.
        """
        network = ticket.model(model)
        asks = ticket.round == 0 and self.step > 0 and self.reset == "weights"
        training = self.train(network, ticket, self.step if asks else None)
        if asks and training.early is None:
            raise InputError(
                f"Rewind: the training has no step {self.step} to go back to, it took {training.steps}; give a lower step"
            )
        early = training.early if asks else None
        handed_on = early if last is None else last.early
        return TrainedTicket(ticket.keep, snapshot(network), handed_on, ticket.round, training)

    def _prune(self, walk: Walk) -> Result:
        last = TrainedTicket.of_tensors(walk.tensors, len(walk.steps) - 1) if walk.steps else None
        walk.begin(*loss_and_accuracy(walk.model, self.data, self.loss))
        rounds: list[Round] = list(walk.memory.get("rounds", ()))
        while len(rounds) <= self.rounds:
            ticket = self.ticket(walk.model, walk.sites, last)
            last = self.trained(walk.model, ticket, last)
            loss, accuracy = loss_and_accuracy(last.model(walk.model), self.data, self.loss)
            rounds.append(_round(ticket, last, loss, accuracy))
            walk.memory["rounds"] = tuple(rounds)
            walk.tensors = last.tensors()
            walk.remove(gone_between(walk.keep, ticket.keep), loss, accuracy)
        assert last is not None
        return walk.finish(masked=last.model(walk.model), rounds=rounds)

    def _rates(self, sites: Sites) -> dict[str, float]:
        """The fraction of what is left that goes of each site."""
        outputs = self.outputs
        if outputs is None:
            outputs = list(sites)[-1:] if sites.structure is None else ()
        for name in outputs:
            if name not in sites:
                raise unknown_name("output layer's site", name, sites)
        rate = self.rate / 2 if self.output_rate is None else self.output_rate
        return {name: rate if name in outputs else self.rate for name in sites}


def gone_between(before: Keep, after: Keep) -> list[Unit]:
    """Return the units that were kept before, and are not after."""
    return [
        (name, unit)
        for name, mask in before.items()
        for unit in (mask & ~after[name].cpu()).flatten().nonzero().flatten().tolist()
    ]


def _round(ticket: Ticket, trained: TrainedTicket, loss: float, accuracy: float) -> Round:
    training = trained.training
    return Round(
        ticket.round,
        ticket.sparsity,
        loss,
        accuracy,
        training.steps,
        training.stopping_step,
        training.stopping_loss,
        training.stopping_accuracy,
    )
