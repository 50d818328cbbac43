"""The rule book, op by op: what stays cuttable, what is frozen, and that the cut is right either way.

Every case stands between two layers, ``out(f(a(x)))``. ``units`` is how many units the sites of layer ``a`` have, the
free parts of its output axis; 0 where the op freezes them. Then all but the first unit of each site go, and the small
model must compute what the masked one does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

from secateur.structure import channels, cut, mask, reference
from secateur.structure.axes import keep_vector
from secateur.structure.difference import difference
from secateur.structure.reference import Reference, Statistics
from secateur.structure.rules import RULES, Value
from secateur.types import Sites
from zoo import ZOO, build

Function = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """``out(f(a(x)))``, for vectors (a linear layer of 8) or pictures (a convolution of 8 channels)."""

    def __init__(self, function: Function, pictures: bool) -> None:
        super().__init__()
        self.a: nn.Module = (nn.Conv2d(2, 8, 3, padding=1) if pictures else nn.Linear(3, 8)).double()
        self.function = function
        shape = self.middle(self.example()).shape
        self.out: nn.Module = nn.Conv2d(shape[1], 2, 1) if len(shape) == 4 else nn.Linear(shape[-1], 2)
        self.double().eval()

    def example(self, seed: int = 0) -> Tensor:
        shape = (3, 2, 4, 4) if isinstance(self.a, nn.Conv2d) else (3, 3)
        made = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        return made.to(next(self.a.parameters()).dtype)

    def middle(self, x: Tensor) -> Tensor:
        return self.function(self.a(x))

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.out(self.middle(x))
        return made


def _small_for_zero(h: Tensor) -> Tensor:
    h = h.relu()
    h[h == 0] = 1e-2
    return h / h.norm(dim=1, keepdim=True)


def units_of_a(sites: Sites) -> int:
    return sum(site.size for site in sites.values() if any(m.parameter == "a.weight" for m in site.members))


def check(model: Between, units: int) -> None:
    sites = channels(model, model.example())
    assert units_of_a(sites) == units, dict(sites.frozen)
    keep = {name: torch.arange(site.size) == 0 for name, site in sites.items()}
    small = cut(model, sites, keep)
    x = model.example(seed=1)
    with torch.no_grad():
        if sites.structure.ties.statistics:
            expected: Any = Reference(model, channels(model, x), keep).on_example()
        else:
            expected = mask(model, sites, keep)(x)
        assert difference(expected, small(x)) < 1e-9


VECTORS: list[tuple[str, Function, int]] = [
    ("relu", torch.relu, 8),
    ("relu_", lambda h: h.clone().relu_(), 8),
    ("gelu", F.gelu, 8),
    ("sigmoid", torch.sigmoid, 8),
    ("softplus", F.softplus, 8),
    ("cos", torch.cos, 8),
    ("exp", torch.exp, 8),
    ("abs_sqrt", lambda h: h.abs().sqrt(), 8),
    ("rsqrt", lambda h: (h.square() + 1).rsqrt(), 8),
    ("hardtanh_moving_zero", lambda h: F.hardtanh(h, 0.5, 6.0), 8),
    ("threshold_moving_zero", lambda h: F.threshold(h, 0.1, 3.0), 8),
    ("clamp", lambda h: h.clamp(0.5, 2), 8),
    ("clamp_below_zero", lambda h: h.clamp(max=-0.5), 8),
    ("add_one", lambda h: h + 1, 8),
    ("one_minus", lambda h: 1 - h, 8),
    ("one_over", lambda h: 1 / (1 + h.square()), 8),
    ("power_zero", lambda h: h.square() ** 0, 8),
    ("power_scalar_base", lambda h: 2.0**h, 8),
    ("scale", lambda h: 3 * h / 2, 8),
    ("self_product", lambda h: h * torch.sigmoid(h), 8),
    ("maximum", lambda h: torch.maximum(h, torch.full_like(h, 0.3)), 8),
    ("where", lambda h: torch.where(h > 0, h, torch.ones_like(h)), 8),
    ("masked_fill", lambda h: h.masked_fill(h < 0, 2.0), 8),
    ("zeros_like", lambda h: torch.zeros_like(h) + h, 8),
    ("ones_like", lambda h: torch.ones_like(h) * h, 8),
    ("addcmul", lambda h: torch.addcmul(h, h, torch.sigmoid(h)), 8),
    ("lerp", lambda h: torch.lerp(h, torch.cos(h), 0.3), 8),
    ("glu", lambda h: F.glu(h, -1), 4),
    ("cat_self", lambda h: torch.cat([h, h], -1), 8),
    ("cat_constant", lambda h: torch.cat([h, torch.ones(h.shape[0], 2, dtype=h.dtype)], -1), 8),
    ("chunk", lambda h: h.chunk(2, -1)[1], 4),
    ("chunk_add", lambda h: sum(h.chunk(2, -1)), 4),  # type: ignore[arg-type, return-value]
    ("split", lambda h: h.split(4, -1)[0], 4),
    ("every_second", lambda h: h[:, ::2], 4),
    ("every_second_but_the_first", lambda h: h[:, 1::2], 4),
    ("every_third", lambda h: h[:, ::3], 0),
    ("gather", lambda h: h.gather(1, torch.tensor([[0, 2], [1, 3], [7, 0]])), 0),
    ("gather_samples", lambda h: h.gather(0, torch.tensor([2, 0, 1])[:, None].expand(-1, h.shape[1])), 8),
    ("fill", lambda h: h * torch.fill(h, 2.0), 8),
    ("fill_alone", lambda h: torch.fill(h, 2.0).sum(1, keepdim=True), 8),
    ("fftn", lambda h: torch.fft.fftn(h).real, 0),
    ("narrow", lambda h: h.narrow(1, 2, h.shape[1] - 2), 8),
    ("stack", lambda h: torch.stack([h, torch.cos(h)], 1).flatten(1), 8),
    ("stack_last", lambda h: torch.stack([h, torch.cos(h)], -1).flatten(1), 8),
    ("reshape", lambda h: h.reshape(h.shape[0], 2, -1).transpose(1, 2).reshape(h.shape[0], -1), 6),
    ("unsqueeze", lambda h: h.unsqueeze(1).unsqueeze(-1).squeeze(-1).squeeze(1), 8),
    ("movedim", lambda h: h.unsqueeze(1).movedim(2, 0).movedim((0, 1), (2, 0)).flatten(1), 8),
    ("swapaxes", lambda h: h.unsqueeze(0).swapaxes(0, 2).swapaxes(-1, -3).flatten(0, 1), 8),
    ("mT", lambda h: h.unsqueeze(0).mT.mT.flatten(0, 1), 8),
    ("numpy_T", lambda h: h.T.T, 8),
    ("permute_back", lambda h: h.t().contiguous().t(), 8),
    ("repeat", lambda h: h.repeat(1, 3), 8),
    ("repeat_interleave", lambda h: h.repeat_interleave(2, 1), 8),
    ("expand", lambda h: h.unsqueeze(1).expand(-1, 5, -1).mean(1), 8),
    ("cat_of_nothing", lambda h: torch.cat([h, h[:0].expand(0, -1), h.new_zeros(0, h.shape[1])], 0), 8),
    ("reshape_of_nothing", lambda h: h + h[:, :0].reshape(0, 2).sum(), 8),
    ("pad", lambda h: F.pad(h, (1, 2)), 8),
    ("pad_value", lambda h: F.pad(h, (1, 2), value=3.0), 8),
    ("sum", lambda h: h.sum(1, keepdim=True), 8),
    ("mean", lambda h: h.mean(1, keepdim=True) + h, 8),
    ("var", lambda h: h / (1 + h.var(1, keepdim=True, unbiased=False)), 8),
    ("amax", lambda h: h - h.amax(1, keepdim=True), 8),
    ("aminmax", lambda h: h - sum(torch.aminmax(h, dim=1, keepdim=True)), 8),  # type: ignore[arg-type]
    ("max", lambda h: h - h.max(1, keepdim=True).values, 8),
    ("places_of_max", lambda h: h - h.max(1, keepdim=True).indices, 0),
    ("median", lambda h: h - h.median(1, keepdim=True).values, 8),
    ("any", lambda h: h * (h > 0.5).any(1, keepdim=True), 8),
    ("logsumexp", lambda h: h - h.logsumexp(1, keepdim=True), 8),
    ("sum_of_logaddexp", lambda h: torch.logaddexp(h, h).sum(1, keepdim=True), 8),
    ("sum_of_powers", lambda h: (h.square() ** h.sin()).sum(1, keepdim=True), 8),
    ("norm", lambda h: h / (1 + h.norm(dim=1, keepdim=True)), 8),
    ("norm_of_all", lambda h: h / (1 + torch.linalg.norm(h)), 8),
    ("smallest_entry", lambda h: h * torch.linalg.vector_norm(h, -torch.inf, dim=1, keepdim=True), 8),
    ("normalize", lambda h: F.normalize(h, dim=1), 8),
    ("cosine", lambda h: h * F.cosine_similarity(h, h.flip(0), dim=1)[:, None], 8),
    ("cosine_of_cos", lambda h: h * F.cosine_similarity(h, h.cos(), dim=1)[:, None], 8),
    ("cosine_of_samples", lambda h: h * F.cosine_similarity(h, h.flip(0), dim=0), 8),
    ("distances", lambda h: torch.cdist(h, h), 8),
    ("distances_by_greatest", lambda h: torch.cdist(h, h.flip(0) * 2, p=torch.inf), 8),
    ("distances_of_cos", lambda h: torch.cdist(h, h.cos()), 8),
    ("distances_of_columns", lambda h: torch.cdist(h.T, h.cos().T).amin(0, keepdim=True), 8),
    ("pairwise_distance", lambda h: h * F.pairwise_distance(h, h.flip(0), keepdim=True), 8),
    ("pairwise_distance_of_cos", lambda h: h * F.pairwise_distance(h, h.cos(), keepdim=True), 8),
    ("softmax", lambda h: torch.softmax(h, 1), 8),
    ("log_softmax", lambda h: torch.log_softmax(h, 1), 8),
    ("layer_norm", lambda h: F.layer_norm(h, h.shape[1:]), 8),
    ("rms_norm", lambda h: F.rms_norm(h, h.shape[1:]), 8),
    ("sum_of_cos", lambda h: torch.cos(h).sum(1, keepdim=True), 8),
    ("outer", lambda h: (h.unsqueeze(2) * h.unsqueeze(1)).flatten(1), 8),
    ("gram", lambda h: (h.unsqueeze(2) @ h.unsqueeze(1) @ h.unsqueeze(2)).flatten(1), 8),
    ("rows_of_cos", lambda h: (torch.cos(h).t() @ h).sum(0, keepdim=True), 8),
    ("columns_of_cos", lambda h: (h.t() @ torch.cos(h)).sum(1)[None], 8),
    (
        "batches_of_cos",
        lambda h: (torch.cos(h).t()[:, None] @ torch.sin(h).t()[..., None]).flatten(1).sum(0)[None, None],
        8,
    ),
    ("vector", lambda h: (h.sum(0) @ torch.cos(h).t() @ h)[None], 8),
    ("mean_times_cos", lambda h: torch.cos(h) * h.mean(1, keepdim=True), 8),
    ("sum_of_mean_times_cos", lambda h: (torch.cos(h) * h.mean(1, keepdim=True)).sum(1, keepdim=True), 8),
    ("einsum", lambda h: torch.einsum("nc,nd->ncd", h, torch.tanh(h)).sum(2), 8),
    ("einsum_of_cos", lambda h: torch.einsum("nc,nc->n", torch.cos(h), torch.cos(h))[:, None], 8),
    ("sort", lambda h: h.sort(1).values, 0),
    ("topk", lambda h: h.topk(2, 1).values, 0),
    ("cumsum", lambda h: h.cumsum(1), 0),
    ("prod", lambda h: h.prod(1, keepdim=True), 0),
    ("flip", lambda h: h.flip(1), 0),
    ("roll", lambda h: h.roll(1, 1), 0),
    ("pick", lambda h: h[:, 3:4] + h[:, [2]], 0),
    ("index_select", lambda h: h.index_select(1, torch.tensor([0, 2, 1])), 0),
    ("argmax", lambda h: h.argmax(1, keepdim=True).to(h.dtype), 0),
    ("cumsum_of_samples", lambda h: h.cumsum(0).sum(1, keepdim=True), 8),
    ("sort_of_samples", lambda h: h.sort(0).values.sum(1, keepdim=True), 8),
    ("bucketize", lambda h: torch.bucketize(h, torch.tensor([-0.5, 0, 0.5]).double()).to(h.dtype), 8),
    ("searchsorted", lambda h: torch.searchsorted(torch.tensor([-0.5, 0.0, 0.5]).double(), h).to(h.dtype), 8),
    (
        "searchsorted_in_rows",
        lambda h: torch.searchsorted(h.sort(0).values.T.contiguous(), h.T.contiguous()).T.to(h.dtype),
        8,
    ),
    ("searchsorted_among_units", lambda h: torch.searchsorted(h.sort(1).values, h).to(h.dtype), 0),
    ("isin", lambda h: h * torch.isin(h.round(), torch.tensor([0.0, 1.0]).double()), 8),
    ("take", lambda h: torch.take(torch.tensor([-1.0, 2.0]).double(), (h > 0).long()), 8),
    ("take_along", lambda h: h.take_along_dim(h.argsort(0), 0), 8),
    ("take_along_for_all", lambda h: h.take_along_dim(h.sum(1, keepdim=True).argsort(0), 0), 8),
    ("take_along_units", lambda h: h.take_along_dim(h.argsort(1), 1), 0),
    ("take_along_flat", lambda h: h.take_along_dim(torch.tensor([0, 3]))[None], 0),
    ("no_rule", lambda h: torch.linalg.qr(h.T)[0].T, 0),
    # written as the ops that they are made of
    ("aliases", lambda h: torch.multiply(torch.absolute(h), torch.subtract(1, torch.special.expit(h))), 8),
    ("outer_op", lambda h: torch.outer(h[0], h[1]).sum(0, keepdim=True), 8),
    ("inner", lambda h: torch.inner(h, h), 8),
    ("inner_of_cos", lambda h: torch.inner(h.cos(), h.cos()), 8),
    ("tensordot", lambda h: torch.tensordot(h, h, dims=([1], [1])), 8),
    ("hstack", lambda h: torch.hstack([h, h.cos()]), 8),
    ("vstack", lambda h: torch.vstack([h, h.cos()]), 8),
    ("column_stack", lambda h: torch.column_stack([h, h.cos()]), 8),
    ("diff_of_samples", lambda h: h.diff(dim=0), 8),
    ("quantile", lambda h: h * h.quantile(0.5, dim=1, keepdim=True), 0),
    ("step_in_place", lambda h: _stepped(h), 4),
    ("small_for_zero", lambda h: _small_for_zero(h), 8),
    ("mask_of_rows", lambda h: h.index_put([torch.tensor([True, False, True])], torch.tensor(2.0).double()), 8),
    ("unit_matrix_beside_a_gram", lambda h: h @ (h.T @ h - torch.eye(h.shape[1], dtype=h.dtype)), 8),
    ("sum_over_count", lambda h: torch.cos(h).sum(1, keepdim=True) / h.shape[1], 8),
    ("relu_over_count", lambda h: torch.relu(h).sum(1, keepdim=True) / h.shape[1], 8),
]


def _stepped(h: Tensor) -> Tensor:
    """Every second unit doubled, in place."""
    h = h.clone()
    h[:, ::2].mul_(2)
    return h


def _blurred(h: Tensor) -> Tensor:
    """Every map by itself, by one kernel that is repeated."""
    kernel = torch.tensor([[1.0, 2, 1]]).to(h.dtype)
    return F.conv2d(h, kernel.repeat(h.shape[1], 1, 1, 1), groups=h.shape[1])


def _spectrum(h: Tensor) -> Tensor:
    """The spectra of windows of every row of pixels, and back."""
    window = torch.ones(4, dtype=h.dtype)
    spectra = torch.stft(h.flatten(0, 2), 4, window=window, return_complex=True)
    return torch.istft(spectra, 4, window=window, length=h.shape[3]).view(h.shape)


def _unpooled(h: Tensor) -> Tensor:
    maxima, places = F.max_pool2d(h, 2, return_indices=True)
    return F.max_unpool2d(maxima.cos(), places, 2)


PICTURES: list[tuple[str, Function, int]] = [
    ("blur", _blurred, 8),
    ("spectrum", _spectrum, 8),
    ("unpool", _unpooled, 8),
    ("shift_samples", lambda h: h.roll((1, 1), (0, 3)), 8),
    ("max_of_channels", lambda h: h * torch.cat([h.amax(1, True), h.mean(1, True)], 1).sum(1, True).sigmoid(), 8),
    ("windows_of_channels", lambda h: h.unfold(1, 2, 2).mean(-1), 0),
    ("flatten", lambda h: h.flatten(1), 8),
    ("view", lambda h: h.view(h.shape[0], -1), 8),
    ("mean_of_pixels", lambda h: h.mean((2, 3)), 8),
    ("max_of_pixels", lambda h: h.amax((2, 3)), 8),
    ("max_pool", lambda h: F.max_pool2d(torch.relu(h), 2), 8),
    ("avg_pool", lambda h: F.avg_pool2d(torch.sigmoid(h), 2), 8),
    ("adaptive_pool", lambda h: F.adaptive_avg_pool2d(h, 1), 8),
    ("interpolate", lambda h: F.interpolate(h, scale_factor=2.0, mode="bilinear"), 8),
    ("pad_pixels", lambda h: F.pad(h, (1, 1, 1, 1)), 8),
    ("pad_all", lambda h: F.pad(h, (1, 2, 0, 3, 2, 1)), 8),
    ("reflect_pixels", lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"), 8),
    ("flip_pixels", lambda h: h.flip(3), 8),
    ("shift_pixels", lambda h: h.roll(1, 2), 8),
    ("mean_of_channels", lambda h: h * torch.sigmoid(h.mean(1, keepdim=True)), 8),
    ("channel_shuffle", lambda h: F.channel_shuffle(h, 2), 6),
    ("pixel_shuffle", lambda h: F.pixel_shuffle(h, 2), 2),
    ("pixel_unshuffle", lambda h: F.pixel_unshuffle(h, 2), 8),
    ("unfold", lambda h: F.unfold(h, 2).transpose(1, 2), 8),
    ("fold", lambda h: F.fold(F.unfold(h, (2, 3)), (4, 4), (2, 3)), 8),
    ("fold_channels", lambda h: F.fold(h.flatten(2)[..., :9], (4, 4), 2), 2),
    ("windows", lambda h: h.unfold(2, 3, 1).mean(-1), 8),
    ("max_pool_and_places", lambda h: F.max_pool2d(h, 2, return_indices=True)[0], 8),
    ("sum_of_places", lambda h: F.max_pool2d(h, 2, return_indices=True)[1].to(h.dtype).sum(1, keepdim=True), 8),
    ("local_response_norm", lambda h: F.local_response_norm(h, 3), 0),
    ("instance_norm", lambda h: F.instance_norm(h), 8),
    ("dropout2d", lambda h: F.dropout2d(h, 0.5, training=False), 8),
    ("softmax_of_pixels", lambda h: torch.softmax(h.flatten(2), 2), 0),
    ("sequence", lambda h: h.flatten(2).transpose(1, 2), 8),
]


@pytest.mark.parametrize(("function", "units"), [pytest.param(f, u, id=name) for name, f, u in VECTORS])
def test_vectors(function: Function, units: int) -> None:
    check(Between(function, pictures=False), units)


@pytest.mark.parametrize(("function", "units"), [pytest.param(f, u, id=name) for name, f, u in PICTURES])
def test_pictures(function: Function, units: int) -> None:
    check(Between(function, pictures=True), units)


class Shifting(nn.Module):
    """A batch norm that shifts and does not scale."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(8))
        self.register_buffer("mean", torch.arange(8.0) + 1)
        self.register_buffer("variance", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance, None, self.bias)


class Scaling(nn.Module):
    """A sum over maps of which each has a scale, and none is zero by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.cos(x) * self.scale).sum(1, keepdim=True)


LAYERS: list[tuple[str, Callable[[], nn.Module], int]] = [
    ("batch_norm", lambda: nn.BatchNorm2d(8), 8),
    ("batch_norm_of_the_batch", lambda: nn.BatchNorm2d(8, track_running_stats=False), 8),
    ("batch_norm_shift", lambda: Shifting(), 8),
    ("scaled_sum", lambda: Scaling(), 8),
    ("batch_norm_plain", lambda: nn.BatchNorm2d(8, affine=False), 8),
    ("instance_norm", lambda: nn.InstanceNorm2d(8, affine=True), 8),
    ("instance_norm_tracked", lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True), 8),
    ("group_norm", lambda: nn.GroupNorm(2, 8), 6),
    ("prelu", lambda: nn.PReLU(8), 8),
    ("prelu_single", lambda: nn.PReLU(), 8),
    ("conv", lambda: nn.Conv2d(8, 6, 3), 8),
    ("strided", lambda: nn.Conv2d(8, 6, 3, stride=2, dilation=1, padding="valid"), 8),
    ("circular", lambda: nn.Conv2d(8, 6, 3, padding=1, padding_mode="circular"), 8),
    ("grouped", lambda: nn.Conv2d(8, 4, 1, groups=2), 6),
    ("depthwise", lambda: nn.Conv2d(8, 8, 3, groups=8), 8),
    ("depthwise_twofold", lambda: nn.Conv2d(8, 16, 3, groups=8), 8),
    ("transposed", lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), 8),
    ("transposed_grouped", lambda: nn.ConvTranspose2d(8, 4, 2, groups=2), 6),
]


@pytest.mark.parametrize(("layer", "units"), [pytest.param(f, u, id=name) for name, f, u in LAYERS])
def test_layers(layer: Callable[[], nn.Module], units: int) -> None:
    check(around(layer()), units)


class Around(Between):
    """A layer between two others."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer.double().eval(), pictures=True)
        self.function: nn.Module = layer


def around(layer: nn.Module) -> Around:
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.5)
    return Around(layer)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}, {"bias": False}])
def test_recurrent_layers(kind: type[nn.RNNBase], options: dict[str, Any]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 4, batch_first=True, **options)
            self.out = nn.Linear(8 if options.get("bidirectional") else 4, 2)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.out(self.rnn(x)[0][:, -1])
            return made

    model = Recurrent().double()
    x, y = (torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(s)).double() for s in (0, 1))
    sites = channels(model, x)
    assert [site.shape for site in sites.values()] == [(4,)]
    keep = {name: torch.tensor([True, False, True, False]) for name in sites}
    small: Any = cut(model, sites, keep)
    assert small.rnn.hidden_size == 2
    with torch.no_grad():
        assert difference(mask(model, sites, keep)(y), small(y)) < 1e-9


def test_rules_are_named_after_ops_that_exist() -> None:
    """A misspelt name would never be found, and its op would be frozen for want of a rule."""
    of_torch = [name for name in RULES if "::" not in name]  # others are there with their library
    strange = [n for n in of_torch if not hasattr(torch.ops.aten, n) and not hasattr(torch.ops.aten, f"{n}_")]
    assert not strange


def test_an_op_without_a_rule_is_named_with_its_place() -> None:
    model = Between(lambda h: torch.linalg.qr(h.T)[0].T, pictures=False)
    reason = channels(model, model.example()).frozen["a"]
    assert "no rule for" in reason
    assert "linalg_qr" in reason
    assert "test_rules.py" in reason


def test_a_parameter_without_entries() -> None:
    class Registers(nn.Module):
        """Puts tokens before a sequence: one, and none of another kind."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.none = nn.Parameter(torch.randn(1, 1, 8)), nn.Parameter(torch.randn(1, 0, 8))
            self.a, self.q, self.out = nn.Linear(4, 8), nn.Linear(8, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            n = len(x)
            h = torch.cat([self.first.expand(n, -1, -1), self.none.expand(n, -1, -1), self.a(x)], 1)
            made: Tensor = self.out(torch.relu(self.q(h).view(n, 4, 12)))
            return made

    model, x = Registers().eval(), torch.randn(2, 3, 4)
    sites = channels(model, x)
    keep = {name: torch.arange(site.size) > 0 for name, site in sites.items()}
    with torch.no_grad():
        torch.testing.assert_close(cut(model, sites, keep)(x), mask(model, sites, keep)(x))


# ---- what is said to be zero where units are gone ----


class Seeing(reference._MaskedStatistics):
    """Keeps what every node of the masked model gives."""

    seen: dict[Node, Any]

    def run_node(self, n: Node) -> Any:
        self.seen[n] = super().run_node(n)
        return self.seen[n]


def nodes_of_zeros(model: nn.Module, inputs: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """Mask every second unit of each site; return the nodes that are said to have zeros there, which are compared."""
    sites = channels(model, inputs)
    keep = {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items() if site.size > 1}
    masked = Reference(model, sites, keep)
    structure = masked.structure_at(masked.inputs)
    gone = {masked._unit(structure, name): mask for name, mask in keep.items()}
    seen: dict[Node, Any] = {}
    monkeypatch.setattr(Seeing, "seen", seen, raising=False)
    monkeypatch.setattr(reference, "_MaskedStatistics", Seeing)
    original = {name: tensor.detach() for name, tensor in masked.tensors.items()}
    statistics = masked._statistics(structure) or Statistics(structure, gone, set())
    masked.outputs(original.__getitem__, masked.inputs, statistics, double=False)
    nodes = []
    for node, result in seen.items():
        said = structure.values.get(node)
        parts = zip(said, result, strict=True) if isinstance(said, (list, tuple)) else [(said, result)]
        for value, tensor in parts:
            if isinstance(value, Value) and value.zero and isinstance(tensor, Tensor):
                for dim, axis in enumerate(value.axes):
                    removed = (~keep_vector(axis, gone)).nonzero().flatten()
                    assert not tensor.index_select(dim, removed).any(), (node.name, dim)
                    nodes += [node] * bool(len(removed))
    return nodes


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", ZOO)
def test_what_is_said_to_be_zero_is_in_the_zoo(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = build(name)
    assert nodes_of_zeros(model, inputs, monkeypatch)


@pytest.mark.parametrize(
    ("function", "pictures"),
    [
        pytest.param(function, pictures, id=name)
        for cases, pictures in ((VECTORS, False), (PICTURES, True))
        for name, function, units in cases
        if units
    ],
)
def test_what_is_said_to_be_zero_is_behind_every_op(
    function: Function, pictures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Between(function, pictures)
    assert nodes_of_zeros(model, (model.example(),), monkeypatch)


@pytest.mark.parametrize("layer", [pytest.param(layer, id=name) for name, layer, _ in LAYERS])
def test_what_is_said_to_be_zero_is_behind_every_layer(
    layer: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = around(layer())
    assert nodes_of_zeros(model, (model.example(),), monkeypatch)


@pytest.mark.parametrize("width", [2, 3])
def test_what_is_repeated_takes_the_width_of_what_it_meets(width: int) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.a, self.out = width, nn.Linear(3, width), nn.Linear(width, 2)

        def forward(self, x: Tensor) -> Tensor:
            gate = x.mean(1, keepdim=True).expand(-1, self.width)
            return self.out(self.a(x) * gate)  # type: ignore[no-any-return]

    model, x = Gated(), torch.randn(2, 3)
    sites = channels(model, x)
    assert units_of_a(sites) == width
    small: Any = cut(model, sites, {"a": torch.arange(width) > 0})
    assert small.width == width - 1


class Antisymmetric(nn.Module):
    """A matrix made of a weight and of units along its diagonal, which masking leaves where they are."""

    def __init__(self, holds: bool) -> None:
        super().__init__()
        self.weight, self.width, self.holds = nn.Parameter(torch.randn(8, 8)), 8, holds
        self.register_buffer("eye", torch.eye(8))

    def forward(self, x: Tensor) -> Tensor:
        eye = self.eye if self.holds else torch.eye(self.width)
        return x + torch.tanh(x @ (self.weight - self.weight.t() - 0.1 * eye).t())


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("form", ["module", "graph"])
def test_a_unit_matrix_among_weights_loses_rows_and_columns(holds: bool, form: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), Antisymmetric(holds), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(4, 3)
    sites = channels(model, x)
    keep = {name: torch.arange(site.size) % 3 != 1 for name, site in sites.items()}
    small = cut(model, sites, keep, form=form)
    for statistics in ("all", "kept"):
        torch.testing.assert_close(small(x), mask(model, sites, keep, statistics=statistics)(x))
    assert list(sites) == ["0"]
    assert sum(p.numel() for p in small.parameters()) == 5 * 3 + 5 + 5 * 5 + 2 * 5 + 2


@pytest.mark.parametrize(
    "name", ["sum_of_cos", "columns_of_cos", "einsum_of_cos", "distances_of_cos", "small_for_zero"]
)
def test_a_masked_model_sums_what_stays(name: str) -> None:
    model = Between({n: function for n, function, _ in VECTORS}[name], pictures=False)
    sites = channels(model, model.example())
    keep = {n: torch.arange(site.size) % 3 != 1 for n, site in sites.items()}
    x = model.example(seed=1)
    torch.testing.assert_close(mask(model, sites, keep)(x), cut(model, sites, keep)(x))
