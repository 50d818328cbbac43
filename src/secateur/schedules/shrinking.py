"""The model of a pruning in steps as it is now, and which of the original's units it holds."""

from __future__ import annotations

from collections.abc import Mapping
from math import nan

from torch import Tensor, nn
from torch.optim import Optimizer

from secateur.labelled import Data
from secateur.rate.masks import rate
from secateur.schedules.walk import Walk
from secateur.state import restore, snapshot
from secateur.structure.cutting import cut
from secateur.structure.sites import channels, with_zeros
from secateur.types import InputError, Keep, Loss, Sites

__all__ = ["Shrinking", "loss_and_accuracy"]


def loss_and_accuracy(model: nn.Module, data: Data | None, loss: str | Loss) -> tuple[float, float]:
    """Return a model's mean loss and accuracy; nan without data."""
    if data is None:
        return nan, nan
    evaluation = rate(model, Sites({}), [{}], data, loss)
    return float(evaluation.losses[0]), float(evaluation.accuracy[0])


class Shrinking:
    """The model as it is now, its sites, and which of the original units they hold."""

    def __init__(self, model: nn.Module, sites: Sites, units_left: dict[str, Tensor], masked: bool) -> None:
        self.model, self.sites, self.units_left, self.masked = model, sites, units_left, masked

    @classmethod
    def of(cls, walk: Walk, masked: bool) -> Shrinking:
        """Return where the walk is: its tensors, where it keeps any, in the place of the original's."""
        units_left = {name: site_mask.flatten().nonzero().flatten() for name, site_mask in walk.keep.items()}
        model = (with_zeros if masked else cut)(walk.model, walk.sites, walk.keep)
        if walk.tensors:
            restore(model, walk.tensors)
        return cls(model, walk.sites if masked else _again(model, walk.sites, units_left), units_left, masked)

    def remove(self, keep: Keep, optimizer: Optimizer | None = None) -> list[tuple[str, int]]:
        """Remove units, and return them as those of the original; an optimizer goes on with the smaller model."""
        gone = []
        for name, site_mask in keep.items():
            flat, units_left = site_mask.flatten().cpu(), self.units_left[name]
            if self.masked:
                gone += [(name, int(unit)) for unit in units_left if not flat[unit]]
                self.units_left[name] = units_left[flat[units_left]]
            else:
                gone += [(name, int(unit)) for unit in units_left[~flat]]
                self.units_left[name] = units_left[flat]
        if self.masked:
            self.model = with_zeros(self.model, self.sites, keep)
        elif gone:
            self.model = cut(self.model, self.sites, keep, optimizer=optimizer)
            self.sites = _again(self.model, self.sites, self.units_left)
        return gone

    def hold(self, keep: Keep) -> None:
        """Set to zero what a training may have brought back."""
        if self.masked:
            restore(self.model, snapshot(with_zeros(self.model, self.sites, keep)))


def _again(small: nn.Module, sites: Sites, units_left: Mapping[str, Tensor]) -> Sites:
    """The same sites in the smaller model; those of which one unit is left may be sites no more."""
    graph = sites.structure.graph
    small_sites = channels(small, dict(graph.kwargs) if graph.kwargs else graph.args)
    for name in sites:
        size = small_sites[name].size if name in small_sites else 1
        if size != len(units_left[name]):
            raise InputError(
                f"{name!r} has {len(units_left[name])} units left, but in the cut model {size}, as its ties "
                "changed; leave it out with ignore=, or prune in one step"
            )
    return Sites(
        {name: small_sites[name] for name in sites if name in small_sites}, small_sites.frozen, small_sites.structure
    )
