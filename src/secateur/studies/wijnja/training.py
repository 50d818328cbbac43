"""One training of a block of networks that differ in their seeds: how they begin, under which masks, and what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur import models
from secateur.copies import copied
from secateur.criteria import Snip
from secateur.data import Split
from secateur.lab.plan.recipe import Json
from secateur.measure import calibration_error, predict
from secateur.models.initialisation import initialise
from secateur.randomness import private_draws
from secateur.schedules import Rewind, random_ticket, reinitialised, shuffled, small_dense
from secateur.schedules.tickets import Ticket, TrainedTicket, lowest_removed
from secateur.selection import select
from secateur.structure import weights
from secateur.studies.kit.networks import first
from secateur.studies.wijnja.flow import movement
from secateur.train import History, TrainOptions, TrainTicket, fit_replicas
from secateur.types import Keep, Sites

__all__ = ["CONTROLS", "WAYS", "SeedBlock", "figures_of"]

CONTROLS = ("reinitialised", "shuffled", "random mask", "small")
"""What a ticket stands beside."""

WAYS = ("one-shot", "snip")
"""The other ways to prune."""

ELSEWHERE = 1_000_000
"""What is added to a seed where weights or masks are drawn anew."""

SCORED = 1000
MASK, WEIGHT = "mask ", "weight "


@dataclass(frozen=True, eq=False)
class SeedBlock:
    """The networks of one cell.

    Attributes:
        recipe: the cell's parameters.
        splits: the data.
        needed: the tensors of the round before: packed masks for this round, and of the first round the weights.
        goes_on: whether a round follows, for which masks are kept.
    """

    recipe: Mapping[str, Any]
    splits: Mapping[str, Split]
    needed: Mapping[str, Tensor]
    goes_on: bool

    def trained(self) -> tuple[list[list[dict[str, Json]]], dict[str, Tensor]]:
        """Train the networks; return the passes of each, and their figures with what the cells that build upon them need."""
        tickets = [self._ticket(place) for place in range(len(self.recipe["seeds"]))]
        starts = [self._network(place, ticket) for place, ticket in enumerate(tickets)]
        networks = [copied(start) for start in starts]
        keeps = [ticket.masks if ticket is not None else {} for ticket in tickets]
        histories = fit_replicas(
            networks,
            self.splits["train"],
            self.splits["validation"],
            self._options,
            seeds=self.recipe["seeds"],
            keeps=keeps,
        )
        rows = [
            self._figures(start, network, keep, history)
            for start, network, keep, history in zip(starts, networks, keeps, histories, strict=True)
        ]
        figures = {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}
        return [_passes(history) for history in histories], figures | self._kept(networks, tickets)

    @property
    def _options(self) -> TrainOptions:
        # The network at the end of its training is what Frankle and Carbin prune, and what is rated.
        settings = {name: self.recipe[name] for name in ("epochs", "batch_size", "lr")}
        return TrainOptions(restore_best=False, **settings)

    def _begun(self, place: int, elsewhere: int = 0) -> nn.Module:
        recipe = self.recipe
        seed = recipe["seeds"][place] + elsewhere
        return models.build(recipe["model"], seed=seed, init=recipe["scheme"], **recipe["model_options"])

    def _ticket(self, place: int) -> Ticket | None:
        """How a network begins, and under which masks; None: it is small, and whole."""
        fresh = self._begun(place)
        sites = weights(fresh)
        if "way" in self.recipe:
            return Ticket.of(sites, self._otherwise(place, fresh, sites), fresh.state_dict())
        masks = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
        treatment = self.recipe["treatment"]
        if self.needed and treatment != "unpruned":
            masks = {name: _unpacked(self.needed[MASK + name][place], mask.shape) for name, mask in masks.items()}
        return self._treated(Ticket.of(sites, masks, fresh.state_dict(), self.recipe["round"]), place, sites)

    def _treated(self, ticket: Ticket, place: int, sites: Sites) -> Ticket | None:
        seed = self.recipe["seeds"][place] + ELSEWHERE
        treatment = self.recipe["treatment"]
        if treatment == "reinitialised":
            return reinitialised(ticket, self._begun(place, ELSEWHERE))
        if treatment == "shuffled":
            return shuffled(ticket, sites, seed)
        if treatment == "random mask":
            return random_ticket(ticket, sites, seed)
        return None if treatment == "small" else ticket

    def _network(self, place: int, ticket: Ticket | None) -> nn.Module:
        fresh = self._begun(place)
        if ticket is not None:
            return ticket.model(fresh)
        left = sum(int(_unpacked_count(self.needed[MASK + name][place])) for name in weights(fresh))
        others = sum(p.numel() for name, p in fresh.named_parameters() if name not in weights(fresh))
        # Which channels stay is the same for all, so that the networks are of one architecture.
        small = small_dense(fresh, self.splits["test"].head(1), max(left, 1) + others)
        with private_draws(self.recipe["seeds"][place]):
            return initialise(small, self.recipe["scheme"])

    def _otherwise(self, place: int, begun: nn.Module, sites: Sites) -> Keep:
        """The masks of another way to prune, at once."""
        sparsity = self.recipe["sparsity"]
        if self.recipe["way"] == "snip":
            images = first(self.splits["train"], SCORED)
            return select(Snip(images)(begun, sites), sparsity)
        scores = {name: self.needed[WEIGHT + name][place].abs().double() for name in sites}
        whole = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
        rates = {name: sparsity / (2 if name == list(sites)[-1] else 1) for name in sites}
        return lowest_removed(scores, whole, rates, pooled=False)

    def _kept(self, networks: Sequence[nn.Module], tickets: Sequence[Ticket | None]) -> dict[str, Tensor]:
        """The masks of the next round, packed, where one follows; of the whole networks the weights as well."""
        if not self.goes_on:
            return {}
        recipe = self.recipe
        rewind = Rewind(TrainTicket(self.splits["train"]), rate=recipe["rate"], scope=recipe["scope"])
        masks: dict[str, list[Tensor]] = {}
        for place, (network, ticket) in enumerate(zip(networks, tickets, strict=True)):
            assert ticket is not None
            fresh = self._begun(place)
            last = TrainedTicket(ticket.keep, network.state_dict(), round=recipe["round"])
            for name, mask in rewind.ticket(fresh, weights(fresh), last).keep.items():
                masks.setdefault(name, []).append(_packed(mask))
        tensors = {MASK + name: torch.stack(packed) for name, packed in masks.items()}
        if recipe["round"] == 0:
            tensors |= {
                WEIGHT + name: torch.stack([dict(n.named_parameters())[name].detach() for n in networks])
                for name in masks
            }
        return tensors

    def _figures(self, start: nn.Module, network: nn.Module, keep: Keep, history: History) -> dict[str, Any]:
        test = self.splits["test"]
        outputs = predict(network, test, batch_size=1000)
        total = sum(site.size for site in weights(network).values())
        left = total - sum(int((~mask).sum()) for mask in keep.values())
        early = history.epochs[(history.best_epoch or 1) - 1]
        return {
            **_quality(outputs, test),
            "density": left / self._whole,
            "early_iteration": float(early.epoch * -(-len(self.splits["train"]) // self.recipe["batch_size"])),
            "early_accuracy": early.validation_accuracy,
            **movement(start, network, keep, first(self.splits["train"], SCORED)),
        }

    @cached_property
    def _whole(self) -> int:
        return sum(site.size for site in weights(self._begun(0)).values())


def _quality(outputs: Tensor, images: Split) -> dict[str, Any]:
    """What `evaluate` would tell, of outputs that are there already."""
    right = (outputs.argmax(1) == images.labels).double()
    of_class = [right[images.labels == number] for number in range(len(images.classes))]
    return {
        "accuracy": float(right.mean()),
        "loss": float(cross_entropy(outputs.double(), images.labels)),
        "class_accuracy": [float(values.mean()) for values in of_class],
        "calibration_error": calibration_error(outputs, images.labels),
    }


def figures_of(tensors: Mapping[str, Tensor], place: int) -> dict[str, Json]:
    """Return the figures of one network of a block."""
    return {name: values[place].tolist() for name, values in tensors.items() if not name.startswith((MASK, WEIGHT))}


def _passes(history: History) -> list[dict[str, Json]]:
    return [
        {
            "step": record.epoch,
            "train_loss": record.train_loss,
            "validation_loss": record.validation_loss,
            "accuracy": record.validation_accuracy,
        }
        for record in history
    ]


def _packed(mask: Tensor) -> Tensor:
    """Eight entries a byte."""
    return torch.from_numpy(np.packbits(mask.flatten().numpy()))


def _unpacked(packed: Tensor, shape: Sequence[int]) -> Tensor:
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(packed.numpy(), count=count)).bool().reshape(tuple(shape))


def _unpacked_count(packed: Tensor) -> int:
    return int(np.unpackbits(packed.numpy()).sum())
