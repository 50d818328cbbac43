"""Lottery tickets: masks and the weights that a sparse network begins with, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur.copies import copied
from secateur.edits import Masked
from secateur.hints import Checked
from secateur.selection import select
from secateur.state import restore, tensors
from secateur.structure.sites import check_keep, density_words
from secateur.types import InputError, Keep, Scores, Sites

__all__ = ["Ticket", "TicketTraining", "TrainedTicket", "Training", "check_architecture", "lowest_removed"]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A sparse network before it is trained (Frankle and Carbin, 2019).

    Attributes:
        keep: masks by site; True means keep.
        masks: the same by parameter and of its shape, as `secateur.train.HoldZeros` takes them; whole ones are left out.
        start: all tensors of the model by name, those of pruned weights too.
        round: how often it was pruned; 0 is the whole network.
        step: how many steps of the training are taken as done: the learning rate begins as it is there.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1, bias=False)
    >>> ticket = Ticket.of(weights(model), {"weight": torch.tensor([[True, False]])}, {"weight": torch.ones(1, 2)})
    >>> ticket
    <Ticket: round 0, 1 mask, 1 of 2 kept (50.0 %), network of 1 tensor>
    >>> ticket.model(model).weight.tolist(), ticket.sparsity
    ([[1.0, 0.0]], 0.5)
    """

    keep: Keep
    masks: Keep
    start: Mapping[str, Tensor]
    round: int = 0
    step: int = 0

    @classmethod
    def of(cls, sites: Sites, keep: Keep, start: Mapping[str, Tensor], round: int = 0, step: int = 0) -> Ticket:  # noqa: A002
        """Return a ticket of some masks and the tensors of a model to begin with.

        Raises:
            InputError: a mask is not bool, or not of its site's shape.
        """
        keep = check_keep(sites, keep)
        return cls(keep, Masked.of(sites, keep).masks, dict(start), round, step)

    def __repr__(self) -> str:
        return f"<Ticket: round {self.round}, {density_words(self.keep)}, network of {_tensors(self.start)}>"

    @property
    def sparsity(self) -> float:
        """The fraction of the units that are gone."""
        return 1 - sum(int(mask.sum()) for mask in self.keep.values()) / sum(m.numel() for m in self.keep.values())

    def model(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model of this architecture as its training begins: the start, and zeros where it is pruned.

        Raises:
            InputError: the model is of another architecture.
        """
        check_architecture(model, self.start, self.masks)
        fresh = copied(model)
        restore(fresh, self.start)
        for name, mask in self.masks.items():
            tensor = fresh.get_parameter(name).detach()
            tensor.masked_fill_(~mask.to(tensor.device), 0)
        return fresh


@dataclass(frozen=True, eq=False)
class Training(Checked):
    """What a training of a ticket tells besides its weights.

    Attributes:
        steps: how many steps it took.
        early: the model's tensors after the step that was asked for; None where none was.
        stopping_step, stopping_loss, stopping_accuracy: see `secateur.schedules.Round`.
    """

    steps: int = 0
    early: Mapping[str, Tensor] | None = None
    stopping_step: int | None = None
    stopping_loss: float | None = None
    stopping_accuracy: float | None = None

    def __repr__(self) -> str:
        early = f", early network of {_tensors(self.early)}" if self.early is not None else ""
        stopping = f", least validation loss at step {self.stopping_step}" if self.stopping_step is not None else ""
        return f"<Training: {self.steps} steps{early}{stopping}>"


class TicketTraining(Protocol):
    """What trains a ticket: `secateur.train.TrainTicket`, or one of your own."""

    def __call__(self, model: nn.Module, ticket: Ticket, early: int | None) -> Training:
        """Train ``ticket.model(…)`` in place; what ``ticket.masks`` prunes stays zero.

        Args:
            model: as the training begins.
            ticket: with its round, the learning rate's step, and the masks.
            early: return the tensors as they are after this step; None for no step.
        """
        ...


@dataclass(frozen=True, eq=False)
class TrainedTicket(Checked):
    """A ticket after its training, and all that the next round needs.

    Attributes:
        keep: masks by site.
        weights: all tensors of the model, trained.
        early: what the next ticket is reset to; None is the model as it was given.
        round: of the ticket.
        training: what the training told; a ticket read from `tensors` has lost it.
    """

    keep: Keep
    weights: Mapping[str, Tensor]
    early: Mapping[str, Tensor] | None = None
    round: int = 0
    training: Training = Training()

    def __repr__(self) -> str:
        early = f", early network of {_tensors(self.early)}" if self.early is not None else ""
        density = density_words(self.keep)
        return f"<TrainedTicket: round {self.round}, {density}, network of {_tensors(self.weights)}{early}>"

    def model(self, model: nn.Module) -> nn.Module:
        """Return a copy of a model of this architecture with the trained weights.

        Raises:
            InputError: the model is of another architecture.
        """
        check_architecture(model, self.weights, {})
        trained = copied(model)
        restore(trained, self.weights)
        return trained

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it but the round and what the training told, as tensors for a file: see `of_tensors`."""
        parts = {"keep": self.keep, "weights": self.weights, "early": self.early or {}}
        return {f"{part} {name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    @classmethod
    def of_tensors(cls, stored: Mapping[str, Tensor], round: int) -> TrainedTicket:  # noqa: A002
        """Return what `tensors` described.

        >>> trained = TrainedTicket({"w": torch.ones(2).bool()}, {"w": torch.ones(2)}, round=3)
        >>> again = TrainedTicket.of_tensors(trained.tensors(), 3)
        >>> again.keep, again.weights, again.early
        ({'w': tensor([True, True])}, {'w': tensor([1., 1.])}, None)
        """
        parts: dict[str, dict[str, Tensor]] = {"keep": {}, "weights": {}, "early": {}}
        for label, tensor in stored.items():
            part, _, name = label.partition(" ")
            parts[part][name] = tensor
        return cls(parts["keep"], parts["weights"], parts["early"] or None, round)


def check_architecture(model: nn.Module, start: Mapping[str, Tensor], masks: Keep) -> None:
    """Refuse a model that has other tensors than a ticket.

    >>> check_architecture(nn.Linear(3, 3), {}, {"weight": torch.ones(2, 2, dtype=torch.bool)})
    Traceback (most recent call last):
    secateur.types.InputError: the ticket is of another model: 'weight' has shape (2, 2) in the ticket and (3, 3) \
in the model (None: there is none); give a model of the ticket's architecture
    """
    have = {name: tuple(tensor.shape) for name, tensor in tensors(model).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in [*start.items(), *masks.items()]}
    extra = [name for name in have if name not in shapes] if start else []
    wrong = [name for name in shapes if have.get(name) != shapes[name]] + extra
    if wrong:
        name = wrong[0]
        raise InputError(
            f"the ticket is of another model: {name!r} has shape {shapes.get(name)} in the ticket and {have.get(name)} in "
            "the model (None: there is none); give a model of the ticket's architecture"
        )


def _tensors(network: Mapping[str, Tensor]) -> str:
    return "1 tensor" if len(network) == 1 else f"{len(network)} tensors"


def lowest_removed(
    scores: Scores, keep: Keep, rates: Mapping[str, float], *, pooled: bool = True, minimum: int = 1
) -> dict[str, Tensor]:
    """Return the masks without the lowest scores of what is left.

    Args:
        scores: of all units; those of the units that are gone do not matter.
        keep: what is left.
        rates: of each site, the fraction that goes of what is left.
        pooled: rank the sites of one rate together; else each by itself.
        minimum: how many units every site keeps at least.

    >>> scores, left = {"w": torch.tensor([1.0, 9.0, 2.0, 3.0])}, {"w": torch.tensor([True, False, True, True])}
    >>> lowest_removed(scores, left, {"w": 1 / 3})
    {'w': tensor([False, False,  True,  True])}
    """
    groups: dict[object, list[str]] = {}
    for name in scores:
        groups.setdefault(rates[name] if pooled else name, []).append(name)
    lower: dict[str, Tensor] = {}
    for names in groups.values():
        if not any(bool(keep[n].any()) for n in names):
            lower |= {n: keep[n].cpu() for n in names}
            continue
        ranked = {n: scores[n].double().masked_fill(~keep[n].to(scores[n].device), -torch.inf) for n in names}
        left = {n: int(keep[n].sum()) for n in names}
        most = sum(max(count - minimum, 0) for count in left.values())
        count = min(round(rates[names[0]] * sum(left.values())), most)
        total = sum(keep[n].numel() for n in names)
        masks = select(ranked, (total - sum(left.values()) + count) / total, minimum=minimum)
        lower |= {n: masks[n].cpu() & keep[n].cpu() for n in names}
    return {name: lower[name] for name in scores}
