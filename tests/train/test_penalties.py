"""Penalties and distortion: their gradients are those of the terms, and they compose."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.structure import channels
from secateur.train import (
    ActivationPenalty,
    Callback,
    Distortion,
    GradualMagnitude,
    GroupLasso,
    RigL,
    WeightPenalty,
    fit,
)
from secateur.types import InputError, UnknownNameError

X, Y = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(7, 2)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))


def step(penalties: Sequence[Callback], **options: Any) -> dict[str, Tensor]:
    """What one step of plain gradient descent, at rate 1, takes from each parameter."""
    model = net()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    settings = {"epochs": 1, "loss": "mse", "optimizer": "sgd", "lr": 1.0, "batch_size": 7} | options
    fit(model, (X, Y), callbacks=penalties, **settings)
    return {name: before[name] - p.detach() for name, p in model.named_parameters()}


def gradient(term: Any) -> dict[str, Tensor]:
    """The gradient of mse + a term of (model, hidden activations)."""
    model = net()
    hidden = model[:2](X)
    (nn.functional.mse_loss(model[2](hidden), Y) + term(model, hidden)).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def group_norms(model: nn.Sequential) -> Tensor:
    incoming = model[0].weight.square().sum(1) + model[0].bias.square()
    return (incoming + model[2].weight.square().sum(0)).sqrt().sum()


TERMS: list[tuple[str, Callback, Any]] = [
    ("l1", WeightPenalty(0.3), lambda m, h: 0.3 * sum(p.abs().sum() for p in m.parameters())),
    (
        "l1 of biases",
        WeightPenalty(0.3, ("*.bias",)),
        lambda m, h: 0.3 * (m[0].bias.abs().sum() + m[2].bias.abs().sum()),
    ),
    ("activations", ActivationPenalty(0.2), lambda m, h: 0.2 * h.abs().sum(1).mean()),
    ("lasso", GroupLasso(0.1, X[:1]), lambda m, h: 0.1 * group_norms(m)),
    ("incoming lasso", GroupLasso(0.1, X[:1], ("in",)), lambda m, h: 0.1 * m[2].weight.norm(dim=0).sum()),
]


@pytest.mark.parametrize(("penalty", "term"), [row[1:] for row in TERMS], ids=[row[0] for row in TERMS])
@pytest.mark.parametrize("options", [{}, {"batch_size": 3, "accumulate": 3}], ids=["one batch", "accumulated"])
def test_the_step_is_that_of_the_loss_with_the_term(penalty: Callback, term: Any, options: dict[str, Any]) -> None:
    for name, expected in gradient(term).items():
        torch.testing.assert_close(step([penalty], **options)[name], expected, rtol=1e-5, atol=1e-6)


def test_several_add_up() -> None:
    taken = step([row[1] for row in TERMS])
    for name, expected in gradient(lambda m, h: sum(row[2](m, h) for row in TERMS)).items():
        torch.testing.assert_close(taken[name], expected, rtol=1e-5, atol=1e-6)


def test_the_recorded_loss_is_without_them() -> None:
    plain, model = net(), net()
    options: dict[str, Any] = {"epochs": 1, "loss": "mse", "optimizer": "sgd", "lr": 1e-9}
    first = fit(plain, (X, Y), **options)
    second = fit(model, (X, Y), callbacks=[WeightPenalty(5.0)], **options)
    assert first.to_dicts()[0]["train_loss"] == pytest.approx(second.to_dicts()[0]["train_loss"])


def test_the_lasso_follows_a_cut_model_and_leaves_no_hooks() -> None:
    model = net()
    small = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    lasso, activity = GroupLasso(0.1, X[:1]), ActivationPenalty(0.1)
    for each in (model, small):
        fit(each, (X, Y), epochs=1, loss="mse", callbacks=[lasso, activity])
        assert not each[1]._forward_hooks


def test_a_lasso_of_a_norm_s_scale() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten(1))
    images = torch.randn(4, 1, 5, 5)
    assert set(channels(model, images[:1])) == {"0"}
    lasso = GroupLasso(1.0, images[:1], roles=("scale",))
    fit(model, (images, torch.zeros(4, 2)), epochs=1, loss="mse", optimizer="sgd", lr=0.125, callbacks=[lasso])
    assert float(model[1].weight.detach().mean()) == pytest.approx(0.875, abs=0.05)


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown parameter '\*\.wieght'"):
        step([WeightPenalty(0.1, ("*.wieght",))])
    with pytest.raises(UnknownNameError, match="unknown module 'relu'"):
        step([ActivationPenalty(0.1, ("relu",))])
    with pytest.raises(InputError, match="no nonlinearity that is a module"):
        fit(nn.Linear(3, 2), (X, Y), epochs=1, loss="mse", callbacks=[ActivationPenalty(0.1)])
    with pytest.raises(InputError, match="has no units"):
        fit(nn.Linear(3, 2), (X, Y), epochs=1, loss="mse", callbacks=[GroupLasso(0.1, X[:1])])
    with pytest.raises(InputError, match=r"strength=-1"):
        GroupLasso(-1, X)


def distorted(weight: list[float], **options: Any) -> Tensor:
    model = nn.Linear(len(weight), 1)
    model.weight.data, model.bias.data = torch.tensor([weight]), torch.tensor([5.0])
    Distortion(**options)(model, options.pop("cycle", 1))
    assert model.bias.item() == 5.0
    return model.weight.detach()[0]


def test_distortion_is_the_text_s_formula() -> None:
    # The variance of (0, 1) is 1/4; low = high makes the random value certain.
    one: dict[str, Any] = {"low": 1.0, "high": 1.0}
    assert distorted([0.0, 1.0], **one).tolist() == [0.0, 0.75]
    assert distorted([0.0, 1.0], how="add", **one).tolist() == [0.75, 1.75]
    assert distorted([0.0, 1.0], how="add", strength=0.5, **one).tolist() == [0.375, 1.375]
    assert distorted([0.0, 1.0], strength=0.5, **one).tolist() == [0.0, 0.875]
    assert distorted([0.0, 4.0], **one).tolist() == [0.0, -12.0]
    assert distorted([0.0, 4.0], clamp=True, **one).tolist() == [0.0, 0.0]


def test_random_values_are_of_the_range_the_seed_and_the_cycle() -> None:
    ones = [1.0] * 500
    values = distorted(ones)
    assert -1 <= float(values.min()) < -0.9
    assert 0.9 < float(values.max()) < 1
    assert torch.equal(values, distorted(ones))
    assert not torch.equal(values, distorted(ones, seed=1))
    model = nn.Linear(500, 1)
    model.weight.data = torch.ones(1, 500)
    Distortion()(model, 2)
    assert not torch.equal(values, model.weight.detach()[0])
    with pytest.raises(InputError, match=r"low=1\.0 is above high=0\.0"):
        Distortion(low=1.0, high=0.0)
    with pytest.raises(UnknownNameError, match="unknown parameter 'fc"):
        Distortion(parameters=("fc*",))(model, 1)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: WeightPenalty(0.1, "f1.weight"), "parameters"),
        (lambda: ActivationPenalty(0.1, "relu"), "modules"),
        (lambda: GroupLasso(0.1, torch.zeros(1, 2), "out"), "roles"),
        (lambda: GroupLasso(0.1, torch.zeros(1, 2), sites="fc"), "sites"),
        (lambda: Distortion(parameters="fc.weight"), "parameters"),
        (lambda: RigL(0.5, ignore="fc.weight"), "ignore"),
        (lambda: GradualMagnitude(0.5, ignore="fc.weight"), "ignore"),
    ],
)
def test_a_text_is_no_list_of_names(make: Any, option: str) -> None:
    with pytest.raises(InputError, match=rf"{option}='.*' must be a list of names, such as \['"):
        make()
