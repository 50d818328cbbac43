"""VGG-16, for ImageNet's images and for small ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.models.layers import scaled
from secateur.types import InputError

__all__ = ["VGG", "vgg_16"]

_VGG_16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class VGG(nn.Module):
    """Blocks of 3×3 convolutions and a max pool, then three linear layers (Simonyan and Zisserman, 2014).

    The parameters' names are torchvision's: ``features.0.weight``, …, ``classifier.6.bias``.
    """

    def __init__(self, features: nn.Sequential, grid: int, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features = features
        self.avgpool = nn.AdaptiveAvgPool2d((grid, grid))
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores ``(N, classes)`` of images ``(N, C, H, W)``."""
        x = self.features(images)
        x = self.avgpool(x)
        x = torch.flatten(x, 1)
        scores: Tensor = self.classifier(x)
        return scores


def vgg_16(
    *,
    classes: int = 1000,
    in_channels: int = 3,
    input_size: int = 224,
    width: float = 1.0,
    batch_norm: bool = False,
    dropout: float = 0.5,
    hidden: int | None = None,
) -> nn.Module:
    """VGG-16 (K. Simonyan and A. Zisserman, 2014; used by janjic, 2018, and charpentier, 2020).

    With the defaults torchvision's ``vgg16`` state dict loads, and ``vgg16_bn``'s with `batch_norm`;
    138,357,544 parameters. `hidden` is the size of the two hidden linear layers: 4096 for images of 224 and
    more, 512 for smaller ones, as is usual on CIFAR-10 (15,245,130 parameters at 32×32 with 10 classes).
    `width` multiplies every hidden layer. Begun as torchvision begins it: Kaiming normal (fan out) and, for
    linear layers, a normal of standard deviation 0.01.

    >>> vgg_16(input_size=32, classes=10, width=0.125).classifier[0]
    Linear(in_features=64, out_features=64, bias=True)
    """
    if input_size < 32:
        raise InputError(f"vgg-16: input_size is {input_size}; its five pools need at least 32")
    grid = min(7, input_size // 32)
    units = scaled(hidden or (4096 if input_size >= 224 else 512), width)
    features = _features(in_channels, width, batch_norm)
    classifier = nn.Sequential(
        nn.Linear(scaled(512, width) * grid**2, units),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(units, units),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(units, classes),
    )
    model = VGG(features, grid, classifier)
    _begin(model)
    return model


def _features(in_channels: int, width: float, batch_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for block in _VGG_16:
        for channels in block:
            n_out = scaled(channels, width)
            layers.append(nn.Conv2d(in_channels, n_out, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(n_out))
            layers.append(nn.ReLU())
            in_channels = n_out
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def _begin(model: VGG) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.01)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
