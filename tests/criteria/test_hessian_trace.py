"""HessianTrace against the exact Hessian, and against itself with another seed."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import hessian
from torch.func import functional_call

import secateur as sc
from secateur.criteria import HessianTrace
from secateur.measure.agree import spearman
from secateur.structure import channels
from secateur.structure.piecewise import is_piecewise_linear
from secateur.structure.trace import trace


def exact(model: nn.Module, name: str, x: Tensor, y: Tensor, loss: sc.types.Loss) -> Tensor:
    """Mean second derivative over each unit's incoming weights, times half their squared norm, from the full Hessian."""
    weight = model.get_parameter(name).detach().double()
    others = {key: p.detach().double() for key, p in model.named_parameters()}

    def of(w: Tensor) -> Tensor:
        return loss(functional_call(model, {**others, name: w}, (x.double(),)), y)

    curved = hessian(of, weight).reshape(weight.numel(), weight.numel()).diagonal().reshape(weight.shape)
    return curved.flatten(1).mean(1) * weight.flatten(1).square().sum(1) / 2


def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(60, 1, 6, 6, generator=generator), torch.randint(0, 3, (60,), generator=generator)


def net(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), activation, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 8), activation]
    return nn.Sequential(*layers, nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()], ids=["relu", "tanh"])
def test_it_is_the_diagonal_of_the_exact_hessian_within_its_standard_error(activation: nn.Module) -> None:
    model, (x, y) = net(activation), data()
    sites = channels(model, x[:1])
    scores = HessianTrace((x, y), probes=200)(model, sites)
    for name in sites:
        expected = exact(model, f"{name}.weight", x, y, nn.functional.cross_entropy)
        apart = (scores[name] - expected).abs() / scores.error[name].clamp(min=1e-9)
        assert float(apart.max()) < 4, (name, apart)
        assert float(scores.error[name].max()) < 0.2 * float(expected.abs().max())


def test_the_squared_error_of_two_numbers_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    x, y = torch.randn(50, 4), torch.randn(50, 2)
    scores = HessianTrace((x, y), "mse", probes=200)(model, channels(model, x[:1]))
    expected = exact(model, "0.weight", x, y, nn.functional.mse_loss)
    torch.testing.assert_close(scores["0"].double(), expected, rtol=0.1, atol=1e-4)


def test_two_seeds_rank_the_units_of_every_layer_alike() -> None:
    torch.manual_seed(0)
    model = sc.models.build("cnn-4", width=0.25, seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(60, 1, 28, 28, generator=generator), torch.randint(0, 10, (60,), generator=generator)
    sites = channels(model, samples[0][:1])
    first, second = (HessianTrace(samples, seed=seed)(model, sites) for seed in (0, 1))
    for name in sites:
        assert spearman(first[name], second[name]) > 0.9
        assert first.correlation[name] > 0.9
        assert bool((first[name] >= 0).all())
    assert "16 probes" in repr(first)


def test_probes_that_do_not_settle_the_ranks_are_said() -> None:
    torch.manual_seed(0)
    # All units alike but for a trifle: no number of probes tells them apart.
    model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2)).eval()
    for p in model.parameters():
        p.data.fill_(0.3).add_(1e-6 * torch.randn_like(p))
    model[2].weight.data[1].neg_()
    x, y = torch.randn(40, 2), torch.randint(0, 2, (40,))
    with pytest.warns(UserWarning, match="after 256 probes two seeds would rank the units of '0' alike only to"):
        HessianTrace((x, y))(model, channels(model, x[:1]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert HessianTrace((x, y), probes=1)(model, channels(model, x[:1])).error["0"].isnan().all()


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x).relu())


class Gate(Twice):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.fc(x)
        return hidden * hidden


class Residual(Twice):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc(x).relu()


@pytest.mark.parametrize(("model", "expected"), [(Twice(), False), (Gate(), False), (Residual(), True)])
def test_what_bends_in_a_weight(model: nn.Module, expected: bool) -> None:
    assert is_piecewise_linear(trace(model, torch.zeros(2, 3)), ["fc.weight"]) is expected
