"""Ops that take no other numbers of units than multiples: the products of grouped experts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from oracle import masked
from secateur.allocate import rounding

pytestmark = pytest.mark.skipif(not hasattr(F, "grouped_mm"), reason="this torch has no grouped product")


class Experts(nn.Module):
    """Rows, sorted by the expert that a router sends them to, times the weights of all experts in one product."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.router, self.out = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(16, 3)
        self.up, self.down = nn.Parameter(torch.randn(4, 16, 24) / 4), nn.Parameter(torch.randn(4, 24, 16) / 4)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.into(x)
        weight, expert = self.router(rows).softmax(-1).max(-1)
        order = expert.argsort(stable=True)
        ends = F.one_hot(expert, 4).sum(0).cumsum(0).to(torch.int32)
        hidden = F.grouped_mm(rows[order], self.up, offs=ends).relu()
        answers = F.grouped_mm(hidden, self.down, offs=ends) * weight[order][:, None]
        y: Tensor = self.out(rows + torch.zeros_like(rows).index_add(0, order, answers))
        return y


def built() -> tuple[nn.Module, Tensor, sc.Sites]:
    torch.manual_seed(0)
    model, x = Experts().eval(), torch.randn(10, 8)
    return model, x, sc.channels(model, x)


def test_sites_say_the_multiple() -> None:
    sites = built()[2]
    assert {name: (site.size, site.multiple) for name, site in sites.items()} == {"into": (16, 4), "up": (24, 4)}
    assert rounding(sites).multiples == {"into": 4, "up": 4}
    assert rounding(sites, 6).multiples == {"into": 12, "up": 12}
    assert rounding(sites, {"up": 8}).multiples == {"into": 4, "up": 8}


def test_select_keeps_multiples_and_the_cut_is_a_module() -> None:
    model, x, sites = built()
    keep = sc.select(sc.criteria.by_name("l2")(model, sites), 0.3, scope="layer", sites=sites)
    assert {name: int(mask.sum()) for name, mask in keep.items()} == {"into": 12, "up": 16}
    small = sc.cut(model, sites, keep)
    assert type(small) is Experts
    assert small.up.shape == (4, 12, 16)
    assert (
        masked.relative_difference(masked.run(masked.zeroed(model, sites, keep), (x,)), masked.run(small, (x,))) <= 1e-5
    )


def test_prune_keeps_multiples() -> None:
    model, x, _ = built()
    result = sc.prune(model, x, sparsity=0.4, latency=False)
    assert type(result.model) is Experts
    assert all(int(mask.sum()) % 4 == 0 for mask in result.keep.values())
    assert "multiples of 4" in result.report.rounding


def test_masks_of_other_numbers_are_refused_with_the_multiples() -> None:
    model, _, sites = built()
    with pytest.raises(sc.CutError, match=r"takes multiples of units alone.*up of 4"):
        sc.cut(model, sites, {"up": torch.arange(24) > 6}, form="module")
