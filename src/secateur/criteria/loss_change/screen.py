"""Screening: estimate all units, and measure only those that may be among the lowest."""

from __future__ import annotations

from math import ceil, nan

import torch
from torch import Tensor, nn

from secateur.criteria.loss_change.result import UnitWorth
from secateur.criteria.second_order import SecondOrder
from secateur.criteria.taylor import Taylor
from secateur.labelled import Data
from secateur.structure.flow import Flow
from secateur.types import Loss, Sites

__all__ = ["MARGIN", "estimates", "lowest", "with_estimates"]

MARGIN = 1.5
"""How many units are measured for each that is looked for."""


def estimates(model: nn.Module, sites: Sites, data: Data, loss: Loss, batch_size: int) -> dict[str, Tensor]:
    """Return the estimated changes: to second order for channels, to first for single weights and blocks.

    Minus infinity where the estimate leaves something out, as behind a norm with statistics over the units: those are
    measured, whatever they are.
    """
    if any(site.kind != "channel" for site in sites.values()):
        return Taylor(data, loss, "signed", batch_size=batch_size)(model, sites)
    change_by_site = SecondOrder(data, loss, batch_size=batch_size)(model, sites)
    unsure = Flow(model, sites).partial
    return {name: torch.full_like(x, -torch.inf) if name in unsure else x for name, x in change_by_site.items()}


def lowest(scores: dict[str, Tensor], fraction: float) -> dict[str, Tensor]:
    """Return the positions of the units in the lowest `fraction` of all, times `MARGIN`, int64, by site.

    >>> lowest({"a": torch.tensor([3.0, 1.0, 2.0]), "b": torch.tensor([0.0, 4.0, 5.0])}, 1 / 6)
    {'a': tensor([1]), 'b': tensor([0])}
    """
    flat = torch.cat([x.flatten().cpu() for x in scores.values()])
    count = min(ceil(MARGIN * fraction * len(flat)), len(flat))
    is_lowest = torch.zeros(len(flat), dtype=torch.bool)
    is_lowest[flat.argsort(stable=True)[:count]] = True
    is_lowest |= flat == -torch.inf
    parts = is_lowest.split([x.numel() for x in scores.values()])  # type: ignore[no-untyped-call]
    return {name: part.nonzero().flatten() for name, part in zip(scores, parts, strict=True)}


def with_estimates(measured: UnitWorth, scores: dict[str, Tensor]) -> UnitWorth:
    """Put the estimates in the place of what was not measured; nothing else is known there."""
    for name, exact in measured.exact.items():
        measured[name] = torch.where(exact, measured[name], scores[name].cpu().to(measured[name].dtype))
        for figure_by_site in (measured.error, measured.accuracy):
            figure_by_site[name] = torch.where(exact, figure_by_site[name], nan)
        measured.class_accuracy[name] = torch.where(exact[..., None], measured.class_accuracy[name], nan)
    return measured
