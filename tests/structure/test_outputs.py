"""What leaves a forward pass stays whole: in objects, stored on the model, or computed and read by nothing."""

from __future__ import annotations

from collections import UserDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure.trace import trace
from secateur.trees import tensors_within
from secateur.types import CutError, TraceError


@dataclass
class Features:
    hidden: Tensor


@dataclass
class Outer:
    inner: Any
    scale: float = 2.0


class Bare:
    def __init__(self, hidden: Tensor) -> None:
        self.hidden = hidden


class Slotted:
    __slots__ = ("__private", "hidden")

    def __init__(self, hidden: Tensor) -> None:
        self.hidden, self.__private = hidden, hidden


class Attributed(dict[str, Any]):
    def __init__(self, hidden: Tensor) -> None:
        super().__init__(hidden=hidden)
        self.more = hidden


Pair = namedtuple("Pair", ["hidden", "none"])

WAYS: dict[str, Callable[[Tensor], Any]] = {
    "a tensor": lambda h: h,
    "a list": lambda h: [h],
    "a dictionary": lambda h: {"hidden": h},
    "a named tuple": lambda h: Pair(h, None),
    "a dataclass": Features,
    "a dataclass in a dataclass": lambda h: Outer(Features(h)),
    "a dataclass in a list": lambda h: [Features(h), 3],
    "an object": Bare,
    "an object with slots": Slotted,
    "a dictionary with attributes": Attributed,
    "a user's dictionary": lambda h: UserDict(hidden=h),
    "a deque": lambda h: deque([h]),
    "a set": lambda h: {h},
}


class Net(nn.Module):
    """`middle` makes the hidden layer, which `way` returns beside the output; ops that are not plain are exported."""

    def __init__(self, way: Callable[[Tensor], Any], plain: bool) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.way, self.plain = way, plain

    def middle(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.b(self.a(x).relu())
        h = h.relu() if self.plain else h.flip(0).relu().softmax(-1)
        return self.c(h), h

    def forward(self, x: Tensor) -> Any:
        y, h = self.middle(x)
        return y, self.way(h)


def check_stays_whole(model: nn.Module, x: Tensor, frozen: str = "b", free: str = "a") -> nn.Module:
    sites = sc.channels(model, x)
    assert set(sites) == {free}
    assert frozen in sites.frozen
    keep = {free: torch.arange(sites[free].size) % 2 == 0}
    small = sc.cut(model, sites, keep, form="module")
    with torch.no_grad():
        ours, theirs = small(x), sc.mask(model, sites, keep)(x)
    for a, b in zip(tensors_within(ours), tensors_within(theirs), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    return small


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_tensor_in_whatever_forward_returns_is_an_output(way: Callable[[Tensor], Any], plain: bool) -> None:
    model = Net(way, plain).eval()
    x = torch.randn(4, 8)
    assert (trace(model, x).program is None) == plain
    check_stays_whole(model, x)


def test_a_distribution_is_an_output() -> None:
    model = Net(lambda h: torch.distributions.Normal(h, torch.ones(12), validate_args=False), False).eval()
    check_stays_whole(model, torch.randn(4, 8))


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_an_output_that_is_an_object_by_itself(plain: bool) -> None:
    class Alone(Net):
        def forward(self, x: Tensor) -> Any:
            return Features(self.middle(x)[0])

    model, x = Alone(Features, plain).eval(), torch.randn(4, 8)
    sites = sc.channels(model, x)
    assert set(sites) == {"a", "b"}
    small = sc.cut(model, sites, {"a": torch.arange(16) < 9, "b": torch.arange(12) < 7})
    assert isinstance(small(x), Features)


class Remembering(nn.Module):
    """Attention that reads its width, divides it or holds it, and gives back an object, of which no graph is written."""

    def __init__(self, width: str) -> None:
        super().__init__()
        self.width, self.heads, self.head_dim = width, 4, 5
        self.stem, self.qkv, self.out = nn.Linear(8, 20), nn.Linear(20, 60), nn.Linear(20, 20)
        self.mlp, self.head = nn.Linear(20, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        b, n, width = x.shape
        each = width // self.heads if self.width == "divided" else self.head_dim
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, each).permute(2, 0, 3, 1, 4)
        z = ((q @ k.mT * 0.4).softmax(-1) @ v).transpose(1, 2)
        x = x + self.out(z.reshape(b, n, width if self.width == "read" else -1))
        return Features(self.head(self.mlp(x).relu()))


SITES = {
    "held": {"stem", "qkv.heads", "qkv.head_dim", "mlp"},
    "read": {"stem.heads", "stem.head_dim", "mlp"},
    "divided": {"mlp"},
}


@pytest.mark.parametrize("width", SITES)
def test_the_sizes_that_code_reads_are_one_where_no_graph_can_be_written(width: str) -> None:
    torch.manual_seed(0)
    model, x = Remembering(width).eval(), torch.randn(2, 6, 8)
    sites = sc.channels(model, x)
    assert set(sites) == SITES[width]
    keep = {name: torch.arange(site.size) > number for number, (name, site) in enumerate(sites.items())}
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    torch.testing.assert_close(small(x).hidden, masked(x).hidden)


def test_a_graph_cannot_return_an_object_and_says_so() -> None:
    model, x = Net(Features, plain=False).eval(), torch.randn(4, 8)
    sites = sc.channels(model, x)
    with pytest.raises(CutError, match="Features"):
        sc.cut(model, sites, {"a": torch.arange(16) < 9}, form="graph")


STORES: dict[str, Callable[[Any, Tensor], Any]] = {
    "an attribute": lambda m, h: setattr(m, "features", h),
    "an attribute that was there": lambda m, h: setattr(m, "before", h),
    "an entry of a dictionary": lambda m, h: m.kept.update(last=h),
    "an entry of a list": lambda m, h: m.listed.append(h),
    "a submodule's attribute": lambda m, h: setattr(m.c, "inputs", h),
    "an object's attribute": lambda m, h: setattr(m.holder, "hidden", h),
    "an object": lambda m, h: setattr(m, "features", Features(h)),
    "a buffer without values": lambda m, h: setattr(m, "buffer", h),
}


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
@pytest.mark.parametrize("store", STORES.values(), ids=STORES)
def test_a_tensor_that_forward_stores_on_the_model_is_an_output(
    store: Callable[[Any, Tensor], Any], plain: bool
) -> None:
    class Stores(Net):
        def __init__(self) -> None:
            super().__init__(Features, plain)
            self.before = torch.zeros(2)
            self.kept: dict[str, Tensor] = {}
            self.listed: list[Tensor] = []
            self.holder = Bare(torch.zeros(1))
            self.register_buffer("buffer", None)

        def forward(self, x: Tensor) -> Any:
            y, h = self.middle(x)
            store(self, h)
            return y

    model, x = Stores().eval(), torch.randn(4, 8)
    before = {name: value for name, value in vars(model).items() if not name.startswith("_")}
    check_stays_whole(model, x)
    assert {name: value for name, value in vars(model).items() if not name.startswith("_")} == before
    assert (model.kept, model.listed, model.buffer) == ({}, [], None)
    assert model.holder.hidden.shape == (1,)
    assert not hasattr(model.c, "inputs")
    assert "stores it" in sc.channels(model, x).frozen["b"]


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_a_loss_that_forward_stores_freezes_nothing(plain: bool) -> None:
    class Loss(Net):
        def forward(self, x: Tensor) -> Any:
            y, h = self.middle(x)
            self.aux = h.mean()
            return y

    assert set(sc.channels(Loss(Features, plain).eval(), torch.randn(4, 8))) == {"a", "b"}


def test_a_table_that_is_made_of_constants_and_kept_is_no_output() -> None:
    class Table(Net):
        def forward(self, x: Tensor) -> Any:
            h = self.b(self.a(x).relu())
            if not hasattr(self, "table"):
                self.table = torch.arange(h.shape[0]).float().exp()
            made: Tensor = self.c(h.relu() * self.table[:, None])
            return made

    assert set(sc.channels(Table(Features, False).eval(), torch.randn(4, 8))) == {"a", "b"}


def test_tensors_of_the_last_step_are_no_outputs() -> None:
    class Trains(Net):
        def forward(self, x: Tensor) -> Any:
            y, h = self.middle(x)
            if torch.is_grad_enabled():
                self.features = h
            return y

    model, x = Trains(Features, True).train(), torch.randn(4, 8)
    model(x).sum().backward()
    stored = model.features
    result = sc.prune(model, x, "l2", 0.5, scope="global", latency=False)
    assert result.model.b.weight.shape[0] < 12
    assert model.features is stored


class TwoHeads(nn.Module):
    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.body, self.cls, self.plain = nn.Linear(8, 32), nn.Linear(32, 2), plain
        self.box: nn.Module = nn.Linear(32, 4)
        self.stack = nn.Sequential(nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.body(x).relu()
        h = h if self.plain else h.flip(0)
        return self.box(h), self.cls(h), self.stack(h)


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module, at: int) -> None:
        super().__init__()
        self.inner, self.at = inner, at

    def forward(self, x: Tensor) -> Any:
        return self.inner(x)[self.at]


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_heads_that_a_wrapper_drops_keep_their_outputs(at: int, plain: bool) -> None:
    inner = TwoHeads(plain).eval()
    model, x = Wrapper(inner, at), torch.randn(5, 8)
    sites = sc.channels(model, x)
    assert set(sites) == {"inner.body", "inner.stack.0"}
    if at != 0:
        assert "nothing reads it" in sites.frozen["inner.box"]
    keep = {"inner.body": torch.arange(32) < 20, "inner.stack.0": torch.arange(6) < 4}
    small = sc.cut(model, sites, keep, form="module")
    masked = sc.mask(model, sites, keep)
    with torch.no_grad():
        for a, b in zip(small.inner(x), masked.inner(x), strict=True):  # type: ignore[operator]
            assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_what_a_dropped_head_makes_of_other_values_is_found_at_its_end(plain: bool) -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.first, self.last, self.cls = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            h = self.body(x).relu()
            h = h if plain else h.flip(0)
            self.last(self.first(h).relu()).sigmoid()
            made: Tensor = self.cls(h)
            return made

    sites = sc.channels(Long().eval(), torch.randn(5, 8))
    assert set(sites) == {"body", "first"}
    assert {"last", "cls"} <= set(sites.frozen)


def test_what_a_user_s_hook_sees_and_keeps_is_left_to_the_user() -> None:
    seen: list[torch.Size] = []
    model, x = Net(Features, False).eval(), torch.randn(4, 8)
    handle = model.a.register_forward_hook(lambda _m, _a, out: seen.append(out.shape))
    hooks = [dict(m._forward_hooks) for m in model.modules()]
    pre = [dict(m._forward_pre_hooks) for m in model.modules()]
    check_stays_whole(model, x)
    assert [dict(m._forward_hooks) for m in model.modules()] == hooks
    assert [dict(m._forward_pre_hooks) for m in model.modules()] == pre
    assert seen
    handle.remove()


def test_a_hook_of_the_model_that_replaces_its_output_is_followed() -> None:
    model, x = Net(Features, False).eval(), torch.randn(4, 8)
    model.register_forward_hook(lambda _m, _a, out: out[0])
    assert set(sc.channels(model, x)) == {"a", "b"}


class Branches(nn.Module):
    """`other` never runs on the example; it may share what runs."""

    def __init__(self, plain: bool = True) -> None:
        super().__init__()
        self.a, self.c, self.other = nn.Linear(8, 16), nn.Linear(16, 3), nn.Sequential(nn.Linear(16, 5), nn.ReLU())
        self.token = nn.Parameter(torch.zeros(16))
        self.plain = plain

    def forward(self, x: Tensor, other: bool = False, token: bool = False) -> Tensor:
        h = self.a(x).relu()
        h = h if self.plain else h.flip(0)
        h = h + self.token if token else h
        made: Tensor = self.other(h) if other else self.c(h)
        return made


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_what_the_example_never_runs_is_left_whole_and_named(plain: bool) -> None:
    model, x = Branches(plain).eval(), torch.randn(4, 8)
    sites = sc.channels(model, x)
    assert sites.frozen["other"] == "the example inputs never run it"
    assert sites.frozen["token"] == "the example inputs never use it"
    assert "other.0" not in sites.frozen
    keep = {"a": torch.arange(16) < 9}
    small = sc.cut(model, sites, keep)
    # A flag of the forward pass runs it, and what it reads of `a` is gone.
    assert small.other[0].weight.shape == (5, 9)  # type: ignore[index, union-attr]
    torch.testing.assert_close(small(x, True), sc.mask(model, sites, keep)(x, True))
    assert "other" not in sc.channels(model, (x, True)).frozen


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_what_an_idle_module_shares_with_one_that_runs_stays_whole(plain: bool) -> None:
    model, x = Branches(plain).eval(), torch.randn(4, 8)
    model.other[0] = nn.Linear(16, 3)
    model.other[0].weight = model.c.weight
    sites = sc.channels(model, x)
    assert not sites
    assert "other" in sites.frozen["a"]


def test_an_idle_twin_shrinks_with_its_like() -> None:
    class Twins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.used, self.head = nn.Embedding(7, 8), nn.Embedding(7, 8), nn.Linear(8, 3)
            self.used.weight = self.shared.weight

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.head(self.used(x))
            return made

    model = Twins().eval()
    sites = sc.channels(model, torch.tensor([[1, 2, 3]]))
    (name,) = sites
    assert "shared" not in sites.frozen
    small = sc.cut(model, sites, {name: torch.arange(8) < 5})
    assert small.shared.embedding_dim == small.used.embedding_dim == 5
    assert small.shared.weight is small.used.weight


def test_a_module_whose_weights_are_read_from_outside_runs() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = nn.functional.linear(x, self.a.weight, self.a.bias).relu()
            return nn.functional.linear(h, self.c.weight, self.c.bias)

    sites = sc.channels(Reads().eval(), torch.randn(4, 8))
    assert set(sites) == {"a"}
    assert set(sites.frozen) == {"c"}


def test_buffers_that_forward_writes_are_outputs() -> None:
    class Cache(Net):
        def __init__(self) -> None:
            super().__init__(Features, False)
            self.register_buffer("cache", torch.zeros(4, 12))

        def forward(self, x: Tensor) -> Any:
            y, h = self.middle(x)
            self.cache.copy_(h)
            return y

    model, x = Cache().eval(), torch.randn(4, 8)
    small = check_stays_whole(model, x)
    assert model.cache.abs().max() == 0
    assert small.cache.shape == (4, 12)


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
@pytest.mark.parametrize("way", [lambda h: (part for part in h), lambda h: iter([h]), lambda h: lambda: h])
def test_outputs_that_nobody_can_look_into_are_refused(way: Callable[[Tensor], Any], plain: bool) -> None:
    with pytest.raises(TraceError, match="nobody can look"):
        sc.channels(Net(way, plain).eval(), torch.randn(4, 8))


@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_what_forward_puts_into_its_inputs_is_an_output(plain: bool) -> None:
    class Fills(Net):
        def forward(self, x: Tensor, features: dict[str, Tensor]) -> Any:
            y, h = self.middle(x)
            features["hidden"] = h
            return y

    sites = sc.channels(Fills(Features, plain).eval(), (torch.randn(4, 8), {"bias": torch.zeros(1)}))
    assert set(sites) == {"a"}


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("plain", [True, False], ids=["recorded", "exported"])
def test_a_dropped_head_of_bare_parameters_keeps_its_outputs(at: int, plain: bool) -> None:
    class Bare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(8, 16)
            self.first, self.second = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.randn(4, 16))

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.body(x).relu()
            h = h if plain else h.flip(0)
            return nn.functional.linear(h, self.first), nn.functional.linear(h, self.second)

    inner = Bare().eval()
    model, x = Wrapper(inner, at), torch.randn(5, 8)
    sites = sc.channels(model, x)
    assert set(sites) == {"inner.body"}
    small = sc.cut(model, sites, {"inner.body": torch.arange(16) < 9}, form="module")
    assert [y.shape for y in small.inner(x)] == [(5, 5), (5, 4)]  # type: ignore[operator]


def test_a_sum_divided_by_the_width_keeps_its_divisor() -> None:
    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Linear(8, 16), nn.Linear(1, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x).relu()
            made: Tensor = self.c(h.sum(-1, keepdim=True) / h.shape[-1])
            return made

    model, x = Mean().eval(), torch.randn(4, 8)
    sites = sc.channels(model, x)
    keep = {"a": torch.arange(16) < 9}
    with torch.no_grad():
        assert torch.allclose(sc.cut(model, sites, keep)(x), sc.mask(model, sites, keep)(x), atol=1e-6)


class Attends(nn.Module):
    """It returns an object, and reshapes to as many heads as are left."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.o, self.head_dim = nn.Linear(16, 20), nn.Linear(20, 16), 5

    def forward(self, x: Tensor) -> Features:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, -1, self.head_dim).transpose(1, 2)
        h = ((q @ q.transpose(-1, -2)).softmax(-1) @ q).reshape(b, -1, t, self.head_dim)
        return Features(self.o(h.transpose(1, 2).reshape(b, t, -1)))


@pytest.mark.parametrize("length", [4, 6])
def test_as_many_tokens_as_heads_freeze_no_heads(length: int) -> None:
    torch.manual_seed(0)
    model = Attends()
    sites = sc.channels(model, torch.randn(2, length, 16))
    assert sites["q.heads"].size == 4
    small = sc.cut(model, sites, {"q.heads": torch.tensor([True, False, True, True])})
    assert small(torch.randn(3, 7, 16)).hidden.shape == (3, 7, 16)
