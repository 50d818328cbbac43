"""What widths may be expected to cost where no data tell: how much of its scores each site keeps, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.allocate.tables import Losses
from secateur.types import Scores, Site, Sites

__all__ = ["LEAST_SHARES", "foretold_losses"]

LEAST_SHARES = (0.3, 0.1, 0.0)
"""The share of its units that every site keeps at least; the next one where a budget cannot be had with it."""


def foretold_losses(scores: Scores, sites: Sites) -> Losses:
    """Return for each site −p · ln(share of its scores that is kept) when its lowest 0, 1, 2, … units go.

    A signal passes the sites one after the other, and of each the part comes through that its kept scores are of all of
    them; the logarithm makes a sum of that product, which a knapsack can take. p is how many layers produce the site's
    units: around residual connections each of them loses what the site loses.

    Scores below 0 count as 0, and infinite ones as much as the greatest that is not; where nothing is left to tell units
    apart, all count the same.

    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> sites = channels(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 2))
    >>> [round(loss, 3) for loss in foretold_losses({"0": torch.tensor([4.0, 1.0, 2.0, 1.0])}, sites)["0"]]
    [0.0, 0.134, 0.288, 0.693]
    """
    return {name: _of_site(scores[name], site) for name, site in sites.items()}


def _of_site(score: Tensor, site: Site) -> list[float]:
    rising = _counted(score).sort().values
    removed = torch.cat([rising.new_zeros(1), rising.cumsum(0)[:-1]])
    return [float(loss) for loss in -_producers(site) * torch.log1p(-removed / rising.sum())]


def _counted(score: Tensor) -> Tensor:
    """The scores as shares of something: finite, not below 0, and not all 0."""
    flat = score.detach().flatten().double().cpu()
    finite = flat[torch.isfinite(flat)].clamp_min(0)
    greatest = float(finite.max()) if finite.numel() else 0.0
    shares = torch.nan_to_num(flat, posinf=greatest, neginf=0.0).clamp_min(0)
    # A trace for each unit, so that the last ones cost something where their scores are 0.
    shares = shares + (1e-9 * greatest)
    return shares if greatest else torch.ones_like(flat)


def _producers(site: Site) -> int:
    return max(sum(member.role == "out" and len(member.shape) > 1 for member in site.members), 1)
