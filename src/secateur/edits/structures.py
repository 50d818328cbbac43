"""Convolutions replaced by cheaper structures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from secateur.edits.rebuilt import Rebuilt

__all__ = ["Replaced"]


@dataclass(frozen=True)
class Replaced(Rebuilt):
    """Convolutions in the place of one, with norms and nonlinearities between them.

    >>> from torch import nn
    >>> from secateur.edits.rebuilt import LayerSpec
    >>> depthwise = {"in_channels": 4, "out_channels": 4, "kernel_size": [3, 3], "groups": 4, "bias": False}
    >>> pointwise = {"in_channels": 4, "out_channels": 8, "kernel_size": [1, 1]}
    >>> edit = Replaced({"": [LayerSpec("Conv2d", depthwise), LayerSpec("Conv2d", pointwise)]})
    >>> sum(p.numel() for p in edit.apply(nn.Conv2d(4, 8, 3)).parameters())      # 4 · 9 + 4 · 8 + 8
    76
    """

    kind: ClassVar[str] = "structure"
    kinds: ClassVar[tuple[str, ...]] = (
        *("Conv1d", "Conv2d", "Conv3d"),
        *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
        "ReLU",
    )
