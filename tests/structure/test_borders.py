"""Where regions of a model that cannot be traced whole hand tensors to each other, units are cut across the border."""

from __future__ import annotations

from collections.abc import Callable
from inspect import getsource

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure import cutting
from secateur.structure.cutting import cut_with_plan
from secateur.structure.difference import difference
from zoo.deciding import mlp

Forward = Callable[["Parts", Tensor], Tensor]


class Parts(nn.Module):
    """Two networks and a head, around which a forward pass decides by values."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.a, self.head = mlp(4, 8, 6), mlp(6, 5, 3)
        if "m.b" in getsource(forward):
            self.b = mlp(6, 7, 6)
        self.passes = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.passes(self, x) * (2 if x.sum() > 0 else 1)


def before_a_decision(m: Parts, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    y: Tensor = m.head(h)
    del h
    return y if y.amax() > 1 else y / 2


def after_sizes_decide(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    if torch.tensor(x.shape).amax() > 1e9 or torch.ones(2).sum().item() > 2:
        return h.sum()
    return m.head(m.b(h))


def several_takers(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(h) + m.head(m.b(h))


def in_a_container(m: Parts, x: Tensor) -> Tensor:
    levels = {"low": m.a(x), "high": m.a(x / 2)}
    return sum(m.head(level) for level in reversed(list(levels.values())))  # type: ignore[return-value]


def another_size_is_read(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(m.b(h)) / h.shape[0] + h.size(0) + h.dim()


def of_head_alone(m: Parts, x: Tensor) -> Tensor:
    y: Tensor = m.head(m.a(x))
    return y


TIED: dict[str, tuple[Forward, set[str]]] = {
    "before_a_decision": (before_a_decision, {"a.2", "b.2"}),
    "after_sizes_decide": (after_sizes_decide, {"a.2", "b.2"}),
    "several_takers": (several_takers, {"a.2"}),  # what the head is given is one
    "in_a_container": (in_a_container, {"a.2"}),
    "another_size_is_read": (another_size_is_read, {"a.2", "b.2"}),
}


def keep_of(sites: sc.Sites) -> dict[str, Tensor]:
    """Two thirds of the units."""
    return {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}


@pytest.mark.parametrize("name", TIED)
def test_units_of_a_border_are_cut_on_both_sides(name: str) -> None:
    forward, borders = TIED[name]
    model, x = Parts(forward).eval(), torch.randn(2, 4)
    sites = sc.channels(model, x)
    assert sites.structure.graph.regions
    assert borders <= set(sites)
    keep = keep_of(sites)
    cut, masked = cut_with_plan(model, sites, keep), sc.mask(model, sites, keep).double()
    assert cut.model.a[2].out_features == cut.model.head[0].in_features == 4
    drawn = [draw for draw in cut.verification.draws if draw.startswith("the whole model with weights drawn anew")]
    assert len(drawn) == 4
    assert "batch" in drawn[-1]
    small = cut.model.double()
    for seed in range(4):
        other = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed)).double() * (seed - 1)
        with torch.no_grad():
            assert difference(masked(other), small(other)) <= 1e-9


def function_between(m: Parts, x: Tensor) -> Tensor:
    return m.head(m.a(x).relu())


def decided_by_it(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(h) if h.sum() > -1e9 else h


def returned(m: Parts, x: Tensor) -> Tensor:
    return (h := m.a(x)), m.head(h)  # type: ignore[return-value]


def kept(m: Parts, x: Tensor) -> Tensor:
    m.last = m.a(x)  # type: ignore[assignment]
    return m.head(m.last)


def its_size_is_read(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(h) * h.shape[-1]


def its_sizes_are_taken_apart(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    _, width = h.shape
    return m.head(h) * width


def at_times_from_outside(m: Parts, x: Tensor) -> Tensor:
    return m.head(m.a(x)) + m.head(torch.ones(2, 6))


def seen_in_training(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(h) + (h[:, :2].mean() if m.training else 0.0)


APART: dict[str, Forward] = {
    forward.__name__: forward
    for forward in (
        function_between,
        decided_by_it,
        returned,
        kept,
        its_size_is_read,
        its_sizes_are_taken_apart,
        at_times_from_outside,
        seen_in_training,
    )
}


class Returning(Parts):
    """Returns as it is what is passed."""

    def forward(self, x: Tensor) -> Tensor:
        return self.passes(self, x if x.sum() > 0 else -x)


@pytest.mark.parametrize("name", APART)
def test_a_border_that_something_else_sees_stays(name: str) -> None:
    model, x = Returning(APART[name]).eval(), torch.randn(2, 4)
    sites = sc.channels(model, x)
    assert sites.structure.graph.regions
    assert sites.frozen["a.2"].startswith("it leaves a, and what takes it cannot be traced")
    assert cut_with_plan(model, sites, keep_of(sites)).model.a[2].out_features == 6


def test_a_border_stays_where_the_example_leaves_a_part_out() -> None:
    class Ways(nn.Module):
        """On other inputs the other head takes the features."""

        def __init__(self) -> None:
            super().__init__()
            self.a, self.head, self.other = mlp(4, 8, 6), mlp(6, 5, 3), mlp(6, 5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            y: Tensor = self.head(h) if x.sum() > 0 else self.other(h)
            return y

    model, x = Ways().eval(), torch.ones(2, 4)
    sites = sc.channels(model, x)
    assert "a.2" in sites.frozen
    assert sc.cut(model, sites, keep_of(sites))(-x).shape == (2, 3)


def test_a_norm_behind_a_border_sees_the_units_that_stay() -> None:
    model, x = Parts(of_head_alone).eval(), torch.randn(2, 4)
    model.head = nn.Sequential(nn.LayerNorm(6), mlp(6, 5, 3))
    sites = sc.channels(model, x)
    keep = keep_of(sites)
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    assert small.head[0].normalized_shape == (4,)
    torch.testing.assert_close(small(x), masked(x))


def skips(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(h) if x.std() < 0.01 else m.head(m.b(h))


def skips_unless_finite(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    if not bool(x.abs().amax() < 50):
        return m.head(h)
    return m.head(m.b(h))


def as_often_as_they_say(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    for _ in range(int(x.abs().sum()) % 3 + 1):
        h = m.b(h)
    return m.head(h)


def turned(m: Parts, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    return m.head(h.flip(1) if x.tolist()[0][0] < -20 else h)


def turned_by_how_many(m: Parts, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    return m.head(h.flip(1) if len((x[:, 0] < -20).nonzero()) else h)


def chosen(m: Parts, x: Tensor) -> Tensor:
    h = [m.a(x), m.b(m.a(x))]
    return m.head(h[(x[0, 0] < -20).long()])


def sorted_by_them(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    for place in sorted(range(2), key=lambda place: float(x[0, place])):
        h = m.b(h) if place else h
    return m.head(h)


def still_at_hand(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    y = m.head(m.b(h))
    return y if x.amax() < 50 else y + h.mean()


def handed_again(m: Parts, x: Tensor) -> Tensor:
    h = m.b(m.a(x))
    y: Tensor = m.head(h)
    return y if x.amax() < 50 else m.head(m.b(h))


def by_what_it_learned(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    if m.head[0].bias.detach()[:1].sum() > 1e9:
        return m.head(h)
    return m.head(m.b(h))


def by_a_draw(m: Parts, x: Tensor) -> Tensor:
    h = m.a(x)
    return m.head(h) if torch.rand(()) > 1 else m.head(m.b(h))


DECIDED: dict[str, Forward] = {
    forward.__name__: forward
    for forward in (
        skips,
        skips_unless_finite,
        as_often_as_they_say,
        turned,
        turned_by_how_many,
        chosen,
        sorted_by_them,
        still_at_hand,
        handed_again,
        by_what_it_learned,
        by_a_draw,
    )
}


@pytest.mark.parametrize("name", DECIDED)
def test_a_border_stays_that_a_branch_not_taken_may_cross_elsewhere(name: str) -> None:
    model, x = Parts(DECIDED[name]).eval(), torch.randn(2, 4)
    sites = sc.channels(model, x)
    assert sites.structure.graph.regions
    assert {"a.2", "b.2"} <= set(sites.frozen)
    keep = keep_of(sites)
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    for scale in (1e-3, 1, -1, 5, 100, -100):
        torch.testing.assert_close(small(x * scale), masked(x * scale))


def test_a_loop_hands_a_tensor_back_to_the_region_that_made_it() -> None:
    def loop(m: Parts, x: Tensor) -> Tensor:
        h = m.a(x)
        for _ in range(2):
            h = m.b(h)
        return m.head(h)

    model, x = Parts(loop).eval(), torch.full((2, 4), 0.25)
    sites = sc.channels(model, x)
    assert "a.2" in sites
    keep = keep_of(sites)
    small, masked = sc.cut(model, sites, keep), sc.mask(model, sites, keep)
    for scale in (1, 2, 3, 4):
        torch.testing.assert_close(small(x * scale), masked(x * scale))


def of_chosen_rows(m: Parts, x: Tensor) -> Tensor:
    """As many rows go on as are good enough."""
    good = m.head(m.a(x)).sum(1) > 0
    return m.head(m.a(x[good])).sum(0)


def test_another_number_of_rows_passes_a_border_in_the_masked_model() -> None:
    torch.manual_seed(3)
    model, x = Parts(of_chosen_rows).eval(), torch.randn(32, 4)
    sites = sc.channels(model, x)
    keep = {"a.2": torch.arange(6) < 2}
    masked = sc.mask(model, sites, keep)
    rows = [int((m.head(m.a(x)).sum(1) > 0).sum()) for m in (model, masked)]
    assert rows[0] != rows[1]
    torch.testing.assert_close(sc.cut(model, sites, keep)(x), masked(x))


def test_what_goes_wrong_behind_a_border_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole runs: nothing else compares regions whose inputs are of other sizes."""
    model, x = Parts(before_a_decision).eval(), torch.randn(2, 4)
    sites = sc.channels(model, x)
    apply_plan = cutting.apply_plan

    def wrong(model: nn.Module, plan: cutting.Plan) -> nn.Module:
        small = apply_plan(model, plan)
        small.passes = lambda m, x: m.head(m.b(m.a(x)).flip(1))
        return small

    monkeypatch.setattr(cutting, "apply_plan", wrong)
    with pytest.raises(sc.VerificationError, match="whole cut model differs"):
        sc.cut(model, sites, keep_of(sites))
