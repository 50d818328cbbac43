"""The text's formulas of what layers and structures take, beside what is counted as they run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur.measure import (
    bottleneck_macs,
    composed_macs,
    convolution_macs,
    factored_macs,
    linear_macs,
    macs,
    rank_bound,
    separable_macs,
)
from secateur.transforms import LowRank, Replace, factor_layer
from secateur.types import InputError

# Kernel, inputs, outputs, size, stride, padding.
CONVOLUTIONS = [
    (3, 8, 16, 9, 1, 1),
    (3, 16, 16, 8, 1, 1),
    (3, 5, 12, 11, 2, 1),
    (5, 6, 10, 12, 1, 2),
    (5, 8, 8, 13, 2, 2),
    (7, 4, 9, 15, 3, 3),
    (3, 12, 20, 7, 1, 0),
]
STRUCTURES = ["separable", "composed", "one-dimensional", "bottleneck"]


def places(size: int, kernel: int, stride: int, padding: int) -> int:
    return (size + 2 * padding - kernel) // stride + 1


def formula(structure: str, kernel: int, inputs: int, outputs: int, size: int, stride: int, padding: int) -> int:
    side = places(size, kernel, stride, padding)
    if structure == "separable":
        return separable_macs(kernel, inputs, 2, outputs, places=side**2)
    if structure == "bottleneck":
        return bottleneck_macs(kernel, inputs, 3, outputs, places=side**2, input_places=size**2)
    return composed_macs(kernel, inputs, 3, outputs, places=side**2, middle_places=size * side)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("configuration", CONVOLUTIONS)
def test_structures_take_what_the_formulas_say(structure: str, configuration: tuple[int, ...]) -> None:
    """28 configurations, each replaced for real and counted."""
    kernel, inputs, outputs, size, stride, padding = configuration
    layer, x = nn.Conv2d(inputs, outputs, kernel, stride, padding), torch.zeros(1, inputs, size, size)
    side = places(size, kernel, stride, padding)
    assert macs(layer, x) == convolution_macs(kernel, inputs, outputs, places=side**2)
    result = Replace(structure, filters=2, middle=3)(nn.Sequential(layer), x)
    expected = formula(structure, kernel, inputs, outputs, size, stride, padding)
    assert macs(result.model, x) == expected
    assert result.report.macs == (macs(layer, x), expected)


@pytest.mark.parametrize(("inputs", "outputs"), [(30, 20), (20, 30), (64, 64), (7, 5), (128, 10)])
def test_products_take_what_the_formula_says(inputs: int, outputs: int) -> None:
    layer, x = nn.Linear(inputs, outputs), torch.zeros(4, inputs)
    assert macs(layer, x) == linear_macs(inputs, outputs, places=4)
    bound = rank_bound(inputs, outputs)
    for rank in {1, bound, min(bound + 1, inputs, outputs)}:
        product = macs(factor_layer(layer, rank), x)
        assert product == factored_macs(inputs, outputs, rank, places=4)
        assert (product < macs(layer, x)) == (rank <= bound)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_as_products(groups: int) -> None:
    layer, x = nn.Conv2d(8, 12, 3, padding=1, groups=groups), torch.zeros(1, 8, 6, 6)
    assert macs(layer, x) == convolution_macs(3, 8, 12, groups=groups, places=36)
    sides = 9 * 8 // groups, 12 // groups
    assert macs(factor_layer(layer, 3), x) == groups * factored_macs(*sides, 3, places=36)
    most = LowRank(rank="bound")(nn.Sequential(layer), x).model[0][0].out_channels
    assert most == groups * rank_bound(*sides)


def test_by_hand() -> None:
    assert separable_macs(3, 32, 1, 64) == 32 * (9 + 64)
    assert composed_macs(5, 8, 4, 6) == 5 * 4 * (8 + 6)
    assert bottleneck_macs(3, 256, 128, 512) == 256 * 128 + 9 * 128 * 128 + 128 * 512
    assert rank_bound(4, 4) == 1  # 16 / 8 = 2, and n must be below


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: linear_macs(0, 3), "linear_macs: inputs=0 must be"),
        (lambda: composed_macs(3, 4, 2, 4, middle_places=0), "middle_places=0 must be"),
        (lambda: separable_macs(3, 4, True, 4), "filters=True must be"),
    ],
)
def test_sizes_that_are_none_are_refused(call: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()  # type: ignore[operator]
