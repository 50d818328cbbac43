"""Sizes that also enter arithmetic: attention keeps its temperature, and only what was seen to set sizes is changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

import secateur as sc
from secateur.structure.carriers import Attribute
from secateur.structure.watch import watch
from secateur.types import Keep, Sites

HEADS, HEAD_DIM = 4, 8
WIDTH = HEADS * HEAD_DIM


class Attention(nn.Module):
    """Attention written out; `scale` says by what the scores are multiplied."""

    def __init__(self, scale: Callable[[Any, Tensor], Any], views_head_dim: bool = True) -> None:
        super().__init__()
        self.heads, self.head_dim, self.width = HEADS, HEAD_DIM, WIDTH
        self.parts = (HEADS, HEAD_DIM)
        self.scale, self.views_head_dim = scale, views_head_dim
        self.inp, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    @property
    def head_size(self) -> int:
        return self.parts[1]

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        last = self.head_dim if self.views_head_dim else -1
        q, k, v = (
            layer(x).view(*x.shape[:2], self.heads, last).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        scores = q @ k.transpose(-2, -1) * self.scale(self, q)
        y = scores.softmax(-1) @ v
        made: Tensor = self.out(self.o(y.transpose(1, 2).flatten(2)))
        return made


def function(size: int) -> float:
    return 1 / math.sqrt(size)


SCALES: dict[str, Callable[[Any, Tensor], Any]] = {
    "a power": lambda m, q: m.head_dim**-0.5,
    "a root below": lambda m, q: 1 / m.head_dim**0.5,
    "math.sqrt": lambda m, q: 1.0 / math.sqrt(m.head_dim),
    "math.pow": lambda m, q: math.pow(m.head_dim, -0.5),
    "numpy": lambda m, q: 1 / np.sqrt(m.head_dim),
    "an inverse by a float": lambda m, q: (1.0 / m.head_dim) ** 0.5,
    "an inverse alone": lambda m, q: 1.0 / m.head_dim,
    "a product": lambda m, q: (3 * m.head_dim) ** -0.5,
    "a float": lambda m, q: float(m.head_dim) ** -0.5,
    "a tensor": lambda m, q: torch.tensor(m.head_dim).rsqrt(),
    "a float in a tensor": lambda m, q: torch.tensor(float(m.head_dim)).rsqrt(),
    "a full tensor": lambda m, q: torch.full((1,), m.head_dim, dtype=q.dtype).rsqrt(),
    "a function": lambda m, q: function(m.head_dim),
    "through a property": lambda m, q: m.head_dim / m.head_size**1.5,
    "the shape of the queries": lambda m, q: q.shape[-1] ** -0.5,
    "their size": lambda m, q: 1 / math.sqrt(q.size(-1)),
    "their last size": lambda m, q: 1 / math.sqrt(q.size()[-1]),
    "an unpacked shape": lambda m, q: (lambda b, h, t, d: d**-0.5)(*q.shape),
    "a size in a tensor": lambda m, q: 1 / torch.sqrt(torch.tensor(q.size(-1), dtype=q.dtype) * 3),
    "a count": lambda m, q: (q.numel() // (q.shape[0] * q.shape[1] * q.shape[2])) ** -0.5,
}


def random_keep(model: nn.Module, sites: Sites, sparsity: float = 0.3) -> Keep:
    return sc.select(sc.criteria.by_name("random")(model, sites), sparsity=sparsity, scope="layer")


def check_cut(model: nn.Module, small: nn.Module, sites: Sites, keep: Keep, x: Tensor) -> None:
    with torch.no_grad():
        ours, theirs = small(x), sc.mask(model, sites, keep)(x)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def cut_weakly(model: nn.Module) -> tuple[nn.Module, Sites, Keep]:
    """Cut on an example that shows little; compared where attention matters."""
    sites = sc.channels(model, 0.01 * torch.randn(2, 7, 6))
    keep = random_keep(model, sites)
    small = sc.cut(model, sites, keep)
    check_cut(model, small, sites, keep, 5 * torch.randn(2, 7, 6))
    return small, sites, keep


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
@pytest.mark.parametrize("views", [True, False], ids=["view by attribute", "view by -1"])
def test_the_temperature_stays_and_the_cut_is_a_module(scale: Callable[[Any, Tensor], Any], views: bool) -> None:
    model = Attention(scale, views).eval()
    small, sites, _ = cut_weakly(model)
    assert isinstance(small, Attention)
    assert {site.unit for site in sites.values()} >= {"head", "neuron"}
    assert (small.heads, small.head_dim) == (3, HEAD_DIM)
    if views:
        assert "q.head_dim" in sites.frozen
        assert "temperature" in sites.frozen["q.head_dim"]
        assert "v.head_dim" in sites.frozen
    elif "v" in sites:
        assert small.v.weight.shape[0] < WIDTH * 3 // 4
