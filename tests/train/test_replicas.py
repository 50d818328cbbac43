"""Networks that are trained as one stack are what each would be alone: losses, masks, order, early stopping."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur.models import build
from secateur.train import History, HoldZeros, TrainOptions, fit, fit_replicas, pays
from secateur.train.dense import read_dense
from secateur.types import InputError, Keep


def data(count: int = 240, classes: int = 3, shape: Sequence[int] = (1, 4, 4)) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    return torch.randn(count, *shape, generator=generator) + labels.view(-1, *[1] * len(shape)), labels


def nets(count: int = 3, act: Callable[[], nn.Module] = nn.ReLU, bias: bool = True) -> list[nn.Module]:
    torch.manual_seed(0)
    return [
        nn.Sequential(nn.Flatten(), nn.Linear(16, 12, bias=bias), act(), nn.Linear(12, 8), act(), nn.Linear(8, 3))
        for _ in range(count)
    ]


def masks(models: Sequence[nn.Module], density: float = 0.3) -> list[Keep]:
    generator = torch.Generator().manual_seed(1)
    return [
        {n: torch.rand(p.shape, generator=generator) < density for n, p in model.named_parameters() if p.ndim > 1}
        for model in models
    ]


def each_alone(
    models: Sequence[nn.Module], keeps: Sequence[Keep] | None, *sources: Any, **options: Any
) -> list[History]:
    first = options.pop("seed", 0)
    return [
        fit(model, *sources, callbacks=[HoldZeros(keeps[k])] if keeps else [], seed=first + k, **options)
        for k, model in enumerate(models)
    ]


def assert_alike(together: Sequence[History], alone: Sequence[History], tolerance: float = 1e-4) -> None:
    assert [len(history) for history in together] == [len(history) for history in alone]
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.best_epoch == theirs.best_epoch
        for a, b in zip(ours, theirs, strict=True):
            assert (a.epoch, a.train_accuracy, a.validation_accuracy) == (
                b.epoch,
                b.train_accuracy,
                b.validation_accuracy,
            )
            assert (a.train_loss, a.lr) == pytest.approx((b.train_loss, b.lr), abs=tolerance)
            assert a.validation_loss == (
                None if b.validation_loss is None else pytest.approx(b.validation_loss, abs=tolerance)
            )


def distance(first: Sequence[nn.Module], second: Sequence[nn.Module]) -> float:
    pairs = [
        pair for a, b in zip(first, second, strict=True) for pair in zip(a.parameters(), b.parameters(), strict=True)
    ]
    return max(float((a.detach() - b.detach()).abs().max()) for a, b in pairs)


WAYS: dict[str, dict[str, Any]] = {
    "adam": {},
    "adam, weight decay": {"weight_decay": 0.01},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01},
    "sgd": {"optimizer": "sgd", "lr": 0.05},
    "nesterov": {"optimizer": "sgd", "lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5},
    "cosine": {"schedule": "cosine"},
    "onecycle, clipped": {"schedule": "onecycle", "clip_norm": 0.1},
    "mse": {"loss": "mse"},
    "a loss of one's own": {"loss": lambda z, y: nn.functional.cross_entropy(z, y, label_smoothing=0.1)},
    "last weights": {"restore_best": False},
    "stops early": {"patience": 1, "lr": 0.1, "epochs": 6},
}


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("masked", [False, True])
def test_a_stack_trains_as_each_network_alone(way: str, masked: bool) -> None:
    options = {"epochs": 3, "batch_size": 17, "lr": 2e-3} | WAYS[way]
    models = nets()
    alone, keeps = copy.deepcopy(models), masks(models) if masked else None
    assert pays(models[0], data(), TrainOptions(**options))
    together = fit_replicas(models, data(), data(60), keeps=keeps, seed=4, **options)
    assert_alike(together, each_alone(alone, keeps, data(), data(60), seed=4, **options))
    assert distance(models, alone) < 1e-4


def test_200_steps_of_lenet_lose_as_they_do_alone() -> None:
    x = torch.randn(400, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = (x.flatten(1)[:, :10]).argmax(1)
    models = [
        build("lenet-300-100", seed=seed, init=init) for seed, init in enumerate(("xavier-normal", "kaiming-normal"))
    ]
    alone, keeps = copy.deepcopy(models), masks(models, 0.2)
    options = {"epochs": 10, "batch_size": 20, "lr": 1.2e-3, "restore_best": False}
    together = fit_replicas(models, (x, labels), keeps=keeps, **options)
    assert_alike(together, each_alone(alone, keeps, (x, labels), **options))


@pytest.mark.parametrize(
    "act", [nn.ReLU, nn.Tanh, nn.GELU, nn.Sigmoid, nn.SiLU, lambda: nn.ReLU(inplace=True), nn.Identity]
)
def test_pointwise_ops_of_any_kind(act: Callable[[], nn.Module]) -> None:
    models = nets(2, act, bias=False)
    alone = copy.deepcopy(models)
    assert pays(models[0], data())
    assert_alike(fit_replicas(models, data(), epochs=2), each_alone(alone, None, data(), epochs=2))


class Own(nn.Module):
    """A class of one's own, with layers in another order than they run, and functions in place of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Linear(6, 1), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.stem(x.flatten(1))))


def test_a_class_of_ones_own_float64_numbers_as_targets_and_frozen_layers() -> None:
    torch.manual_seed(0)
    models = [Own().double() for _ in range(2)]
    for model in models:
        model.stem.bias.requires_grad_(False)
    x = data()[0].double()
    alone, pairs = copy.deepcopy(models), (x, x.flatten(1).sum(1))
    assert pays(models[0], pairs, TrainOptions(loss="mse"))
    together = fit_replicas(models, pairs, epochs=2, loss="mse")
    assert_alike(together, each_alone(alone, None, pairs, epochs=2, loss="mse"), 1e-9)
    assert bool((models[0].stem.bias == alone[0].stem.bias).all())


def test_the_order_is_that_of_the_seeds() -> None:
    torch.manual_seed(0)
    first = nets(1)[0]
    models = [copy.deepcopy(first) for _ in range(3)]
    histories = fit_replicas(models, data(), epochs=1, seeds=[7, 7, 8])
    losses = [history[0].train_loss for history in histories]
    assert losses[0] == losses[1] != losses[2]


@settings(max_examples=12, deadline=None)
@given(
    optimizer=st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]),
    decay=st.sampled_from([0.0, 0.1]),
    momentum=st.sampled_from([0.0, 0.9]),
    density=st.floats(0.0, 1.0),
)
def test_a_mask_never_leaks(optimizer: str, decay: float, momentum: float, density: float) -> None:
    options = {"momentum": momentum} if optimizer in ("sgd", "rmsprop") else {}
    models = nets(2)
    keeps = masks(models, density)
    fit_replicas(models, data(60), keeps=keeps, epochs=2, optimizer=optimizer, lr=0.01, weight_decay=decay, **options)
    for model, keep in zip(models, keeps, strict=True):
        for name, mask in keep.items():
            assert not model.get_parameter(name).detach()[~mask].any()


ALONE: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5), nn.Linear(8, 3)),
    "norm": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)),
    "softmax between": lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Softmax(1), nn.Linear(8, 3)),
}


@pytest.mark.parametrize("kind", list(ALONE))
def test_what_is_no_dense_chain_is_trained_alone(kind: str) -> None:
    torch.manual_seed(0)
    models = [ALONE[kind]() for _ in range(2)]
    alone, keeps = copy.deepcopy(models), masks(models)
    assert not pays(models[0], data())
    assert read_dense(models[0], data()).reason
    assert fit_replicas(models, data(), data(30), keeps=keeps, epochs=2) == each_alone(
        alone, keeps, data(), data(30), epochs=2
    )
    assert distance(models, alone) == 0


@pytest.mark.parametrize("options", [{"amp": True}, {"accumulate": 2}, {"ema": 0.9}, {"optimizer": torch.optim.Adam}])
def test_options_that_a_stack_does_not_know_are_those_of_fit(options: dict[str, Any]) -> None:
    models = nets(2)
    alone = copy.deepcopy(models)
    assert not pays(models[0], data(), TrainOptions(**options))
    assert fit_replicas(models, data(), epochs=1, **options) == each_alone(alone, None, data(), epochs=1, **options)
    assert distance(models, alone) == 0


def test_networks_of_several_architectures_and_batches_are_trained_alone() -> None:
    models = [nets(1)[0], nets(1, nn.Tanh)[0]]
    alone = copy.deepcopy(models)
    assert fit_replicas(models, data(), epochs=1) == each_alone(alone, None, data(), epochs=1)
    batches = [data(30), data(30)]
    assert not pays(models[0], batches)
    assert len(fit_replicas(models, batches, epochs=1)) == 2


def test_all_are_left_as_they_were_where_one_fails() -> None:
    models = nets(3)
    before = copy.deepcopy(models)
    with pytest.raises(InputError, match=r"network 0 became (nan|inf); all networks are as they were"):
        fit_replicas(models, (1e4 * data()[0], data()[1]), epochs=30, loss="mse", optimizer="sgd", lr=1e3)
    assert distance(models, before) == 0
    assert all(p.grad is None for model in models for p in model.parameters())


def test_the_modes_and_the_random_state_stay() -> None:
    models = nets(2)
    models[0].eval()
    torch.manual_seed(3)
    fit_replicas(models, data(), epochs=1)
    drawn = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(1))
    assert not models[0].training
    assert models[1].training


def test_what_is_refused() -> None:
    models = nets(2)
    with pytest.raises(InputError, match="there is no network"):
        fit_replicas([], data())
    with pytest.raises(InputError, match="1 seeds for 2 networks; give one for each"):
        fit_replicas(models, data(), seeds=[0])
    with pytest.raises(InputError, match="share tensors; give copies"):
        fit_replicas([models[0], models[0]], data())
    with pytest.raises(InputError, match=r"network 1: the mask of 1\.weight is torch\.float32"):
        fit_replicas(models, data(), keeps=[{}, {"1.weight": torch.ones(12, 16)}])
    with pytest.raises(InputError, match="label 3 is out of range"):
        fit_replicas(models, (data()[0], data()[1] + 1), epochs=1)
