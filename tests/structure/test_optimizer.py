"""An optimizer goes on training after a cut, with its moments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer

from secateur.structure import channels, cut
from secateur.types import CutError, InputError

KEEP = {"0": torch.tensor([True, False, True, True])}


def trained(make: Callable[[Any], Optimizer]) -> tuple[nn.Module, Optimizer]:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    optimizer = make(model.parameters())
    step(model, optimizer)
    return model, optimizer


def step(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(8, 3, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("make", "moments"),
    [
        (lambda p: SGD(p, lr=0.1, momentum=0.9), ("momentum_buffer",)),
        (lambda p: Adam(p, lr=0.1), ("exp_avg", "exp_avg_sq")),
        (lambda p: AdamW(p, lr=0.1, amsgrad=True), ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")),
    ],
)
def test_moments_are_cut_with_the_parameters(make: Callable[[Any], Optimizer], moments: tuple[str, ...]) -> None:
    model, optimizer = trained(make)
    first, last = model[0].weight, model[2].weight  # type: ignore[index]
    before = {m: (optimizer.state[first][m].clone(), optimizer.state[last][m].clone()) for m in moments}
    small = cut(model, channels(model, torch.ones(1, 3)), KEEP, optimizer=optimizer)
    for moment, (out, into) in before.items():
        assert torch.equal(optimizer.state[small[0].weight][moment], out[[0, 2, 3]])  # type: ignore[index]
        assert torch.equal(optimizer.state[small[2].weight][moment], into[:, [0, 2, 3]])  # type: ignore[index]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in small.parameters()]
    weights = [p.clone() for p in small.parameters()]
    step(small, optimizer)
    assert all(not torch.equal(p, old) for p, old in zip(small.parameters(), weights, strict=True))


def test_a_refused_cut_leaves_the_optimizer_alone() -> None:
    model, optimizer = trained(lambda p: Adam(p, lr=0.1))
    sites = channels(model, torch.ones(1, 3))
    with pytest.raises(CutError, match="every unit of '0'"):
        cut(model, sites, {"0": torch.zeros(4, dtype=torch.bool)}, optimizer=optimizer)
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
    assert optimizer.state[model[0].weight]["exp_avg"].shape == (4, 3)  # type: ignore[index]


def test_state_that_cannot_be_cut_is_refused() -> None:
    model, optimizer = trained(lambda p: Adafactor(p, lr=0.1))
    with pytest.raises(InputError, match="Adafactor keeps 'row_var'"):
        cut(model, channels(model, torch.ones(1, 3)), KEEP, optimizer=optimizer)


def test_an_optimizer_of_another_model_is_refused() -> None:
    model, _ = trained(lambda p: SGD(p, lr=0.1))
    _, other = trained(lambda p: SGD(p, lr=0.1))
    with pytest.raises(InputError, match="none of this model's parameters"):
        cut(model, channels(model, torch.ones(1, 3)), KEEP, optimizer=other)
