"""Labels of any whole numbers mean the same; tensors that torch cannot compute with are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur.saving import save_weights
from secateur.types import InputError

Change = Callable[[Tensor], Tensor]


def network() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


INPUTS = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 2


def prune(data: Any, criterion: str | None = None) -> sc.Result:
    return sc.prune(network(), INPUTS[:2], criterion, 0.5, data=data, latency=False)


def fitted(data: Any) -> nn.Module:
    model = network()
    sc.fit(model, data, epochs=1)
    return model


ANSWERS: dict[str, Callable[[Any], Any]] = {
    "evaluate": lambda data: sc.evaluate(network(), data),
    "fit": lambda data: fitted(data)[2].weight.tolist(),
    "taylor": lambda data: prune(data, "taylor").keep["0"].tolist(),
    "loss-change": lambda data: prune(data, "loss-change").keep["0"].tolist(),
    "default": lambda data: prune(data).keep["0"].tolist(),
    "batches": lambda data: sc.evaluate(network(), [(data[0][:20], data[1][:20]), (data[0][20:], data[1][20:])]),
}
WHOLE = [torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.bool]


@pytest.mark.parametrize("task", ANSWERS)
@pytest.mark.parametrize("dtype", WHOLE, ids=str)
def test_labels_of_any_whole_numbers_mean_the_same(task: str, dtype: torch.dtype) -> None:
    assert ANSWERS[task]((INPUTS, LABELS.to(dtype))) == ANSWERS[task]((INPUTS, LABELS))


UNUSABLE: dict[str, tuple[Change, str]] = {
    "meta": (lambda x: x.to("meta"), "meta device hold no values"),
    "sparse": (lambda x: x.to_sparse(), "sparse_coo tensors; make them dense"),
    "csr": (lambda x: x.reshape(len(x), -1).to_sparse_csr(), "sparse_csr tensors; make them dense"),
    "quantized": (lambda x: torch.quantize_per_tensor(x.float(), 0.1, 0, torch.qint8), "torch computes little"),
}


@pytest.mark.parametrize("kind", UNUSABLE)
@pytest.mark.parametrize("task", sorted(set(ANSWERS) - {"batches"}))
def test_samples_that_cannot_be_computed_with_are_refused(task: str, kind: str) -> None:
    change, words = UNUSABLE[kind]
    for data in ((change(INPUTS), LABELS), (INPUTS, change(LABELS)) if kind != "csr" else (change(INPUTS), LABELS)):
        with pytest.raises(InputError, match=f": the tensors given .*{words}"):
            ANSWERS[task](data)


def test_in_batches_they_are_named_by_their_place() -> None:
    for name, data in (("inputs", (INPUTS.to("meta"), LABELS)), ("targets", (INPUTS, LABELS.to_sparse()))):
        with pytest.raises(InputError, match=f"evaluate, batch 1: {name} "):
            sc.evaluate(network(), [data])


def test_complex_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"evaluate: the targets are torch\.complex64; give whole numbers"):
        sc.evaluate(network(), (INPUTS, LABELS.to(torch.complex64)))


MODELS: dict[str, tuple[Change, str]] = {
    **{name: UNUSABLE[name] for name in ("meta", "sparse", "csr")},
    "float8": (lambda x: x.to(torch.float8_e4m3fn), "torch computes little"),
}
WAYS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "prune": lambda model, _: sc.prune(model, INPUTS[:2], latency=False),
    "evaluate": lambda model, _: sc.evaluate(model, (INPUTS, LABELS)),
    "fit": lambda model, _: sc.fit(model, (INPUTS, LABELS), epochs=1),
    "channels": lambda model, _: sc.channels(model, INPUTS[:2]),
    "weights": lambda model, _: sc.weights(model),
    "l2": lambda model, _: sc.criteria.by_name("l2")(model, sc.channels(network(), INPUTS[:2])),
    "parameters": lambda model, _: sc.measure.parameters(model),
    "macs": lambda model, _: sc.measure.macs(model, INPUTS[:1]),
    "latency": lambda model, _: sc.measure.latency(model, INPUTS[:1]),
    "save": lambda model, folder: save_weights(folder / "w.safetensors", model),
    "teacher": lambda model, _: sc.distill(network(), model, (INPUTS, LABELS), epochs=1),
    "export": lambda model, folder: sc.export(model, INPUTS[:1], folder / "m.onnx"),
}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("way", WAYS)
def test_models_that_cannot_be_computed_with_are_refused(way: str, kind: str, tmp_path: Path) -> None:
    change, words = MODELS[kind]
    model = network()
    model[0].weight = nn.Parameter(change(model[0].weight.detach()), requires_grad=False)
    with pytest.raises(InputError, match=rf"the values of 0\.weight of the model .*{words}"):
        WAYS[way](model, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", UNUSABLE)
def test_example_inputs_that_cannot_be_computed_with_are_refused(kind: str) -> None:
    change, words = UNUSABLE[kind]
    for inputs in (change(INPUTS), (change(INPUTS),), {"input": change(INPUTS)}):
        with pytest.raises(InputError, match=f"channels: the tensors given .*{words}"):
            sc.channels(network(), inputs)
