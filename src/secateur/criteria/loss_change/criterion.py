"""LossChange: what each unit is worth, measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from secateur.calls import as_usual
from secateur.checks import check_number, check_whole
from secateur.copies import copied
from secateur.criteria.base import LossCriterion
from secateur.criteria.loss_change.result import UnitWorth
from secateur.criteria.loss_change.screen import estimates, lowest, with_estimates
from secateur.labelled import SampleBatch, Samples, batches, count_batches
from secateur.progress import bar
from secateur.rate.tally import UnitTally
from secateur.rate.units import unit_engine
from secateur.state import check_finite, device_of
from secateur.structure.sites import REPAIR
from secateur.types import Sites

__all__ = ["LossChange"]

LARGE = 10_000
MANY = 10_000


@dataclass(frozen=True, repr=False)
class LossChange(LossCriterion):
    """Scores every unit by the exact change of the mean loss when that unit alone is removed.

    The leave-one-out importance of Mozer and Smolensky (1989), and of Charpentier (2020), who labels the units by it.
    Removed means masked (`secateur.mask`), in eval mode; numbers are float32, sums float64. High means keep: a unit
    below zero makes the model worse. Losses are paired by sample, so that each change has its standard error.

    Attributes:
        data: labelled samples: a `Split`, a pair (inputs, targets) of tensors, or batches of such pairs.
        loss: a name that `fit` takes, or a function of (outputs, targets) that gives the mean of its samples' losses.
        max_memory: bytes that the measuring may take beside the model and a batch of data; found by itself.
        progress: draw a bar on standard error.
        screen: look for this fraction of all units, the lowest, in (0, 1): estimate all (`SecondOrder`; single weights
            and blocks by `Taylor`), and measure the lowest estimates, half as many again as are looked for. The others
            keep their estimates, and ``exact`` is False there. None measures all.
        batch_size: samples a pass, where the data are in memory; a chain of layers takes more.

    >>> import torch
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> with torch.no_grad():
    ...     for parameter, value in zip(model.parameters(), (torch.eye(2), 0.0, 2 * torch.eye(2), 0.0)):
    ...         _ = parameter.copy_(torch.as_tensor(value))
    >>> inputs, labels = torch.eye(2), torch.tensor([0, 0])
    >>> changes = LossChange((inputs, labels))(model, channels(model, inputs))
    >>> changes  # log(2) − log(1 + exp(−2)) and its opposite beyond: unit 1 only speaks for the wrong answer
    UnitWorth(2 units of 1 sites, loss 1.127 on 2 samples)
    >>> changes["0"]
    tensor([ 0.2831, -0.7169])
    >>> changes.accuracy["0"]
    tensor([0.0000, 0.5000], dtype=torch.float64)
    """

    max_memory: int | None = None
    progress: bool = False
    screen: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole(self, or_none=True, max_memory=self.max_memory)
        check_number(self, "(0, 1)", "a fraction of the units; 0.1 is usual", or_none=True, screen=self.screen)

    @property
    def adds_up(self) -> bool:
        """True: each is the change without one unit."""
        return True

    def __call__(self, model: nn.Module, sites: Sites) -> UnitWorth:
        """Return the changes, high = keep; each has its site's shape."""
        changes = super().__call__(model, sites)
        assert isinstance(changes, UnitWorth)
        return changes

    def _score(self, model: nn.Module, sites: Sites) -> UnitWorth:
        check_finite(model, "LossChange", REPAIR)
        # In float32 whatever the model is; and of one's own, as the plain loop writes into it.
        float_model = copied(model).float()
        with as_usual(float_model):
            if self.screen is None:
                return self._measured(float_model, sites, None)
            scores = estimates(float_model, sites, _Single(self.data, self.batch_size), self._loss, self.batch_size)
            return with_estimates(self._measured(float_model, sites, lowest(scores, self.screen)), scores)

    def _measured(self, model: nn.Module, sites: Sites, units: dict[str, Tensor] | None) -> UnitWorth:
        tally, device = UnitTally(self._loss, sites, units), device_of(model)
        count = sum(map(len, tally.chosen.values()))
        _warn_of_many(sites, count)
        engine = unit_engine(model, sites, self._loss, self.max_memory)
        # Where the engine divides samples by itself, each call has its price.
        size = max(self.batch_size, LARGE) if engine.divides else self.batch_size
        steps = count * count_batches(self.data, size) if self.progress else 0
        with bar(steps, self.progress, "loss changes") as advance:
            engine.report(advance)
            for batch in _Single(self.data, size):
                engine.measure(batch.to(device), tally)
        return UnitWorth.of(tally)

    def __repr__(self) -> str:
        name = getattr(self._loss, "__name__", None) or repr(self.loss)
        return f"LossChange(loss={name}{'' if self.screen is None else f', screen={self.screen}'})"


@dataclass(frozen=True)
class _Single:
    """Batches in float32, that can be iterated again and again."""

    data: Samples
    batch_size: int

    def __iter__(self) -> Iterator[SampleBatch]:
        for batch in batches(self.data, self.batch_size, "LossChange"):
            yield batch.changed(lambda x: x.float() if x.is_floating_point() else x)


def _warn_of_many(sites: Sites, units: int) -> None:
    if units > MANY and any(site.kind == "weight" for site in sites.values()):
        warnings.warn(
            f"LossChange runs the whole model once for each of {units:,} single weights and each batch; Taylor "
            "estimates them in one backward pass (screen=... measures only the lowest), and channels are measured faster",
            stacklevel=4,
        )
