"""Models in which values decide how many rows there are, and nothing else: they are traced whole, flat ones too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from oracle import masked
from secateur.structure.cutting import cut_with_plan

Body = Callable[["Flat", Tensor], Tensor]


class Flat(nn.Module):
    """Three layers and no module around any of them."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.first, self.second, self.last = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def head(net: Flat, h: Tensor) -> Tensor:
    y: Tensor = net.last(net.second(h).relu())
    return y


def written_where_a_mask_says(net: Flat, x: Tensor) -> Tensor:
    h = net.first(x).relu()
    chosen = x.mean(-1) > 0
    h = h.clone()
    h[chosen] = 2 * h[chosen] + net.second.weight.sum(0)
    return head(net, h)


def chosen_by_a_mask(net: Flat, x: Tensor) -> Tensor:
    h = net.first(x).relu()
    return head(net, h[h[..., 0] > 0.1])


def answers_put_where_a_mask_says(net: Flat, x: Tensor) -> Tensor:
    h = net.first(x).relu()
    chosen = h.sum(-1) > 1
    y = x.new_zeros(*x.shape[:-1], 3)
    y[chosen] = head(net, h[chosen])
    return y


def places_that_are_not_zero(net: Flat, x: Tensor) -> Tensor:
    h = net.first(x).relu()
    return head(net, h[(h.sum(-1) > 1).nonzero(as_tuple=True)]).sum(0)


def the_first_as_a_number_says(net: Flat, x: Tensor) -> Tensor:
    h = net.first(x).relu().flatten(0, 1)
    return head(net, h.narrow(0, 0, (h.sum(-1) > 1).sum().item()))


BODIES = {
    body.__name__: body
    for body in (
        written_where_a_mask_says,
        chosen_by_a_mask,
        answers_put_where_a_mask_says,
        places_that_are_not_zero,
        the_first_as_a_number_says,
    )
}


def keep_of(sites: sc.Sites) -> dict[str, Tensor]:
    """Without the last third of the units of each site."""
    return {name: torch.arange(site.size) < site.size - site.size // 3 for name, site in sites.items()}


def built(body: Body) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Flat(body).eval(), torch.randn(4, 5, 6)


@pytest.mark.parametrize("name", BODIES)
def test_a_flat_model_is_cut(name: str) -> None:
    model, x = built(BODIES[name])
    sites = sc.channels(model, x)
    assert "second" in sites
    keep = keep_of(sites)
    cut = cut_with_plan(model, sites, keep)
    assert type(cut.model) is Flat
    assert cut.verification.double is not None
    assert cut.verification.double <= 1e-9
    full, small = masked.zeroed(model, sites, keep).double(), cut.model.double()
    for seed in range(4):  # other values, of which others are chosen
        y = torch.randn(3, 7, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * (seed + 0.5)
        assert masked.relative_difference(masked.run(full, (y,)), masked.run(small, (y,))) <= 1e-9


def test_the_numbers_of_rows_differ_where_a_decision_hangs_on_what_was_cut() -> None:
    """The rows that the masked model chooses are those that the cut one chooses, not those of the model itself."""
    model, x = built(answers_put_where_a_mask_says)
    sites = sc.channels(model, x)
    keep = {"first": torch.arange(10) < 3}
    with torch.no_grad():
        rows = [int((net(x).abs().sum(-1) > 0).sum()) for net in (model, sc.cut(model, sites, keep))]
    assert rows[1] < rows[0]


def test_no_graph_is_written_of_it() -> None:
    model, x = built(chosen_by_a_mask)
    sites = sc.channels(model, x)
    with pytest.raises(sc.CutError, match="hangs on the values of its tensors"):
        sc.cut(model, sites, keep_of(sites), form="graph")


def test_it_is_scored_by_data() -> None:
    model, x = built(answers_put_where_a_mask_says)
    data = torch.randn(12, 5, 6), torch.randn(12, 5, 3)
    result = sc.prune(model, x, "taylor", data=data, loss="mse", sparsity=0.3, latency=False)
    assert sum(p.numel() for p in result.model.parameters()) < sum(p.numel() for p in model.parameters())


class Routed(nn.Module):
    """Experts in one weight, each of which is given the rows that a router sends to it, in one product a part."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.out = nn.Linear(8, 3), nn.Linear(8, 4)
        self.up, self.down = (nn.Parameter(torch.randn(3, *shape) / 3) for shape in ((12, 8), (8, 12)))

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        weight, expert = self.router(rows).softmax(-1).max(-1)
        order = expert.argsort(stable=True)
        counts = nn.functional.one_hot(expert, 3).sum(0).tolist()
        sent = [part @ self.up[at].T for at, part in enumerate(rows[order].split(counts))]
        hidden = torch.cat(sent).relu().split(counts)
        answers = torch.cat([part @ self.down[at].T for at, part in enumerate(hidden)]) * weight[order][:, None]
        y: Tensor = self.out(torch.zeros_like(rows).index_add(0, order, answers) + rows).view(*x.shape[:-1], 4)
        return y


def test_experts_that_are_given_as_many_rows_as_a_router_says() -> None:
    torch.manual_seed(0)
    model, x = Routed().eval(), torch.randn(2, 9, 8)
    sites = sc.channels(model, x)
    assert {site.size for site in sites.values()} == {12}
    keep = keep_of(sites)
    small = sc.cut(model, sites, keep).double()
    full = masked.zeroed(model, sites, keep).double()
    y = torch.randn(3, 11, 8, dtype=torch.float64)
    assert masked.relative_difference(masked.run(full, (y,)), masked.run(small, (y,))) <= 1e-9


def decided_outright(net: Flat, x: Tensor) -> Tensor:
    h = net.first(x).relu()
    if h.sum() > 0:
        h = 2 * h
    return head(net, h)


def test_a_flat_model_that_decides_outright_is_refused_with_the_line_and_the_remedy() -> None:
    with pytest.raises(sc.TraceError, match=r"test_ragged.py:\d+ \(if h.sum\(\) > 0:\)(.|\n)*into submodules"):
        sc.channels(*built(decided_outright))


class Noisy(nn.Module):
    """Half of what it hides is left out at random whenever it runs, as speech decoders do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        h = torch.where(torch.bernoulli(torch.full_like(h[0], 0.5)) == 1, h, 0) * 2
        h = nn.functional.dropout(h, 0.1, training=True)
        y: Tensor = self.last(self.second(h).relu())
        return y


def test_units_for_which_random_numbers_are_drawn_stay() -> None:
    torch.manual_seed(0)
    model, x = Noisy().eval(), torch.randn(4, 6)
    sites = sc.channels(model, x)
    assert set(sites) == {"second"}
    assert "random numbers" in sites.frozen["first"]
    assert sc.cut(model, sites, keep_of(sites)).last.in_features == 6


def test_remedies_do_not_go_in_a_circle() -> None:
    """Where no graph can stand in for a module that cannot run, neither error asks for the other's form."""

    class Literal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = nn.Linear(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            h = self.a(x) if mask.all() else self.a(x) * mask[..., None]
            made: Tensor = self.c(h.view(*h.shape[:-1], 2, 8).flatten(-2))
            return made

    inputs = torch.randn(2, 5, 6), torch.ones(2, 5, dtype=torch.bool)
    model = Literal()
    sites = sc.channels(model, inputs)
    for form in ("auto", "module"):
        with pytest.raises(sc.CutError, match=r"has no graph: .*; leave the site out with ignore=\.$") as refused:
            sc.cut(model, sites, keep_of(sites), form=form)  # type: ignore[arg-type]
        assert 'form="graph"' not in str(refused.value)
    with pytest.raises(sc.CutError, match=r"has no graph: .* leave form= out"):
        sc.cut(model, sites, keep_of(sites), form="graph")
