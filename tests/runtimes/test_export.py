"""A model in the form of a runtime computes what torch does, or there is an error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import files
from secateur.runtimes import verify
from secateur.types import ExportError, InputError, MissingLibraryError, UnknownNameError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small_cnn() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU())
    return nn.Sequential(convolutions, nn.Flatten(), nn.Dropout(), nn.Linear(96, 5))


class Nested(nn.Module):
    """Several inputs and outputs, nested, with None, bools, whole numbers and an input given back."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor, more: dict[str, Tensor], flag: bool = True) -> dict[str, Any]:
        y, (h, c) = self.cell(x + more["bias"])
        return {"y": y if flag else -y, "state": (h, [c]), "none": None, "x": x, "best": y.argmax(-1), "up": y > 0}


def nested_inputs(batch: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(batch)
    x = torch.randn(batch, 3, 4, generator=generator)
    return {"x": x, "more": {"bias": torch.randn(4, generator=generator)}, "flag": True}


@pytest.fixture
def onnx() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)


@pytest.mark.usefixtures("onnx")
def test_the_file_is_the_models_evaluation(tmp_path: Path) -> None:
    import onnxruntime

    model = small_cnn()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    exported = sc.export(model, X, "onnxruntime", tmp_path / "deep" / "model.onnx")
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    expected = model.eval()(X)
    assert torch.allclose(exported.run(X), expected, atol=1e-5)
    assert exported.difference < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "deep" / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: X.numpy()})
    assert torch.allclose(torch.from_numpy(answer), expected, atol=1e-5)
    assert exported.file == tmp_path / "deep" / "model.onnx"


@pytest.mark.usefixtures("onnx")
def test_inputs_and_outputs_stay_nested() -> None:
    model = Nested()
    exported = sc.export(model, nested_inputs(), "onnxruntime")
    inputs = {**nested_inputs(), "x": torch.ones(2, 3, 4)}
    expected, answer = model(**inputs), exported.run(**inputs)
    assert answer["none"] is None
    assert isinstance(answer["state"], tuple)
    assert torch.equal(answer["best"], expected["best"])
    assert torch.equal(answer["up"], expected["up"])
    assert torch.equal(answer["x"], inputs["x"])
    for one, other in ((answer["y"], expected["y"]), (answer["state"][1][0], expected["state"][1][0])):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("batch", [1, 2])
def test_any_batch(batch: int) -> None:
    model = Nested()
    exported = sc.export(model, nested_inputs(batch), "onnxruntime", dynamic_batch=True)
    for other in (1, 5):
        inputs = nested_inputs(other)
        assert torch.allclose(exported.run(**inputs)["y"], model(**inputs)["y"], atol=1e-6)
    fixed = sc.export(model, nested_inputs(batch), "onnxruntime")
    with pytest.raises(InputError, match=r"refuses inputs of shapes \[\(5, 3, 4\), \(4,\)\]"):
        fixed.run(**nested_inputs(5))


class AsksTheBatch(nn.Module):
    def __init__(self, otherwise: Callable[[int], bool]) -> None:
        super().__init__()
        self.fc, self.otherwise = nn.Linear(6, 2), otherwise

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * 3 if self.otherwise(x.shape[0]) else y


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize(
    ("otherwise", "batch"),
    [(lambda n: n == 1, 1), (lambda n: n > 64, 65), (lambda n: n < 3, 2), (lambda n: n % 2 == 0, 4)],
)
def test_code_that_asks_for_the_batch_takes_no_other(otherwise: Callable[[int], bool], batch: int) -> None:
    model = AsksTheBatch(otherwise).eval()
    with pytest.raises(ExportError, match=rf"with a batch of {batch} .* leave out dynamic_batch"):
        sc.export(model, torch.randn(4, 6), "onnxruntime", dynamic_batch=True)
    assert sc.export(model, torch.randn(4, 6), "onnxruntime").difference < 1e-5


class Limited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 64:
            raise ValueError("too many")
        y: Tensor = self.fc(x)
        return y


@pytest.mark.usefixtures("onnx")
def test_a_batch_that_the_model_refuses_hinders_nothing() -> None:
    exported = sc.export(Limited().eval(), torch.randn(4, 6), "onnxruntime", dynamic_batch=True)
    assert exported.run(torch.randn(9, 6)).shape == (9, 2)


class Holding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2)

    def forward(self, *inputs: Any) -> Tensor:
        x, more = inputs if len(inputs) == 2 else inputs[0]
        y: Tensor = self.fc(x) + more["y"]
        return y


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize("in_tuple", [False, True])
def test_any_batch_of_dicts(in_tuple: bool) -> None:
    def given(batch: int) -> Any:
        both = torch.randn(batch, 6), {"y": torch.randn(batch, 2)}
        return (both,) if in_tuple else both

    model = Holding().eval()
    exported = sc.export(model, given(4), "onnxruntime", dynamic_batch=True)
    for inputs in (given(1), given(7)):
        torch.testing.assert_close(exported.run(*inputs), model(*inputs))


@pytest.mark.usefixtures("onnx")
def test_what_prune_returns_is_exported() -> None:
    model = small_cnn()
    small = sc.prune(model, X, sparsity=0.5, latency=False).model
    assert torch.allclose(sc.export(small, X, "onnxruntime").run(X), small.eval()(X), atol=1e-5)


@pytest.mark.usefixtures("onnx")
def test_other_inputs_are_refused() -> None:
    exported = sc.export(Nested(), nested_inputs(), "onnxruntime")
    with pytest.raises(InputError, match="takes inputs nested as in its example"):
        exported.run(torch.ones(2, 3, 4))
    with pytest.raises(InputError, match="plain input True fixed in it; got False"):
        exported.run(**{**nested_inputs(), "flag": False})


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Opaque(nn.Module):
    class Answer:
        def __init__(self, y: Tensor) -> None:
            self.y = y

    def forward(self, x: Tensor) -> Any:
        return Opaque.Answer(x)


class Depends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


@pytest.mark.usefixtures("onnx")
@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (Noisy(), ExportError, "onnxruntime computes something else than torch: outputs differ by .* of the greatest"),
        (Opaque(), InputError, "the model returns a Answer, into which torch cannot look"),
        (Depends(), ExportError, "torch cannot write this model as ONNX"),
        (Spectrum(), ExportError, "takes or returns complex64, which cannot be handed to the runtime"),
        (small_cnn().double(), ExportError, r"ONNX Runtime does not take the model: .* need model\.float\(\)"),
    ],
    ids=["random", "opaque", "data-dependent", "complex", "double"],
)
def test_what_cannot_be_exported(model: nn.Module, error: type[Exception], message: str, tmp_path: Path) -> None:
    x = X.double() if isinstance(model, nn.Sequential) else X
    with pytest.raises(error, match=message):
        sc.export(model, x, "onnxruntime", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("onnx")
def test_an_example_of_zeros_hides_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """The exporter is made to forget the weights: on zeros the outputs agree, as the biases alone speak."""
    from secateur.runtimes import exporting, onnx_runtime

    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    other.bias = model.bias
    right = onnx_runtime._onnx
    monkeypatch.setattr(onnx_runtime, "_onnx", lambda _, *rest: right(other, *rest))
    with pytest.raises(ExportError, match="computes something else than torch"):
        sc.export(model, torch.zeros(1, 4), "onnxruntime")
    monkeypatch.setattr(exporting, "noisy", lambda inputs: None)
    sc.export(model, torch.zeros(1, 4), "onnxruntime")


def test_noise_is_drawn_from_nobody_elses_numbers() -> None:
    before = torch.get_rng_state()
    assert verify.noisy((torch.zeros(2), torch.tensor([3]))) is not None
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(files, "import_module", missing)
    with pytest.raises(MissingLibraryError, match=r"pip install 'secateur\[onnx\]'"):
        sc.export(nn.Linear(2, 1), torch.zeros(1, 2), "onnxruntime")


def test_runtimes_by_name() -> None:
    assert sc.runtimes.timer("onnxruntime") == sc.runtimes.OnnxRuntime(1)
    assert sc.runtimes.timer("onnxruntime:threads=2") == sc.runtimes.OnnxRuntime(2)
    assert sc.runtimes.timer("eager") == sc.runtimes.Eager(1)
    own = lambda model, example: 1.0  # noqa: E731
    assert sc.runtimes.timer(own) is own
    with pytest.raises(UnknownNameError, match="unknown runtime 'onnx-runtime'; did you mean 'onnxruntime'"):
        sc.runtimes.timer("onnx-runtime")
    with pytest.raises(
        UnknownNameError, match="unknown option of runtime onnxruntime 'thread'; did you mean 'threads'"
    ):
        sc.runtimes.timer("onnxruntime:thread=2")
    for wrong in ("onnxruntime:threads", "onnxruntime:threads=0", "eager:threads=1.5"):
        with pytest.raises(InputError, match="threads must be a whole number, 1 or more"):
            sc.runtimes.timer(wrong)
    for wrong in (None, 3, sc.runtimes.Eager):
        with pytest.raises(InputError, match="give the name of one"):
            sc.runtimes.timer(wrong)  # type: ignore[arg-type]


def test_a_runtime_without_files() -> None:
    with pytest.raises(InputError, match="has no files of its own; give one that has: onnxruntime"):
        sc.export(nn.Linear(2, 1), torch.zeros(1, 2), "eager")
