"""Sites in one axis of a tensor share what goes: how much of every tensor a sparsity by layer removes."""

from __future__ import annotations

from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import secateur as sc
from secateur.allocate import uniform
from secateur.selection import layer_fractions, select
from secateur.selection.nested import nested_counts
from secateur.solvers import ThiNet
from secateur.structure import channels
from secateur.structure.nesting import nested
from secateur.testing import TOYS


class Attention(nn.Module):
    """Heads and their dimensions; with `groups`, several queries share a key."""

    def __init__(self, heads: int = 6, groups: int = 1, width: int = 20) -> None:
        super().__init__()
        self.heads, self.groups, self.width = heads, groups, width
        self.q, self.out = nn.Linear(8, heads * groups * width), nn.Linear(heads * groups * width, 5)
        self.k, self.v = nn.Linear(8, heads * width), nn.Linear(heads * width, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.groups, self.width)
        k = self.k(x).view(b, t, self.heads, 1, self.width)
        return self.out((q * k.sigmoid()).flatten(2)) + self.v(k.flatten(2))


def _normed(*widths: int, groups: int = 4) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in zip((3, *widths), widths, strict=False):
        layers += [nn.Conv2d(before, after, 1), nn.GroupNorm(groups, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 2, 1)).eval()


IMAGE = torch.randn(1, 3, 2, 2)


def _scores(sites: sc.Sites) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(site.shape, generator=generator) for name, site in sites.items()}


def test_the_products_of_an_axis_are_found() -> None:
    assert nested(channels(_normed(8, 12), IMAGE)) == [("0", "0:2"), ("3", "3:2")]
    assert nested(channels(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(1, 3))) == []
    assert nested(sc.weights(nn.Linear(3, 4))) == []
    found = nested(channels(Attention(3, 2, 8).eval(), torch.randn(2, 4, 8)))
    assert [len(term) for term in found] == [3]  # what k has of it is a part of what q has


@pytest.mark.parametrize(
    ("sizes", "sparsity", "expected"),
    [
        ((8, 8), 0.3, (7, 6)),  # 6.7 → 7, and 0.7 · 64 / 7 = 6.4 → 6
        ((2, 64), 0.3, (2, 45)),  # 1.67 → 2: both stay, and 0.7 · 64 = 44.8 of the others
        ((2, 4), 0.5, (2, 2)),  # 1.41 lies as near to 1 as to 2 by ratio
        ((12, 64), 0.3, (10, 54)),  # 10.04 → 10, and 0.7 · 768 / 10 = 53.8
        ((2, 4, 64), 0.3, (2, 3, 60)),  # 1.78 → 2, then 0.84 · 4 = 3.3 → 3, and 0.7 · 512 / 6 = 59.7
        ((4, 8), 0.0, (4, 8)),
        ((4, 8), 1.0, (1, 1)),
    ],
)
def test_counts_by_hand(sizes: tuple[int, ...], sparsity: float, expected: tuple[int, ...]) -> None:
    names = [chr(97 + i) for i in range(len(sizes))]
    counts = nested_counts(dict(zip(names, sizes, strict=True)), [tuple(names)], sparsity)
    assert tuple(counts[name] for name in names) == expected


SIZES = st.lists(st.integers(1, 96), min_size=2, max_size=4)


@given(SIZES, st.floats(0, 0.97))
def test_a_product_keeps_its_share_within_half_of_what_a_unit_is_worth(sizes: list[int], sparsity: float) -> None:
    names = [f"s{i}" for i in range(len(sizes))]
    counts = nested_counts(dict(zip(names, sizes, strict=True)), [tuple(names)], sparsity)
    assert all(1 <= counts[name] <= size for name, size in zip(names, sizes, strict=True))
    last = max(names, key=lambda name: (sizes[names.index(name)], name))
    worth = prod(counts[name] for name in names if name != last)
    off = prod(counts.values()) - (1 - sparsity) * prod(sizes)
    assert abs(off) <= worth / 2 + 1e-6 or (off > 0 and counts[last] == 1)


@given(SIZES, st.floats(0, 0.97), st.integers(0, 3), st.sampled_from([1, 4, 8]))
def test_the_minimum_and_the_multiples_hold(sizes: list[int], sparsity: float, minimum: int, round_to: int) -> None:
    names = [f"s{i}" for i in range(len(sizes))]
    by_name = dict(zip(names, sizes, strict=True))
    counts = nested_counts(by_name, [tuple(names)], sparsity, minimum=minimum, round_to=round_to)
    for name, size in by_name.items():
        assert counts[name] >= min(minimum, size)
        assert counts[name] == size or counts[name] % round_to == 0 or counts[name] == min(minimum, size)


@given(st.lists(st.integers(2, 40), min_size=3, max_size=6), st.floats(0, 0.9))
def test_a_shared_site_serves_all_its_products(sizes: list[int], sparsity: float) -> None:
    names = [f"s{i}" for i in range(len(sizes))]
    by_name = dict(zip(names, [2, *sizes[1:]], strict=True))
    products = [(names[0], other) for other in names[1:]]
    counts = nested_counts(by_name, products, sparsity)
    for shared, other in products:
        kept, whole = counts[shared] * counts[other], by_name[shared] * by_name[other]
        if counts[other] > 1 and by_name[other] > 2:  # a smaller one is rounded before the shared one
            assert abs(kept - (1 - sparsity) * whole) <= counts[shared] / 2 + 1e-6


def test_sites_without_others_in_their_axis_lose_what_they_always_did() -> None:
    model = TOYS["cnn"].build()
    sites = channels(model, TOYS["cnn"].inputs())
    scores = _scores(sites)
    for sparsity in (0.0, 0.25, 0.5, 0.9):
        for more in ({}, {"minimum": 2}, {"round_to": 4}):
            plain = select(scores, sparsity, scope="layer", **more)
            both = select(scores, sparsity, scope="layer", sites=sites, **more)
            assert all(torch.equal(plain[name], both[name]) for name in sites)
    assert layer_fractions(sites, 0.3) == dict.fromkeys(sites, 0.3)


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("groups", [2, 4, 8])
def test_every_tensor_of_a_normed_network_loses_the_fraction(groups: int, sparsity: float) -> None:
    model = _normed(32, 64, groups=groups)
    small = sc.prune(model, IMAGE, sc.criteria.Random(seed=1), sparsity, scope="layer", latency=False).model
    for at, width in ((0, 32), (3, 64)):
        inside = small[at].out_channels // small[at + 1].num_groups
        kept, unit = small[at].out_channels, max(small[at + 1].num_groups, inside)
        assert abs(kept - (1 - sparsity) * width) <= unit / 2 + 1e-9


def test_heads_and_their_dimensions_share() -> None:
    model = Attention(6, 1, 20).eval()
    small = sc.prune(model, torch.randn(2, 4, 8), sc.criteria.Random(seed=1), 0.3, scope="layer", latency=False).model
    assert small.q.out_features == pytest.approx(0.7 * 120, abs=3)


def test_a_mapping_is_taken_literally() -> None:
    sites = channels(_normed(16), IMAGE)
    keep = select(_scores(sites), dict.fromkeys(sites, 0.5), scope="layer", sites=sites)
    assert [int(kept.sum()) for kept in keep.values()] == [2, 2]


def test_a_site_that_is_left_out_takes_no_share() -> None:
    model = _normed(16)
    sites = channels(model, IMAGE, ignore=["0:2"])
    assert nested(sites) == []
    keep = select(_scores(sites), 0.5, scope="layer", sites=sites)
    assert [int(kept.sum()) for kept in keep.values()] == [2]


def test_schedules_solvers_rules_and_budgets_share_too() -> None:
    model = _normed(16, 32)
    sites = channels(model, IMAGE)
    expected = {name: int(kept.sum()) for name, kept in select(_scores(sites), 0.4, scope="layer", sites=sites).items()}
    fractions = uniform(sites, 0.4)
    assert {name: round((1 - fractions[name]) * site.size) for name, site in sites.items()} == expected
    for steps in (1, 3):
        for train in (None, lambda *_: None):
            made = sc.schedules.Iterative(sc.criteria.Random(seed=0), 0.4, steps=steps, scope="layer", train=train)(
                model, sites
            )
            assert {name: int(kept.sum()) for name, kept in made.keep.items()} == expected
    data = torch.randn(4, 3, 2, 2), torch.zeros(4, dtype=torch.int64)
    assert {n: int(k.sum()) for n, k in ThiNet(data)(model, sites, 0.4).keep.items()} == expected
    report = sc.prune(model, IMAGE, budget={"macs": 0.5}, scope="layer", latency=False).report
    assert 0.3 < report.macs[1] / report.macs[0] <= 0.5


def test_the_report_says_where_units_and_parameters_part_and_what_is_nearly_empty() -> None:
    model = _normed(64, 64, groups=8)
    report = sc.prune(model, IMAGE, sc.criteria.Random(seed=0), 0.5, scope="global", latency=False).report
    assert "parameters went with 50% of the units" in str(report)
    even = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 2))
    with torch.no_grad():
        for parameter in even[0].parameters():
            parameter[10:] *= 0.01  # what goes is hardly missed
    plain = sc.prune(even, torch.ones(1, 8), latency=False).report
    assert "note:" not in str(plain)
    assert not plain.nearly_empty
    assert plain.to_dict()["nearly_empty"] == []


def test_a_site_of_which_a_tenth_is_left_is_warned_of() -> None:
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 2))
    with torch.no_grad():
        model[2].weight.mul_(0.01)
        model[2].bias.mul_(0.01)
    report = sc.prune(model, torch.ones(1, 8), "l2", 0.62, scope="global", latency=False).report
    (site,) = report.nearly_empty
    assert (site.name, site.units) == ("2", 40)
    assert f"WARNING: 1 site keeps 10 % of the units or less: 2 ({site.kept} of 40)" in str(report)
    assert report.to_dict()["nearly_empty"] == [{"name": "2", "units": 40, "kept": site.kept}]
