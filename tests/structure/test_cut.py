"""Cutting: shapes and numbers by hand, what is kept as it was, and that a wrong cut is never returned."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
import zoo
from secateur.criteria import Magnitude
from secateur.selection import select
from secateur.structure import channels, cut, mask, weights
from secateur.structure.cutting import Plan, cut_with_plan
from secateur.structure.rules import RULES, Call, Value
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import CutError, InputError, Keep, Sites, UnknownNameError, VerificationError

# `secateur.structure` has a function of this name, which hides the module from a plain import.
cutting = importlib.import_module("secateur.structure.cutting")


def bits(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.bool)


def alternate(sites: Sites) -> dict[str, Tensor]:
    """Every second unit of every site, the first one kept."""
    return {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items()}


def outputs(model: nn.Module, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        made: Tensor = model.eval()(*inputs)
    return made


def test_an_mlp_by_hand() -> None:
    model = hand_mlp()
    small = cut(model, channels(model, torch.ones(1, 2)), {"0": bits(1, 0, 1)})
    assert {name: p.tolist() for name, p in small.state_dict().items()} == {
        "0.weight": [[1, 2], [3, -1]],
        "0.bias": [0, 0],
        "2.weight": [[1, 0], [2, 4]],
        "2.bias": [0, -1],
    }
    assert repr(small[0]) == "Linear(in_features=2, out_features=2, bias=True)"  # type: ignore[index]
    assert repr(small[2]) == "Linear(in_features=2, out_features=2, bias=True)"  # type: ignore[index]
    assert small(torch.tensor([[1.0, 2.0]])).tolist() == [[5, 13]]


def test_a_cnn_loses_filters_statistics_and_columns() -> None:
    toy = TOYS["cnn"]
    model = toy.build()
    small: Any = cut(model, channels(model, toy.inputs()), {"0": bits(1, 0, 0, 1), "4": bits(0, 1, 1, 0, 1)})
    old: Any = model
    assert torch.equal(small[0].weight, old[0].weight[[0, 3]])
    assert torch.equal(small[1].running_mean, old[1].running_mean[[0, 3]])
    assert torch.equal(small[1].running_var, old[1].running_var[[0, 3]])
    assert torch.equal(small[1].num_batches_tracked, old[1].num_batches_tracked)
    assert torch.equal(small[4].weight, old[4].weight[[1, 2, 4]][:, [0, 3]])
    columns = [4, 5, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19]
    assert torch.equal(small[7].weight, old[7].weight[:, columns])
    assert (small[0].out_channels, small[1].num_features, small[4].in_channels, small[4].out_channels) == (2, 2, 2, 3)
    assert (small[7].in_features, small[7].out_features) == (12, 3)


@pytest.mark.parametrize("name", list(TOYS))
def test_cut_equals_masked_on_other_inputs(name: str) -> None:
    """Attention has a layer norm: there `mask` takes its statistics over zeros too, so it is compared elsewhere."""
    toy = TOYS[name]
    model = toy.build(torch.float64)
    sites = channels(model, toy.inputs(dtype=torch.float64), ignore=["embed"] if name == "attention" else ())
    keep = alternate(sites)
    small = cut(model, sites, keep)
    x = toy.inputs(batch=11, seed=9, dtype=torch.float64)
    torch.testing.assert_close(outputs(small, x), outputs(mask(model, sites, keep), x), rtol=1e-10, atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_a_layer_norm_takes_its_statistics_over_the_kept_units() -> None:
    """By hand: kept units (1, 3) have mean 2 and variance 1, so the norm gives ∓1, and the output 3·1 − 1 = 2."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.LayerNorm(3, eps=0.0), nn.Linear(3, 1, bias=False))
    linear: Any = model[0]
    last: Any = model[2]
    linear.weight.data = torch.eye(3)
    last.weight.data = torch.tensor([[1.0, 7.0, 3.0]])
    x = torch.tensor([[1.0, 100.0, 3.0]])
    small = cut(model, channels(model, x), {"0": bits(1, 0, 1)})
    assert outputs(small, x).item() == pytest.approx(2)
    assert small[1].normalized_shape == (2,)  # type: ignore[index, union-attr]


def test_attributes_that_repeat_sizes_are_mended() -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1),
        nn.PReLU(4),
        nn.GroupNorm(2, 4),
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.InstanceNorm2d(4, affine=True),
        nn.ConvTranspose2d(4, 6, 1),
        nn.BatchNorm2d(6),
        nn.Conv2d(6, 2, 1),
    ).eval()
    x = torch.randn(2, 2, 4, 4)
    sites = channels(model, x)
    small: Any = cut(model, sites, alternate(sites))
    out = [small[i] for i in range(8)]
    width, wide = out[0].out_channels, out[5].out_channels
    assert width < 4
    assert wide == 3
    assert out[1].num_parameters == width == out[1].weight.numel()
    assert (out[2].num_channels, out[2].weight.numel()) == (width, width)
    assert (out[3].in_channels, out[3].out_channels, out[3].groups) == (width, width, width)
    assert out[3].weight.shape == (width, 1, 3, 3)
    assert out[4].num_features == width
    assert (out[5].in_channels, out[6].num_features, out[7].in_channels) == (width, wide, wide)


def test_groups_shrink_alike() -> None:
    toy = TOYS["grouped"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    small: Any = cut(model, sites, alternate(sites))
    for conv in (small.grouped, small.depthwise):
        assert conv.weight.shape[0] == conv.out_channels
        assert conv.weight.shape[1] * conv.groups == conv.in_channels
        assert conv.out_channels % conv.groups == 0
    assert small.fc.in_features == small.grouped.out_channels + small.depthwise.out_channels


@pytest.mark.parametrize("name", list(TOYS))
def test_what_is_kept_as_it_was(name: str) -> None:
    toy = TOYS[name]
    model = toy.build().train()
    first = next(iter(model.children()))
    first.eval()
    frozen = next(name for name, _ in model.named_parameters())
    model.get_parameter(frozen).requires_grad_(False)
    sites = channels(model, toy.inputs())
    before = snapshot(model)
    small = cut(model, sites, alternate(sites))
    assert same_state(before, snapshot(model))
    assert type(small) is type(model)
    assert list(small.state_dict()) == list(model.state_dict())
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    for new, old in zip(small.named_parameters(), model.named_parameters(), strict=True):
        assert (new[0], new[1].requires_grad, new[1].dtype, type(new[1])) == (
            old[0],
            old[1].requires_grad,
            old[1].dtype,
            type(old[1]),
        )
        assert new[1].is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes_stay(dtype: torch.dtype) -> None:
    toy = TOYS["cnn"]
    model = toy.build(dtype)
    sites = channels(model, toy.inputs(dtype=dtype))
    small = cut(model, sites, alternate(sites), tolerance=1e-4 if dtype is torch.float64 else 0.05)
    assert {p.dtype for p in small.parameters()} == {dtype}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_passes_the_default_tolerance(dtype: torch.dtype) -> None:
    """What is right must be returned: rounding of half precision is no difference."""
    toy = TOYS["residual"]
    model = toy.build(dtype)
    sites = channels(model, toy.inputs(dtype=dtype))
    cut(model, sites, alternate(sites))


def test_the_copy_is_independent_both_ways() -> None:
    toy = TOYS["residual"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    small = cut(model, sites, {"conv1": bits(1, 1, 1, 0, 0, 0)})
    before = snapshot(model)
    with torch.no_grad():
        for tensor in [*small.parameters(), *small.buffers()]:
            tensor.fill_(3)
    assert same_state(before, snapshot(model))
    storages = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    assert not storages & {t.untyped_storage().data_ptr() for t in [*small.parameters(), *small.buffers()]}


def test_a_small_tensor_does_not_hold_on_to_the_large_one_s_memory() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))
    sites = channels(model, torch.ones(1, 8))
    small = cut(model, sites, {"0": torch.arange(64) < 2})
    assert all(p.untyped_storage().nbytes() == p.numel() * 4 for p in small.parameters())


class Tied(nn.Module):
    """Encodes and decodes with one weight, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.again = nn.Linear(6, 6)
        self.again.weight = self.first.weight
        self.inner = nn.Linear(6, 5)
        self.out = nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.again(self.out(torch.relu(self.inner(self.first(x)))))
        return made


def test_shared_parameters_stay_shared() -> None:
    model = Tied()
    sites = channels(model, torch.randn(2, 6))
    small: Any = cut(model, sites, alternate(sites))
    assert small.again.weight is small.first.weight
    assert small.inner.out_features == 3
    assert len(list(small.parameters())) == len(list(model.parameters()))


def test_a_module_that_is_used_twice_stays_one() -> None:
    shared = nn.BatchNorm1d(4)
    model = nn.Sequential(nn.Linear(3, 4), shared, nn.Linear(4, 4), shared, nn.Linear(4, 2)).eval()
    sites = channels(model, torch.randn(2, 3))
    assert list(sites) == ["0"]
    small: Any = cut(model, sites, {"0": bits(1, 0, 1, 0)})
    assert small[1] is small[3]
    assert small[2].weight.shape == (2, 2)


def test_hooks_are_kept_and_do_not_run_on_the_original() -> None:
    model = hand_mlp()
    calls: list[str] = []
    model[0].register_forward_hook(lambda m, a, o: calls.append("forward"))
    sites = channels(model, torch.ones(1, 2))
    small: Any = cut(model, sites, {"0": bits(1, 0, 1)})
    calls.clear()
    small(torch.ones(1, 2))
    assert calls == ["forward"]


def test_buffers_outside_the_state_dict_shrink_too() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]), persistent=False)
            self.scale: Tensor

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.out(self.fc(x) * self.scale)
            return made

    model = Table()
    small: Any = cut(model, channels(model, torch.randn(2, 3)), {"fc": bits(0, 1, 0, 1)})
    assert small.scale.tolist() == [2, 4]
    assert "scale" not in small.state_dict()


@pytest.mark.parametrize("name", list(TOYS))
def test_removing_nothing_returns_an_equal_copy(name: str) -> None:
    toy = TOYS[name]
    model = toy.build()
    sites = channels(model, toy.inputs())
    everything = {n: torch.ones(site.shape, dtype=torch.bool) for n, site in sites.items()}
    for keep in ({}, everything):
        made = cut_with_plan(model, sites, keep)
        assert made.model is not model
        assert made.verification.example == 0
        assert not made.plan.rows
        assert not made.plan.attributes
        assert all(torch.equal(a, b) for a, b in zip(made.model.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize("name", list(TOYS))
def test_all_but_one_unit_of_every_site_can_go(name: str) -> None:
    toy = TOYS[name]
    model = toy.build()
    sites = channels(model, toy.inputs())
    for at in (0, -1):
        keep = {n: torch.zeros(site.shape, dtype=torch.bool) for n, site in sites.items()}
        for kept in keep.values():
            kept[at] = True
        small = cut(model, sites, keep)
        assert outputs(small, toy.inputs()).shape == outputs(model, toy.inputs()).shape


def test_cutting_twice_is_cutting_at_once() -> None:
    toy = TOYS["residual"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    once = cut(model, sites, {"stem": bits(0, 1, 0, 1), "conv1": bits(1, 1, 0, 1, 0, 0)})
    half = cut(model, sites, {"stem": bits(0, 1, 1, 1), "conv1": bits(1, 1, 0, 1, 1, 1)})
    again = channels(half, toy.inputs())
    twice = cut(half, again, {"stem": bits(1, 0, 1), "conv1": bits(1, 1, 1, 0, 0)})
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), twice.parameters(), strict=True))


def test_the_small_model_trains() -> None:
    toy = TOYS["residual"]
    model = toy.build()
    sites = channels(model, toy.inputs())
    small = cut(model, sites, alternate(sites)).train()
    small(toy.inputs()).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in small.parameters())


class Literal(nn.Module):
    """A size is written into the code: after a cut in the first part, ``[:, :2]`` is something else."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(2, 4), nn.Linear(4, 1)
        with torch.no_grad():
            self.fc.weight.mul_(scale)
            self.fc.bias.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        h = torch.cat([h[:, :2], torch.tanh(h[:, 2:])], 1)
        made: Tensor = self.out(h)
        return made


@pytest.mark.parametrize("scale", [1.0, 0.05, 0.001])
def test_a_literal_in_the_code_is_never_misread_silently(scale: float) -> None:
    """With small values tanh(h) ≈ h, so that a wrong cut hardly shows on the example inputs; it shows on large ones."""
    model = Literal(scale).double()
    x = torch.randn(4, 2, dtype=torch.float64)
    sites = channels(model, x)
    first = next(name for name in sites if sites[name].members[0].index.min() == 0)  # type: ignore[union-attr]
    keep = {first: bits(0, 1)}
    small = cut(model, sites, keep)
    large = 5 * x / scale
    torch.testing.assert_close(outputs(small, large), outputs(mask(model, sites, keep), large))


def test_a_literal_in_the_code_is_refused_as_a_module_and_cut_as_a_graph() -> None:
    model = Literal()
    x = torch.randn(4, 2)
    sites = channels(model, x)
    keep = {next(iter(sites)): bits(0, 1)}
    before = snapshot(model)
    with pytest.raises(CutError):
        cut(model, sites, keep, form="module")
    assert same_state(before, snapshot(model))
    graph = cut(model, sites, keep, form="graph")
    assert isinstance(graph, torch.fx.GraphModule)
    torch.testing.assert_close(outputs(graph, x), outputs(mask(model, sites, keep), x))
    assert isinstance(cut(model, sites, keep), torch.fx.GraphModule)


def test_an_error_of_any_kind_in_the_forward_pass_is_no_way_out() -> None:
    """At width 1 the code divides by zero; the graph form has no such code."""

    class Divides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x)
            made: Tensor = self.out(h * (4 // (h.shape[1] // 2)))
            return made

    model = Divides()
    sites = channels(model, torch.randn(2, 2))
    with pytest.raises(CutError, match="cannot run"):
        cut(model, sites, {"fc": bits(1, 0, 0, 0)}, form="module")


def test_an_example_of_zeros_does_not_make_verification_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without biases every output at zero is zero, right or wrong."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    sites = channels(model, torch.zeros(1, 2))
    _permute_rows(monkeypatch)
    with pytest.raises(VerificationError):
        cut(model, sites, {"0": bits(1, 0, 1)})


def _permute_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every plan keep the wrong rows: those before the right ones, in a circle."""
    right = cutting.make_plan

    def wrong(*args: Any) -> Plan:
        plan = right(*args)
        rows = {name: dict(dims) for name, dims in plan.rows.items()}
        rows["0.weight"] = {0: (rows["0.weight"][0] + 1) % 3}
        return Plan(rows, plan.attributes)

    monkeypatch.setattr(cutting, "make_plan", wrong)


def test_a_wrong_plan_is_caught_and_the_model_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hand_mlp()
    sites = channels(model, torch.randn(4, 2))
    before = snapshot(model)
    _permute_rows(monkeypatch)
    with pytest.raises(VerificationError, match=r"differs from the masked one by .*not returned.*ignore="):
        cut(model, sites, {"0": bits(1, 0, 1)})
    assert same_state(before, snapshot(model))


@pytest.fixture
def _wrong_cat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule book in which a concatenation is read backwards."""
    right = RULES["cat"]

    def wrong(call: Call) -> Value | list[Value]:
        call.arguments["tensors"] = list(reversed(call["tensors"]))
        return right(call)

    monkeypatch.setitem(RULES, "cat", wrong)


@pytest.mark.usefixtures("_wrong_cat")
def test_a_wrong_rule_is_caught() -> None:
    """Read backwards, the columns of the last layer are the other branch's: the masked model shows it."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(6, 1)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.out(torch.cat([torch.relu(self.a(x)), torch.sigmoid(self.b(x))], 1))
            return made

    model = Branches()
    sites = channels(model, torch.randn(4, 2))
    with pytest.raises(VerificationError):
        cut(model, sites, {"a": bits(1, 0, 1)})


def test_an_axis_that_is_its_own_transpose() -> None:
    """The rows of the concatenation are alike, so a 2 × 2 axis meets its own transpose: left whole, or cut right."""

    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.out = nn.Linear(6, 4), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.fc(x)
            s = h.reshape(-1, 2, 2).transpose(1, 2).flatten(1)
            made: Tensor = self.out(torch.cat([h, s], 1).reshape(-1, 2, 4))
            return made

    model = Transposed()
    x = torch.randn(3, 6)
    sites = channels(model, x)
    keep = {name: torch.arange(site.size) > 0 for name, site in sites.items()}
    torch.testing.assert_close(outputs(cut(model, sites, keep), x), outputs(mask(model, sites, keep), x))


def test_tolerance_is_the_greatest_difference_allowed_on_the_example() -> None:
    model, inputs = zoo.build("residual")
    sites = channels(model, inputs)
    keep = select(Magnitude(p=2)(model, sites), 0.3, scope="layer")
    assert 0 < cut_with_plan(model, sites, keep).verification.example < 1e-6
    with pytest.raises(VerificationError, match="on the example"):
        cut(model, sites, keep, tolerance=0)


def test_no_tolerance_lets_a_fault_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = hand_mlp()
    sites = channels(model, torch.randn(4, 2))
    _permute_rows(monkeypatch)
    with pytest.raises(VerificationError, match="drawn anew"):
        cut(model, sites, {"0": bits(1, 0, 1)}, tolerance=1e6)


def test_an_empty_site_is_refused() -> None:
    model = hand_mlp()
    before = snapshot(model)
    with pytest.raises(CutError, match=r"every unit of '0' would go.*keep at least one"):
        cut(model, channels(model, torch.ones(1, 2)), {"0": bits(0, 0, 0)})
    assert same_state(before, snapshot(model))


def test_bad_masks_are_refused_and_the_model_left_alone() -> None:
    model = hand_mlp()
    sites = channels(model, torch.ones(1, 2))
    before = snapshot(model)
    cases: list[tuple[Any, type[Exception], str]] = [
        ({"0": torch.ones(3)}, InputError, "bool tensor"),
        ({"0": bits(1, 1)}, InputError, r"shape \(2,\); the site has \(3,\)"),
        ({"0": bits(1, 1, 1)[None]}, InputError, r"shape \(1, 3\)"),
        ({"zero": bits(1, 1, 1)}, UnknownNameError, "unknown site 'zero'"),
        ([bits(1, 1, 0)], InputError, "keep must be a mapping"),
        (bits(1, 1, 0), InputError, "keep must be a mapping"),
    ]
    for keep, error, message in cases:
        with pytest.raises(error, match=message):
            cut(model, sites, keep)
    assert same_state(before, snapshot(model))


def test_sites_of_another_model_or_of_single_weights_are_refused() -> None:
    model = hand_mlp()
    keep: Keep = {"0": bits(1, 0, 1)}
    other = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(InputError, match=r"belong to another model.*'0\.\w+' has shape"):
        cut(other, channels(model, torch.ones(1, 2)), keep)
    with pytest.raises(InputError, match="belong to another model"):
        cut(nn.Linear(2, 2), channels(model, torch.ones(1, 2)), keep)
    with pytest.raises(InputError, match="single weights"):
        cut(model, weights(model), {})


def test_an_unknown_form_is_refused() -> None:
    model = hand_mlp()
    with pytest.raises(UnknownNameError, match="unknown form 'grph'; did you mean 'graph'"):
        cut(model, channels(model, torch.ones(1, 2)), {}, form="grph")  # type: ignore[arg-type]


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), "small"])
def test_a_tolerance_that_is_no_bound_is_refused(tolerance: Any) -> None:
    model = hand_mlp()
    with pytest.raises(InputError, match="tolerance"):
        cut(model, channels(model, torch.ones(1, 2)), {"0": bits(1, 0, 1)}, tolerance=tolerance)


def test_the_random_state_is_as_it_was_with_dropout_in_training() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5), nn.ReLU(), nn.Linear(6, 2)).train()
    state = torch.get_rng_state()
    sites = channels(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(0)))
    small = cut(model, sites, alternate(sites))
    assert torch.equal(torch.get_rng_state(), state)
    assert small.training


def test_plans_are_plain_data() -> None:
    model = hand_mlp()
    plan = cut_with_plan(model, channels(model, torch.ones(1, 2)), {"0": bits(0, 1, 1)}).plan
    assert {name: {d: i.tolist() for d, i in dims.items()} for name, dims in plan.rows.items()} == {
        "0.weight": {0: [1, 2]},
        "0.bias": {0: [1, 2]},
        "2.weight": {1: [1, 2]},
    }
    assert plan.attributes == {"0": {"out_features": 2}, "2": {"in_features": 2}}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_takes_a_padding_mask_after_the_cut() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.inp, self.encoder, self.out = nn.Linear(6, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            made: Tensor = self.out(self.encoder(self.inp(x), src_key_padding_mask=mask)[:, 0])
            return made

    net = Encoder().eval()
    x, mask_ = torch.randn(3, 5, 6), torch.zeros(3, 5, dtype=torch.bool)
    mask_[0, 3:] = True
    sites = channels(net, x, ignore=("inp",))
    keep = select(Magnitude(p=2)(net, sites), 0.3, scope="layer")
    small = cut(net, sites, keep, form="module")
    with torch.no_grad():
        torch.testing.assert_close(small(x, mask_), mask(net, sites, keep)(x, mask_))
    assert not small.encoder.use_nested_tensor
    assert net.encoder.use_nested_tensor


class ByProducts(torch.nn.Module):
    """Attention over pairs as graph networks write it: ``(queries * keys).sum(-1)``, over the root of the size."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, 8
        self.q, self.k, self.v = (torch.nn.Linear(6, heads * 8) for _ in range(3))
        self.out = torch.nn.Linear(heads * 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (layer(x).view(-1, self.heads, self.width) for layer in (self.q, self.k, self.v))
        scores = (q * k).sum(-1) / math.sqrt(self.width)
        made: torch.Tensor = self.out((v * scores.sigmoid()[..., None]).flatten(1))
        return made


def test_a_temperature_of_products_is_no_size_to_cut() -> None:
    model, x = ByProducts(4).eval(), torch.randn(5, 6)
    result = sc.prune(model, x, sparsity=0.3, latency=False)
    assert type(result.model) is ByProducts
    assert "attention's temperature" in result.report.frozen["q.head_dim"]
    masked = sc.mask(model, result.sites, result.keep)
    torch.testing.assert_close(result.model(x), masked(x), rtol=1e-5, atol=1e-6)


def test_what_no_module_could_lose_a_graph_does() -> None:
    model, x = ByProducts(1).eval(), torch.randn(5, 6)
    result = sc.prune(model, x, sparsity=0.3, latency=False)
    assert result.report.form == "graph"
    masked = sc.mask(model, result.sites, result.keep)
    torch.testing.assert_close(result.model(x), masked(x), rtol=1e-5, atol=1e-6)


class Reduced(torch.nn.Module):
    """Keys of fewer places, put back into a shape whose width is read from what the module was given."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce, self.mix = (
            torch.nn.Linear(6, 8),
            torch.nn.Conv1d(8, 8, 2, stride=2),
            torch.nn.Linear(8, 8),
        )
        self.norm, self.up, self.out = torch.nn.LayerNorm(8), torch.nn.Linear(8, 32), torch.nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.stem(x)
        batch, _, width = h.shape
        keys = self.reduce(h.transpose(1, 2)).reshape(batch, width, -1).transpose(1, 2)
        keys = self.norm(keys)
        made: torch.Tensor = self.out(self.up(h + self.mix(keys).mean(1, keepdim=True)).relu())
        return made


def test_a_width_read_from_a_shape_is_one_with_what_takes_it() -> None:
    model, x = Reduced().eval(), torch.randn(2, 4, 6)
    sites = sc.channels(model, x)
    assert any(
        {"stem.weight", "reduce.weight"} <= {m.parameter for m in site.members if m.role == "out"}
        for site in sites.values()
    )
    small = sc.cut(model, sites, sc.select(sc.criteria.Magnitude()(model, sites), 0.3, scope="layer"), form="module")
    assert small.get_parameter("reduce.weight").shape[:2] == (6, 6)


class Planned(torch.nn.Module):
    """Reads a size from a plan that nests lists, texts and numbers."""

    def __init__(self, plan: Any) -> None:
        super().__init__()
        self.a, self.b, self.plan = nn.Linear(6, 16), nn.Linear(16, 3), plan

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.b(self.a(x).relu().view(x.shape[0], self.plan[1][2]))
        return answer


@pytest.mark.parametrize("plan", [[("lin", [0], 1), ("relu", [1], 16)], ((1, 2), [True, None, 16, {1: 2}])])
def test_a_size_in_nested_lists(plan: Any) -> None:
    model, x = Planned(plan).eval(), torch.randn(2, 6)
    sites = sc.channels(model, x)
    keep = {"a": torch.arange(16) % 2 == 0}
    torch.testing.assert_close(sc.cut(model, sites, keep)(x), sc.mask(model, sites, keep)(x))


class Windowed(torch.nn.Module):
    """Attention as wide as what it is given, whose number of heads divides the width where the temperature is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.grow, self.shrink = torch.nn.Linear(16, 256), torch.nn.Linear(256, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, windows, length, width = x.shape
        y = x.reshape(batch * windows, length, width)
        q, k, v = self.qkv(y).reshape(len(y), length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        scores = (q * (width // self.heads) ** -0.5) @ k.transpose(-1, -2)
        y = self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(len(y), length, width))
        x = x + y.reshape(batch, windows, length, width)
        made: torch.Tensor = x + self.shrink(self.grow(x).relu())
        return made


def test_heads_and_width_shrink_alike_where_their_ratio_is_the_temperature() -> None:
    model = nn.Sequential(nn.Linear(3, 16), Windowed(), nn.Linear(16, 2)).eval()
    x = torch.randn(2, 3, 5, 3)
    result = sc.prune(model, x, "l2", 0.3, scope="layer", latency=False)
    assert type(result.model) is nn.Sequential
    assert result.model[1].heads == 3
    assert result.model[1].qkv.weight.shape == (36, 12)
    masked = sc.mask(model, result.sites, result.keep)
    torch.testing.assert_close(result.model(x), masked(x), rtol=1e-5, atol=1e-6)
