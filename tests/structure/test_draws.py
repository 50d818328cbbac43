"""Tests of the numbers that a cut is verified on: the same whenever they are asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.structure import draws


def test_numbers_do_not_hang_on_the_default_dtype_they_were_first_made_under() -> None:
    draws._pool.cache_clear()
    single = draws._pool(-1).clone()
    draws._pool.cache_clear()
    torch.set_default_dtype(torch.float64)
    try:
        double = draws._pool(-1)
    finally:
        torch.set_default_dtype(torch.float32)
        draws._pool.cache_clear()
    assert double.dtype is torch.float32
    assert torch.equal(single, double)


def test_a_cut_is_verified_after_a_model_of_double_precision_was() -> None:
    """What is forgotten in between is made anew as it was."""
    torch.set_default_dtype(torch.float64)
    try:
        for exponent in range(-20, 1):
            draws._pool(exponent)
    finally:
        torch.set_default_dtype(torch.float32)
    model = sc.models.build("resnet-18", width=0.125, input_size=32, seed=0)
    sites = sc.blocks(model, torch.randn(1, 3, 32, 32))
    keep = sc.select(sc.criteria.Magnitude()(model, sites), 0.4, minimum=0)
    assert sc.measure.parameters(sc.cut(model, sites, keep)).total < sc.measure.parameters(model).total


def test_a_variance_of_nothing_is_drawn_above_it() -> None:
    """A norm that was set to the statistics of a masked model has such; below 0 nothing would be verified."""
    norm = nn.BatchNorm2d(50)
    assert norm.running_var is not None
    norm.running_var.zero_()
    tensors = dict(norm.named_buffers())
    drawn = draws.Draw(tensors, frozenset(map(id, tensors.values())))("running_var")
    assert float(drawn.min()) > 0


def test_another_seed_gives_other_numbers() -> None:
    """Of the same spread, of tables that are larger than the pool, too."""
    tensors = {"small": nn.Parameter(torch.zeros(30, 40)), "large": nn.Parameter(torch.zeros(draws.POOL + 5, 1))}
    for name in tensors:
        first, second = (draws.Draw(tensors, frozenset(), seed)(name) for seed in (0, 1))
        assert (first != second).float().mean() > 0.99
        assert first.std().item() == pytest.approx(second.std().item(), rel=0.1)
