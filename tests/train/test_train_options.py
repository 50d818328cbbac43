"""The options of a training: what they make, and what they refuse."""

from __future__ import annotations

from functools import partial
from math import cos, pi
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from secateur.train import RigL, SparseEvolution, TrainCycle, TrainOptions, fit, loss_function
from secateur.types import InputError, UnknownNameError

ONE = (torch.ones(4, 1), torch.ones(4, 1))


def rates(**options: Any) -> list[float]:
    """The learning rate of every epoch, one step each."""
    history = fit(nn.Linear(1, 1), ONE, loss="mse", optimizer="sgd", lr=1e-3, batch_size=4, **options)
    return [round(record.lr * 1000, 6) for record in history]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"epochs": 3}, [1, 1, 1]),
        ({"epochs": 4, "schedule": "cosine"}, [round((1 + cos(pi * t / 4)) / 2, 6) for t in range(4)]),
        ({"epochs": 5, "schedule": "step", "step_size": 2}, [1, 1, 0.1, 0.1, 0.01]),
        ({"epochs": 6, "schedule": "step", "gamma": 0.5}, [1, 1, 0.5, 0.5, 0.25, 0.25]),
        ({"epochs": 4, "schedule": "multistep"}, [1, 1, 0.1, 0.01]),
        ({"epochs": 4, "schedule": "multistep", "milestones": [1], "gamma": 0.5}, [1, 0.5, 0.5, 0.5]),
        ({"epochs": 3, "schedule": "exponential"}, [1, 0.95, 0.9025]),
        (
            {"epochs": 3, "schedule": lambda optimizer: LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch))},
            [1, 0.5, 0.333333],
        ),
    ],
)
def test_learning_rate_of_each_epoch(options: dict[str, Any], expected: list[float]) -> None:
    assert rates(**options) == expected


def test_onecycle_moves_every_step_and_peaks_at_lr() -> None:
    data = (torch.ones(40, 1), torch.ones(40, 1))
    history = fit(nn.Linear(1, 1), data, epochs=5, batch_size=2, loss="mse", schedule="onecycle", lr=0.5)
    # 100 steps: 30 up, 70 down; torch begins at a 25th of the peak.
    lrs = [record.lr for record in history]
    assert max(lrs) == pytest.approx(0.5, rel=0.05)
    assert lrs[0] < lrs[1] > lrs[2] > lrs[3] > lrs[4]
    assert lrs[4] < 1e-4


def test_plateau_schedule_sees_the_validation_loss() -> None:
    def plateau(optimizer: Any) -> Any:
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)

    # A validation loss that stays at 1: the second epoch is no better, so the third trains at half the rate.
    validation = (torch.zeros(2, 1), torch.ones(2, 1))
    model = nn.Linear(1, 1, bias=False)
    history = fit(model, ONE, validation, epochs=3, loss="mse", optimizer="sgd", lr=0.1, schedule=plateau)
    assert [record.lr for record in history] == [0.1, 0.1, 0.05]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.optim.SGD),
        ({"optimizer": "adam"}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW),
        ({"optimizer": "rmsprop", "momentum": 0.5}, torch.optim.RMSprop),
        ({"optimizer": partial(torch.optim.Adagrad, lr=0.5)}, torch.optim.Adagrad),
    ],
)
def test_optimizers_take_their_options(options: dict[str, Any], kind: type) -> None:
    made = TrainOptions(**options).make_optimizer(nn.Linear(1, 1).parameters())
    assert type(made) is kind
    group = made.param_groups[0]
    for name, value in options.items():
        assert name == "optimizer" or group[name] == value


def test_mse_takes_labels_as_one_hot_vectors() -> None:
    outputs = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # (0.25 + 0.25 + 1 + 1) / 4
    assert loss_function("mse")(outputs, torch.tensor([0, 1])).item() == 0.625


def test_mse_refuses_shapes_that_would_broadcast() -> None:
    with pytest.raises(InputError, match=r"\(3, 2\) against targets of shape \(3,\)"):
        loss_function("mse")(torch.zeros(3, 2), torch.zeros(3))
    column = torch.tensor([[1.0], [2.0], [4.0]])  # one number a sample, as most write a regression
    assert loss_function("mse")(column, torch.tensor([1.0, 2.0, 1.0])) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs=-1 must be a whole number, 0 or more"),
        ({"epochs": 2.5}, "epochs=2.5 must be"),
        ({"epochs": True}, "epochs=True must be"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number, 1 or more"),
        ({"lr": 0}, "lr=0 must be a finite number above 0"),
        ({"lr": float("nan")}, "lr=nan must be"),
        ({"lr": "fast"}, "lr='fast' must be"),
        ({"optimizer": "sgd", "momentum": 1.0}, "momentum=1.0 must be a number in"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1 must be"),
        ({"clip_norm": 0}, "clip_norm=0 must be"),
        ({"patience": 0}, "patience=0 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"schedule": "step", "step_size": 0}, "step_size=0 must be"),
        ({"schedule": "exponential", "gamma": -1}, "gamma=-1 must be"),
        ({"schedule": "multistep", "milestones": [3, 2]}, r"milestones=\(3, 2\) must be rising"),
        ({"nesterov": True}, "nesterov=True does not belong to optimizer 'adam'"),
        ({"optimizer": "sgd", "nesterov": True}, "needs a momentum above 0"),
        ({"gamma": 0.5}, "gamma=0.5 does not belong to schedule 'constant'"),
        ({"optimizer": torch.optim.Adagrad, "lr": 0.5}, "lr=0.5 does not belong to optimizer 'torch.optim"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainOptions(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adma"}, "unknown optimizer 'adma'; did you mean 'adam'"),
        ({"schedule": "cosin"}, "unknown learning-rate schedule 'cosin'; did you mean 'cosine'"),
        ({"loss": "crossentropy"}, "unknown loss 'crossentropy'; did you mean 'cross_entropy'"),
        ({"epoch": 3}, "unknown training option 'epoch'; did you mean 'epochs'"),
    ],
)
def test_unknown_names(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        fit(nn.Linear(1, 1), ONE, **options)
    with pytest.raises(UnknownNameError, match="unknown loss 'l3'"):
        loss_function("l3")


def test_options_as_plain_values() -> None:
    options = TrainOptions(optimizer=partial(torch.optim.SGD, lr=0.1), schedule="multistep", milestones=[1, 2])
    plain = options.to_dict()
    assert plain["optimizer"] == "torch.optim.sgd.SGD(lr=0.1)"
    assert plain["milestones"] == [1, 2]
    assert plain["loss"] == "cross_entropy"


def test_an_optimizer_that_asks_for_the_loss_again_is_refused() -> None:
    data = torch.rand(8, 2), torch.rand(8, 1)
    options = TrainOptions(epochs=1, optimizer=torch.optim.LBFGS, loss="mse")
    model = nn.Linear(2, 1)
    with pytest.raises(InputError, match="makes a LBFGS, whose steps compute the loss several times"):
        fit(model, data, options=options)
    with pytest.raises(InputError, match="makes a LBFGS"):
        TrainCycle(data, options).optimizer(model)
    fit(model, data, options=TrainOptions(epochs=1, optimizer=torch.optim.Adagrad, loss="mse", schedule="cosine"))


@pytest.mark.parametrize("kind", [RigL, SparseEvolution])
@pytest.mark.parametrize("sparsity", [0.0, 1.0, -0.5])
def test_sparse_training_is_of_some_weights(kind: type[RigL] | type[SparseEvolution], sparsity: float) -> None:
    with pytest.raises(InputError, match=rf"{kind.__name__}: sparsity=.* must be a number in \(0, 1\)"):
        kind(sparsity)
