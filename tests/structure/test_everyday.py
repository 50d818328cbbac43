"""What people's models bring with them every day: cells, bags, packed sequences, half precision, wrappers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import secateur as sc
from secateur.structure import folded


def pruned(model: nn.Module, example, **changes) -> nn.Module:
    options = {"criterion": "l2", "sparsity": 0.5, "scope": "layer", "latency": False, **changes}
    return sc.prune(model.eval(), example, **options).model


def halved(model: nn.Module, example) -> tuple[nn.Module, nn.Module]:
    """The cut model and the masked one, every second unit of each site gone."""
    sites = sc.channels(model.eval(), example)
    keep = {name: torch.arange(site.size) % 2 == 0 for name, site in sites.items()}
    return sc.cut(model, sites, keep), sc.mask(model, sites, keep)


class Loop(nn.Module):
    def __init__(self, cell: nn.Module, size: int) -> None:
        super().__init__()
        self.cell, self.head = cell, nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


CELLS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: nn.LSTMCell(6, 16),
    "gru": lambda: nn.GRUCell(6, 16),
    "rnn": lambda: nn.RNNCell(6, 16, nonlinearity="relu"),
    "gru without bias": lambda: nn.GRUCell(6, 16, bias=False),
    "lstm without bias": lambda: nn.LSTMCell(6, 16, bias=False),
}


@pytest.mark.parametrize("name", CELLS)
def test_cells_lose_hidden_units_gate_by_gate(name: str) -> None:
    small, masked = halved(Loop(CELLS[name](), 16), torch.randn(2, 4, 6))
    x = torch.randn(3, 5, 6)
    torch.testing.assert_close(small(x), masked(x))
    assert (small.cell.input_size, small.cell.hidden_size, small.head.in_features) == (6, 8, 8)


class Bags(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 16, mode=mode)
        self.hidden, self.head = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, ids: Tensor, offsets: Tensor | None = None) -> Tensor:
        return self.head(self.hidden(self.bag(ids, offsets)).relu())


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
@pytest.mark.parametrize("offsets", [False, True])
def test_bags_of_embeddings_lose_columns(mode: str, offsets: bool) -> None:
    ids = torch.randint(0, 50, (9,) if offsets else (4, 7))
    example = (ids, torch.tensor([0, 4])) if offsets else (ids,)
    small, masked = halved(Bags(mode), example)
    torch.testing.assert_close(small(*example), masked(*example))
    assert (small.bag.embedding_dim, small.bag.num_embeddings) == (8, 50)


class Packed(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], batch_first: bool, sort: bool) -> None:
        super().__init__()
        self.batch_first, self.sort = batch_first, sort
        self.inner = nn.Linear(6, 12)
        self.rnn = kind(12, 16, batch_first=batch_first, bidirectional=True, num_layers=2)
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        h = self.inner(x).relu()
        packed = pack_padded_sequence(h, lengths, batch_first=self.batch_first, enforce_sorted=not self.sort)
        output, _ = self.rnn(packed)
        padded, found = pad_packed_sequence(output, batch_first=self.batch_first, total_length=7)
        return self.head(padded), found


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [True, False])
def test_packed_sequences_are_cut_as_padded_ones_are(kind: type[nn.RNNBase], batch_first: bool) -> None:
    lengths = torch.tensor([3, 5, 2] if batch_first else [5, 3, 2])
    x = torch.randn((3, 5, 6) if batch_first else (5, 3, 6))
    small, masked = halved(Packed(kind, batch_first, sort=batch_first), (x, lengths))
    assert (small.inner.out_features, small.rnn.hidden_size) == (6, 8)
    for answer, expected in zip(small(x, lengths), masked(x, lengths), strict=True):
        torch.testing.assert_close(answer, expected)


def test_packing_is_as_it_was_after_a_trace() -> None:
    x, lengths = torch.randn(3, 5, 6), torch.tensor([5, 3, 2])
    sc.channels(Packed(nn.LSTM, True, sort=False).eval(), (x, lengths))
    assert pack_padded_sequence(x, lengths, batch_first=True).data.shape == (10, 6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_verified_to_its_own_steps(dtype: torch.dtype) -> None:
    convolutions = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten())
    small = pruned(nn.Sequential(convolutions, nn.Linear(128, 5)).to(dtype), torch.randn(2, 3, 8, 8).to(dtype))
    assert small[0][0].weight.shape == (8, 3, 3, 3)
    assert small[0][0].weight.dtype is dtype


def test_prune_takes_the_tolerance_of_the_example() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x).relu())
            return y.half().to(x.dtype) if x.dtype is torch.float32 else y

    model, x = Noisy(), torch.randn(4, 8)
    assert pruned(model, x, tolerance=0.01).a.out_features == 8
    with pytest.raises(sc.InputError, match="tolerance"):
        pruned(model, x, tolerance=-1.0)


class Encoder(nn.Module):
    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(6, 32), nn.Linear(32, 3)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.encoder(self.inner(x), src_key_padding_mask=mask))


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype:UserWarning")
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_encoders_answer_alike_with_and_without_gradients(norm_first: bool, masked: bool) -> None:
    x, mask = torch.randn(3, 5, 6), torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 1], [0, 0, 0, 0, 1]], dtype=torch.bool)
    small = pruned(Encoder(norm_first), (x, mask) if masked else x, ignore=("inner",))
    assert small.encoder.layers[0].linear1.out_features == 32
    with torch.no_grad():
        fast = small(x, mask)
    slow = small(x, mask)
    for row, length in enumerate([3, 4, 4]):
        torch.testing.assert_close(fast[row, :length], slow[row, :length])
    small.train()(x, mask).sum().backward()


def test_a_transformer_of_torchs_own_takes_a_causal_mask_and_stays_a_module() -> None:
    class Translator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
            self.body = nn.Transformer(16, 2, 1, 1, 32, batch_first=True)

        def forward(self, source: Tensor, target: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
            return self.head(self.body(self.inner(source), self.inner(target), tgt_mask=mask))

    small = pruned(Translator(), (torch.randn(2, 5, 6), torch.randn(2, 4, 6)), form="module")
    assert small.body.d_model == small.inner.out_features == 8


def test_complex_layers_are_masked_with_both_their_parts() -> None:
    model = nn.Sequential(nn.Linear(8, 16, dtype=torch.cfloat), nn.Linear(16, 3, dtype=torch.cfloat))
    x = torch.randn(4, 8, dtype=torch.cfloat)
    small, masked = halved(model, x)
    torch.testing.assert_close(small(x), masked(x))


def test_layers_without_tensors_know_their_sizes() -> None:
    norms = [nn.BatchNorm2d(8, affine=False, track_running_stats=False), nn.InstanceNorm2d(8)]
    body = nn.Sequential(nn.Conv2d(3, 8, 3), *norms, nn.GroupNorm(4, 8, affine=False), nn.Conv2d(8, 4, 3))
    last = nn.LayerNorm([4, 4, 4], elementwise_affine=False)
    small = pruned(nn.Sequential(body, last, nn.Flatten(), nn.Linear(64, 3)), torch.randn(2, 3, 8, 8), form="module")
    channels = small[0][0].out_channels
    assert [small[0][1].num_features, small[0][2].num_features, small[0][3].num_channels] == [channels] * 3
    assert tuple(small[1].normalized_shape) == (small[0][4].out_channels, 4, 4)


def test_a_bilinear_layer_knows_its_sizes() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.pair, self.head = nn.Linear(8, 16), nn.Bilinear(16, 16, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.pair(self.a(x), self.a(x)))

    pair = pruned(Pair(), torch.randn(4, 8)).pair
    assert tuple(pair.weight.shape) == (pair.out_features, pair.in1_features, pair.in2_features) == (6, 8, 8)


def _quantized() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    model[2] = torch.ao.nn.quantized.dynamic.Linear(16, 3)
    return model


def _exported() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    return torch.export.export(model, (torch.randn(4, 8),)).module()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize.*:UserWarning")
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (_quantized, "2 of the model, a Linear, is quantized.*prune the model before"),
        (_exported, "exported program.*pass the Python module"),
        (
            lambda: nn.Sequential(torch.jit.script(nn.Linear(8, 4)), nn.Linear(4, 3)),
            "0 of the model is compiled by TorchS",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_before_any_work(model: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(sc.InputError, match=words):
        sc.prune(model(), torch.randn(4, 8), latency=False)


def test_a_parametrization_in_the_way_is_named_and_folded_when_asked(tmp_path: Path) -> None:
    class Symmetric(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight.triu() + weight.triu(1).T

    model, x = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)), torch.randn(4, 8)
    nn.utils.parametrize.register_parametrization(model[1], "weight", Symmetric())
    with pytest.raises(sc.InputError, match=r"1\.parametrizations\.weight.*fold=True"):
        pruned(model, x)
    torch.testing.assert_close(folded(model)(x), model(x))
    small = pruned(model, x, fold=True)
    assert small[1].weight.shape == (8, 8)
    result = sc.prune(model, x, "l2", 0.5, fold=True, latency=False)
    result.save(tmp_path / "small")
    said = "the weights of 1 were made plain first (fold=True); load takes secateur.structure.folded(model)"
    assert said in sc.Result.read_report(tmp_path / "small")["warnings"]
    torch.testing.assert_close(sc.load(tmp_path / "small", folded(model))(x), result.model(x))
    assert not sc.prune(folded(model), x, "l2", 0.5, fold=True, latency=False).report.warnings
    assert isinstance(small[1].weight, nn.Parameter)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "way",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.spectral_norm,
        lambda layer: nn.utils.prune.l1_unstructured(layer, "weight", 0.5),
    ],
)
def test_folding_leaves_plain_weights_and_the_same_answers(way: Callable[[nn.Module], object]) -> None:
    model, x = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 3)), torch.randn(4, 8)
    way(model[0])
    model.eval()
    plain = folded(model)
    torch.testing.assert_close(plain(x), model(x))
    assert sorted(plain.state_dict()) == ["0.bias", "0.weight", "1.bias", "1.weight"]
    assert "0.weight" not in model.state_dict()
