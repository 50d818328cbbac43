"""Models that decide by the values of tensors: cut inside the largest submodules that can be traced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.structure.cutting import cut_with_plan
from secateur.structure.difference import difference
from secateur.structure.trace import trace
from zoo import DECIDING, build
from zoo.deciding import mlp

# The regions of each model and its sites.
REGIONS = {
    "early_exit": ({"blocks.0", "exits.0"}, 2),
    "two_ways": ({"stem", "above"}, 2),
    "boolean_indexing": ({"gate", "body"}, 2),
    "until_convergence": ({"step", "head"}, 2),
    "nonzero": ({"backbone", "head"}, 2),
    "pyramid": ({"backbone", "head"}, 3),
    "used_outside": ({"body"}, 0),
    "recurrent_until_stopped": ({"parts.encoder", "head"}, 2),
}


def keep_of(sites: sc.Sites, share: float = 0.3) -> dict[str, Tensor]:
    """Without the first units of each site."""
    return {name: torch.arange(site.size) >= max(1, int(share * site.size)) for name, site in sites.items()}


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_the_table_names_every_model() -> None:
    assert set(REGIONS) == set(DECIDING)


@pytest.mark.parametrize("name", DECIDING)
def test_it_cannot_be_traced_whole(name: str) -> None:
    with pytest.raises(sc.TraceError, match="cannot be traced"):
        trace(*build(name))


@pytest.mark.parametrize("name", DECIDING)
def test_regions(name: str) -> None:
    sites = sc.channels(*build(name))
    paths, count = REGIONS[name]
    assert {region.path for region in sites.structure.graph.regions} == paths
    assert len(sites) == count


@pytest.mark.parametrize("name", [name for name in DECIDING if REGIONS[name][1]])
def test_cut(name: str) -> None:
    model, inputs = build(name)
    sites = sc.channels(model, inputs)
    keep = keep_of(sites)
    cut = cut_with_plan(model, sites, keep)
    assert size(cut.model) < size(model)
    assert cut.verification.double is not None
    assert cut.verification.double <= 1e-9
    assert not any("whole model" in reason for reason in cut.verification.skipped)
    if sites.structure.ties.statistics:
        return  # the norms of the masked model see other channels
    masked = sc.mask(model, sites, keep).double()
    small = cut.model.double()
    for seed in range(5):  # other values, by which it may decide otherwise
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(inputs[0].shape, generator=generator, dtype=torch.float64) * (seed - 2)
        with torch.no_grad():
            assert difference(masked(x), small(x)) <= 1e-9


def test_a_norm_over_cut_channels_is_verified_in_the_whole_model() -> None:
    """With whole groups gone the other groups see the same channels, so the masked model can be run as it is."""
    model, inputs = build("pyramid")
    sites = sc.channels(model, inputs)
    assert sites.structure.ties.statistics
    keep = {"head.0": torch.tensor([True, False, True])}
    small, masked = sc.cut(model, sites, keep).double(), sc.mask(model, sites, keep).double()
    assert small.head[1].num_groups == 2
    x = inputs[0].double()
    with torch.no_grad():
        assert difference(masked(x), small(x)) <= 1e-9


def test_what_is_used_outside_of_the_regions_is_frozen() -> None:
    sites = sc.channels(*build("used_outside"))
    assert "what cannot be traced uses it, too" in sites.frozen.values()


def test_borders_are_frozen_with_the_reason() -> None:
    sites = sc.channels(*build("two_ways"))
    assert sites.frozen["above.2"] == "it leaves above, and what takes it cannot be traced"
    assert sites.frozen["below.0"] == "the example inputs never run it"


class Literal(nn.Module):
    """A branch that the example does not take reads the first features of a region."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(4, 8, 6), mlp(3, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        y: Tensor = self.head(h[:, :3]) if h.sum() > 1e9 else h
        return y


def test_a_branch_that_the_example_does_not_take_sees_the_sizes_that_it_knows() -> None:
    model, x = Literal(), torch.randn(2, 4)
    sites = sc.channels(model, x)
    cut = sc.cut(model, sites, keep_of(sites))
    with torch.no_grad():
        cut.body[2].bias.fill_(1e12)
    assert cut(x).shape == (2, 2)


class Single(nn.Module):
    """A layer that what cannot be traced stands around, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.only(x) if x.sum() > 0 else x
        return y


def test_nothing_to_cut_between_decisions() -> None:
    with pytest.raises(sc.TraceError, match="None of its submodules"):
        sc.channels(Single(), torch.ones(1, 4))


def test_a_model_in_regions_has_no_graph() -> None:
    model, inputs = build("two_ways")
    sites = sc.channels(model, inputs)
    with pytest.raises(sc.CutError, match="has no graph"):
        sc.cut(model, sites, keep_of(sites), form="graph")


def test_a_wrong_cut_is_seen_in_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A region that answers something else than its masked self, as a cut that went wrong would."""
    model, inputs = build("two_ways")
    sites = sc.channels(model, inputs)
    keep = keep_of(sites)
    from secateur.structure import cutting

    apply = cutting.apply_plan

    def wrong(whole: nn.Module, plan: cutting.Plan) -> nn.Module:
        small = apply(whole, plan)
        small.stem.register_forward_hook(lambda _m, _a, answer: answer * 1.001)
        return small

    monkeypatch.setattr(cutting, "apply_plan", wrong)
    with pytest.raises(sc.VerificationError, match="differs"):
        sc.cut(model, sites, keep)


def test_prune_save_and_load(tmp_path: Path) -> None:
    model, inputs = build("two_ways")
    result = sc.prune(model, inputs[0], latency=False)
    assert result.report.macs[1] < result.report.macs[0]
    result.save(tmp_path / "small")
    loaded = sc.load(tmp_path / "small", build("two_ways")[0])
    assert torch.equal(loaded(inputs[0]), result.model(inputs[0]))


def test_the_model_is_left_as_it_is() -> None:
    model, inputs = build("early_exit")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    sites = sc.channels(model, inputs)
    sc.cut(model, sites, keep_of(sites))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]


def test_prune_by_data_says_that_it_was_not_scored_by_them() -> None:
    model, inputs = build("two_ways")
    data = torch.randn(8, 3, 16, 16), torch.zeros(8, dtype=torch.long)
    result = sc.prune(model, inputs[0], data=data, latency=False)
    assert any("not scored by the data" in warning for warning in result.method.warnings)
    assert size(result.model) < size(model)


def test_what_runs_the_graph_on_data_says_what_to_do() -> None:
    model, inputs = build("two_ways")
    data = torch.randn(8, 3, 16, 16), torch.zeros(8, dtype=torch.long)
    sites = sc.channels(model, inputs)
    with pytest.raises(sc.TraceError, match="choose a criterion of the weights"):
        sc.criteria.by_name("taylor", data)(model, sites)
    with pytest.warns(UserWarning, match="runs the whole model once for each unit"):
        assert set(sc.criteria.by_name("loss-change", data)(model, sites)) == set(sites)


def test_decisions_that_no_weight_changes_are_traced_and_never_written_as_a_graph() -> None:
    model, inputs = build("decided_by_tokens")
    graph = trace(model, inputs)
    assert graph.decided
    assert not graph.regions
    sites = sc.channels(model, inputs)
    assert type(sc.cut(model, sites, keep_of(sites))) is type(model)
    with pytest.raises(sc.CutError, match="hangs on the values of its tensors"):
        sc.cut(model, sites, keep_of(sites), form="graph")


@pytest.mark.parametrize("site", ["project", "project:2", "project:3"])
def test_attributes_of_one_value_are_told_apart(site: str) -> None:
    model, inputs = build("sizes_alike")
    sites = sc.channels(model, inputs)
    cut = sc.cut(model, sites, {site: torch.arange(sites[site].size) > 0}, form="module")
    assert size(cut) < size(model)


def test_a_number_that_stands_in_two_rows_of_sizes_is_told_apart() -> None:
    model, inputs = build("rows_of_sizes")
    sites = sc.channels(model, inputs)
    keep = {
        name: torch.arange(sites[name].size) >= number for number, name in enumerate(("patches", "hidden"), start=1)
    }
    cut = sc.cut(model, sites, keep, form="module")
    assert (cut.maps, cut.rows) == ([4, 4, 11], [1, 16, 10])


class Nests(nn.Module):
    """What stands in its middle, or all that it returns, is of nested tensors, which cannot be traced."""

    def __init__(self, layout: torch.layout, padded: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
        self.middle, self.head = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))
        self.layout, self.padded = layout, padded

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        h = self.middle(torch.nested.as_nested_tensor([x[0], x[1, :2]], layout=self.layout))
        return self.head(torch.nested.to_padded_tensor(h, 0.0)) if self.padded else h


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.parametrize("padded", [True, False])
def test_what_stands_around_nested_tensors_is_cut(layout: torch.layout, padded: bool) -> None:
    torch.manual_seed(0)
    model, x = Nests(layout, padded), torch.randn(2, 4, 8)
    sites = sc.channels(model, x)
    assert set(sites) == ({"body.0", "head.0"} if padded else {"body.0"})
    keep = {"body.0": torch.arange(16) % 3 != 1}
    answers = (made(x) for made in (sc.cut(model, sites, keep), sc.mask(model, sites, keep)))
    small, masked = (y if padded else torch.nested.to_padded_tensor(y, 0.0) for y in answers)
    torch.testing.assert_close(small, masked)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_are_refused_with_a_remedy() -> None:
    nested = torch.nested.nested_tensor([torch.randn(3, 8), torch.randn(2, 8)])
    with pytest.raises(sc.InputError, match=r"nested tensors; pad them, as by torch\.nested\.to_padded_tensor"):
        sc.channels(nn.Linear(8, 3), nested)

    class Inner(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(torch.nested.as_nested_tensor([x[0], x[1, :2]]))

    with pytest.raises(sc.TraceError, match="makes nested tensors, which torch does not export: pad them"):
        sc.channels(Inner(8, 3), torch.randn(2, 4, 8))
