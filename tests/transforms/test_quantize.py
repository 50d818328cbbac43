"""Weights of n bits: on their grid, packed in n bits, and trained so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as parse_tensors
from torch import Tensor, nn

import secateur as sc
from saved_folders import reseal
from secateur.edits import InputGrid, Quantised
from secateur.saving.manifest import MODEL
from secateur.train import TrainOptions
from secateur.transforms import Quantize
from secateur.types import FileError, InputError, UnknownNameError

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, :3].sum(1) > 0).long()


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 2))


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5))


def on_grid(weight: Tensor, edit: Quantised, name: str) -> bool:
    numbers = weight / edit.scales[name][:, None] + edit.zeros[name][:, None]
    top = (1 << edit.bits) - 1
    return bool(((numbers - numbers.round()).abs() < 1e-3).all() and numbers.min() > -0.5 and numbers.max() < top + 0.5)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("per", ["channel", "tensor"])
def test_weights_lie_on_their_grids(bits: int, symmetric: bool, per: Any) -> None:
    result = Quantize(bits, symmetric=symmetric, per=per)(mlp(), X)
    (edit,) = result.edits
    assert isinstance(edit, Quantised)
    for name in edit.scales:
        weight = result.model.get_parameter(name).detach()
        assert on_grid(weight, edit, name)
        assert len(edit.scales[name]) == (len(weight) if per == "channel" else 1)
        assert all(len(torch.unique(row)) <= 2**bits for row in weight)


def test_written_out() -> None:
    model = nn.Linear(3, 2, bias=False)
    model.weight.data = torch.tensor([[-3.0, 1.2, 2.9], [0.0, 0.0, 6.4]])
    even = Quantize(3, spread="max")(model, torch.ones(1, 3)).model.weight
    assert torch.allclose(even, torch.tensor([[-3.0, 1.0, 3.0], [0.0, 0.0, 6.4]]))
    span = Quantize(2, symmetric=False, per="tensor", spread="max")(model, torch.ones(1, 3)).model.weight
    # A step of 9.4 / 3 from −3.13: zero is the second of the four values.
    assert torch.allclose(span, torch.tensor([[-1.0, 0.0, 1.0], [0.0, 0.0, 2.0]]) * 9.4 / 3)


@pytest.mark.parametrize("symmetric", [True, False])
def test_least_squares_is_never_worse_than_the_whole_range_and_channels_than_the_tensor(symmetric: bool) -> None:
    model = mlp()
    model[0].weight.data[0] *= 20

    def lost(**options: Any) -> float:
        layers = Quantize(4, symmetric=symmetric, **options)(model, X).report.layers
        return sum(layer.error or 0.0 for layer in layers)

    assert lost() < lost(spread="max")
    assert lost() < lost(per="tensor")


def test_pruned_weights_stay_zero_and_empty_channels_do_no_harm() -> None:
    model = mlp()
    model[0].weight.data[3] = 0
    model[2].weight.data[:, ::2] = 0
    for symmetric in (True, False):
        small = Quantize(2, symmetric=symmetric)(model, X).model
        assert bool((small[0].weight[3] == 0).all())
        assert bool((small[2].weight[:, ::2] == 0).all())


@pytest.mark.parametrize("bits", range(2, 9))
def test_packed_weights_take_n_bits_and_come_back_to_the_bit(bits: int, tmp_path: Path) -> None:
    result = Quantize(bits, coder="packed")(mlp(), X)
    folder = result.save(tmp_path / "small")
    plain = parse_tensors((folder / MODEL).read_bytes())
    assert set(plain) == {"0.bias", "2.bias", "4.bias"}
    again = sc.load(folder, mlp(9))
    with torch.no_grad():
        assert torch.equal(again(X), result.model(X))
    numbers = sum(p.numel() for p in result.model.parameters() if p.ndim > 1) * bits / 8
    assert numbers < result.report.bytes[1] < numbers + 3000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_come_back_to_the_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    x = X.to(dtype)
    result = Quantize(5)(mlp().to(dtype), x)
    again = sc.load(result.save(tmp_path / "small"), mlp(9).to(dtype))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))


def test_inputs_are_rounded_to_what_data_led_to(tmp_path: Path) -> None:
    model = mlp()
    result = Quantize(8, input_bits=2, data=(X, Y))(model, X)
    seen: list[Tensor] = []
    result.model[2].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    with torch.no_grad():
        result.model(X)
    assert len(torch.unique(seen[0])) <= 4
    again = sc.load(result.save(tmp_path / "small"), mlp(9))
    with torch.no_grad():
        assert torch.equal(again(X), result.model(X))
    assert not model[2]._forward_pre_hooks


def test_the_gradient_passes_rounding_within_the_grid_alone() -> None:
    x = torch.tensor([-1.0, 0.3, 5.0], requires_grad=True)
    (rounded,) = InputGrid(2, 0.5, 0.0)(nn.Identity(), (x,))
    rounded.sum().backward()
    assert rounded.tolist() == [0.0, 0.5, 1.5]
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


def test_trained_rounded_is_better_than_rounded_after() -> None:
    model = mlp()
    sc.fit(model, (X, Y), epochs=30, lr=0.01)
    after = Quantize(2, input_bits=3, data=(X, Y))(model, X).model
    aware = Quantize(2, input_bits=3, data=(X, Y), train=TrainOptions(epochs=30, lr=0.005))(model, X)
    losses = [sc.evaluate(m, (X, Y)).loss for m in (after, aware.model)]
    assert losses[1] < 0.8 * losses[0]
    (edit,) = aware.edits
    assert isinstance(edit, Quantised)
    assert all(on_grid(aware.model.get_parameter(name).detach(), edit, name) for name in edit.scales)
    assert list(aware.model.state_dict()) == list(model.state_dict())
    assert type(aware.model[0]) is nn.Linear


def test_what_the_training_saw_is_what_comes_out() -> None:
    """The loss of the last epoch, on one batch and without a step between, is that of the rounded model."""
    model = mlp()
    options = TrainOptions(epochs=1, optimizer="sgd", lr=1e-30, batch_size=64)
    result = Quantize(3, data=(X, Y), train=options)(model, X)
    assert result.history is not None
    epochs = result.history.to_dict()["epochs"]
    assert epochs[-1]["train_loss"] == pytest.approx(sc.evaluate(result.model, (X, Y)).loss, rel=1e-6)


def test_convolutions_and_norms() -> None:
    x = torch.randn(4, 3, 8, 8)
    model = cnn()
    result = Quantize(8, input_bits=8, data=(x, torch.tensor([0, 1, 2, 3])))(model, x)
    with torch.no_grad():
        apart = (result.model.eval()(x) - model.eval()(x)).norm() / model(x).norm()
    assert apart < 0.05


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 1}, InputError, "from 2 to 8"),
        ({"bits": 9}, InputError, "from 2 to 8"),
        ({"bits": True}, InputError, "bits=True"),
        ({"per": "row"}, UnknownNameError, "per"),
        ({"spread": "mean"}, UnknownNameError, "spread"),
        ({"coder": "huffman"}, UnknownNameError, "coder"),
        ({"input_bits": 8}, InputError, "needs data="),
        ({"train": TrainOptions()}, InputError, "needs data="),
        ({"train": 3, "data": (X, Y)}, InputError, "TrainOptions"),
        ({"input_bits": 16, "data": (X, Y)}, InputError, "from 2 to 8, or None"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Quantize(**options)


@pytest.mark.parametrize(
    "change",
    [
        lambda edit: edit.update(bits=40),
        lambda edit: edit.update(bits="4"),
        lambda edit: edit["scales"].update({"0.weight": edit["scales"]["2.weight"]}),
        lambda edit: edit["zeros"].pop("0.weight"),
        lambda edit: edit["inputs"].update({"0": {"bits": 8, "scale": "1", "zero": 0.0}}),
        lambda edit: edit["inputs"].update({"0": {"bits": 8, "scale": -1.0, "zero": 0.0}}),
        lambda edit: edit["inputs"].update({"9": {"bits": 8, "scale": 1.0, "zero": 0.0}}),
        lambda edit: edit["inputs"].update({"0": {"bits": 10**9, "scale": 1.0, "zero": 0.0}}),
        lambda edit: edit["inputs"].update({"0": {"code": "import os"}}),
    ],
)
def test_forged_grids_are_refused(change: Any, tmp_path: Path) -> None:
    folder = Quantize(4)(mlp(), X).save(tmp_path / "small")
    reseal(folder, lambda manifest: change(manifest["edits"][0]))
    with pytest.raises(FileError, match=str(folder)):
        sc.load(folder, mlp())
