"""Axes that one attribute sizes are one site, so that the cut model is a module whatever is kept of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur.structure.cutting import cut
from secateur.structure.sites import channels
from secateur.types import Sites

X = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Attention of 3 heads of 4 in a narrow stream, whose temperature is a number of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.dim, self.value_dim, self.width, self.scaling = 3, 4, 4, 12, 0.5
        self.query, self.key, self.value = (nn.Linear(6, 12) for _ in range(3))
        self.out = nn.Linear(12, 6)

    def head_dim(self) -> int:
        return self.dim

    def of_values(self) -> int:
        return self.head_dim()

    def forward(self, x: Tensor) -> Tensor:
        q, k = (each(x).view(*x.shape[:2], -1, self.head_dim()).transpose(1, 2) for each in (self.query, self.key))
        v = self.value(x).view(*x.shape[:2], -1, self.of_values()).transpose(1, 2)
        mixed = (q @ k.transpose(2, 3) * self.scaling).softmax(-1) @ v
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class Computed(Attention):
    """The number is computed of two attributes, for all of them."""

    def head_dim(self) -> int:
        return self.width // self.heads


class ByTheirOwn(Attention):
    """Values have a number of their own, which is the same by chance."""

    def of_values(self) -> int:
        return self.value_dim


class WhatIsLeft(Attention):
    """Values are as large as they come."""

    def forward(self, x: Tensor) -> Tensor:
        q, k = (each(x).view(*x.shape[:2], -1, self.dim).transpose(1, 2) for each in (self.query, self.key))
        v = self.value(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        mixed = (q @ k.transpose(2, 3) * self.scaling).softmax(-1) @ v
        y: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y


class ReturnsQueries(Attention):
    """What the heads ask for leaves the model, so that its number stays."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.query(x).view(*x.shape[:2], -1, self.head_dim()).sum(2)
        return torch.cat([super().forward(x), q], 2)


def head_dims(sites: Sites) -> dict[str, set[str]]:
    """The layers of each site of the 4 dimensions of heads."""
    return {name: {m.layer for m in site.members} for name, site in sites.items() if site.size == 4}


@pytest.mark.parametrize("make", [Attention, Computed])
def test_what_one_number_sizes_is_one_site(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    sites = channels(model, X)
    assert head_dims(sites) == {"query.head_dim": {"query", "key", "value", "out"}}
    keep = {
        "query.head_dim": torch.tensor([True, False, True, False]),
        "query.heads": torch.tensor([True, False, True]),
    }
    for some in (["query.head_dim"], ["query.heads"], list(keep)):
        assert isinstance(cut(model, sites, {name: keep[name] for name in some}, form="module"), make)


@pytest.mark.parametrize("make", [ByTheirOwn, WhatIsLeft])
def test_equal_numbers_of_others_tie_nothing(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().eval()
    sites = channels(model, X)
    assert head_dims(sites) == {"query.head_dim": {"query", "key"}, "value": {"value", "out"}}
    keep = {"query.head_dim": torch.tensor([True, False, True, True]), "value": torch.tensor([True, False] * 2)}
    assert isinstance(cut(model, sites, keep, form="module"), make)


def test_what_shares_a_number_with_what_stays_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 6), ReturnsQueries()).eval()
    assert list(channels(model, X)) == ["0", "2", "3.query.heads"]
    # There most of its units would be lost, and what is cut of the values is a graph.
    assert "value" in channels(ReturnsQueries().eval(), X)


def test_a_stream_of_one_width_with_all_heads_is_no_head_dimension_in_parts() -> None:
    class Wide(Attention):
        """The stream is as wide as all heads, by one attribute, and reshaped to it."""

        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(12, 12) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = x.view(-1, 5, self.width)
            q, k, v = (each(x).view(-1, 5, self.heads, self.dim) for each in (self.query, self.key, self.value))
            mixed = torch.einsum("bqhd,bkhd->bhqk", q, k).mul(self.scaling).softmax(-1)
            y: Tensor = self.out(torch.einsum("bhqk,bkhd->bqhd", mixed, v).reshape(-1, 5, self.width))
            return y

    sites = channels(nn.Sequential(nn.Linear(6, 12), Wide()).eval(), X)
    assert {name: site.size for name, site in sites.items()} == {"0": 12, "1.query.heads": 3, "1.query.head_dim": 4}


class Halves(nn.Module):
    """Of two halves of one number one passes attention of two heads of 6; the other goes by."""

    def __init__(self) -> None:
        super().__init__()
        self.half, self.other, self.heads = 12, 12, 2
        self.enter, self.out = nn.Linear(6, 24), nn.Linear(24, 6)
        self.qkv, self.leave = nn.Linear(12, 36), nn.Linear(12, 12)

    def sizes(self) -> tuple[int, int]:
        return self.half, self.half

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.enter(x).split(self.sizes(), dim=-1)
        q, k, v = self.qkv(b).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(2, 3)).softmax(-1) @ v).transpose(1, 2).flatten(2)
        y: Tensor = self.out(torch.cat([a, b + self.leave(mixed)], -1))
        return y


class OtherHalves(Halves):
    """Each has a number of its own."""

    def sizes(self) -> tuple[int, int]:
        return self.half, self.other


@pytest.mark.parametrize(("make", "tied"), [(Halves, True), (OtherHalves, False)])
def test_parts_of_one_number_stay_of_one_size(make: Callable[[], nn.Module], tied: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 6), make()).eval()
    sites = channels(model, X)
    entering = [name for name in sites if name.startswith("3.enter")]
    assert entering == (["3.enter"] if tied else ["3.enter", "3.enter:2"])
    if tied:
        small = cut(model, sites, {name: torch.arange(site.size) > 0 for name, site in sites.items()}, form="module")
        assert type(small[3]) is make
        assert small[3].half == 11


@pytest.mark.parametrize(("sections", "site_sizes"), [(2, {"0": 8, "2": 4}), (3, {"0": 8})])
def test_parts_of_a_number_are_as_even_after_a_cut(sections: int, site_sizes: dict[str, int]) -> None:
    class Parts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([part * (n + 1) for n, part in enumerate(x.tensor_split(sections, -1))], -1)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), Parts(), nn.Linear(8, 3)).eval()
    sites = channels(model, X)
    assert {name: site.size for name, site in sites.items()} == site_sizes
    cut(model, sites, {name: torch.arange(site.size) > 0 for name, site in sites.items()}, form="module")
