"""Whole numbers of 8 bits in ONNX Runtime: smaller, nearly as exact, and refused where they are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from no_room_to_lose import Fragile
from torch import nn

import secateur as sc
from secateur.runtimes import OnnxInt8
from secateur.runtimes.fidelity import Fidelity
from secateur.types import ExportError, InputError

for library in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(library)

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(96, 3, 8, 8, generator=GENERATOR)
LABELS = IMAGES.mean((2, 3)).argmax(1)


def cnn() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU())
    return nn.Sequential(convolutions, nn.Flatten(), nn.Linear(128, 3))


@pytest.fixture(scope="module")
def model() -> nn.Sequential:
    trained = cnn()
    sc.fit(trained, (IMAGES, LABELS), epochs=25, lr=0.005)
    return trained.eval()


@pytest.mark.parametrize("data", [(IMAGES, LABELS), IMAGES, [(IMAGES[:40], LABELS[:40]), (IMAGES[40:], LABELS[40:])]])
def test_a_static_file_keeps_the_accuracy_on_a_quarter_of_the_bytes(
    model: nn.Sequential, data: Any, tmp_path: Path
) -> None:
    exact = sc.export(model, IMAGES[:16], "onnxruntime")
    exported = sc.export(model, IMAGES[:16], OnnxInt8(data=data), tmp_path / "int8.onnx")
    assert exported.runtime == "onnxruntime-int8"
    assert (tmp_path / "int8.onnx").read_bytes() == exported.content
    assert _weight_bytes(exported.content) < 0.3 * _weight_bytes(exact.content)
    answers = torch.cat([exported.run(part).argmax(1) for part in IMAGES.split(16)])
    right = (answers == LABELS).double().mean()
    assert sc.evaluate(model, (IMAGES, LABELS)).accuracy - float(right) <= 1.01 / len(LABELS)
    assert 0 < exported.difference < 0.2


def _weight_bytes(content: bytes) -> int:
    import onnx

    return sum(len(tensor.raw_data) for tensor in onnx.load_from_string(content).graph.initializer)


def test_a_dynamic_file_by_name() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)).eval()
    x = torch.randn(8, 64)
    exported = sc.export(model, x, "onnxruntime-int8:threads=1")
    expected = model(x).detach()
    apart = (exported.run(x) - expected).norm() / expected.norm()
    assert 0 < float(apart) < 0.05
    assert len(exported.content) < 0.5 * 4 * sum(p.numel() for p in model.parameters())


def test_any_batch(model: nn.Sequential) -> None:
    exported = sc.export(model, IMAGES[:8], OnnxInt8(data=(IMAGES, LABELS)), dynamic_batch=True)
    assert exported.run(IMAGES[:5]).shape == (5, 3)


def test_it_is_timed_like_other_runtimes(model: nn.Sequential) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measured = sc.measure.latency(model, IMAGES[:8], runtime=OnnxInt8(data=(IMAGES, LABELS)), repeats=3)
    assert measured.median > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("labelled", [True, False])
def test_a_file_that_answers_otherwise_is_refused(labelled: bool, tmp_path: Path) -> None:
    x = torch.randn(64, 4, generator=GENERATOR)
    labels = Fragile()(x).argmax(1)
    data: Any = (x, labels) if labelled else x
    with pytest.raises(ExportError, match="has an accuracy of" if labelled else "agrees with torch on"):
        sc.export(Fragile(), x[:8], OnnxInt8(data=data), tmp_path / "fragile.onnx")
    assert not (tmp_path / "fragile.onnx").exists()


def test_a_model_without_anything_to_quantise_is_refused() -> None:
    with pytest.raises(ExportError, match="nothing to quantise"):
        sc.export(nn.Softmax(1), torch.randn(4, 3), "onnxruntime-int8")


def test_bad_input(model: nn.Sequential) -> None:
    with pytest.raises(InputError, match="fewer samples than the example, 16"):
        sc.export(model, IMAGES[:16], OnnxInt8(data=IMAGES[:4]))
    with pytest.raises(InputError, match="threads=0"):
        OnnxInt8(threads=0)
    with pytest.raises(InputError, match="points=-1"):
        OnnxInt8(points=-1)
    with pytest.raises(InputError, match="data"):
        OnnxInt8(data=7)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="threads must be a whole number"):
        sc.export(model, IMAGES[:16], "onnxruntime-int8:threads=x")


def test_written_out_agreement() -> None:
    exact = torch.tensor([[2.0, 1.0], [0.0, 4.0]])
    other = torch.tensor([[2.0, 1.0], [5.0, 4.0]])
    fidelity = Fidelity()
    fidelity.add(exact, other, torch.tensor([0, 1]))
    assert (fidelity.right, fidelity.labelled, fidelity.same, fidelity.relative) == ([2, 1], 2, 1, 1.25)
    fidelity.check("int8", 0.5)  # one sample may always be lost
    fidelity.add(exact, other, torch.tensor([0, 1]))
    with pytest.raises(ExportError, match=r"50\.00 %, torch 100\.00 %, on 4 samples"):
        fidelity.check("int8", 0.5)


def test_other_outputs_are_compared_by_their_size() -> None:
    fidelity = Fidelity()
    fidelity.add({"y": torch.ones(2, 3, 4)}, {"y": torch.full((2, 3, 4), 1.05)}, None)
    fidelity.check("int8", 0.5)
    fidelity.add({"y": torch.ones(2, 3, 4)}, {"y": torch.full((2, 3, 4), 1.5)}, None)
    with pytest.raises(ExportError, match="apart from torch"):
        fidelity.check("int8", 0.5)
