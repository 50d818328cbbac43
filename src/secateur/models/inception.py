"""GoogLeNet and its inception blocks, with the variants that the text compares: batch norms, factors, shortcuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.models.layers import scaled
from secateur.types import InputError

__all__ = ["GoogLeNet", "InceptionBlock", "inception"]

_BLOCKS: dict[str, tuple[int, ...]] = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
"""Channels: 1×1; 1×1 before 3×3, 3×3; 1×1 before 5×5, 5×5; 1×1 after the pool (Szegedy et al., 2014, table 1)."""


@dataclass(frozen=True)
class _Variant:
    batch_norm: bool
    factorised: bool
    residual: bool

    def convolution(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> list[nn.Module]:
        """A convolution that keeps the size but for the stride, and what follows it."""
        norm = [nn.BatchNorm2d(n_out)] if self.batch_norm else []
        return [nn.Conv2d(n_in, n_out, kernel, stride, kernel // 2, bias=not norm), *norm, nn.ReLU()]


class InceptionBlock(nn.Module):
    """Four ways side by side, whose maps are put together: 1×1, 3×3, 5×5 and a pool (Szegedy et al., 2014).

    With `factorised` two 3×3 convolutions stand for the 5×5 (Szegedy et al., 2016, Rethinking the inception architecture);
    with `residual` the input passes by, through a 1×1 convolution (Szegedy, Ioffe and Vanhoucke, 2016).
    """

    def __init__(self, n_in: int, channels: Sequence[int], variant: _Variant) -> None:
        super().__init__()
        point, before_3, three, before_5, five, pool = channels
        convolution = variant.convolution
        twice = [*convolution(before_5, five, 3), *convolution(five, five, 3)]
        self.branch1 = nn.Sequential(*convolution(n_in, point, 1))
        self.branch2 = nn.Sequential(*convolution(n_in, before_3, 1), *convolution(before_3, three, 3))
        self.branch3 = nn.Sequential(
            *convolution(n_in, before_5, 1), *(twice if variant.factorised else convolution(before_5, five, 5))
        )
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, 1), *convolution(n_in, pool, 1))
        self.n_out = point + three + five + pool
        self.shortcut = nn.Conv2d(n_in, self.n_out, 1) if variant.residual else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps of all ways, one after the other."""
        maps = torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)
        return maps if self.shortcut is None else torch.relu(maps + self.shortcut(x))


class GoogLeNet(nn.Module):
    """A stem, nine inception blocks, and one linear layer on the mean of the last maps (Szegedy et al., 2014)."""

    def __init__(self, in_channels: int, classes: int, width: float, small: bool, variant: _Variant) -> None:
        super().__init__()
        n_1, n_2 = scaled(64, width), scaled(192, width)
        pool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        first = variant.convolution(in_channels, n_1, 3 if small else 7, 1 if small else 2)
        self.stem = nn.Sequential(
            *first, pool, *variant.convolution(n_1, n_1, 1), *variant.convolution(n_1, n_2, 3), pool
        )
        blocks: dict[str, nn.Module] = {}
        for name, channels in _BLOCKS.items():
            if name in ("4a", "5a"):
                blocks[f"pool{name[0]}"] = nn.MaxPool2d(3, 2, 1)
            block = InceptionBlock(n_2, [scaled(n, width) for n in channels], variant)
            blocks[f"inception{name}"], n_2 = block, block.n_out
        self.blocks = nn.Sequential()
        for name, module in blocks.items():
            self.blocks.add_module(name, module)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(n_2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores ``(N, classes)`` of images ``(N, C, H, W)``."""
        x = self.avgpool(self.blocks(self.stem(images)))
        scores: Tensor = self.fc(torch.flatten(x, 1))
        return scores


def inception(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = False,
    factorised: bool = False,
    residual: bool = False,
) -> nn.Module:
    """GoogLeNet without its auxiliary classifiers (C. Szegedy et al., 2014, Going deeper with convolutions; calli, 1.7.1).

    Nine inception blocks; 6,998,552 parameters. `batch_norm` follows each convolution with a batch norm, `factorised`
    makes each 5×5 convolution two of 3×3 (Szegedy et al., 2016), `residual` lets each block's input pass by through a
    1×1 convolution (Szegedy, Ioffe and Vanhoucke, 2016). For images of at most 64 pixels the stem has no
    strides. `width` multiplies every hidden layer. Begun with Kaiming normal (fan out).

    >>> inception(input_size=32, classes=10, width=0.125).fc
    Linear(in_features=128, out_features=10, bias=True)
    """
    if input_size < 8:
        raise InputError(f"inception: input_size is {input_size}; its pools need at least 8")
    variant = _Variant(batch_norm, factorised, residual)
    model = GoogLeNet(in_channels, classes, width, input_size <= 64, variant)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
