"""Every runtime that has files: what it computes is what torch does, or there is an error that says why."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import files
from secateur.data import load
from secateur.runtimes import RUNTIMES, FileRuntime, Int8
from secateur.runtimes.probes import Kind, liked_multiple
from secateur.types import ExportError, InputError, MissingLibraryError

PACKAGES = {
    "onnxruntime": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino",),
    "executorch": ("executorch",),
    "litert": ("litert_torch", "ai_edge_litert"),
    "ncnn": ("ncnn", "pnnx"),
}
NAMES = [name for name, kind in RUNTIMES.items() if issubclass(kind, FileRuntime) and not issubclass(kind, Int8)]
X = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))

pytestmark = pytest.mark.filterwarnings("ignore")  # of the runtimes' own


@pytest.fixture(params=NAMES)
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} is not installed: pip install 'secateur[{RUNTIMES[name].extra}]'")  # type: ignore[union-attr]
    return name


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.inner, self.pool, self.head = nn.Conv2d(12, 12, 3, padding=1), nn.MaxPool2d(2), nn.Linear(12 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        y: Tensor = self.head(self.pool(torch.relu(x + self.inner(x))).flatten(1))
        return y


def test_a_cut_model_is_exported_and_written(runtime: str, tmp_path: Path) -> None:
    model = Residual().eval()
    small = sc.prune(model, X, "l2", sparsity=0.5, latency=False, round_to=1).model
    kind = RUNTIMES[runtime]
    assert issubclass(kind, FileRuntime)
    exported = sc.export(small, X, runtime, tmp_path / f"small{kind.suffix}")
    other = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(exported.run(other), small(other), atol=1e-5)
    assert exported.difference < 1e-4
    written = {path.suffix: path.read_bytes() for path in tmp_path.iterdir()}
    assert written == exported.parts
    assert exported.size == sum(len(part) for part in written.values())
    assert torch.allclose(kind(threads=2).opened(written)([other])[0], small(other), atol=1e-5)
    assert torch.allclose(exported.run(other), small(other), atol=1e-5)  # after another number of threads


def test_it_is_timed_by_name(runtime: str) -> None:
    models = {"whole": nn.Linear(64, 2048), "small": nn.Linear(64, 4)}
    compared = sc.measure.compare_latency(models, torch.randn(1, 64), runtime=f"{runtime}:threads=1", repeats=9)
    assert compared.latencies["small"].median > 0
    assert compared.speedups["small"].median > 1


def test_its_quick_way_runs_what_the_whole_one_does(runtime: str) -> None:
    kind = RUNTIMES[runtime]
    if not hasattr(kind, "quick"):
        assert liked_multiple(runtime, Kind((3, 3), 32)) == 8
        return
    run = kind().quick(Residual().eval(), X)
    assert run() is not None


class Outside(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_op_that_it_does_not_have_is_named(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="bessel_j0"):
        sc.export(Outside(), X, runtime, tmp_path / "file")
    assert not list(tmp_path.iterdir())


def test_half_and_double_models_are_refused(runtime: str) -> None:
    if runtime == "onnxruntime":
        pytest.skip("ONNX Runtime computes in float64, too")
    with pytest.raises(ExportError, match=r"model\.float\(\)"):
        sc.export(nn.Linear(4, 2).double(), torch.randn(1, 4).double(), runtime)


class Two(nn.Module):
    def forward(self, x: Tensor, more: dict[str, Tensor]) -> dict[str, Any]:
        y = x * 2 + more["bias"]
        return {"y": y, "deep": [y.relu(), None]}


def test_inputs_and_outputs_stay_nested(runtime: str) -> None:
    inputs = {"x": torch.randn(1, 6), "more": {"bias": torch.randn(1, 6)}}
    answer = sc.export(Two(), inputs, runtime).run(**inputs)
    expected = Two()(**inputs)
    assert torch.allclose(answer["y"], expected["y"])
    assert torch.allclose(answer["deep"][0], expected["deep"][0])
    assert answer["deep"][1] is None


def test_other_shapes_are_refused(runtime: str) -> None:
    exported = sc.export(Residual(), X, runtime)
    with pytest.raises(InputError, match=r"refuses inputs of shapes|one sample"):
        exported.run(X.repeat(3, 1, 1, 1))


def test_real_images(runtime: str) -> None:
    """A network trained on the digits answers on all test images as torch does, one by one."""
    train, test = load("digits", "train"), load("digits", "test")
    model = sc.models.build("lenet-300-100", input_size=8, seed=0)
    sc.fit(model, train, epochs=3)
    small = sc.prune(model, train.images[:1], "l2", sparsity=0.5, latency=False).model.eval()
    exported = sc.export(small, test.images[:1], runtime)
    expected = small(test.images[:100])
    answers = torch.cat([exported.run(image[None]) for image in test.images[:100]])
    assert float((answers - expected).abs().max() / expected.abs().max()) < 1e-4
    assert torch.equal(answers.argmax(1), expected.argmax(1))


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_library_is_named_with_its_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(module: str) -> Any:
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(files, "import_module", missing)
    extra = RUNTIMES[name].extra  # type: ignore[union-attr]
    with pytest.raises(MissingLibraryError, match=rf"pip install 'secateur\[{extra}\]'"):
        sc.export(nn.Linear(2, 1), torch.zeros(1, 2), name)
