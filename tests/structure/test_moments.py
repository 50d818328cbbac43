"""Second moments of a layer's inputs: with all shortcuts what the matrix of all patches gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.structure import moments
from secateur.structure.moments import LayerMoments
from secateur.structure.patches import Patches

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def plain(patches: Patches, x: Tensor, aims: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """The sums over all columns of the matrix of patches, with a row of ones below."""
    columns = torch.cat(list(patches.columns(x, groups)), 2)
    columns = torch.cat([columns, torch.ones_like(columns[:, :1])], 1)
    wanted = aims.movedim(1, -1).reshape(-1, groups, aims.shape[1] // groups).permute(1, 0, 2)
    return columns @ columns.mT, columns @ wanted


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("size", [10, 13])
@pytest.mark.parametrize(
    ("kernel", "options"),
    [
        ((5,), {}),
        ((7,), {"stride": 2, "padding": 3}),
        ((5,), {"stride": 4, "dilation": 2}),
        ((6,), {"stride": 3, "dilation": 1, "padding": 2}),
        ((3,), {"stride": 2, "dilation": 3}),
        ((1,), {"stride": 3}),
        ((9,), {"padding": "same"}),
        ((3, 3), {"padding": 1}),
        ((3, 3), {"padding": 1, "stride": 2}),
        ((5, 2), {"padding": (2, 0), "dilation": (1, 2), "stride": (1, 2)}),
        ((2, 5), {"padding": (1, 2)}),
        ((2, 3, 2), {"padding": 1}),
    ],
)
def test_they_are_those_of_the_matrix_of_patches(
    kernel: tuple[int, ...], options: dict[str, Any], size: int, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(5, 4, *[size if len(kernel) < 3 else 5] * len(kernel), dtype=torch.float64)
    weight = torch.randn(6, 4 // groups, *kernel, dtype=torch.float64)
    aims = CONVOLVE[len(kernel)](x, weight, groups=groups, **options)
    patches = Patches.of(options, kernel)
    gram, cross = plain(patches, x, aims, groups)
    for part in (moments.PART, 1):
        monkeypatch.setattr(moments, "PART", part)
        found = LayerMoments(patches, groups)
        for some in (slice(0, 2), slice(2, 5)):
            found.add(x[some], aims[some])
        torch.testing.assert_close(found.gram(), gram, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.cross(), cross, rtol=1e-10, atol=1e-10)


def test_long_kernels_sum_up_the_moments_of_their_first_tap_alone() -> None:
    found = LayerMoments(Patches.of({"padding": 32}, (64,)))
    found.add(torch.randn(2, 3, 200))
    assert found._line is not None
    assert found._line.period == 1
    strided = LayerMoments(Patches.of({"stride": 4, "padding": 32}, (64,)))
    strided.add(torch.randn(2, 3, 200))
    assert strided._line is not None
    assert strided._line.period == 4


def test_a_linear_layer_has_positions_of_any_shape_and_a_transposed_convolution_its_spread_out_input() -> None:
    x, aims = torch.randn(3, 4, 5, dtype=torch.float64), torch.randn(3, 4, 2, dtype=torch.float64)
    found = LayerMoments(None)
    found.add(x, aims)
    rows = torch.cat([x.reshape(12, 5), torch.ones(12, 1)], 1)
    torch.testing.assert_close(found.gram()[0], rows.mT @ rows)
    torch.testing.assert_close(found.cross()[0], rows.mT @ aims.reshape(12, 2))
    y = torch.randn(2, 4, 6, dtype=torch.float64)
    patches = Patches.of({"stride": 2, "padding": 1, "output_padding": 1}, (3,), transposed=True)
    spread = LayerMoments(patches, 2)
    spread.add(y)
    columns = torch.cat(list(patches.columns(y, 2)), 2)
    torch.testing.assert_close(spread.gram()[:, :-1, :-1], columns @ columns.mT)


def test_single_precision_is_near_and_double_when_asked_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(40, 3, 20)
    monkeypatch.setattr(moments, "FEW", 0)
    patches = Patches.of({"padding": 2}, (5,))
    exact, near = LayerMoments(patches, exact=True), LayerMoments(patches)
    for found in (exact, near):
        found.add(x)
    wanted, _ = plain(patches, x.double(), torch.zeros(40, 1, 20, dtype=torch.float64), 1)
    torch.testing.assert_close(exact.gram(), wanted, rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(near.gram(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("exact", [None, False, True])
@pytest.mark.parametrize("few", [True, False])
def test_products_are_in_single_precision_where_they_are_many_and_not_asked_to_be_exact(
    exact: bool | None, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 1 + torch.rand(50, 3, generator=torch.Generator().manual_seed(0)) / 1024
    monkeypatch.setattr(moments, "FEW", 50 * 3 * 3 if few else 50 * 3 * 3 - 1)
    found = LayerMoments(None) if exact is None else LayerMoments(None, exact=exact)
    found.add(x)
    double = x.double().mT @ x.double()
    apart = float((found.gram()[0, :3, :3] - double).abs().max())
    assert (apart < 1e-11) == (few or bool(exact))
    assert apart < 1e-3
