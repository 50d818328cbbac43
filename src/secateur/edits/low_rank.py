"""Layers written as a product of thinner ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.edits.rebuilt import Rebuilt

__all__ = ["Factored"]


@dataclass(frozen=True)
class Factored(Rebuilt):
    """Linear layers and convolutions in the place of one, with nothing between them: its weight as a product.

    >>> from torch import nn
    >>> from secateur.edits.rebuilt import LayerSpec
    >>> thin = [LayerSpec("Linear", {"in_features": 8, "out_features": 2, "bias": False})]
    >>> thin.append(LayerSpec("Linear", {"in_features": 2, "out_features": 6}))
    >>> Factored({"0": thin}).apply(nn.Sequential(nn.Linear(8, 6), nn.ReLU()))[0]
    Sequential(
      (0): Linear(in_features=8, out_features=2, bias=False)
      (1): Linear(in_features=2, out_features=6, bias=True)
    )
    """

    kind: ClassVar[str] = "low-rank"
    kinds: ClassVar[tuple[str, ...]] = (
        "Linear",
        *("Conv1d", "Conv2d", "Conv3d"),
        *("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"),
    )
