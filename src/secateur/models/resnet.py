"""Residual networks of 18 to 152 layers, for ImageNet's images and for small ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.models.layers import scaled

__all__ = [
    "BasicBlock",
    "Bottleneck",
    "Parts",
    "ResNet",
    "resnet_18",
    "resnet_34",
    "resnet_50",
    "resnet_101",
    "resnet_152",
]


@dataclass(frozen=True)
class Parts:
    """What stands beside the convolutions of a network.

    Attributes:
        batch_norm: whether a batch norm follows each; else it has a bias.
        residual: whether the input of a block passes by it.
    """

    batch_norm: bool = True
    residual: bool = True

    def norm(self, channels: int) -> nn.Module:
        """Return what follows a convolution."""
        return nn.BatchNorm2d(channels) if self.batch_norm else nn.Identity()

    def shortcut(self, n_in: int, n_out: int, stride: int) -> nn.Sequential | None:
        """Return how the input of a block gets the shape of its output; None where it has it, or does not pass by."""
        if not self.residual or (stride == 1 and n_in == n_out):
            return None
        return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=not self.batch_norm), self.norm(n_out))

    def passed(self, x: Tensor, block_input: Tensor, downsample: nn.Module | None) -> Tensor:
        """Return a block's last maps with its input added where that passes by."""
        if not self.residual:
            return x
        return x + (block_input if downsample is None else downsample(block_input))


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around which the input passes by (He et al., 2015; calli, table 1.1)."""

    expansion = 1

    def __init__(self, n_in: int, planes: int, stride: int, parts: Parts = Parts()) -> None:
        super().__init__()
        self.parts, bias = parts, not parts.batch_norm
        self.conv1 = nn.Conv2d(n_in, planes, 3, stride, padding=1, bias=bias)
        self.bn1 = parts.norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=bias)
        self.bn2 = parts.norm(planes)
        self.downsample = parts.shortcut(n_in, planes * self.expansion, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; its input is added before the last ReLU."""
        maps = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu(self.parts.passed(maps, x, self.downsample))
        return out


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions around which the input passes by (He et al., 2015; table 1.1 of calli).

    The stride is in the 3×3 convolution, as in torchvision (known as version 1.5), not in the first 1×1.
    """

    expansion = 4

    def __init__(self, n_in: int, planes: int, stride: int, parts: Parts = Parts()) -> None:
        super().__init__()
        self.parts, bias, n_out = parts, not parts.batch_norm, planes * self.expansion
        self.conv1 = nn.Conv2d(n_in, planes, 1, bias=bias)
        self.bn1 = parts.norm(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=bias)
        self.bn2 = parts.norm(planes)
        self.conv3 = nn.Conv2d(planes, n_out, 1, bias=bias)
        self.bn3 = parts.norm(n_out)
        self.downsample = parts.shortcut(n_in, n_out, stride)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; its input is added before the last ReLU."""
        maps = self.relu(self.bn1(self.conv1(x)))
        maps = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(maps)))))
        out: Tensor = self.relu(self.parts.passed(maps, x, self.downsample))
        return out


class ResNet(nn.Module):
    """A stem, four stages of blocks, and one linear layer on the mean of the last maps (He et al., 2015).

    The parameters' names are torchvision's: ``conv1.weight``, ``layer1.0.conv1.weight``, …, ``fc.bias``.
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: Sequence[int],
        *,
        classes: int = 1000,
        in_channels: int = 3,
        input_size: int = 224,
        width: float = 1.0,
        batch_norm: bool = True,
        residual: bool = True,
    ) -> None:
        super().__init__()
        parts = Parts(batch_norm, residual)
        planes = [scaled(channels, width) for channels in (64, 128, 256, 512)]
        small = input_size <= 64
        kernel, stride, padding = (3, 1, 1) if small else (7, 2, 3)
        self.conv1 = nn.Conv2d(in_channels, planes[0], kernel, stride, padding, bias=not batch_norm)
        self.bn1 = parts.norm(planes[0])
        self.relu = nn.ReLU()
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = _stage(block, planes[0], planes[0], depths[0], 1, parts)
        self.layer2 = _stage(block, planes[0] * block.expansion, planes[1], depths[1], 2, parts)
        self.layer3 = _stage(block, planes[1] * block.expansion, planes[2], depths[2], 2, parts)
        self.layer4 = _stage(block, planes[2] * block.expansion, planes[3], depths[3], 2, parts)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(planes[3] * block.expansion, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores ``(N, classes)`` of images ``(N, C, H, W)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        x = torch.flatten(self.avgpool(x), 1)
        scores: Tensor = self.fc(x)
        return scores


def _stage(
    block: type[BasicBlock | Bottleneck], n_in: int, planes: int, depth: int, stride: int, parts: Parts
) -> nn.Sequential:
    rest = [block(planes * block.expansion, planes, 1, parts) for _ in range(depth - 1)]
    return nn.Sequential(block(n_in, planes, stride, parts), *rest)


def resnet_18(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = True,
    residual: bool = True,
) -> nn.Module:
    """ResNet-18 (K. He, X. Zhang, S. Ren and J. Sun, 2015, Deep residual learning for image recognition).

    With the defaults torchvision's ``resnet18`` state dict loads; 11,689,512 parameters. For images of at
    most 64 pixels the stem is one 3×3 convolution without stride or pool (11,173,962 parameters with 10
    classes). `width` multiplies every hidden layer. Without `batch_norm` convolutions have biases in the place of
    norms, without `residual` nothing passes by the blocks (the plain networks that He et al. compare). Begun as
    torchvision begins it: Kaiming normal (fan out).

    >>> resnet_18(input_size=32, classes=10, width=0.125).fc
    Linear(in_features=64, out_features=10, bias=True)
    """
    sizes: Any = {"classes": classes, "in_channels": in_channels, "input_size": input_size, "width": width}
    return ResNet(BasicBlock, (2, 2, 2, 2), batch_norm=batch_norm, residual=residual, **sizes)


def resnet_34(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = True,
    residual: bool = True,
) -> nn.Module:
    """ResNet-34 (He et al., 2015; the 34-layer column of table 1.1 of calli).

    21,797,672 parameters; otherwise as `resnet_18`.

    >>> len(resnet_34(input_size=32, width=0.03125).layer3)
    6
    """
    sizes: Any = {"classes": classes, "in_channels": in_channels, "input_size": input_size, "width": width}
    return ResNet(BasicBlock, (3, 4, 6, 3), batch_norm=batch_norm, residual=residual, **sizes)


def resnet_50(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = True,
    residual: bool = True,
) -> nn.Module:
    """ResNet-50 (He et al., 2015; the 50-layer column of table 1.1 of calli).

    25,557,032 parameters; otherwise as `resnet_18`.

    >>> resnet_50(input_size=32, width=0.03125).layer1[0].conv3
    Conv2d(2, 8, kernel_size=(1, 1), stride=(1, 1), bias=False)
    """
    sizes: Any = {"classes": classes, "in_channels": in_channels, "input_size": input_size, "width": width}
    return ResNet(Bottleneck, (3, 4, 6, 3), batch_norm=batch_norm, residual=residual, **sizes)


def resnet_101(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = True,
    residual: bool = True,
) -> nn.Module:
    """ResNet-101 (He et al., 2015; pruned by janjic, 2018, section 5.2.2).

    44,549,160 parameters; otherwise as `resnet_18`.

    >>> len(resnet_101(input_size=32, width=0.03125).layer3)
    23
    """
    sizes: Any = {"classes": classes, "in_channels": in_channels, "input_size": input_size, "width": width}
    return ResNet(Bottleneck, (3, 4, 23, 3), batch_norm=batch_norm, residual=residual, **sizes)


def resnet_152(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = True,
    residual: bool = True,
) -> nn.Module:
    """ResNet-152 (He et al., 2015; named by janjic, 2018, section 2.3.2).

    60,192,808 parameters; otherwise as `resnet_18`.

    >>> len(resnet_152(input_size=32, width=0.03125).layer3)
    36
    """
    sizes: Any = {"classes": classes, "in_channels": in_channels, "input_size": input_size, "width": width}
    return ResNet(Bottleneck, (3, 8, 36, 3), batch_norm=batch_norm, residual=residual, **sizes)
