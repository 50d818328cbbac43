"""The few pieces that several networks share: named stacks, TensorFlow's SAME padding, widths."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from secateur.types import InputError

__all__ = ["deconv_same", "pad_same", "pad_to", "same_padding", "scaled", "stack"]


def stack(layers: dict[str, nn.Module]) -> nn.Sequential:
    """Return the named layers as one module that applies them in order.

    >>> stack({"fc1": nn.Linear(2, 3), "relu": nn.ReLU()}).fc1
    Linear(in_features=2, out_features=3, bias=True)
    """
    return nn.Sequential(OrderedDict(layers))


def scaled(channels: int, width: float) -> int:
    """Return `channels` times the width multiplier, rounded, and at least 1.

    >>> scaled(64, 0.25), scaled(1, 0.1)
    (16, 1)
    """
    return max(1, round(channels * width))


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return how much TensorFlow's SAME padding puts (before, after) an axis of `size`.

    The output has ``ceil(size / stride)`` positions; of an odd sum the larger part comes after.

    >>> same_padding(28, kernel=3, stride=2), same_padding(28, kernel=5, stride=1)
    ((0, 1), (2, 2))
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(size: int, kernel: int, stride: int) -> nn.ZeroPad2d:
    """Return the layer that puts SAME padding around square images of `size`.

    >>> pad_same(28, kernel=3, stride=2).padding
    (0, 1, 0, 1)
    """
    return nn.ZeroPad2d(same_padding(size, kernel, stride) * 2)


def deconv_same(in_channels: int, out_channels: int, kernel: int, stride: int, size: int) -> dict[str, nn.Module]:
    """Return TensorFlow's transposed convolution with SAME padding, from `size` to ``size · stride``.

    It is the gradient of a SAME convolution, so what that one's padding added is cropped here.

    >>> list(deconv_same(4, 1, kernel=3, stride=2, size=7))
    ['deconv', 'crop']
    """
    before, after = same_padding(size * stride, kernel, stride)
    return {
        "deconv": nn.ConvTranspose2d(in_channels, out_channels, kernel, stride),
        "crop": nn.ZeroPad2d((-before, -after) * 2),  # negative padding crops
    }


def pad_to(target: int, size: int) -> nn.ZeroPad2d:
    """Return the layer that pads square images of `size` with zeros to `target`, evenly on all sides.

    Raises:
        InputError: the images are larger than `target`.

    >>> pad_to(32, 28).padding
    (2, 2, 2, 2)
    """
    if size > target:
        raise InputError(f"input_size is {size}, but this network reads {target}×{target}; give at most {target}")
    before = (target - size) // 2
    return nn.ZeroPad2d((before, target - size - before) * 2)
