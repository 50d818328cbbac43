"""How weights begin: the moments that each scheme promises, and the same from the same seed."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Tensor, nn

from secateur.models import build, initialise, schemes
from secateur.models.initialisation import LAYER_SCHEMES, SCHEMES
from secateur.structure import channels
from secateur.train.reinitialise import reinitialise_units
from secateur.types import InputError, UnknownNameError

OUT, IN = 200, 400
STD = {
    "xavier-normal": sqrt(2 / (IN + OUT)),
    "xavier-uniform": sqrt(2 / (IN + OUT)),
    "kaiming-normal": sqrt(2 / IN),
    "kaiming-uniform": sqrt(2 / IN),
    "orthogonal": sqrt(2 / IN),
    "truncated-normal": 0.1 * 0.8796,  # a normal that is cut at two standard deviations
    "standard-normal": 1.0,
    "student-t": sqrt(2 / IN),
    "sparse": sqrt(2 / IN),
    "sign-balanced": sqrt(2 / IN),
    "small-normal": 0.5 * sqrt(2 / IN),
    "small-output": 0.1 * sqrt(2 / IN),  # of a single layer, which is the last
}
KURTOSIS = {"xavier-uniform": 1.8, "kaiming-uniform": 1.8, "student-t": 9.0, "sparse": 6.0, "truncated-normal": 2.37}
"""E w⁴ / (E w²)²; 3 for a normal, 3 + 6 / (ν − 4) for Student's t."""


def drawn(scheme: str) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return initialise(nn.Linear(IN, OUT), scheme).get_parameter("weight").detach().double()


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "lsuv"])
def test_mean_variance_and_tails(scheme: str) -> None:
    w = drawn(scheme)
    assert float(w.mean()) == pytest.approx(0, abs=4 * STD[scheme] / sqrt(OUT * IN))
    assert float(w.std()) == pytest.approx(STD[scheme], rel=0.02)
    heavy = scheme == "student-t"  # whose fourth moment hardly settles
    kurtosis = float((w**4).mean() / (w**2).mean() ** 2)
    assert kurtosis == pytest.approx(KURTOSIS.get(scheme, 3.0), rel=0.4 if heavy else 0.05)


def test_half_of_each_units_weights_are_zero_in_sparse() -> None:
    assert ((drawn("sparse") == 0).sum(1) == IN // 2).all()


def test_the_weights_of_each_unit_add_up_to_zero_in_sign_balanced() -> None:
    w = drawn("sign-balanced")
    assert torch.allclose(w.sum(1), torch.zeros(OUT, dtype=torch.float64), atol=1e-5)
    assert ((w > 0).sum(1) == IN // 2).all()
    assert not torch.equal(w[0, : IN // 2], -w[0, IN // 2 :])
    assert float(initialise(nn.Linear(1, 50), "sign-balanced").get_parameter("weight").detach().std()) > 0.5


def test_orthogonal_rows() -> None:
    w = drawn("orthogonal")
    assert torch.allclose(w @ w.T, 2 * torch.eye(OUT, dtype=torch.float64), atol=1e-4)


def test_only_the_last_layer_is_small_in_small_output() -> None:
    model = build("lenet-300-100", seed=0, init="small-output")
    ratios = [float(w.detach().std()) * sqrt(w.shape[1] / 2) for w in model.parameters() if w.ndim > 1]
    assert ratios == pytest.approx([1, 1, 0.1], rel=0.1)


@pytest.mark.parametrize("name", ["lenet-300-100", "conv-2"])
def test_every_layer_answers_with_unit_variance_after_lsuv(name: str) -> None:
    model = build(name, seed=0)
    channels, size = (1, 28) if name == "lenet-300-100" else (3, 32)
    x = torch.rand(64, channels, size, size, generator=torch.Generator().manual_seed(0)) * 3
    before = [m.training for m in model.modules()]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        assert initialise(model, "lsuv", (x, torch.zeros(64))) is model
    assert [m.training for m in model.modules()] == before
    variances = []
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            assert not layer._forward_hooks
            layer.register_forward_hook(lambda _m, _x, y: variances.append(float(y.var())))
    with torch.no_grad():
        model.eval()(x)
    assert variances == pytest.approx([1.0] * len(variances), abs=0.02)


def test_what_lsuv_refuses() -> None:
    with pytest.raises(InputError, match="looks at data"):
        build("lenet-300-100", init="lsuv")
    with pytest.raises(InputError, match=r"variance 0\.0; give other data"):
        initialise(nn.Linear(4, 3), "lsuv", torch.zeros(8, 4))


@pytest.mark.parametrize("scheme", list(LAYER_SCHEMES))
@pytest.mark.parametrize(
    "layer", [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), nn.Conv1d(1, 1, 1), nn.Linear(1, 3)]
)
def test_every_layer_of_every_kind(scheme: str, layer: nn.Module) -> None:
    with torch.random.fork_rng():
        first, second = ([p.detach().clone() for p in _seeded(layer, scheme)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(bool(p.isfinite().all()) for p in first)
    assert not first[1].any()


TRANSPOSED = [
    nn.ConvTranspose2d(64, 32, 3),
    nn.ConvTranspose2d(32, 64, 3),
    nn.ConvTranspose1d(64, 128, 9, groups=4),
    nn.ConvTranspose3d(48, 24, 3, groups=2),
]


def per_output(layer: nn.Module, scheme: str) -> Tensor:
    """Each output's weights in a row, from what a transposed convolution computes: the kernel of an impulse at each input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        initialise(layer, scheme)
    inputs, groups = layer.in_channels, layer.groups
    impulses = torch.eye(inputs).reshape(inputs, inputs, *[1] * (layer.get_parameter("weight").ndim - 2))
    kernels = layer(impulses).detach().double().flatten(2)
    outputs, share = kernels.shape[1] // groups, inputs // groups
    parts = [kernels[g * share : (g + 1) * share, g * outputs : (g + 1) * outputs] for g in range(groups)]
    return torch.cat([part.transpose(0, 1).flatten(1) for part in parts])


@pytest.mark.parametrize("layer", TRANSPOSED, ids=repr)
def test_transposed_convolutions_begin_by_their_outputs(layer: nn.Module) -> None:
    shape = layer.get_parameter("weight").shape
    fan = shape[0] // layer.groups * shape[2:].numel()
    for scheme in ("kaiming-normal", "kaiming-uniform", "student-t", "sparse", "sign-balanced"):
        rows = per_output(layer, scheme)
        assert rows.shape == (layer.out_channels, fan)
        assert float(rows.var()) == pytest.approx(2 / fan, rel=0.08), scheme
    assert per_output(layer, "sign-balanced").sum(1).abs().max() < 1e-4
    assert ((per_output(layer, "sparse") == 0).sum(1) == fan // 2).all()
    rows = per_output(layer, "orthogonal")
    assert torch.allclose(rows @ rows.T, 2 * torch.eye(len(rows), dtype=torch.float64), atol=1e-4)


def test_a_transposed_convolution_begins_anew_by_its_outputs() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(64, 32, 3), nn.ReLU(), nn.Conv2d(32, 2, 3))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reinitialise_units(model, channels(model, torch.zeros(1, 64, 4, 4)), {"0": list(range(16))}, "sparse")
    fresh = model[0].get_parameter("weight").detach()[:, :16]
    assert ((fresh == 0).sum((0, 2, 3)) == 64 * 9 // 2).all()


def test_of_an_odd_fan_in_one_weight_has_no_partner() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        rows = initialise(nn.Linear(5, 20), "sign-balanced").get_parameter("weight").detach()
    rests = (rows - rows.sum(1, keepdim=True)).abs().min(1).values
    assert float(rests.max()) < 1e-6


def _seeded(layer: nn.Module, scheme: str) -> list[nn.Parameter]:
    torch.manual_seed(1)
    return list(initialise(layer, scheme).parameters())


def test_unknown_schemes_are_listed() -> None:
    assert schemes() == list(SCHEMES)
    with pytest.raises(UnknownNameError, match="initialisation"):
        initialise(nn.Linear(2, 2), "kaiming")
    assert build("ann-128", seed=1, init="student-t")(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
