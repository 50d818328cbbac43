"""Holding pruned weights at zero, and the hooks of the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur.train import Callback, HoldZeros, LogEpochs, Run, fit
from secateur.types import InputError, UnknownNameError

KEEP = {"0.weight": torch.tensor([[True, False], [False, True], [True, True]])}
DATA = (torch.tensor([[1.0, 2.0], [3.0, -1.0], [0.5, 0.5]]), torch.tensor([0, 1, 1]))


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))


class Watch(Callback):
    """Notes whether a removed weight was ever not zero."""

    def __init__(self) -> None:
        self.worst = 0.0

    def on_step(self, run: Run) -> None:
        removed = run.model.get_parameter("0.weight").detach()[~KEEP["0.weight"]]
        self.worst = max(self.worst, float(removed.abs().max()))


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "lr": 0.5, "momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adam", "lr": 0.1, "weight_decay": 0.1},
        {"optimizer": "adamw", "lr": 0.1, "weight_decay": 0.1},
        {"optimizer": "rmsprop", "lr": 0.1},
    ],
)
def test_removed_weights_stay_zero_and_the_others_move(options: dict[str, Any]) -> None:
    model, before, watch = net(), net(), Watch()
    fit(model, DATA, epochs=5, callbacks=[HoldZeros(KEEP), watch], **options)
    weight, old = model[0].weight.detach(), before[0].weight.detach()
    assert watch.worst == 0.0
    assert (weight[~KEEP["0.weight"]] == 0).all()
    assert (weight[KEEP["0.weight"]] != old[KEEP["0.weight"]]).all()


def test_removed_weights_do_not_weigh_on_the_clipped_gradient() -> None:
    # x = (1, 1000), target 1: without the mask the second gradient would take the whole norm.
    model = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    data = (torch.tensor([[1.0, 1000.0]]), torch.tensor([[1.0]]))
    hold = HoldZeros({"weight": torch.tensor([[True, False]])})
    fit(model, data, epochs=1, optimizer="sgd", lr=0.5, loss="mse", clip_norm=1.0, callbacks=[hold])
    # The gradient is −2, clipped to −1.
    assert model.weight[0].tolist() == pytest.approx([0.5, 0.0], abs=1e-5)


def test_bad_masks() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown parameter '0\.weigth'; did you mean '0\.weight'"):
        fit(net(), DATA, epochs=1, callbacks=[HoldZeros({"0.weigth": KEEP["0.weight"]})])
    for bad in (torch.ones(3, 2), torch.ones(2, 3, dtype=torch.bool)):
        with pytest.raises(InputError, match=r"the mask of 0\.weight .* must be torch\.bool of shape \(3, 2\)"):
            fit(net(), DATA, epochs=1, callbacks=[HoldZeros({"0.weight": bad})])


def test_masks_tell_trainings_apart() -> None:
    assert HoldZeros(KEEP).identity() == HoldZeros(dict(KEEP)).identity()
    assert HoldZeros(KEEP).identity() != HoldZeros({"0.weight": ~KEEP["0.weight"]}).identity()


def test_every_epoch_is_logged_with_its_number() -> None:
    seen: list[tuple[str, float, int]] = []
    log = LogEpochs(lambda name, value, epoch: seen.append((name, value, epoch)))
    history = fit(net(), DATA, epochs=3, callbacks=[log])
    assert [(value, epoch) for name, value, epoch in seen if name == "train_loss"] == [
        (record.train_loss, record.epoch) for record in history
    ]
    # Without validation data there is nothing to say of it.
    assert {name for name, _, _ in seen} == {"train_loss", "train_accuracy", "lr", "seconds"}


def test_logging_changes_no_number() -> None:
    log = LogEpochs(lambda name, value, epoch: None)
    assert fit(net(), DATA, epochs=2, callbacks=[log]) == fit(net(), DATA, epochs=2)


def test_epochs_go_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path) as writer:
        history = fit(net(), DATA, DATA, epochs=2, callbacks=[LogEpochs(writer.add_scalar)])
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    events = found.Scalars("validation_loss")
    assert [event.step for event in events] == [1, 2]
    assert [event.value for event in events] == pytest.approx([record.validation_loss for record in history])
