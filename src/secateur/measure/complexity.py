"""Multiply–accumulates of layers and of the structures that replace them, by formula (calli, E. Çallı, 2017, chapter 1).

The text counts one place of the output: here that is `places`, 1 unless it is given, and biases are left out as in `macs`.
With a stride a layer before the last has more places than the output; they are given apart where that matters.
"""

from __future__ import annotations

from secateur.checks import check_whole

__all__ = [
    "bottleneck_macs",
    "composed_macs",
    "convolution_macs",
    "factored_macs",
    "linear_macs",
    "rank_bound",
    "separable_macs",
]


def linear_macs(inputs: int, outputs: int, *, places: int = 1) -> int:
    """Return m₁ · m₂, what a fully connected layer takes (section 1.3).

    >>> linear_macs(300, 100)
    30000
    """
    check_whole("linear_macs", inputs=inputs, outputs=outputs, places=places)
    return inputs * outputs * places


def factored_macs(inputs: int, outputs: int, rank: int, *, places: int = 1) -> int:
    """Return n (m₁ + m₂), what a layer takes as a product of rank n (section 1.3).

    >>> factored_macs(300, 100, 75), factored_macs(300, 100, 74)      # 300 · 100 / (300 + 100) = 75
    (30000, 29600)
    """
    check_whole("factored_macs", inputs=inputs, outputs=outputs, rank=rank, places=places)
    return rank * (inputs + outputs) * places


def rank_bound(inputs: int, outputs: int) -> int:
    """Return the greatest rank n < m₁ m₂ / (m₁ + m₂) (section 1.3): above it a product takes no less than the layer.

    0 where there is none.

    >>> rank_bound(300, 100), rank_bound(1, 100)
    (74, 0)
    """
    check_whole("rank_bound", inputs=inputs, outputs=outputs)
    return (inputs * outputs - 1) // (inputs + outputs)


def convolution_macs(kernel: int, inputs: int, outputs: int, *, groups: int = 1, places: int = 1) -> int:
    """Return K² m₁ m₂ a place, what a K×K convolution takes (section 1.4.1); in groups each sees its inputs alone.

    >>> convolution_macs(3, 64, 128, places=14 * 14)
    14450688
    """
    check_whole("convolution_macs", kernel=kernel, inputs=inputs, outputs=outputs, groups=groups, places=places)
    return kernel**2 * inputs * outputs * places // groups


def composed_macs(
    kernel: int, inputs: int, middle: int, outputs: int, *, places: int = 1, middle_places: int | None = None
) -> int:
    """Return K n (m₁ + m₂) a place, what a 1×K and a K×1 convolution with n channels between take (section 1.4.1).

    The order of the two and what is between them cost nothing, so it is the same for 1-D convolutions (section 2.3.1).

    Args:
        kernel: K.
        inputs, middle, outputs: m₁, n, m₂.
        places: of the output.
        middle_places: what the first convolution makes; None for as many.

    >>> composed_macs(3, 64, 96, 64), convolution_macs(3, 64, 64)      # equal at n = K m₁ m₂ / (m₁ + m₂)
    (36864, 36864)
    """
    check_whole("composed_macs", kernel=kernel, inputs=inputs, middle=middle, outputs=outputs, places=places)
    check_whole("composed_macs", or_none=True, middle_places=middle_places)
    first = places if middle_places is None else middle_places
    return kernel * middle * (inputs * first + outputs * places)


def separable_macs(kernel: int, inputs: int, filters: int, outputs: int, *, places: int = 1) -> int:
    """Return I K (N² + L) a place (section 1.4.2): N×N depthwise with I filters for each of K inputs, then 1×1 to L outputs.

    The text says once that L filters are applied to each input; its own sum, I K N², takes I.

    >>> separable_macs(3, 64, 1, 128), convolution_macs(3, 64, 128)
    (8768, 73728)
    """
    check_whole("separable_macs", kernel=kernel, inputs=inputs, filters=filters, outputs=outputs, places=places)
    return filters * inputs * (kernel**2 + outputs) * places


def bottleneck_macs(
    kernel: int, inputs: int, middle: int, outputs: int, *, places: int = 1, input_places: int | None = None
) -> int:
    """Return m₁ n + K² n² + n m₂ a place: 1×1 to n channels, K×K that keeps them, 1×1 to the outputs (section 1.7.2).

    Args:
        kernel: K.
        inputs, middle, outputs: m₁, n, m₂.
        places: of the output.
        input_places: of the input, which the first convolution keeps; None for as many.

    >>> bottleneck_macs(3, 256, 64, 256), 2 * convolution_macs(3, 256, 256)      # a block of each kind on 256 channels
    (69632, 1179648)
    """
    check_whole("bottleneck_macs", kernel=kernel, inputs=inputs, middle=middle, outputs=outputs, places=places)
    check_whole("bottleneck_macs", or_none=True, input_places=input_places)
    first = places if input_places is None else input_places
    return inputs * middle * first + (kernel**2 * middle + outputs) * middle * places
