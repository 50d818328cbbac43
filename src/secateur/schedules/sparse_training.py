"""One training that ends sparse: gradual magnitude pruning, SET, RigL."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

from secateur.copies import copied
from secateur.labelled import Data
from secateur.result import Result
from secateur.schedules.options import check_rating
from secateur.schedules.rewind import gone_between
from secateur.schedules.shrinking import loss_and_accuracy
from secateur.schedules.walk import Schedule, Walk
from secateur.state import restore, snapshot
from secateur.types import InputError, Keep, Loss, Sites, unknown_name

__all__ = ["MaskedTraining", "SparseTraining"]


class MaskedTraining(Protocol):
    """What trains and prunes at once: `secateur.train.TrainSparse`, or one of your own."""

    def __call__(self, model: nn.Module, sites: Sites) -> Keep:
        """Train the model in place; return the masks that it ended with, by site; what they prune is zero."""
        ...


@dataclass(frozen=True)
class SparseTraining(Schedule):
    """Trains once, while single weights come and go, and returns the sparse network.

    Attributes:
        train: what trains; its masks say how weights go: `GradualMagnitude`, `SparseEvolution` (SET), `RigL`.
        data: labelled samples to log the loss on, after training; None logs none.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        minimum: how many weights every site must have left.

    >>> from secateur.structure import weights
    >>> from secateur.train import GradualMagnitude, TrainOptions, TrainSparse
    >>> model, data = nn.Linear(8, 4), (torch.randn(32, 8), torch.randn(32, 4))
    >>> train = TrainSparse(data, GradualMagnitude(0.75, every=1), TrainOptions(epochs=8, loss="mse"))
    >>> SparseTraining(train)(model, weights(model)).report.nonzero
    (36, 12)
    """

    train: MaskedTraining
    data: Data | None = field(default=None, repr=False)
    loss: str | Loss = "cross_entropy"
    minimum: int = 1

    def __post_init__(self) -> None:
        check_rating(self)

    def _prune(self, walk: Walk) -> Result:
        if any(site.kind != "weight" for site in walk.sites.values()):
            raise InputError("SparseTraining prunes single weights; find the sites with weights(model)")
        walk.begin(*loss_and_accuracy(walk.model, self.data, self.loss))
        network = copied(walk.model)
        if walk.steps:
            restore(network, walk.tensors)
        else:
            keep = self._complete(self.train(network, walk.sites), walk.sites)
            walk.tensors = snapshot(network)
            walk.remove(gone_between(walk.keep, keep), *loss_and_accuracy(network, self.data, self.loss))
        return walk.finish(masked=network)

    def _complete(self, keep: Keep, sites: Sites) -> dict[str, torch.Tensor]:
        """A mask for each site."""
        for name, mask in keep.items():
            if name not in sites:
                raise unknown_name("site", name, sites)
            if int(mask.sum()) < min(self.minimum, mask.numel()):
                raise InputError(
                    f"SparseTraining: {name} was left with {int(mask.sum())} of {mask.numel()} weights, and minimum is "
                    f"{self.minimum}; ask for a lower sparsity, or a lower minimum"
                )
        return {name: keep.get(name, torch.ones(site.shape, dtype=torch.bool)) for name, site in sites.items()}
