"""Least squares: the one solver against plain ones, for layers of any kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from secateur.equations import LayerEquations, Moments, least_squares, patches, solved
from secateur.types import InputError

CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("load", [0.0, 0.3])
def test_the_solver_is_that_of_stacked_rows(load: float) -> None:
    """A load on the squares of weights is that many rows more, √load on the diagonal, with an aim of zero."""
    x, t = torch.randn(40, 5, dtype=torch.float64), torch.randn(40, 3, dtype=torch.float64)
    rows = torch.cat([x, load**0.5 * torch.eye(5, dtype=torch.float64)])
    aims = torch.cat([t, torch.zeros(5, 3, dtype=torch.float64)])
    expected = np.linalg.lstsq(rows.numpy(), aims.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(solved(x.T @ x, t.T @ x, load).numpy(), expected, atol=1e-10)


def test_of_many_best_maps_the_smallest_is_taken() -> None:
    x = torch.randn(30, 3, dtype=torch.float64)
    x = torch.cat([x, x[:, :2]], 1)  # the last two inputs are the first two again
    t = torch.randn(30, 2, dtype=torch.float64)
    expected = np.linalg.lstsq(x.numpy(), t.numpy(), rcond=None)[0].T
    np.testing.assert_allclose(solved(x.T @ x, t.T @ x, 0.0).numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("dims", "options"),
    [
        (0, {}),
        (1, {"stride": 2, "padding": 1}),
        (2, {"stride": (1, 2), "padding": (2, 0), "dilation": (1, 2), "groups": 2}),
        (2, {"padding": "same", "dilation": 2, "groups": 4}),
        (3, {"padding": 1, "stride": 2}),
    ],
)
def test_a_layer_is_found_back_from_what_it_computes(dims: int, options: dict[str, Any], bias: bool) -> None:
    groups = options.get("groups", 1)
    x = torch.randn(60, 4, *[6] * dims, dtype=torch.float64)
    weight = torch.randn(8, 4 // groups, *[3 if dims < 3 else 2] * dims, dtype=torch.float64)
    shift = torch.randn(8, dtype=torch.float64) if bias else None
    outputs = CONVOLVE[dims](x, weight, shift, **options) if dims else F.linear(x, weight, shift)
    inputs = [torch.arange(4 // groups)] * groups
    given = {"stride": 1, "padding": 0, "dilation": 1, "groups": groups, **options}
    equations = LayerEquations(weight, given, inputs, bias=bias)
    for some in (slice(0, 25), slice(25, 60)):
        equations.add(x[some], outputs[some])
    best, offset = equations.solve(0.0)
    torch.testing.assert_close(best, weight, rtol=0, atol=1e-7)
    assert (offset is None) == (not bias)
    if shift is not None:
        torch.testing.assert_close(offset, shift, rtol=0, atol=1e-7)


def test_columns_that_may_have_no_weight_have_none() -> None:
    x = torch.randn(50, 4, dtype=torch.float64)
    weight = torch.randn(2, 4, dtype=torch.float64)
    equations = LayerEquations(weight, {}, [torch.tensor([0, 2])], bias=False)
    equations.add(x, x @ weight.T)
    best, _ = equations.solve(0.0)
    assert bool((best[:, [1, 3]] == 0).all())
    expected = np.linalg.lstsq(x[:, [0, 2]].numpy(), (x @ weight.T).numpy(), rcond=None)[0].T
    np.testing.assert_allclose(best[:, [0, 2]].numpy(), expected, atol=1e-10)


def test_without_data_there_is_nothing_to_solve() -> None:
    with pytest.raises(InputError, match="there are no data"):
        LayerEquations(torch.ones(1, 1), {}, [torch.tensor([0])], bias=False).solve(0.0)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_patches_make_convolutions_of_any_dimension_products(dims: int) -> None:
    x, weight = torch.randn(2, 3, *[6] * dims), torch.randn(4, 3, *[2] * dims)
    rows = patches(x, [2] * dims, stride=2, padding=1, dilation=3) @ weight.flatten(1).mT
    expected = CONVOLVE[dims](x, weight, stride=2, padding=1, dilation=3)
    torch.testing.assert_close(rows.view(2, -1, 4).mT.reshape(expected.shape), expected, rtol=1e-4, atol=1e-4)


def test_parts_of_the_data_are_pooled() -> None:
    before, weight = torch.randn(30, 5), torch.randn(2, 5)
    whole = Moments.of(before, before[:, :3], weight)
    pooled = Moments.pooled([Moments.of(before[s], before[s, :3], weight) for s in (slice(0, 7), slice(7, 30))])
    torch.testing.assert_close(pooled.best(1e-6), whole.best(1e-6))
    torch.testing.assert_close(pooled.best(1e-6).float(), least_squares(before, before[:, :3], weight))
