"""What a layer gives without one of the maps that it reads: its output less what that map alone adds to it.

y − P_u W_uᵀ, where the rows of P_u are the patches of map u, one a place, as y = b + Σ_u P_u W_uᵀ (a convolution as a matrix
product: Chellapilla et al., 2006). A linear layer that reads flattened maps has one place, and the map for its patch.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from secateur.rate.chain.gemm import product
from secateur.rate.chain.parse import ChainLayer

__all__ = ["MapDowndate"]

PARTS = 8  # sizes of a batch


class MapDowndate:
    """The outputs of a layer without each of the units that it reads.

    Args:
        layer: a convolution, or a linear layer that reads flattened maps.
        read: what it reads, ``(samples, …)``.
        gives: what it gives.
        units: how many units it reads.
    """

    def __init__(self, layer: ChainLayer, read: Tensor, gives: Tensor, units: int) -> None:
        self.layer, self.units = layer, units
        self.read = read.view(len(read), units, -1) if layer.linear else read
        # By unit and dense: oneDNN is a thousand times slower on weights with gaps.
        self.weight = layer.weight.view(len(layer.weight), units, -1).transpose(0, 1).contiguous()
        # Channels last: a row of the product is what lies together.
        self.gives = gives if layer.linear else gives.permute(0, 2, 3, 1).contiguous()

    def rows(self, unit: int, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the outputs without a unit, at most `size` samples at a time, with the samples' numbers.

        Samples on which the unit is zero are left out. There may be more outputs than numbers: each size of a batch has
        a kernel of its own, so there are few sizes.
        """
        maps = self.read[:, unit]
        on = maps.flatten(1).any(1).nonzero()[:, 0]
        for some in torch.split(on, size) if len(on) else ():
            step = max(1, size // PARTS)
            padded = torch.cat([some, some[:1].expand(-len(some) % step)])
            yield self._without(unit, maps[padded], padded), some

    def _without(self, unit: int, maps: Tensor, some: Tensor) -> Tensor:
        before = self.gives.index_select(0, some)
        if self.layer.linear:
            return before.sub_(product(maps, self.weight[unit]))
        patches = _patches(maps, self.layer)
        return before.sub_(product(patches, self.weight[unit]).view_as(before)).permute(0, 3, 1, 2)


def _patches(maps: Tensor, layer: ChainLayer) -> Tensor:
    """What one filter sees of one map at each place: ``(samples · places, height · width)``."""
    (down, right), (high, wide) = layer.options["stride"], layer.weight.shape[2:]
    (above, left), (tall, broad) = layer.options["padding"], layer.options["dilation"]
    maps = pad(maps, (left, left, above, above))
    windows = maps.unfold(1, tall * (high - 1) + 1, down).unfold(2, broad * (wide - 1) + 1, right)
    return windows[..., ::tall, ::broad].reshape(-1, high * wide)
