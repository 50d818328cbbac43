"""Fractions to remove, one a site, for ``select(scores, fractions, scope="layer")``."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from secateur.allocate.dynamic import Choices, Portions
from secateur.allocate.scan import Sensitivity
from secateur.calls import looking
from secateur.checks import check_fraction
from secateur.selection import layer_fractions
from secateur.types import InputError, Site, Sites

__all__ = ["by_sensitivity", "erk", "uniform"]


@looking
def uniform(sites: Sites, sparsity: float) -> dict[str, float]:
    """Return the fraction of each site so that every tensor loses `sparsity` of its channels.

    That is the same for all but sites that lie in one axis with others; what ``select(scores, sparsity, scope="layer",
    sites=sites)`` does.

    >>> from torch import nn
    >>> from secateur.structure import weights
    >>> uniform(weights(nn.Linear(2, 2)), 0.5)
    {'weight': 0.5}
    """
    _checked(sites)
    return layer_fractions(sites, _fraction(sparsity))


@looking
def erk(sites: Sites, sparsity: float) -> dict[str, float]:
    """Return fractions by the Erdős–Rényi-kernel rule: the larger a layer, the more of it goes.

    The density of a layer is in proportion to the sum of its weight's sizes over their product, ``(out + in + height +
    width) / (out · in · height · width)`` (Evci et al., 2020; for linear layers that of Mocanu et al., 2018); where that
    would be above 1 the layer stays whole, and the others make up for it. Over all sites together the fraction
    `sparsity` of the units goes. Channels take the density of the weights that produce them.

    Raises:
        InputError: `sparsity` is not in [0, 1], or there are no sites.

    >>> from torch import nn
    >>> from secateur.structure import weights
    >>> model = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 8))     # 6 / 8 and 12 / 32: twice as dense
    >>> {name: round(s, 3) for name, s in erk(weights(model), 0.5).items()}
    {'0.weight': 0.167, '1.weight': 0.583}
    """
    raw = {name: _sparse_share(site) for name, site in _checked(sites).items()}
    sizes = {name: site.size for name, site in sites.items()}
    left = (1 - _fraction(sparsity)) * sum(sizes.values())
    whole: set[str] = set()
    while True:
        others = [name for name in sites if name not in whole]
        spread = sum(raw[name] * sizes[name] for name in others)
        scale = (left - sum(sizes[name] for name in whole)) / spread if spread else 0.0
        over = {name for name in others if scale * raw[name] > 1}
        if not over:
            return {name: 0.0 if name in whole else 1 - scale * raw[name] for name in sites}
        whole |= over


def _sparse_share(site: Site) -> float:
    """Sum over product of the sizes of the weights that produce the units, or of the weight itself."""
    shapes = [m.shape for m in site.members if len(m.shape) > 1 and m.role == "out"]
    shapes = shapes or [m.shape for m in site.members if len(m.shape) > 1] or [site.shape]
    return sum(map(sum, shapes)) / sum(map(prod, shapes))


@looking
def by_sensitivity(scan: Sensitivity, sparsity: float, *, metric: str = "loss", minimum: int = 1) -> dict[str, float]:
    """Return the fractions that lose least by a sensitivity scan, removing `sparsity` of all units together.

    Each site's loss over the number of its removed units is a line through the scanned points; losses of several sites
    are taken to add up, and the least sum is found by dynamic programming. No site loses more than was scanned.

    Args:
        scan: from `sensitivity`.
        sparsity: the fraction of all units to remove, in [0, 1].
        metric: which of its figures is the loss, low = good; ``"-accuracy"`` takes one that is high = good.
        minimum: how many units every site keeps at least.

    Raises:
        InputError: more is to go than was scanned.
        UnknownNameError: the scan has no such figure.
    """
    table = Portions({name: Choices(range(len(rises)), rises) for name, rises in scan.losses(metric, minimum).items()})
    count = round(_fraction(sparsity) * sum(scan.units.values()))
    if count > table.most:
        share = table.most / sum(scan.units.values())
        raise InputError(
            f"allocate: sparsity {sparsity} is more than was scanned; ask for {share:.4f} or less, or scan higher ones"
        )
    return {name: removed / scan.units[name] for name, removed in table.at(count).items()}


def _checked(sites: Sites) -> Mapping[str, Site]:
    sites.check_any("allocate")
    return sites


def _fraction(value: float) -> float:
    check_fraction("allocate", sparsity=value)
    return float(value)
