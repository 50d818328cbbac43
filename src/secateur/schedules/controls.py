"""What a lottery ticket is held against: other weights, other places, or a small network without zeros."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, nn

from secateur.allocate.budgets import budget
from secateur.calls import looking
from secateur.criteria.random import Random
from secateur.schedules.tickets import Ticket, check_architecture
from secateur.selection import select
from secateur.state import snapshot
from secateur.structure.cutting import cut
from secateur.structure.sites import channels
from secateur.types import ExampleInputs, Scores, Sites

__all__ = ["random_ticket", "reinitialised", "shuffled", "small_dense"]


def reinitialised(ticket: Ticket, fresh: nn.Module) -> Ticket:
    """Return the ticket with other initial weights: is it the weights, or only the structure?

    Args:
        ticket: it is left as it is.
        fresh: a model of the architecture, its weights drawn anew: ``sc.models.build("lenet-300-100")`` with another seed.

    Raises:
        InputError: `fresh` is of another architecture.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 1)
    >>> ticket = Ticket.of(weights(model), {"weight": torch.tensor([[True, False]])}, snapshot(model))
    >>> other = reinitialised(ticket, nn.Linear(2, 1))
    >>> other.keep is ticket.keep, bool((other.start["weight"] == ticket.start["weight"]).any())
    (True, False)
    """
    check_architecture(fresh, ticket.start, ticket.masks)
    return replace(ticket, start=snapshot(fresh))


@looking
def random_ticket(ticket: Ticket, sites: Sites, seed: int = 0) -> Ticket:
    """Return as sparse a network with its zeros anywhere, whatever the layer; each site keeps one unit at least.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(3, 2)
    >>> ticket = Ticket.of(weights(model), {"weight": torch.tensor([[True, False, False]] * 2)}, snapshot(model))
    >>> int(random_ticket(ticket, weights(model)).keep["weight"].sum())
    2
    """
    keep = select(_draws(ticket, seed), ticket.sparsity)
    return Ticket.of(sites, keep, ticket.start, ticket.round, ticket.step)


@looking
def shuffled(ticket: Ticket, sites: Sites, seed: int = 0) -> Ticket:
    """Return the ticket with the places of its zeros shuffled within each layer: is it more than how dense each layer is?

    >>> from secateur.structure import weights
    >>> model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    >>> masks = {"0.weight": torch.tensor([[True, False, False]] * 2), "1.weight": torch.tensor([[True, False]])}
    >>> other = shuffled(Ticket.of(weights(model), masks, snapshot(model)), weights(model))
    >>> {name: int(mask.sum()) for name, mask in other.keep.items()}
    {'0.weight': 2, '1.weight': 1}
    """
    fractions = {name: int((~mask).sum()) / mask.numel() for name, mask in ticket.keep.items()}
    keep = select(_draws(ticket, seed), fractions, scope="layer", minimum=0)
    return Ticket.of(sites, keep, ticket.start, ticket.round, ticket.step)


def small_dense(model: nn.Module, example_inputs: ExampleInputs, parameters: int, seed: int = 0) -> nn.Module:
    """Return a narrower network of the architecture, every layer by the same share, with at most so many parameters.

    Channels are cut out at random. Its weights are some of the model's: draw them anew (`secateur.models.initialise`)
    where they should be those of its size.

    Args:
        model: it is left as it is.
        example_inputs: what the model takes.
        parameters: how many the network may have: the ticket's, ``result.report.nonzero[1]``.
        seed: of which channels stay.

    Raises:
        InputError: no cut of the model has so few; the message says what can be reached.

    >>> model = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2))     # 7 parameters a unit, and 2
    >>> small_dense(model, torch.zeros(1, 4), 40)[0].out_features
    5
    """
    sites = channels(model, example_inputs)
    scores = Random(seed)(model, sites)
    return cut(model, sites, budget(model, sites, scores, parameters=parameters, scope="layer"))


def _draws(ticket: Ticket, seed: int) -> Scores:
    generator = Generator().manual_seed(seed)
    return {n: torch.rand(mask.shape, generator=generator, dtype=torch.float64) for n, mask in ticket.keep.items()}
