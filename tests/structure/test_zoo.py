"""Every model of the zoo is cut and compared with the masked model by a check that is not the library's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

import zoo
from oracle import masked, unseen
from secateur import load
from secateur.criteria import Magnitude
from secateur.result import Result
from secateur.selection import select
from secateur.structure import channels, cut
from secateur.types import Sites, TraceError, UnknownNameError

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
TOLERANCE = 1e-9

# How many units each model must at least offer, worked out by reading it: hidden widths, groups and heads counted once.
LEAST_UNITS = {
    "residual": 8 + 12 + 10 + 16,
    "unet": 8 + 12 + 16 + 12 + 12 + 8 + 8,
    "feature_pyramid": 6 + 10 + 14 + 8,
    "autoencoder": 8 + 12 + 8,
    "dense_cats": 6 + 4 + 4 + 4,
    "squeeze_excite": 12 + 6,
    "cat_and_add": 8 + 8,
    "cat_in_two_orders": 4 + 2 + 6,
    "shared_twice": 12,
    "grouped": 4 + 6,
    "depthwise_separable": 8 + 12,
    "flatten_spatial": 8 + 20,
    "linear_view_deconv": 8 + 6,
    "pixel_shuffle": 8 + 6,
    "pixel_unshuffle": 6 + 10,
    "channel_shuffle": 4 + 8 + 8,  # a chunk ties its parts
    "weight_standardised": 12 + 10,
    "scaled_weight": 8,
    "group_norm": 4 + 12,
    "multi_scale": 8 + 6 + 6 + 6,
    "one_dimensional": 10 + 8,
    "three_dimensional": 6 + 8,
    "grouped_deconv": 4 + 6,
    "dict_outputs": 8 + 10,
    "buffer_scale": 8,
    "channels_last": 12 + 30,
    "dropout": 8 + 16,
    "two_inputs_two_outputs": 8,
    "gated_convolution": 8 + 10,
    "prelu_and_maxout": 12 + 10,
    "graph_convolution": 12 + 10,
    "graph_attention": 4 + 6,
    "graph_sampling": 12 + 10,
    "deformable_attention": 4 + 4,
    "features_among_tokens": 12 + 20,
    "features_by_a_narrow_mask": 12 + 20,
    "rows_by_their_kind": 12 + 10,
    "rows_in_their_order": 4 + 3,
    "one_of_many_alike": 12,
    "windows_written": 10,
    "decided_by_tokens": 12 + 20,
    "width_of_the_input": 4 + 4 + 20,
    "fraction_of_the_width": 20,
    "one_size_of_two": 4 + 20,
    "sizes_alike": 2 + 4 + 4,
    "weight_standardised_by_batch_norm": 10 + 12,
    "lstm": 10 + 12,
    "lstm_bidirectional": 10 + 7,
    "lstm_two_layers": 10 + 12,
    "lstm_projection": 10 + 12 + 5,
    "gru": 10 + 12,
    "gru_bidirectional": 10 + 7,
    "rnn": 10 + 12,
    "lstm_states": 10,
    "convolutional_lstm": 6 + 10,
    "glu_mlp": 20,
    "fused_qkv": 4 + 32,
    "lengths_in_a_mapping": 4 + 6,
    "rows_of_sizes": 12 + 12 + 6,
    "rotated_halves": 4 + 4 + 32,
    "spectral_layers": 24 + 16,
    "overlapping_chunks": 4 + 4 + 6 + 8,
    "grouped_query": 2 + 16,
    "relative_position": 4,
    "rotary": 4,
    "tied_embedding": 12 + 20,
    "layer_norm": 14 + 10,
    "rms_norm": 14 + 10,
    "mixture_of_experts": 12 + 16,
    "expert_list": 3 * 16,
    "multihead_attention": 16 + 10 + 4 + 4 + 24,
    "encoder_layer": 2 * (4 + 32),
    "class_token": 12 + 24,
    "mixer": 12 + 10 + 20,
}


# What has a size written into its code as a number may come back as a graph.
GRAPHS = {"linear_view_deconv", "prelu_and_maxout", "fused_qkv", "grouped_query", "relative_position", "rotary"}


def apart(
    model: nn.Module, small: nn.Module, sites: Sites, keep: dict[str, Tensor], inputs: tuple[Tensor, ...]
) -> float:
    """How far the cut model is from the zero-padded one in float64, on weights and inputs that the cut has not seen."""
    words = max((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=None)
    comparisons = unseen.compare(model, small, sites, keep, inputs, words)
    ran = [c.difference for c in comparisons if c.difference is not None]
    # What does not run there is a graph that says so, and it takes another batch size.
    assert all(c.refused and isinstance(small, GraphModule) for c in comparisons if c.difference is None), comparisons
    assert len(ran) >= 6
    return max(ran)


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def random_keep(sites: Sites, seed: int) -> dict[str, Tensor]:
    """Any number of units kept at every site, from one to all."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name, site in sites.items():
        kept = torch.rand(site.shape, generator=generator) < torch.rand((), generator=generator)
        kept[int(torch.randint(site.size, (), generator=generator))] = True
        keep[name] = kept
    return keep


def test_the_table_of_units_names_every_model() -> None:
    assert set(LEAST_UNITS) == set(zoo.ZOO)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_cut_by_magnitude(name: str) -> None:
    model, inputs = zoo.build(name)
    sites = channels(model, inputs)
    assert sum(site.size for site in sites.values()) >= LEAST_UNITS[name], dict(sites.frozen)
    keep = select(Magnitude(p=2)(model, sites), 0.3, scope="layer")
    small = cut(model, sites, keep)
    assert size(small) < 0.95 * size(model)
    assert not isinstance(small, GraphModule) or name in GRAPHS
    assert apart(model, small, sites, keep, inputs) < TOLERANCE


@pytest.mark.parametrize("name", zoo.ZOO)
def test_cut_at_random(name: str) -> None:
    model, inputs = zoo.build(name, seed=1)
    sites = channels(model, inputs)
    keep = random_keep(sites, seed=len(name))
    small = cut(model, sites, keep)
    assert apart(model, small, sites, keep, inputs) < TOLERANCE


@pytest.mark.parametrize("name", zoo.ZOO)
def test_masking_changes_the_outputs(name: str) -> None:
    """Otherwise agreement would prove nothing."""
    model, inputs = zoo.build(name)
    sites = channels(model, inputs)
    full = masked.zeroed(model, sites, select(Magnitude(p=2)(model, sites), 0.3, scope="layer"))
    assert masked.relative_difference(masked.run(model, inputs), masked.run(full, inputs)) > 1e-3


@pytest.mark.parametrize("name", zoo.REFUSED)
def test_what_cannot_be_traced_is_refused(name: str) -> None:
    model, inputs = zoo.build(name)
    with pytest.raises(TraceError, match="cannot be traced"):
        channels(model, inputs)


def test_same_seed_same_model() -> None:
    (a, x), (b, y), (c, _) = zoo.build("unet", seed=3), zoo.build("unet", seed=3), zoo.build("unet", seed=4)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert torch.equal(x[0], y[0])
    assert not torch.equal(a.head.weight, c.head.weight)


def test_building_leaves_the_random_state() -> None:
    before = torch.random.get_rng_state()
    zoo.build("fused_qkv")
    assert torch.equal(before, torch.random.get_rng_state())


def test_unknown_toy() -> None:
    with pytest.raises(UnknownNameError, match="unknown toy model 'unett'; did you mean 'unet'"):
        zoo.build("unett")


def test_nothing_is_left_constant() -> None:
    for name in zoo.ZOO:
        for key, parameter in zoo.build(name)[0].named_parameters():
            assert parameter.numel() == 1 or parameter.std() > 0, f"{name}: {key}"


class TestKeptStatistics:
    """The independent check itself: norms over what is kept equal norms of the smaller tensor."""

    kept = torch.tensor([True, False, True, True, False, True])

    def compare(self, expected: Tensor, found: Tensor) -> None:
        torch.testing.assert_close(found[:, self.kept], expected)

    def given(self) -> tuple[Tensor, Tensor, Tensor]:
        x = torch.randn(3, 6)
        scale, shift = torch.rand(6) + 0.5, torch.randn(6)
        return x, scale * self.kept, shift * self.kept

    def test_layer_norm(self) -> None:
        x, scale, shift = self.given()
        small = F.layer_norm(x[:, self.kept], (4,), scale[self.kept], shift[self.kept])
        with masked.KeptStatistics():
            self.compare(small, F.layer_norm(x, (6,), scale, shift))

    def test_layer_norm_without_scale(self) -> None:
        x = torch.randn(3, 6) * self.kept
        small = F.layer_norm(x[:, self.kept], (4,))
        with masked.KeptStatistics():
            self.compare(small, F.layer_norm(x, (6,)))

    def test_rms_norm(self) -> None:
        x, scale, _ = self.given()
        small = F.rms_norm(x[:, self.kept], (4,), scale[self.kept])
        with masked.KeptStatistics():
            self.compare(small, F.rms_norm(x, (6,), scale))

    def test_group_norm_loses_one_of_each_group(self) -> None:
        x, scale, shift = self.given()
        small = F.group_norm(x[:, self.kept], 2, scale[self.kept], shift[self.kept])
        with masked.KeptStatistics():
            self.compare(small, F.group_norm(x, 2, scale, shift))

    @pytest.mark.parametrize("function", [torch.mean, torch.var, torch.std, torch.amax])
    def test_averages(self, function) -> None:  # type: ignore[no-untyped-def]
        x = torch.randn(3, 6) * self.kept - 5.0 * self.kept
        small = function(x[:, self.kept], dim=-1)
        assert not torch.allclose(function(x, dim=-1), small)
        with masked.KeptStatistics(averages=True):
            torch.testing.assert_close(function(x, dim=-1), small)

    def test_a_norm_that_is_written_out(self) -> None:
        def norm(x: Tensor) -> Tensor:
            mean = x.mean(-1, keepdim=True)
            return (x - mean) / torch.sqrt((x - mean).pow(2).mean(axis=-1, keepdim=True) + 1e-5)

        x = torch.randn(3, 6) * self.kept
        with masked.KeptStatistics(averages=True):
            self.compare(norm(x[:, self.kept]), norm(x))

    def test_weight_standardisation(self) -> None:
        def standardise(weight: Tensor) -> Tensor:
            return F.batch_norm(weight.flatten(1)[None], None, None, training=True)[0].view_as(weight)

        weight = torch.randn(5, 6, 3, 3) * self.kept[None, :, None, None]
        with masked.KeptStatistics():
            self.compare(standardise(weight[:, self.kept]), standardise(weight))

    def test_softmax(self) -> None:
        x = torch.randn(3, 6) * self.kept
        with masked.KeptStatistics(averages=True):
            self.compare(x[:, self.kept].softmax(dim=-1), x.softmax(dim=-1))


def test_a_wrong_cut_is_seen() -> None:
    model, inputs = zoo.build("residual")
    sites = channels(model, inputs)
    keep = select(Magnitude(p=2)(model, sites), 0.3, scope="layer")
    small = cut(model, sites, keep)
    next(small.parameters()).data.mul_(1 + 1e-6)
    assert apart(model, small, sites, keep, inputs) > TOLERANCE


def test_relative_difference_of_infinite_entries() -> None:
    limits = torch.tensor([1.0, -torch.inf])
    assert masked.relative_difference(limits, limits.clone()) == 0
    assert masked.relative_difference(limits, torch.tensor([1.0, torch.inf])) == float("inf")
    assert masked.relative_difference(limits, torch.tensor([1.0, 5.0])) == float("inf")


def test_relative_difference_of_other_shapes_and_nan() -> None:
    one = torch.ones(2)
    assert masked.relative_difference(one, torch.ones(3)) == float("inf")
    assert masked.relative_difference(one, torch.tensor([1.0, float("nan")])) == float("inf")
    assert masked.relative_difference((), ()) == float("inf")


class NestedEncoder(nn.Module):
    """An encoder as torch makes it by default, with nested tensors on."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
        self.inp, self.encoder, self.out = nn.Linear(6, 16), nn.TransformerEncoder(layer, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        answers: Tensor = self.out(self.encoder(self.inp(x))[:, 0])
        return answers


@pytest.mark.parametrize("name", [*LEAST_UNITS, "nested encoder"])
def test_what_is_saved_of_a_cut_is_taken_back(name: str, tmp_path: Path) -> None:
    nested = name == "nested encoder"
    model, inputs = (NestedEncoder().eval(), (torch.randn(3, 5, 6),)) if nested else zoo.build(name)
    sites = channels(model, inputs)
    result = Result.of(model, sites, select(Magnitude(p=2)(model, sites), 0.3, scope="layer"))
    ours, again = result.model.state_dict(), load(result.save(tmp_path / "small"), model).state_dict()
    assert ours.keys() == again.keys()
    assert all(torch.equal(ours[key], again[key]) for key in ours if isinstance(ours[key], Tensor))
