"""LossChange: what each unit is worth, measured."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from secateur.criteria.loss_change.plain import PlainLoop
from secateur.criteria.loss_change.result import LossChanges
from secateur.criteria.loss_change.tally import Tally
from secateur.labelled import Data, check_data, iterate
from secateur.state import check_finite, device_of
from secateur.structure.sites import REPAIR, check_same_model
from secateur.types import InputError, Loss, Sites

__all__ = ["LossChange"]

MANY = 10_000


@dataclass(frozen=True, repr=False)
class LossChange:
    """Scores every unit by the exact change of the mean loss when that unit alone is removed.

    The leave-one-out importance of Mozer and Smolensky (1989), and of Charpentier (2020), who labels the units by it.
    Removed means masked (`secateur.mask`), in eval mode; numbers are float32, sums float64. High means keep: a unit
    below zero makes the model worse. Losses are paired by sample, so that each change has its standard error.

    Attributes:
        batches: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: of (outputs, targets); the mean of its samples' losses.
        max_memory: bytes that the measuring may take beside the model and a batch of data; found by itself.
        progress: draw a bar on standard error.
        batch_size: samples a pass, where the data are in memory.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), (torch.eye(2), 0.0, 2 * torch.eye(2), 0.0)):
    ...         _ = parameter.copy_(torch.as_tensor(value))
    >>> inputs, labels = torch.eye(2), torch.tensor([0, 0])
    >>> changes = LossChange((inputs, labels))(model, channels(model, inputs))
    >>> changes  # log(2) − log(1 + exp(−2)) and its opposite beyond: unit 1 only speaks for the wrong answer
    LossChanges(2 units of 1 sites, loss 1.127 on 2 samples)
    >>> changes["0"]
    tensor([ 0.2831, -0.7169])
    >>> changes.accuracy["0"]
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """

    batches: Data = field(repr=False)
    loss: Loss = cross_entropy
    max_memory: int | None = None
    progress: bool = False
    batch_size: int = 500

    def __post_init__(self) -> None:
        check_data(self.batches, "LossChange")
        if not callable(self.loss):
            raise InputError(f"LossChange: loss is {self.loss!r}; give a function of (outputs, targets)")
        for name in ("max_memory", "batch_size"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InputError(f"LossChange: {name}={value!r} must be a whole number, 1 or more")

    def __call__(self, model: nn.Module, sites: Sites) -> LossChanges:
        """Return the changes, high = keep; each has its site's shape."""
        check_same_model(model, sites)
        check_finite(model, "LossChange", REPAIR)
        _warn_of_many(sites)
        tally = Tally(self.loss, sites)
        # In float32 whatever the model is; and of one's own, as the plain loop writes into it.
        own = copy.deepcopy(model).float()
        engine, device = PlainLoop(own, sites), device_of(own)
        for inputs, targets in iterate(self.batches, self.batch_size, "LossChange"):
            engine.measure(_single(inputs).to(device), _single(targets).to(device), tally)
        return tally.result()

    def __repr__(self) -> str:
        name = getattr(self.loss, "__name__", None) or repr(self.loss)
        return f"LossChange(loss={name})"


def _single(x: torch.Tensor) -> torch.Tensor:
    return x.float() if x.is_floating_point() else x


def _warn_of_many(sites: Sites) -> None:
    units = sum(site.size for site in sites.values() if site.kind == "weight")
    if units > MANY:
        warnings.warn(
            f"LossChange runs the whole model once for each of {units:,} single weights and each batch; Taylor "
            "estimates them in one backward pass, and channels are measured much faster",
            stacklevel=3,
        )
