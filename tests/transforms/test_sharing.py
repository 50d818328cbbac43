"""Weights share values: zeros stay, values are trained as one, and a folder gives the same to the bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as parse_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor, nn

import secateur as sc
from saved_folders import reseal
from secateur.edits import Masked, Shared
from secateur.saving.manifest import EDITS, MANIFEST, MODEL
from secateur.train import TrainOptions, fit
from secateur.transforms import HoldShared, Quantize, Share
from secateur.types import FileError, InputError, UnknownNameError

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randint(0, 3, (32,), generator=torch.Generator().manual_seed(2))
INPUTS = 6


def mlp(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))


def names_of(model: nn.Module) -> list[str]:
    return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]


def pruned(model: nn.Module, sparsity: float = 0.7) -> sc.Result:
    sites = sc.weights(model)
    keep = sc.select(sc.criteria.Magnitude()(model, sites), sparsity, sites=sites)
    return sc.Result.of(model, sites, keep)


def values(model: nn.Module, name: str) -> Tensor:
    return torch.unique(model.get_parameter(name).detach())


@pytest.mark.parametrize("bits", range(1, 9))
def test_each_layer_has_at_most_so_many_values(bits: int) -> None:
    result = Share(bits)(mlp(), X)
    assert all(1 < len(values(result.model, name)) <= 2**bits for name in names_of(result.model))
    assert result.report.bytes[1] < result.report.bytes[0]


def test_one_codebook_for_all() -> None:
    result = Share(3, scope="global")(mlp(), X)
    together = torch.cat([values(result.model, name) for name in names_of(result.model)])
    assert len(torch.unique(together)) <= 8


def test_zeros_stay_and_what_was_kept_is_not_zero() -> None:
    small = pruned(mlp())
    shared = Share(2)(small.model, X)
    for name in names_of(small.model):
        before, after = (result.model.get_parameter(name) for result in (small, shared))
        assert torch.equal(before == 0, after == 0)
        assert len(values(shared.model, name)) <= 4


def test_every_weight_got_the_nearest_value() -> None:
    model = mlp()
    shared = Share(3)(model, X).model
    for name in names_of(model):
        weight, codebook = model.get_parameter(name).detach(), values(shared, name)
        nearest = codebook[(weight[..., None] - codebook).abs().argmin(-1)]
        assert torch.equal(shared.get_parameter(name), nearest)


def test_ignored_parameters_stay() -> None:
    model = mlp()
    shared = Share(2, ignore=["4.*"])(model, X)
    assert torch.equal(shared.model.get_parameter("4.weight"), model.get_parameter("4.weight"))
    assert len(shared.report.layers) == 2


class Centroids(nn.Module):
    """A linear layer that looks its weights up, the plain way."""

    def __init__(self, values: Tensor, index: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.values, self.bias, self.index = nn.Parameter(values.clone()), nn.Parameter(bias.clone()), index

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.values[self.index], self.bias)


@pytest.mark.parametrize("optimizer", [{"optimizer": "sgd", "lr": 0.01, "momentum": 0.9}, {"optimizer": "adam"}])
def test_training_clusters_is_training_the_values(optimizer: dict[str, Any]) -> None:
    layer = nn.Linear(INPUTS, 3).double()
    codebook = torch.tensor([-0.3, 0.1, 0.4]).double()
    index = torch.randint(0, 3, layer.weight.shape)
    layer.weight.data = codebook[index]
    plain = Centroids(codebook, index, layer.bias.detach())
    options = TrainOptions(epochs=3, batch_size=8, **optimizer)
    data = X.double(), Y
    fit(layer, data, options=options, callbacks=[HoldShared([{"weight": index}])])
    fit(plain, data, options=options)
    assert torch.allclose(layer.weight, plain.values[index], rtol=1e-12, atol=1e-14)
    assert torch.allclose(layer.bias, plain.bias, rtol=1e-12, atol=1e-14)


def test_values_of_several_layers_are_trained_as_one() -> None:
    data = X, Y
    model = mlp()
    trained = Share(3, scope="global", data=data, train=TrainOptions(epochs=2, lr=0.01))(model, X)
    untrained = Share(3, scope="global")(model, X)
    codebooks = [
        torch.unique(torch.cat([values(result.model, name) for name in names_of(model)]))
        for result in (trained, untrained)
    ]
    assert len(codebooks[0]) <= 8
    assert not torch.equal(*codebooks)
    assert trained.history is not None
    assert len(trained.history.to_dict()["epochs"]) == 2


def test_pruned_weights_and_frozen_layers_stay_while_values_are_trained() -> None:
    small = pruned(mlp()).model
    small.get_parameter("2.weight").requires_grad_(False)
    shared = Share(3, data=(X, Y), train=TrainOptions(epochs=3, lr=0.05, weight_decay=0.1))(small, X).model
    for name in names_of(small):
        assert bool((shared.get_parameter(name)[small.get_parameter(name) == 0] == 0).all())
    assert torch.equal(shared.get_parameter("2.weight"), Share(3)(small, X).model.get_parameter("2.weight"))


@pytest.mark.parametrize("coder", ["packed", "lzma", "zlib", "auto"])
@pytest.mark.parametrize("make", [Share, Quantize])
def test_pruned_shared_saved_and_loaded_in_a_new_process_is_the_same_to_the_bit(
    make: type[Share | Quantize], coder: str, tmp_path: Path
) -> None:
    small = pruned(mlp())
    result = make(4, coder=coder)(small.model, X).after(small)
    folder = result.save(tmp_path / "small")
    code = """
import sys, torch
from torch import nn
from secateur.saving import load
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(6, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 3))
x = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))
with torch.no_grad():
    print(load(sys.argv[1], model)(x).view(torch.int32).tolist())
"""
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with torch.no_grad():
        assert json.loads(run.stdout) == result.model(X).view(torch.int32).tolist()


def test_masks_that_the_tensors_tell_are_not_stored_again(tmp_path: Path) -> None:
    small = pruned(mlp())
    result = Share(3, coder="packed")(small.model, X).after(small)
    folder = result.save(tmp_path / "small")
    stored = parse_tensors((folder / EDITS).read_bytes())
    assert all(tensor.dtype is not torch.bool for tensor in stored.values())
    masked = next(edit for edit in load_edits(folder) if isinstance(edit, Masked))
    expected = next(edit for edit in result.edits if isinstance(edit, Masked))
    assert masked.masks.keys() == expected.masks.keys()
    assert all(torch.equal(masked.masks[name], mask) for name, mask in expected.masks.items())


def test_masks_upon_masks_are_one_edit_and_stored_once(tmp_path: Path) -> None:
    once = pruned(mlp(), 0.5)
    with torch.no_grad():
        once.model[0].weight.mul_(1.5)
    twice = pruned(once.model, 0.8).after(once)
    result = Share(3, coder="packed")(twice.model, X).after(twice)
    assert [type(edit) for edit in result.edits] == [Masked, Shared]
    folder = result.save(tmp_path / "small")
    assert all(tensor.dtype is not torch.bool for tensor in parse_tensors((folder / EDITS).read_bytes()).values())
    with torch.no_grad():
        assert torch.equal(sc.load(folder, mlp(9))(X), result.model(X))


def load_edits(folder: Path) -> Any:
    from secateur.saving import load_with_edits

    return load_with_edits(folder, mlp())[1]


def test_the_report_tells_the_bytes_of_the_tensors_on_disk(tmp_path: Path) -> None:
    result = Share(2)(mlp(), X)
    folder = result.save(tmp_path / "small")
    on_disk = sum((folder / name).stat().st_size for name in (MODEL, EDITS))
    # What is told is the tensors; the edit's own codebooks lie beside them, and some of what the model answers.
    assert result.report.bytes[1] <= on_disk <= result.report.bytes[1] + 700


def test_weights_that_no_longer_share_are_stored_as_they_are(tmp_path: Path) -> None:
    result = Share(4)(mlp(), X)
    with torch.no_grad():
        result.model[2].weight.add_(torch.randn(30, 40))
    folder = result.save(tmp_path / "small")
    assert set(parse_tensors((folder / MODEL).read_bytes())) >= {"2.weight"}
    again = sc.load(folder, mlp(9))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), result.model.parameters(), strict=True))


def test_a_cut_after_sharing_is_stored_by_codebook(tmp_path: Path) -> None:
    shared = Share(3)(mlp(), X)
    sites = sc.channels(shared.model, X)
    cut = sc.Result.of(shared.model, sites, {"0": torch.arange(40) < 20}).after(shared)
    folder = cut.save(tmp_path / "small")
    assert "2.weight" not in parse_tensors((folder / MODEL).read_bytes())
    with torch.no_grad():
        assert torch.equal(sc.load(folder, mlp(9))(X), cut.model(X))


def test_tensors_under_two_names_are_stored_once(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(30, 30), nn.ReLU(), nn.Linear(30, 30))
        model[2].weight = model[0].weight
        return model

    x = torch.ones(1, 30)
    result = Share(2)(tied(), x)
    folder = result.save(tmp_path / "small")
    assert "0.weight" not in parse_tensors((folder / MODEL).read_bytes())
    with torch.no_grad():
        assert torch.equal(sc.load(folder, tied())(x), result.model(x))


def forge_encoded(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    reseal(folder, lambda manifest: change(manifest["encoded"]))


@pytest.mark.parametrize(
    "change",
    [
        lambda encoded: encoded["2.weight"].update(shape=[40, 30]),
        lambda encoded: encoded["2.weight"].update(shape=[10**6, 10**6]),
        lambda encoded: encoded["2.weight"].update(codec="pickle"),
        lambda encoded: encoded["2.weight"].update(coder="pickle"),
        lambda encoded: encoded["2.weight"].update(stream={"@tensor": "99"}),
        lambda encoded: encoded["2.weight"].update(stream={"@nonzero": "2.weight"}),
        lambda encoded: encoded["2.weight"].pop("values"),
        lambda encoded: encoded.update({"elsewhere": encoded["2.weight"]}),
        lambda encoded: encoded.pop("2.weight"),
        lambda encoded: encoded.update({"2.weight": {}}),
    ],
)
def test_forged_encodings_are_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    folder = Share(2)(mlp(), X).save(tmp_path / "small")
    forge_encoded(folder, change)
    with pytest.raises(FileError, match=str(folder)):
        sc.load(folder, mlp())


def test_a_mask_that_points_to_no_tensor_of_the_model_is_refused(tmp_path: Path) -> None:
    small = pruned(mlp())
    folder = Share(2)(small.model, X).after(small).save(tmp_path / "small")
    mask = {"@nonzero": "0.weight"}
    reseal(folder, lambda manifest: manifest["edits"][0]["masks"].update({"2.weight": mask}))
    with pytest.raises(FileError, match="fits no parameter"):
        sc.load(folder, mlp())


def test_truncated_and_flipped_files_are_one_clear_error(tmp_path: Path) -> None:
    folder = Share(2)(mlp(), X).save(tmp_path / "small")
    good = (folder / EDITS).read_bytes()
    for bad in (good[:-1], good[: len(good) // 2], b"", good[:-9] + bytes([good[-9] ^ 4]) + good[-8:]):
        (folder / EDITS).write_bytes(bad)
        with pytest.raises(FileError, match="truncated or changed"):
            sc.load(folder, mlp())


def test_a_resealed_folder_with_a_damaged_stream_is_refused(tmp_path: Path) -> None:
    folder = Share(2, coder="packed")(mlp(), X).save(tmp_path / "small")
    number = json.loads((folder / MANIFEST).read_text())["encoded"]["2.weight"]["stream"]["@tensor"]
    tensors = parse_tensors((folder / EDITS).read_bytes())
    tensors[number][5] ^= 1
    (folder / EDITS).write_bytes(dump_tensors(tensors))
    reseal(folder)
    with pytest.raises(FileError, match=r"2\.weight.*checksum"):
        sc.load(folder, mlp())


def test_folders_from_before_tensors_were_encoded_are_read(tmp_path: Path) -> None:
    small = pruned(mlp())
    folder = small.save(tmp_path / "small")

    def older(manifest: dict[str, Any]) -> None:
        manifest["format"] = 2
        del manifest["encoded"]

    reseal(folder, older)
    with torch.no_grad():
        assert torch.equal(sc.load(folder, mlp(9))(X), small.model(X))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bits": 0}, InputError, "bits=0"),
        ({"bits": 9}, InputError, "from 1 to 8"),
        ({"bits": 2.5}, InputError, r"bits=2\.5"),
        ({"scope": "layers"}, UnknownNameError, "did you mean 'layer'"),
        ({"initialisation": "k-means++"}, UnknownNameError, "initialisation"),
        ({"coder": "huffman"}, UnknownNameError, "coder"),
        ({"seed": -1}, InputError, "seed"),
        ({"train": {"epochs": 1}}, InputError, "TrainOptions"),
        ({"validation": (X, Y)}, InputError, "without data="),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Share(**options)


def test_bad_models() -> None:
    with pytest.raises(InputError, match="no weights"):
        Share()(nn.ReLU(), X)
    with pytest.raises(UnknownNameError, match="ignore"):
        Share(ignore=["fc*"])(mlp(), X)


def test_an_edit_that_does_not_fit_is_a_file_error() -> None:
    for edit in (Shared((torch.ones(2),), {"nowhere": 0}), Shared((torch.ones(2, 2),), {"0.weight": 0})):
        with pytest.raises(FileError):
            edit.apply(mlp())
