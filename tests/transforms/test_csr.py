"""Sparse layers in CSR: equal to the dense ones, and only where they are faster."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.transforms import CsrLayer, as_csr, csr
from secateur.types import InputError


def sparse(layer: nn.Linear | nn.Conv2d, sparsity: float) -> nn.Linear | nn.Conv2d:
    with torch.no_grad():
        layer.weight.mul_(torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) >= sparsity)
    return layer.eval()


@pytest.mark.parametrize("shape", [(64,), (3, 64), (1, 64), (2, 5, 64)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_in_csr_is_the_dense_one(shape: tuple[int, ...], bias: bool) -> None:
    dense = sparse(nn.Linear(64, 32, bias=bias), 0.9)
    x = torch.randn(shape)
    answer = CsrLayer(dense)(x)
    assert answer.shape == dense(x).shape
    assert torch.allclose(answer, dense(x), atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (16, 5, 7)])
def test_a_convolution_of_one_pixel_too(shape: tuple[int, ...]) -> None:
    dense = sparse(nn.Conv2d(16, 8, 1), 0.8)
    x = torch.randn(shape)
    assert torch.allclose(CsrLayer(dense)(x), dense(x), atol=1e-6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    convolutions = [sparse(nn.Conv2d(3, 8, 3, padding=1), 0.95), nn.ReLU(), nn.Conv2d(8, 16, 1), nn.ReLU()]
    linear = [sparse(nn.Linear(1024, 1024), 0.99), nn.ReLU(), sparse(nn.Linear(1024, 10), 0.5)]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(8), nn.Flatten(), *linear).eval()


def test_layers_that_are_faster_in_csr_are_put_there_and_no_others() -> None:
    model, x = network(), torch.randn(64, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = as_csr(model, x)
    (layer,) = result.layers  # 3 × 3 kernels, dense layers and half-empty ones are not tried
    assert layer.name == "6"
    assert layer.sparsity == pytest.approx(0.99, abs=0.001)
    assert layer.speedup > csr.WORTH
    assert isinstance(result.model[6], CsrLayer)  # type: ignore[index]
    assert torch.allclose(result.model(x), model(x), atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "in CSR now" in str(result)


def test_a_layer_that_is_slower_in_csr_stays_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csr, "_speedup", lambda *_: 0.9)
    result = as_csr(network(), torch.randn(64, 3, 8, 8))
    assert not result.layers[0].replaced
    assert not any(isinstance(module, CsrLayer) for module in result.model.modules())
    assert as_csr(network(), torch.randn(2, 3, 8, 8), ignore=["6"]).layers == ()


def test_after_single_weights_were_pruned() -> None:
    model, x = nn.Sequential(nn.Linear(512, 512)), torch.randn(64, 512)
    masked = sc.prune(model, x, "magnitude", sparsity=0.99, unit="weights", latency=False).model
    result = as_csr(masked, x)
    assert result.layers[0].sparsity == pytest.approx(0.99, abs=0.001)
    assert torch.allclose(result.model(x), masked(x), atol=1e-5)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(InputError, match="sparsity"):
        as_csr(network(), torch.randn(1, 3, 8, 8), sparsity=2)
