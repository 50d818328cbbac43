"""Low rank: exact at full rank, the singular values' tail below, and on data never worse than without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.edits import Factored, from_dict, to_dict
from secateur.edits.rebuilt import LayerSpec
from secateur.measure import macs, rank_bound
from secateur.saving import load
from secateur.testing.toys import same_state, snapshot
from secateur.transforms import LowRank, factor_layer
from secateur.transforms.tensor_factors import by_layer
from secateur.types import FileError, InputError, MissingLibraryError, UnknownNameError

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(9, 7), (5, 9)),
    "linear without bias": (lambda: nn.Linear(9, 7, bias=False), (2, 3, 9)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5, stride=2, padding=2), (3, 4, 17)),
    "conv2d": (lambda: nn.Conv2d(6, 8, 3, padding=1), (2, 6, 7, 9)),
    "uneven kernel, stride, padding, dilation": (
        lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(2, 1), dilation=(2, 3), bias=False),
        (2, 4, 11, 13),
    ),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), (2, 6, 8, 8)),
    "same": (lambda: nn.Conv2d(4, 6, (5, 3), padding="same"), (2, 4, 6, 7)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=(2, 1), padding_mode="reflect"), (2, 4, 6, 7)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 4, (2, 3, 2), stride=(1, 2, 1)), (2, 3, 4, 7, 5)),
    "pointwise": (lambda: nn.Conv2d(6, 4, 1, stride=2), (2, 6, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1), (2, 6, 5, 6)),
    "transposed, grouped": (lambda: nn.ConvTranspose1d(6, 4, 4, stride=3, dilation=2, groups=2), (2, 6, 5)),
}


def splits() -> list[tuple[str, str]]:
    """Every method with every layer that it takes."""
    pairs = [(method, name) for method in ("svd", "spatial", "tucker") for name in LAYERS]
    return [
        (method, name) for method, name in pairs if not by_layer(method, LAYERS[name][0]()).why_not(LAYERS[name][0]())
    ]


@pytest.mark.parametrize(("method", "name"), splits())
def test_exact_at_full_rank(method: str, name: str) -> None:
    build, shape = LAYERS[name]
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    row = factor_layer(layer, by_layer(method, layer).full(layer), method)
    torch.testing.assert_close(row(x), layer(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("method", "name"), splits())
def test_what_a_rank_loses_is_the_tail_of_the_singular_values(method: str, name: str) -> None:
    layer = LAYERS[name][0]().double()
    way = by_layer(method, layer)
    energies = way.energies(layer)
    assert energies is not None
    for rank, lost in energies:
        row = factor_layer(layer, rank, method)
        error = way.lost(layer, [part.weight.detach() for part in row])  # type: ignore[misc]
        if isinstance(rank, tuple):
            assert error <= lost + 1e-9  # a bound, for two sides
        else:
            assert error == pytest.approx(lost, abs=1e-9)


def test_the_error_of_a_matrix_by_hand() -> None:
    layer = nn.Linear(3, 3, bias=False)
    layer.weight.data = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    row = factor_layer(layer, 1)
    torch.testing.assert_close(row[1].weight @ row[0].weight, torch.diag(torch.tensor([3.0, 0.0, 0.0])))
    assert by_layer("svd", layer).energies(layer) == [
        (1, pytest.approx(5 / 14)),
        (2, pytest.approx(1 / 14)),
        (3, 0.0),
    ]


def test_tucker_improves_upon_the_first_singular_vectors() -> None:
    """HOOI ends no higher than HOSVD, whose error the tails of both sides bound."""
    torch.manual_seed(3)
    layer = nn.Conv2d(8, 10, 3).double()
    way = by_layer("tucker", layer)
    bound = dict(way.energies(layer) or [])
    pair = (3, 4)
    weights = [part.weight.detach() for part in factor_layer(layer, pair, "tucker")]
    w = layer.weight.detach().flatten(2)
    u_out = torch.linalg.svd(w.flatten(1))[0][:, :4]
    u_in = torch.linalg.svd(w.transpose(0, 1).flatten(1))[0][:, :3]
    hosvd = torch.einsum("oik,or,pr,is,js->pjk", w, u_out, u_out, u_in, u_in)
    first = float((w - hosvd).square().sum() / w.square().sum())
    assert way.lost(layer, weights) < first <= bound.get(pair, 1.0)


class Images(nn.Module):
    """Convolutions of several kinds in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.grouped = nn.Conv2d(12, 16, 3, stride=2, padding=1, groups=2, bias=False)
        self.wide = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1)
        self.fc = nn.Linear(12 * 64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu(self.wide(torch.relu(self.grouped(x))))
        return self.fc(torch.relu(self.up(x)).flatten(1))  # type: ignore[no-any-return]


X = torch.randn(40, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def images() -> nn.Module:
    torch.manual_seed(0)
    return Images().eval()


def equal(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return list(states[0]) == list(states[1]) and all(
        torch.equal(states[0][name], states[1][name]) for name in states[0]
    )


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "rank": {"rank": 3},
    "bound": {"rank": "bound"},
    "by layer": {"rank": {"wide": 4, "fc": 2}},
    "energy": {"energy": 0.5},
    "parameters": {"parameters": 0.6},
    "spatial": {"method": "spatial", "macs": 0.8},
    "tucker": {"method": "tucker", "rank": (2, 3)},
    "data": {"data": X},
    "refit": {"data": (X, torch.zeros(40)), "refit": True},
    "spatial, data": {"method": "spatial", "macs": 0.8, "data": X},
    "tucker, refit": {"method": "tucker", "macs": 0.8, "data": X, "refit": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_way_makes_a_model_smaller_and_saves_it(name: str, tmp_path: Path) -> None:
    model = images()
    before = snapshot(model)
    result = LowRank(**OPTIONS[name])(model, X[:2])
    assert same_state(before, snapshot(model))
    assert result.report.macs is not None
    assert result.report.macs[1] < result.report.macs[0]
    assert result.report.macs[1] == macs(result.model, X[:2])
    assert {layer.name for layer in result.layers}.isdisjoint(result.report.frozen)
    for layer in result.layers:
        row = result.model.get_submodule(layer.name)
        assert type(row) is nn.Sequential
        assert sum(p.numel() for p in row.parameters()) == layer.parameters[1]
        assert layer.error is not None
        assert layer.error >= 0
    loaded = load(result.save(tmp_path / "small"), Images())
    assert equal(loaded, result.model)
    assert torch.equal(loaded.eval()(X), result.model(X))


def test_a_new_process_loads_it(tmp_path: Path) -> None:
    result = LowRank(data=X, refit=True)(images(), X[:1])
    folder = result.save(tmp_path / "small")
    torch.save({"x": X, "y": result.model(X), "state": result.model.state_dict()}, tmp_path / "answers.pt")
    code = (
        f"import sys, torch, secateur as sc; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_low_rank import Images\n"
        f"answers = torch.load({str(tmp_path / 'answers.pt')!r})\n"
        f"torch.set_num_threads(1); small = sc.load({str(folder)!r}, Images()).eval()\n"
        "state = small.state_dict()\n"
        "assert list(state) == list(answers['state'])\n"
        "assert all(torch.equal(state[name], value) for name, value in answers['state'].items())\n"
        # Convolutions of another process may add up in another order: a processor's kernels are chosen as it runs.
        "torch.testing.assert_close(small(answers['x']), answers['y'])\n"
        "print(small.wide)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Sequential(")


@pytest.mark.parametrize("share", [0.35, 0.5, 0.75])
@pytest.mark.parametrize("measure", ["macs", "parameters"])
def test_a_budget_is_met_and_hardly_undershot(share: float, measure: str) -> None:
    report = LowRank(**{measure: share})(images(), X[:1]).report
    before, after = getattr(report, measure)
    assert share - 0.06 < after / before <= share


def test_ranks_for_a_budget_are_the_best_that_there_are() -> None:
    """The product of the energies that two layers keep is greatest, over all pairs of ranks within the budget."""
    model = nn.Sequential(nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 12))
    result = LowRank(macs=0.6)(model, torch.zeros(1, 12))
    energies = [dict(by_layer("svd", model[i]).energies(model[i]) or []) for i in (0, 2)]
    allowed = 0.6 * 240

    def cost(rank: int) -> int:
        return rank * 22 if rank * 22 < 120 else 120

    def kept(ranks: tuple[int, int]) -> float:
        shares = [1.0 if cost(r) == 120 else 1 - e[r] for r, e in zip(ranks, energies, strict=True)]
        return shares[0] * shares[1]

    best = max(kept((a, b)) for a in range(1, 11) for b in range(1, 11) if cost(a) + cost(b) <= allowed)
    ranks = {layer.name: int(layer.form.split()[1]) for layer in result.layers}
    assert kept((ranks.get("0", 10), ranks.get("2", 10))) == pytest.approx(best)


def test_the_bound_of_the_text() -> None:
    """n < m₁ m₂ / (m₁ + m₂), and the layer is left alone from there on."""
    model, x = nn.Sequential(nn.Linear(30, 20)), torch.zeros(1, 30)
    result = LowRank(rank="bound")(model, x)
    assert result.model[0][0].out_features == rank_bound(30, 20) == 11
    wide = nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 30))
    whole = LowRank(rank={"0": 12, "2": 11})(wide, x).report.frozen
    assert whole == {"0": "it would take no fewer multiply-accumulates; it does up to rank 11 of 20"}
    with pytest.raises(InputError, match="no layer was changed: 0 \\(it would take no fewer"):
        LowRank(rank=12)(model, x)


def error_on(model: nn.Module, small: nn.Module, name: str, data: Tensor) -> float:
    """The squared error of one layer's outputs, where it reads what the unchanged model gives it."""
    layer, row = model.get_submodule(name), small.get_submodule(name)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _, args, out: seen.extend([args[0], out]))
    with torch.no_grad():
        model(data)
        handle.remove()
        return float((row(seen[0]) - seen[1]).square().sum())


@pytest.mark.parametrize("method", ["svd", "spatial", "tucker"])
def test_on_the_data_it_is_never_worse_than_plain(method: str) -> None:
    ranks: dict[str, Any] = {"first": 4, "grouped": 2, "wide": 5, "up": 4, "fc": 3}
    model = images()
    ignore = ["up"] if method != "svd" else []
    plain_ranks = {name: rank for name, rank in ranks.items() if name not in ignore}
    plain = LowRank(rank=plain_ranks, method=method, ignore=ignore)(model, X[:1])
    aware = LowRank(rank=plain_ranks, method=method, ignore=ignore, data=X, ridge=0.0)(model, X[:1])
    assert [layer.name for layer in plain.layers] == list(plain_ranks)
    for name in plain_ranks:
        without, with_data = (error_on(model, result.model, name, X) for result in (plain, aware))
        assert with_data <= without * (1 + 1e-6)
    assert aware.change is not None
    refitted = LowRank(rank=plain_ranks, method=method, ignore=ignore, data=X, refit=True)(model, X[:1])
    lost = {layer.name: layer.error for layer in refitted.layers}
    assert lost["fc"] < {layer.name: layer.error for layer in aware.layers}["fc"]  # type: ignore[operator]


def test_on_data_the_best_that_there_is() -> None:
    """Beside the SVD of the weight weighed by the root of the inputs' covariance, which the theory asks for."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 5)
    x = torch.randn(200, 6) @ torch.randn(6, 6) + torch.randn(6)
    result = LowRank(rank=2, data=x)(nn.Sequential(layer), x[:1])
    centred = (x - x.mean(0)).double()
    values, vectors = torch.linalg.eigh(centred.mT @ centred)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.mT
    tail = torch.linalg.svdvals(layer.weight.detach().double() @ root)[2:].square().sum()
    with torch.no_grad():
        error = (result.model(x) - layer(x)).square().sum()
    assert float(error) == pytest.approx(float(tail), rel=1e-4)
    spread = float((layer(x) - layer(x).mean(0)).detach().square().sum())
    assert result.layers[0].error == pytest.approx(float(tail) / spread, rel=1e-4)


def test_where_the_inputs_lie_in_few_directions_data_make_low_rank_exact() -> None:
    layer = nn.Conv2d(4, 8, 3, padding=1)
    mixing = torch.randn(4, 2)
    x = torch.einsum("cr,nrhw->nchw", mixing, torch.randn(6, 2, 1, 1).expand(6, 2, 5, 5))
    # What is alike everywhere but at the border has three directions there, along each side.
    plain, aware = (LowRank(rank=5, data=data)(nn.Sequential(layer), x).layers[0].error for data in (None, x))
    assert aware is not None
    assert plain is not None
    assert aware < 0.2 * plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0 must be a whole number, 1 or more, 'bound', or one by layer"),
        ({"rank": -2}, "rank=-2 must be a whole number"),
        ({"rank": 2.5}, "rank=2.5 must be a whole number"),
        ({"rank": True}, "rank=True must be a whole number"),
        ({"rank": (2, 3)}, r"rank=\(2, 3\) must be a whole number"),
        ({"rank": "most"}, "rank='most' must be"),
        ({"rank": {"fc": 0}}, "rank=0 must be a whole number"),
        ({"rank": 2, "macs": 0.5}, "rank and macs are given; give one of"),
        ({"energy": 0}, "energy=0 must be a number in"),
        ({"energy": 1.5}, "energy=1.5 must be"),
        ({"macs": 1.0}, "macs=1.0 must be"),
        ({"parameters": -0.5}, "parameters=-0.5 must be"),
        ({"refit": True}, "refit=True fits layers to data; give data="),
        ({"method": "cp"}, "give a rank, as a number or 'bound'"),
        ({"data": []}, "LowRank: there are no batches"),
        ({"data": X, "batch_size": 0}, "batch_size=0 must be"),
        ({"ridge": -1.0}, "ridge=-1.0 must be"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        LowRank(**options)


def test_bad_names_and_ranks_are_refused() -> None:
    model, x = images(), X[:1]
    with pytest.raises(UnknownNameError, match="wdie"):
        LowRank(rank={"wdie": 2})(model, x)
    with pytest.raises(UnknownNameError, match="layer to ignore"):
        LowRank(ignore=["convs*"])(model, x)
    with pytest.raises(UnknownNameError, match="factorisation"):
        LowRank(method="qr")
    with pytest.raises(InputError, match="LowRank: wide: rank=17 must be from 1 to 16, the full rank"):
        LowRank(rank={"wide": 17})(model, x)
    with pytest.raises(InputError, match="rank=17 must be from 1 to 16, the full rank of the largest layer"):
        LowRank(rank=17)(model, x)
    with pytest.raises(InputError, match="'fc' cannot be split: ignored, as asked"):
        LowRank(rank={"fc": 2}, ignore=["fc"])(model, x)
    with pytest.raises(InputError, match="rank 1 in every layer saves"):
        LowRank(macs=0.01)(model, x)
    with pytest.raises(InputError, match="transposed convolution is not split in space"):
        factor_layer(model.up, 2, "spatial")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="rank=0 must be from 1 to 16"):
        factor_layer(model.wide, 0)  # type: ignore[arg-type]


def test_what_cannot_be_split_is_left_with_the_reason() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(12, 12)
            self.twin = nn.Linear(12, 12)
            self.twin.weight = self.fc.weight
            self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(12, 12))
            self.read = nn.Linear(12, 12)
            self.attention = nn.MultiheadAttention(12, 2)
            self.free = nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            x = self.normed(self.twin(self.fc(x))) @ self.read.weight
            return self.free(self.attention(x, x, x)[0])  # type: ignore[no-any-return]

    result = LowRank(rank=2)(Odd(), torch.randn(3, 12))
    assert [layer.name for layer in result.layers] == ["free"]
    assert result.report.frozen == {
        "fc": "it shares a parameter with another layer",
        "twin": "it shares a parameter with another layer",
        "normed": "its weight is computed",
        "read": "its module is not called, or other code reads its weight",
        "attention.out_proj": "its module is not called, or other code reads its weight",
    }


def test_a_layer_under_two_names_is_split_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(12, 12)
            self.other = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.other(torch.relu(self.one(x)))  # type: ignore[no-any-return]

    x = torch.randn(4, 12)
    result = LowRank(rank=3, data=x)(Twice(), x)
    assert result.model.one is result.model.other
    assert result.report.macs == (4 * 2 * 144, 4 * 2 * 72)
    assert torch.equal(result.apply(Twice())(x), result.model(x))


def test_a_single_layer_becomes_a_row(tmp_path: Path) -> None:
    layer, x = nn.Linear(8, 8), torch.randn(2, 8)
    result = LowRank(rank=2)(layer, x)
    assert isinstance(result.model, nn.Sequential)
    assert torch.equal(load(result.save(tmp_path / "small"), nn.Linear(8, 8))(x), result.model(x))


def test_modes_types_and_gradients_are_those_of_the_layer() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)).double().train()
    model[0].requires_grad_(False)
    small = LowRank(rank=2)(model, torch.randn(2, 8, dtype=torch.float64)).model
    assert small[0].training
    assert {p.dtype for p in small.parameters()} == {torch.float64}
    assert [p.requires_grad for p in small.parameters()] == [False] * 3 + [True] * 3


def test_the_same_again() -> None:
    first, second = (LowRank(data=X, refit=True)(images(), X[:1]).model for _ in range(2))
    assert equal(first, second)


def test_the_global_random_numbers_are_left_alone() -> None:
    model = images()
    before = torch.get_rng_state()
    LowRank(data=X, refit=True)(model, X[:1])
    assert torch.equal(torch.get_rng_state(), before)


def test_cp_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorly", None)
    with pytest.raises(MissingLibraryError, match=r"secateur\[tensor\]"):
        LowRank(rank=2, method="cp")(images(), X[:1])


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "uneven kernel, stride, padding, dilation", "same", "conv3d"])
def test_cp_is_as_exact_as_its_fit(name: str) -> None:
    pytest.importorskip("tensorly")
    build, shape = LAYERS[name]
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64)
    way = by_layer("cp", layer)
    errors = []
    for rank in (1, 4, 12):
        row = factor_layer(layer, rank, "cp")
        weights = [part.weight.detach() for part in row]
        layer_again = build().double()
        layer_again.weight.data = way.product(layer, weights)[0]  # type: ignore[arg-type]
        if layer.bias is not None:
            layer_again.bias.data = layer.bias.data  # type: ignore[operator, union-attr]
        torch.testing.assert_close(row(x), layer_again(x), rtol=1e-9, atol=1e-9)
        errors.append(way.lost(layer, weights))  # type: ignore[arg-type]
    assert errors[0] > errors[1] > errors[2]


def test_in_onnx_runtime_it_answers_alike(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    import secateur as sc

    result = LowRank(data=X)(images(), X[:1])
    sc.export(result.model, X[:1], "onnxruntime", tmp_path / "small.onnx")  # compares with torch
    assert result.timed("onnxruntime").latency is not None


SPEC = {"kind": "Linear", "options": {"in_features": 8, "out_features": 8}}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"1": [SPEC]}, "no linear layer or convolution"),
        ({"0": []}, "is none of"),
        ({"0": [{"kind": "ReLU", "options": {}}]}, "is none of"),
        ({"0": [{"kind": "Linear", "options": {"in_features": 8, "out_features": 4}}]}, "of other sizes"),
        ({"0": [{"kind": "Linear", "options": {"in_features": 8, "out_features": 8, "device": "cuda"}}]}, "none that"),
        ({"0": [{"kind": "Linear", "options": {"in_features": 8, "out_features": 2**40}}]}, "none that"),
        ({"0": [{"kind": "Linear", "options": {"in_features": 8}}]}, "cannot be made"),
    ],
)
def test_forged_edits_are_refused(layers: dict[str, Any], message: str) -> None:
    edit = from_dict({"kind": "low-rank", "layers": layers})
    with pytest.raises(FileError, match=message):
        edit.apply(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))


def test_a_row_that_is_far_larger_is_refused() -> None:
    sizes = [(8, 2**15), (2**15, 8)]
    specs = [LayerSpec("Linear", {"in_features": a, "out_features": b}) for a, b in sizes]
    with pytest.raises(FileError, match="of other sizes"):
        Factored({"0": specs}).apply(nn.Sequential(nn.Linear(8, 8)))


def test_an_edit_is_plain_data_that_does_it_again() -> None:
    (edit,) = LowRank(rank=3)(images(), X[:1]).edits
    again = from_dict(to_dict(edit))
    assert to_dict(again) == to_dict(edit)
    assert str(again.apply(images())) == str(edit.apply(images()))
