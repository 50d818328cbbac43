"""Which units a model has, what is tied to them, and what masking them does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.structure import channels, cut, mask, weights
from secateur.testing.toys import TOYS, hand_mlp, same_state, snapshot
from secateur.types import InputError, Member, Sites, UnknownNameError


def members(sites: Sites, name: str) -> list[tuple[str, int | None, str]]:
    return [(m.parameter, m.dim, m.role) for m in sites[name].members]


def rows(member: Member) -> list[list[int]]:
    assert member.index is not None
    found: list[list[int]] = member.index.tolist()
    return found


def test_an_mlp_has_its_hidden_layer() -> None:
    sites = channels(hand_mlp(), torch.ones(1, 2))
    assert {name: (site.shape, site.kind, site.size) for name, site in sites.items()} == {"0": ((3,), "channel", 3)}
    assert members(sites, "0") == [("0.weight", 0, "out"), ("0.bias", 0, "out"), ("2.weight", 1, "in")]
    assert [rows(m) for m in sites["0"].members] == [[[0], [1], [2]]] * 3
    assert dict(sites.frozen) == {"2": "the model's output"}


def test_a_cnn_ties_norms_and_the_flattened_columns() -> None:
    toy = TOYS["cnn"]
    sites = channels(toy.build(), toy.inputs())
    assert list(sites) == ["0", "4"]
    assert members(sites, "0") == [
        ("0.weight", 0, "out"),
        ("0.bias", 0, "out"),
        ("1.weight", 0, "scale"),
        ("1.bias", 0, "scale"),
        ("4.weight", 1, "in"),
    ]
    # The second convolution leaves 5 channels of 2 × 2 pixels: unit 3 owns the columns 12 to 15 of the last layer.
    last = sites["4"].members[-1]
    assert (last.parameter, last.dim, last.role) == ("7.weight", 1, "in")
    assert rows(last)[3] == [12, 13, 14, 15]


def test_a_residual_connection_ties_what_it_adds() -> None:
    toy = TOYS["residual"]
    sites = channels(toy.build(), toy.inputs())
    assert {name: site.shape for name, site in sites.items()} == {"stem": (4,), "conv1": (6,)}
    assert {m[:2] for m in members(sites, "stem")} == {
        ("stem.weight", 0),
        ("bn.weight", 0),
        ("bn.bias", 0),
        ("conv1.weight", 1),
        ("conv2.weight", 0),
        ("conv2.bias", 0),
        ("fc.weight", 1),
    }
    assert {m[:2] for m in members(sites, "conv1")} == {("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", 1)}


def test_groups_are_products_of_group_and_channel() -> None:
    """A convolution in two groups of three: the two groups are cut alike, three units of two channels."""
    toy = TOYS["grouped"]
    sites = channels(toy.build(), toy.inputs())
    by_parameter = {(m.parameter, m.dim): (site.name, m) for site in sites.values() for m in site.members if m.dim == 0}
    name, member = by_parameter[("grouped.weight", 0)]
    assert all(len(row) * sites[name].size == 6 for row in rows(member))
    assert all(site.size > 1 for site in sites.values())


def test_sites_are_in_the_order_of_the_forward_pass() -> None:
    class Crossed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Linear(3, 4)
            self.first = nn.Linear(2, 3)
            self.out = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.out(torch.relu(self.second(torch.relu(self.first(x)))))
            return made

    sites = channels(Crossed(), torch.ones(1, 2))
    assert list(sites) == ["first", "second"]


def test_inputs_may_be_a_tensor_a_tuple_or_a_mapping() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(2, 4), nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            made: Tensor = self.out(torch.relu(self.a(x) + self.b(y)))
            return made

    x, y = torch.ones(1, 2), torch.ones(1, 3)
    for inputs in ((x, y), {"x": x, "y": y}, {"y": y, "x": x}):
        sites = channels(Two(), inputs)
        assert {name: site.shape for name, site in sites.items()} == {"a": (4,)}
        assert {"a.weight", "b.weight", "out.weight"} <= {m.parameter for m in sites["a"].members}


def test_reasons_for_what_is_frozen_name_the_op() -> None:
    class Picked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.picked, self.sorted, self.out = nn.Linear(2, 4), nn.Linear(2, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.out(self.sorted(x).sort(-1).values) + self.picked(x)[:, 1:2]
            return made

    sites = channels(Picked(), torch.ones(1, 2))
    assert "picked" in {*sites, *sites.frozen}
    assert "sorted" not in sites
    assert "aten.sort" in sites.frozen["sorted"]
    assert "test_sites.py" in sites.frozen["sorted"]
    assert sites.frozen["out"] == "the model's output"


@pytest.mark.parametrize(
    ("ignore", "left"),
    [
        ((), ["conv1", "stem"]),
        (["conv1"], ["stem"]),
        ("conv1", ["stem"]),
        (["conv*"], []),  # conv2 is part of the stem's site
        (["*"], []),
        (["st?m", "conv1"], []),
        (["fc"], ["conv1", "stem"]),  # frozen already; naming it is no mistake
    ],
)
def test_ignored_sites_stay_whole(ignore: list[str], left: list[str]) -> None:
    toy = TOYS["residual"]
    sites = channels(toy.build(), toy.inputs(), ignore=ignore)
    assert sorted(sites) == left
    for name in {"conv1", "stem"} - set(left):
        assert sites.frozen[name] == "ignored, as asked"


def test_a_tied_layer_is_ignored_by_its_own_name() -> None:
    """conv2 is part of the site that is named after the stem; leaving conv2 whole leaves that site whole."""
    toy = TOYS["residual"]
    sites = channels(toy.build(), toy.inputs(), ignore=["conv2"])
    assert list(sites) == ["conv1"]


def test_ignoring_what_is_not_there_is_refused() -> None:
    toy = TOYS["residual"]
    with pytest.raises(UnknownNameError, match="'conv3'; did you mean 'conv"):
        channels(toy.build(), toy.inputs(), ignore=["conv3"])
    with pytest.raises(UnknownNameError, match=r"'head\*'"):
        channels(toy.build(), toy.inputs(), ignore=["head*"])
    with pytest.raises(UnknownNameError, match=r"'0\.wieght'; did you mean '0\.weight'"):
        weights(hand_mlp(), ignore=["0.wieght"])


def test_weights_are_the_parameters_of_two_dimensions_or_more() -> None:
    toy = TOYS["residual"]
    sites = weights(toy.build())
    assert {name: site.shape for name, site in sites.items()} == {
        "stem.weight": (4, 1, 3, 3),
        "conv1.weight": (6, 4, 3, 3),
        "conv2.weight": (4, 6, 3, 3),
        "fc.weight": (3, 4),
    }
    assert {site.kind for site in sites.values()} == {"weight"}
    assert sites["fc.weight"].size == 12
    assert sites.structure is None


def test_ignored_weights() -> None:
    sites = weights(hand_mlp(), ignore=["2.*"])
    assert list(sites) == ["0.weight"]
    assert dict(sites.frozen) == {"2.weight": "ignored, as asked"}


def test_a_shared_weight_is_one_site() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    assert list(weights(model)) == ["0.weight"]


def test_sites_are_found_alike_in_training_mode_and_the_model_is_left_alone() -> None:
    for name, toy in TOYS.items():
        model = toy.build().train()
        next(iter(model.children())).eval()  # mixed modes come back mixed
        before = snapshot(model)
        training = channels(model, toy.inputs())
        assert same_state(before, snapshot(model)), name
        assert list(training) == list(channels(model.eval(), toy.inputs()))


def test_an_unknown_site_is_refused_with_the_nearest() -> None:
    toy = TOYS["residual"]
    sites = channels(toy.build(), toy.inputs())
    with pytest.raises(UnknownNameError, match="unknown site 'conv9'; did you mean 'conv1'"):
        sites["conv9"]
    assert "conv9" not in sites
    assert len(sites) == 2


def test_masking_a_neuron_zeroes_all_that_is_tied_and_nothing_else() -> None:
    model = hand_mlp()
    before = snapshot(model)
    masked = mask(model, channels(model, torch.ones(1, 2)), {"0": torch.tensor([True, False, True])})
    assert masked[0].weight.tolist() == [[1, 2], [0, 0], [3, -1]]  # type: ignore[index, union-attr]
    assert masked[0].bias.tolist() == [0, 0, 0]  # type: ignore[index, union-attr]
    assert masked[2].weight.tolist() == [[1, 0, 0], [2, 0, 4]]  # type: ignore[index, union-attr]
    assert masked[2].bias.tolist() == [0, -1]  # type: ignore[index, union-attr]
    assert same_state(before, snapshot(model))
    # By hand at x = (1, 2): unit 1 gave 2, so output 0 goes from 3 to 5.
    assert masked(torch.tensor([[1.0, 2.0]])).tolist() == [[5, 13]]


def test_masking_single_weights_zeroes_just_those() -> None:
    model = hand_mlp()
    keep = {"2.weight": torch.tensor([[True, False, True], [False, True, True]])}
    masked = mask(model, weights(model), keep)
    assert masked.get_parameter("2.weight").tolist() == [[1, 0, 0], [0, 0, 4]]
    for name in ("0.weight", "0.bias", "2.bias"):
        assert torch.equal(masked.get_parameter(name), model.get_parameter(name))


def test_masking_overlapping_sites_of_one_weight() -> None:
    """conv1 of the residual toy loses out-channels by its own site and in-channels by the stem's."""
    toy = TOYS["residual"]
    model = toy.build()
    keep = {
        "stem": torch.tensor([True, True, False, True]),
        "conv1": torch.tensor([False, True, True, True, True, True]),
    }
    weight = mask(model, channels(model, toy.inputs()), keep).get_parameter("conv1.weight")
    expected = model.get_parameter("conv1.weight").detach().clone()
    expected[0] = 0
    expected[:, 2] = 0
    assert torch.equal(weight, expected)


def test_a_masked_copy_keeps_type_modes_grads_dtype_and_keys() -> None:
    for dtype in (torch.float64, torch.bfloat16):
        toy = TOYS["cnn"]
        model = toy.build(dtype).train()
        model.get_submodule("0").eval()
        model.get_parameter("0.bias").requires_grad_(False)
        masked = mask(model, weights(model), {"0.weight": torch.zeros(4, 1, 3, 3, dtype=torch.bool)})
        assert type(masked) is type(model)
        assert list(masked.state_dict()) == list(model.state_dict())
        assert {n: (p.dtype, p.requires_grad) for n, p in masked.named_parameters()} == {
            n: (p.dtype, p.requires_grad) for n, p in model.named_parameters()
        }
        assert [m.training for m in masked.modules()] == [m.training for m in model.modules()]
        assert not set(map(id, masked.parameters())) & set(map(id, model.parameters()))


def test_masks_of_wrong_kind_shape_or_name_are_refused() -> None:
    model = hand_mlp()
    sites = channels(model, torch.ones(1, 2))
    good = torch.tensor([True, True, False])
    with pytest.raises(InputError, match=r"keep\['0'\] must be a bool tensor.*float32"):
        mask(model, sites, {"0": good.float()})
    with pytest.raises(InputError, match=r"keep\['0'\] must be a bool tensor.*list"):
        mask(model, sites, {"0": good.tolist()})
    with pytest.raises(InputError, match=r"keep\['0'\] has shape \(2,\); the site has \(3,\)"):
        mask(model, sites, {"0": good[:2]})
    with pytest.raises(UnknownNameError, match="unknown site '1'"):
        mask(model, sites, {"1": good})


def test_masking_another_model_is_refused() -> None:
    sites = channels(hand_mlp(), torch.ones(1, 2))
    keep = {"0": torch.tensor([True, False, True])}
    for other in (nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 2)), nn.Linear(2, 2)):
        with pytest.raises(InputError, match="another model"):
            mask(other, sites, keep)
    with pytest.raises(InputError, match="another model"):
        mask(nn.Linear(2, 2), weights(hand_mlp()), {"0.weight": torch.zeros(3, 2, dtype=torch.bool)})


def test_rows_of_a_table_that_no_example_reads_are_no_units() -> None:
    """Another length reads them: there are as many positions as the table has rows, whatever the example needs."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)
            self.table, self.parts = nn.Parameter(torch.randn(16, 6)), nn.Parameter(torch.randn(8, 6))

        def forward(self, x: Tensor) -> Tensor:
            first = 8 - x.shape[1]
            h = self.a(x) + self.table[first : first + x.shape[1]]
            gate = F.linear(h, self.parts[:4]) * torch.sigmoid(F.linear(h, self.parts[4:]))
            y: Tensor = self.b(F.linear(gate, self.parts[:4].T))
            return y

    sites = channels(Positions(), torch.randn(2, 5, 3))
    assert {name: site.size for name, site in sites.items()} == {"a": 6, "parts": 4}


class Positions(nn.Module):
    """A table of positions, of which the example takes those in the middle, once all went through what gives them on."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before, self.inner, self.out = before, nn.Linear(4, 6), nn.Linear(6, 2)
        self.table = nn.Embedding(9, 6)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.before(self.table.weight)[4 - x.shape[1] : 4 + x.shape[1]].cumsum(0)
        scores = self.inner(x) @ rows.t()
        made: Tensor = self.out(scores.softmax(-1) @ rows)
        return made


@pytest.mark.parametrize("before", [nn.Identity, nn.Dropout, lambda: nn.LayerNorm(6)])
def test_rows_that_no_example_reads_stay(before: Any) -> None:
    torch.manual_seed(0)
    model, x = Positions(before()), torch.randn(2, 3, 4)
    sites = channels(model, x)
    assert not any(
        member.parameter == "table.weight" and member.dim == 0 for s in sites.values() for member in s.members
    )
    assert isinstance(cut(model, sites, {n: torch.arange(s.size) != 1 for n, s in sites.items()}), Positions)


@pytest.mark.parametrize("width", ["product", "attribute"])
def test_a_stream_as_wide_as_all_heads_is_not_of_them(width: str) -> None:
    """What a reshape makes is as wide as what the module is given, and an attribute or a product of two says so."""

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.dim, self.width = 4, 2, 8
            self.q, self.k, self.v, self.out = (nn.Linear(8, 8) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            batch, length, _ = x.shape
            q, k, v = (each(x).view(batch, length, self.heads, self.dim) for each in (self.q, self.k, self.v))
            mixed = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v))).transpose(1, 2)
            together = self.heads * self.dim if width == "product" else self.width
            y: Tensor = self.out(mixed.reshape(batch, length, together))
            return y

    sites = channels(nn.Sequential(nn.Linear(3, 8), Heads(), nn.Linear(8, 2)), torch.randn(2, 5, 3))
    assert {name: site.size for name, site in sites.items()} == {"0": 8, "1.q.heads": 4, "1.out": 8}
