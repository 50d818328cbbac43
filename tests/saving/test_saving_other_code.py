"""A folder is loaded into the code that it was saved from: other code with tensors of the same shapes is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import secateur as sc
from secateur.types import FileError


class Net(nn.Module):
    def __init__(self, activation: Callable[[Tensor], Tensor] = F.relu, scale: float = 1.0) -> None:
        super().__init__()
        self.a, self.b, self.activation, self.scale = nn.Linear(6, 16), nn.Linear(16, 3), activation, scale

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.b(self.activation(self.a(x)) * self.scale)
        return made


def layers(activation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), activation, nn.Linear(16, 3))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "a function": (Net, lambda: Net(torch.tanh)),
    "a number": (Net, lambda: Net(scale=0.5)),
    "a layer": (lambda: layers(nn.ReLU()), lambda: layers(nn.GELU())),
    "a layer's option": (lambda: layers(nn.LeakyReLU(0.01)), lambda: layers(nn.LeakyReLU(0.5))),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def saved(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Path, Callable[[], nn.Module], Callable[[], nn.Module]]:
    right, wrong = request.param
    torch.manual_seed(0)
    return sc.prune(right(), torch.randn(4, 6), sparsity=0.4, latency=False).save(tmp_path / "small"), right, wrong


def test_other_code_is_refused(saved: tuple[Path, Callable[[], nn.Module], Callable[[], nn.Module]]) -> None:
    folder, right, wrong = saved
    sc.load(folder, right())
    with pytest.raises(FileError, match="answers otherwise than when it was saved"):
        sc.load(folder, wrong())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_type_does_not_matter(dtype: torch.dtype, tmp_path: Path) -> None:
    folder = sc.prune(Net().to(dtype), torch.randn(4, 6).to(dtype), sparsity=0.4, latency=False).save(
        tmp_path / "small"
    )
    assert {p.dtype for p in sc.load(folder, Net().to(dtype)).parameters()} == {dtype}
    with pytest.raises(FileError, match="answers otherwise"):
        sc.load(folder, Net(scale=0.5).to(dtype))


def test_a_wider_type_is_no_other_code(tmp_path: Path) -> None:
    folder = sc.prune(Net(), torch.randn(4, 6), sparsity=0.4, latency=False).save(tmp_path / "small")
    assert {p.dtype for p in sc.load(folder, Net().double()).parameters()} == {torch.float64}


def test_what_does_not_run_on_ones_is_saved_all_the_same(tmp_path: Path) -> None:
    result = sc.prune(Net(), torch.randn(4, 6), sparsity=0.4, latency=False)

    def no_ones(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if bool((args[0] == 1).all()):
            raise ValueError("no ones")

    result.model.register_forward_pre_hook(no_ones)
    x = torch.randn(3, 6)
    assert torch.equal(sc.load(result.save(tmp_path / "small"), Net())(x), result.model(x))


def test_only_some_of_many_numbers_are_kept(tmp_path: Path) -> None:
    folder = sc.prune(Net(), torch.randn(4000, 6), sparsity=0.4, latency=False).save(tmp_path / "small")
    assert (folder / "edits.safetensors").stat().st_size < 10_000
    sc.load(folder, Net())
