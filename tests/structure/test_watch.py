"""Sizes that also enter arithmetic: attention keeps its temperature, and only what was seen to set sizes is changed."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from secateur.structure.carriers import Attribute
from secateur.structure.watch import SIZES, watch
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
        q, k, v = (layer(x).view(*x.shape[:2], self.heads, last).transpose(1, 2) for layer in (self.q, self.k, self.v))
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


class Variant(nn.Module):
    """An attention block between two layers; the rest is the case's."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim, self.width = HEADS, HEAD_DIM, WIDTH
        self.scale = HEAD_DIM**-0.5
        self.inp, self.out = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 5)
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (f(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.mix(self.inp(x)).transpose(1, 2).flatten(2))
        return made

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class FromWidthAndHeads(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return (q @ k.transpose(-2, -1) * (x.shape[-1] // self.heads) ** -0.5).softmax(-1) @ v


class FromALayer(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return (q @ k.transpose(-2, -1) / math.sqrt(self.q.out_features // self.heads)).softmax(-1) @ v


class FromAWeight(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return (q @ k.transpose(-2, -1) / math.sqrt(len(self.q.weight) // self.heads)).softmax(-1) @ v


class Fused(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        return F.scaled_dot_product_attention(q, k, v, scale=self.head_dim**-0.5)


class FusedByItself(Variant):
    def mix(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*self.split(x))


class Einsum(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], self.heads, self.head_dim) for f in (self.q, self.k, self.v))
        weights = (torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(self.head_dim)).softmax(-1)
        return torch.einsum("bhqk,bkhd->bhqd", weights, v)


class EinsumByShape(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        weights = (torch.einsum("...qd,...kd->...qk", q, k) / math.sqrt(q.shape[-1])).softmax(-1)
        return weights @ v


class ScaledInPlace(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        q = q.clone()
        q *= self.head_dim**-0.5
        return (q @ k.transpose(-2, -1)).softmax(-1) @ v


class Batched(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (y.flatten(0, 1) for y in self.split(x))
        scores = torch.baddbmm(x.new_zeros(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=self.head_dim**-0.5)
        return (scores.softmax(-1) @ v).unflatten(0, (x.shape[0], self.heads))


class AFractionAgainASize(Variant):
    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], self.heads, int(self.width / self.heads)) for f in (self.q, self.k, self.v))
        q, k, v = (y.transpose(1, 2) for y in (q, k, v))
        return (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v


VARIANTS = list(Variant.__subclasses__())


@pytest.mark.parametrize("kind", VARIANTS)
def test_however_the_temperature_is_found_the_cut_is_right(kind: type[Variant]) -> None:
    _, sites, _ = cut_weakly(kind().eval())
    assert len(sites) >= 2


@pytest.mark.parametrize("kind", [Fused, FusedByItself, Einsum, EinsumByShape, ScaledInPlace, Batched])
def test_where_one_number_sets_the_temperature_heads_are_cut_in_a_module(kind: type[Variant]) -> None:
    small, sites, _ = cut_weakly(kind().eval())
    assert isinstance(small, kind)
    assert any(site.unit == "head" for site in sites.values()), dict(sites.frozen)


def test_a_stored_temperature_lets_the_head_dimension_be_cut() -> None:
    class Stored(Variant):
        def mix(self, x: Tensor) -> Tensor:
            q, k, v = (
                f(x).view(*x.shape[:2], self.heads, self.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v)
            )
            return (q @ k.transpose(-2, -1) * self.scale).softmax(-1) @ v

    model = Stored().eval()
    sites = sc.channels(model, torch.randn(2, 7, 6))
    assert any(site.unit == "head dimension" for site in sites.values())
    keep = {name: torch.arange(site.size) < site.size - 2 for name, site in sites.items() if site.size == HEAD_DIM}
    small = sc.cut(model, sites, keep, form="module")
    check_cut(model, small, sites, keep, torch.randn(2, 7, 6))
    assert isinstance(small, Stored)
    assert (small.head_dim, small.scale) == (HEAD_DIM - 2, HEAD_DIM**-0.5)


class Scaled(nn.Module):
    """A width that also scales, as where embeddings are multiplied by the root of the model's width."""

    def __init__(self, factor: Callable[[Any, Tensor], Any], norm: bool) -> None:
        super().__init__()
        self.d_model, self.factor = 16, factor
        self.inp, self.mid, self.out = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 5)
        self.norm: nn.Module = nn.LayerNorm(16, eps=1e-12) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.inp(x) * self.factor(self, x))
        made: Tensor = self.out(self.mid(x.reshape(-1, self.d_model)).relu())
        return made


FACTORS: dict[str, Callable[[Any, Tensor], Any]] = {
    "attribute": lambda m, x: math.sqrt(m.d_model),
    "layer": lambda m, x: m.inp.out_features**0.5,
    "norm": lambda m, x: math.sqrt(m.norm.normalized_shape[0]) if isinstance(m.norm, nn.LayerNorm) else 2.0,
    "weight": lambda m, x: math.sqrt(m.inp.weight.shape[0]),
    "bias": lambda m, x: m.inp.bias.numel(),
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("factor", FACTORS.values(), ids=FACTORS)
def test_a_width_that_also_scales_keeps_its_number(factor: Callable[[Any, Tensor], Any], norm: bool) -> None:
    model = Scaled(factor, norm).eval()
    sites = sc.channels(model, 0.01 * torch.randn(3, 6))
    assert {site.size for site in sites.values()} == {16}
    keep = random_keep(model, sites)
    small = sc.cut(model, sites, keep)
    reference: nn.Module = sc.mask(model, sites, keep)
    if norm:
        return  # that it comes back at all says that it agrees with the reference of kept statistics
    x = torch.randn(3, 6)
    with torch.no_grad():
        assert torch.allclose(small(x), reference(x), atol=1e-5)


class Bystanders(nn.Module):
    """Attributes that equal a size; forward reads some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = self.n_classes = self.num_samples = self.warmup = self.limit = self.rounds = 16
        self._rows = 16
        self.shape = (16, 16)
        self.listed = [16]
        self.a, self.f = nn.Linear(8, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu().reshape(-1, self.hidden)
        assert h.shape[0] < self.limit
        for _ in range(self.rounds):
            h = h + 0
        made: Tensor = self.f(h)
        return made


def test_only_attributes_that_set_sizes_change() -> None:
    model = Bystanders().eval()
    sites = sc.channels(model, torch.randn(2, 8))
    small = sc.cut(model, sites, {"a": torch.arange(16) < 12}, form="module")
    assert small.hidden == 12
    for name, value in vars(model).items():
        if not name.startswith("_") and name != "hidden":
            assert getattr(small, name) == value, name
    assert model.hidden == 16


@pytest.mark.parametrize("holder", ["_rows", "shape", "listed"])
def test_private_attributes_and_rows_of_sizes_change_where_they_set_sizes(holder: str) -> None:
    class Held(Bystanders):
        def forward(self, x: Tensor) -> Tensor:
            value = getattr(self, holder)
            made: Tensor = self.f(self.a(x).relu().reshape(-1, value if isinstance(value, int) else value[-1]))
            return made

    model = Held().eval()
    sites = sc.channels(model, torch.randn(2, 8))
    small = sc.cut(model, sites, {"a": torch.arange(16) < 12}, form="module")
    check_cut(model, small, sites, {"a": torch.arange(16) < 12}, torch.randn(2, 8))
    assert (small.hidden, small.n_classes) == (16, 16)
    assert type(getattr(small, holder)) is type(getattr(model, holder))


def test_watching_leaves_the_model_and_its_numbers_as_they_were() -> None:
    class Keeps(Bystanders):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.hidden
            self.shape = x.shape
            return super().forward(x)

    model = Keeps().eval()
    before = dict(vars(model))
    sc.cut(model, sc.channels(model, torch.randn(2, 8)), {"a": torch.arange(16) < 12})
    assert vars(model) == before
    assert type(model.hidden) is int
    assert "__getattribute__" not in vars(nn.Module)


def test_what_is_read_and_what_becomes_of_it() -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = self.scale = self.both = self.dim = self.cast = self.unread = 1

        def forward(self, x: Tensor) -> Tensor:
            y = x.view(self.size, -1) * self.scale
            return y.view(self.both, -1).div(self.both).sum(self.dim) + torch.ones(int(self.cast))

    found, _ = watch(Uses(), (torch.randn(1, 3),), {})
    assert found is not None
    assert {a.name for a in found.read} == {"size", "scale", "both", "dim", "cast"}
    assert {a.name for a in found.numbers if isinstance(a, Attribute)} == {"scale", "both", "dim"}
    assert {a.name for a in found.sizes} == {"size", "both"}
    assert found.lost == {Attribute("", "cast")}
    assert found.only_sizes(Attribute("", "size"))
    assert not found.only_sizes(Attribute("", "cast"))
    assert found.may_change(Attribute("", "cast"))


class Asserting(nn.Module):
    """A convolution between two others whose forward pass asserts how many channels come in, in one of several ways."""

    def __init__(self, agrees: Callable[[Any, Tensor], bool]) -> None:
        super().__init__()
        self.channels, self.out_channels, self.agrees = 8, 8, agrees
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.agrees(self, x):
            raise ValueError("another number of channels")
        made: Tensor = self.conv(x)
        return made


COMPARISONS: dict[str, Callable[[Any, Tensor], bool]] = {
    "equal": lambda m, x: x.shape[1] == m.channels,
    "not unequal": lambda m, x: not m.channels != x.size(1),  # noqa: SIM202  (both operators are of interest)
    "half of each": lambda m, x: x.shape[1] // 2 == m.channels // 2,
}


@pytest.mark.parametrize("comparison", COMPARISONS)
def test_an_attribute_that_a_size_is_compared_with_follows_it(comparison: str) -> None:
    # Both attributes hold 8; the channels that come in are cut to 6, those that go out to 3.
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Asserting(COMPARISONS[comparison]), nn.Conv2d(8, 2, 1)).eval()
    x = torch.randn(2, 3, 6, 6)
    sites = sc.channels(model, x)
    assert [site.size for site in sites.values()] == [8, 8]
    keep = {"0": torch.arange(8) < 6, "1.conv": torch.arange(8) < 3}
    small = sc.cut(model, sites, keep, form="module")
    assert isinstance(small[1], Asserting)
    assert small[1].channels == 6
    assert small[1].conv.weight.shape[:2] == (3, 6)


class Unflattening(nn.Module):
    """Attention whose heads are told apart by the size of each alone; as many heads as dimensions of each."""

    def __init__(self) -> None:
        super().__init__()
        self.head_dim = self.heads = 4
        self.inp, self.qkv, self.out = (
            nn.Linear(6, 16),
            nn.ModuleList(nn.Linear(16, 16) for _ in "qkv"),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        q, k, v = (layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for layer in self.qkv)
        made: Tensor = self.out(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))
        return made


def test_which_dimension_an_unflattening_attribute_sets_is_seen() -> None:
    model, x = Unflattening().eval(), torch.randn(2, 7, 6)
    seen, _ = watch(model, (x,), {})
    assert seen is not None
    sizes = seen.sizes[Attribute("", "head_dim")]
    assert {(d.shape, d.dim) for d in sizes} == {((2, 7, 4, 4), 3)}
    sites = sc.channels(model, x)
    keep = {name: torch.arange(site.size) < 3 for name, site in sites.items() if site.unit == "head"}
    assert keep
    small = sc.cut(model, sites, keep, form="module")
    assert isinstance(small, Unflattening)
    assert small.head_dim == 4
    assert small.qkv[0].weight.shape == (12, 16)


@pytest.mark.parametrize("name", [name for name in SIZES if not name.startswith("__")])
def test_sizes_are_the_arguments_that_torch_calls_so(name: str) -> None:
    first, stop, names = SIZES[name]

    def agrees(arguments: list[str]) -> bool:
        of_size = [first <= at < stop for at in range(len(arguments))]
        return any(of_size) and all(
            (argument in names) is size for argument, size in zip(arguments, of_size, strict=True)
        )

    packet = getattr(torch.ops.aten, name)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    assert any(agrees([a.name for a in schema.arguments if not a.kwarg_only]) for schema in schemas)


class Splitting(nn.Module):
    """Parts of an attribute's size, along a dimension that is told in one of several ways."""

    def __init__(self, split: Callable[[Tensor, int], Any]) -> None:
        super().__init__()
        self.size, self.split = 4, split

    def forward(self, x: Tensor) -> Tensor:
        first: Tensor = self.split(x, self.size)[0]
        return first


@pytest.mark.parametrize(
    ("split", "dim"),
    [
        (lambda x, size: x.split(size), 0),
        (lambda x, size: x.split(size, 1), 1),
        (lambda x, size: x.split(size, dim=-1), 2),
        (lambda x, size: x.split(split_size=size, dim=1), 1),
        (lambda x, size: torch.split(x, [size, 8 - size], 2), 2),
        (lambda x, size: x.chunk(size, 1), 1),
        (lambda x, size: torch.chunk(x, size, 2), 2),
        (lambda x, size: x.tensor_split(size, 1), 1),
    ],
)
def test_which_dimension_a_splitting_attribute_sets_is_seen(split: Callable[[Tensor, int], Any], dim: int) -> None:
    seen, _ = watch(Splitting(split), (torch.randn(8, 8, 8),), {})
    assert seen is not None
    assert {d.dim for d in seen.sizes[Attribute("", "size")]} == {dim}
    assert not seen.numbers


@pytest.mark.parametrize(
    ("size", "number", "known"),
    [
        *((7, 7.0**power, True) for power in (-1, 0.5, -0.5, 0.25, -0.25)),
        (7, 7.0**-0.5 * 1.001, False),
        (7, 8.0**-0.5, False),
        (5, 5.0**-0.5, True),
        (4, 4.0**-0.5, False),  # 0.5 is written in much code
    ],
)
def test_a_number_that_is_a_root_of_a_size_is_taken_for_it(size: int, number: float, known: bool) -> None:
    class Scales(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.size = size

        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, self.size) * number

    seen, _ = watch(Scales(), (torch.randn(2, size),), {})
    assert seen is not None
    assert (Attribute("", "size") in seen.numbers) is known


class Turned(nn.Module):
    """Attention whose queries are read backwards, so that their dimensions stay; the values' have the same attribute."""

    def __init__(self, apart: bool) -> None:
        super().__init__()
        self.heads, self.head_dim, self.value_dim = 2, 8, 4
        self.apart, width = apart, 8 if apart else 16
        self.q, self.k, self.v = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(6, width)
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        sizes = (self.head_dim, self.head_dim, self.value_dim if self.apart else self.head_dim)
        layers = (self.q, self.k, self.v)
        q, k, v = (f(x).view(*x.shape[:2], self.heads, n).transpose(1, 2) for f, n in zip(layers, sizes, strict=True))
        y = F.scaled_dot_product_attention(q.flip(-1), k, v, scale=0.3)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def test_head_dimensions_stay_that_share_an_attribute_with_what_cannot_change() -> None:
    x = torch.randn(2, 3, 6)
    sites = sc.channels(Turned(apart=False), x)
    assert set(sites) == {"q.heads"}
    assert sites.frozen["v.head_dim"].startswith("it shares its size with what cannot change (")
    assert set(sc.channels(Turned(apart=True), x)) == {"q.heads", "v.head_dim"}


class Settings:
    """Numbers that all layers share, and one that is worked out."""

    def __init__(self) -> None:
        self.heads, self.head_dim, self.inner = 4, 8, SimpleNamespace(width=12)

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


class Configured(nn.Module):
    """Attention whose sizes stand in settings alone."""

    def __init__(self, settings: Any, scale: Callable[[Any], float]) -> None:
        super().__init__()
        self.settings, self.scale = settings, scale
        self.q, self.k, self.v = (nn.Linear(6, settings.width) for _ in range(3))
        self.out, self.wide, self.back = nn.Linear(settings.width, 6), nn.Linear(6, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        s, n = self.settings, len(x)
        q, k, v = (f(x).view(n, -1, s.heads, s.head_dim).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = (q @ k.mT * self.scale(s)).softmax(-1)
        x = x + self.out((weights @ v).transpose(1, 2).reshape(n, -1, s.heads * s.head_dim))
        return x + self.back(self.wide(x).view(n, -1, s.inner.width).relu())


def two_layers(scale: Callable[[Any], float] = lambda _: 0.3) -> nn.Sequential:
    settings = Settings()
    return nn.Sequential(*(Configured(settings, scale) for _ in range(2)))


def test_layers_that_keep_different_numbers_have_settings_of_their_own() -> None:
    model, x = two_layers(), torch.randn(2, 5, 6)
    sites = sc.channels(model, x)
    keep = {name: torch.arange(site.size) % (4 if name[0] == "1" else 3) != 1 for name, site in sites.items()}
    small, masked = sc.cut(model, sites, keep, form="module"), sc.mask(model, sites, keep)
    first, second = (layer.settings for layer in small)
    assert (first.heads, first.head_dim, first.inner.width) == (3, 5, 8)
    assert (second.heads, second.head_dim, second.inner.width) == (3, 6, 9)
    assert type(second) is Settings
    assert vars(model[0].settings).items() >= {"heads": 4, "head_dim": 8}.items()
    torch.testing.assert_close(small(x), masked(x))


def test_a_number_in_settings_that_sets_the_temperature_stays() -> None:
    model, x = two_layers(lambda settings: settings.head_dim**-0.5), torch.randn(2, 5, 6)
    sites = sc.channels(model, x)
    assert (
        sites.frozen["0.q.head_dim"] == "its size also sets the attention's temperature (self.settings.head_dim of 0)"
    )
    keep = {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items()}
    small = sc.cut(model, sites, keep, form="module")
    assert [(layer.settings.heads, layer.settings.head_dim) for layer in small] == [(2, 8), (2, 8)]


def test_settings_are_read_as_they_are_while_they_are_watched() -> None:
    class Looks(nn.Module):
        """Asks its settings for more than numbers."""

        def __init__(self) -> None:
            super().__init__()
            self.settings = Settings()

        def forward(self, x: Tensor) -> Tensor:
            s = self.settings
            assert isinstance(s, Settings)
            assert hasattr(s, "heads")
            assert not hasattr(s, "none")
            assert s.width == 32
            s.seen = True
            return x.view(-1, s.heads)

    seen, _ = watch(looks := Looks(), (torch.randn(2, 4),), {})
    assert seen is not None
    assert looks.settings.seen
    assert {d.dim for d in seen.sizes[Attribute("", "settings.heads")]} == {1}


def test_attributes_of_one_value_become_what_each_of_them_is() -> None:
    """Keys and values have as many dimensions, in tensors of one shape, and then they have not."""

    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.key_dim, self.value_dim = 2, 8, 8
            self.q, self.kv, self.out = nn.Linear(6, 16), nn.Linear(6, 32), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            b, n, _ = x.shape
            q = self.q(x).view(b, n, self.heads, self.key_dim).transpose(1, 2)
            both = self.kv(x).view(b, n, self.heads, self.key_dim + self.value_dim).transpose(1, 2)
            k, v = both.split([self.key_dim, self.value_dim], -1)
            y = (q @ k.mT * 0.3).softmax(-1) @ v
            return self.out(y.transpose(1, 2).reshape(b, n, self.heads * self.value_dim))  # type: ignore[no-any-return]

    model, x = Split(), torch.randn(2, 5, 6)
    sites = sc.channels(model, x)
    assert set(sites) == {"q.heads", "q.head_dim", "kv"}
    keep = {"q.head_dim": torch.arange(8) < 6, "kv": torch.arange(8) < 3}
    small = sc.cut(model, sites, keep, form="module")
    assert (small.key_dim, small.value_dim) == (6, 3)
    torch.testing.assert_close(small(x), sc.mask(model, sites, keep)(x))


class Reading(nn.Module):
    """Attention that reads the width of what it is given, which queries, keys and values have as well."""

    def __init__(self, fraction: bool) -> None:
        super().__init__()
        self.query, self.value, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.heads, self.fraction = 2, fraction

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        each = width // self.heads if self.fraction else -1
        query, value = (f(x).reshape(batch, length, self.heads, each).transpose(1, 2) for f in (self.query, self.value))
        mixed = ((query @ query.transpose(-1, -2)).softmax(-1) @ value).transpose(1, 2)
        made: Tensor = self.out(mixed.flatten(2) if self.fraction else mixed.reshape(batch, length, width))
        return made


class Returning(nn.Module):
    """What the attention is given leaves the model, too, and cannot shrink; most units are elsewhere."""

    def __init__(self, fraction: bool) -> None:
        super().__init__()
        self.stem, self.attention, self.head = nn.Linear(3, 8), Reading(fraction), nn.Sequential(nn.Linear(8, 40))
        self.head.extend([nn.ReLU(), nn.Linear(40, 2)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.stem(x)
        return h, self.head(h + self.attention(h))


@pytest.mark.parametrize("fraction", [True, False])
def test_what_shrinks_by_a_size_of_the_input_is_tied_to_it(fraction: bool) -> None:
    torch.manual_seed(0)
    model, x = Returning(fraction), torch.randn(2, 5, 3)
    sites = sc.channels(model, x)
    assert sites.frozen["attention.value"]
    small = sc.cut(model, sites, {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()})
    assert type(small) is Returning
    assert small.head[0].out_features == 27
