"""A checkpoint goes on only on the data that it was begun with, wherever a schedule holds them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from secateur.criteria import ActivationCount, Taylor
from secateur.data import Split
from secateur.schedules import Cycles, Iterative, Rewind, Schedule
from secateur.schedules.contents import contents
from secateur.selection import BelowQuantile
from secateur.structure import channels, weights
from secateur.train import Reinitialise, TrainCycle, TrainOptions, TrainTicket, fit
from secateur.types import FileError, Sites

Pair = tuple[Tensor, Tensor]


class Killed(Exception):
    """In the middle of a pruning."""


def drawn(seed: int = 0) -> Pair:
    draws = torch.Generator().manual_seed(seed)
    return torch.rand(32, 4, generator=draws), torch.randint(2, (32,), generator=draws)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 2))


OPTIONS = TrainOptions(epochs=1, lr=0.01)
OTHERS: dict[str, Callable[[Pair], Pair]] = {
    "other inputs": lambda d: (d[0] + 1, d[1]),
    "other labels": lambda d: (d[0], 1 - d[1]),
    "half the samples": lambda d: (d[0][:16], d[1][:16]),
}


def in_a_closure(data: Pair) -> Callable[[nn.Module, Any], object]:
    return lambda model, masks: fit(model, data, options=OPTIONS)


def trained_on(data: Pair, model: nn.Module, masks: object) -> None:
    fit(model, data, options=OPTIONS)


class Trainer:
    """A training of one's own, which notes what it did."""

    def __init__(self, data: Pair) -> None:
        self.data, self.losses = data, list[float]()

    def __call__(self, model: nn.Module, masks: object) -> None:
        self.losses.append(fit(model, self.data, options=OPTIONS).epochs[-1].train_loss)


def cycles(counted: Pair, trained: Pair, **options: Any) -> Schedule:
    rule = BelowQuantile(0.2)
    return Cycles(ActivationCount(counted), TrainCycle(trained, OPTIONS), rule, cycles=4, patience=4, **options)


SCHEDULES: dict[str, Callable[[Pair], Schedule]] = {
    "Cycles": lambda d: cycles(d, d),
    "Cycles, the training alone": lambda d: cycles(drawn(), d),
    "Cycles, the criterion alone": lambda d: cycles(d, drawn()),
    "Cycles with data": lambda d: cycles(drawn(), d, data=drawn()),
    "Cycles with a callback": lambda d: Cycles(
        ActivationCount(drawn()),
        TrainCycle(drawn(), OPTIONS, [Reinitialise(1, d)]),
        BelowQuantile(0.2),
        cycles=4,
        patience=4,
    ),
    "Rewind": lambda d: Rewind(TrainTicket(d, OPTIONS), rounds=3),
    "Rewind, the validation": lambda d: Rewind(TrainTicket(drawn(), OPTIONS, validation=d), rounds=3),
    "Iterative": lambda d: Iterative(Taylor(d), 0.5, steps=4),
    "Iterative, a function": lambda d: Iterative(Taylor(drawn()), 0.5, steps=4, train=in_a_closure(d)),
    "Iterative, a partial": lambda d: Iterative(Taylor(drawn()), 0.5, steps=4, train=partial(trained_on, d)),
    "Iterative, an object": lambda d: Iterative(Taylor(drawn()), 0.5, steps=4, train=Trainer(d)),
    "Iterative, its method": lambda d: Iterative(Taylor(drawn()), 0.5, steps=4, train=Trainer(d).__call__),
}


def killed(schedule: Schedule, path: Path) -> tuple[nn.Module, Sites]:
    """A model of which a schedule was killed at its second step."""
    model = net()
    sites = weights(model) if isinstance(schedule, Rewind) else channels(model, drawn()[0][:1])
    steps: list[object] = []

    def kill(step: object) -> None:
        steps.append(step)
        if len(steps) == 2:
            raise Killed

    with pytest.raises(Killed):
        schedule(model, sites, checkpoint=path, on_step=kill)
    return model, sites


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_checkpoint_is_refused_on_other_data_and_goes_on_on_the_same(name: str, tmp_path: Path) -> None:
    make, path = SCHEDULES[name], tmp_path / "z.ck"
    schedule = make(drawn())
    model, sites = killed(schedule, path)
    for change in OTHERS.values():
        with pytest.raises(FileError, match=r"another pruning; these differ: the data of (train|criterion)"):
            make(change(drawn()))(model, sites, checkpoint=path)
    resumed = schedule(model, sites, checkpoint=path)
    whole = make(drawn())(model, sites)
    assert resumed.history.removed == whole.history.removed
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name])


SHARED = drawn()


def on_a_global(model: nn.Module, masks: object) -> None:
    fit(model, SHARED, options=OPTIONS)


def test_data_that_a_function_names_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = Iterative(Taylor(drawn()), 0.5, steps=4, train=on_a_global)
    model, sites = killed(schedule, tmp_path / "z.ck")
    monkeypatch.setitem(globals(), "SHARED", drawn(1))
    with pytest.raises(FileError, match="these differ: the data of train"):
        schedule(model, sites, checkpoint=tmp_path / "z.ck")


class Files(Dataset[Tensor]):
    """A data set that is read as it is needed."""

    def __init__(self, *paths: str) -> None:
        self.paths, self.reads = list(paths), 0

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, position: int) -> Tensor:
        self.reads += 1
        return torch.zeros(1)


@pytest.mark.parametrize(
    "hold",
    [
        lambda x, y: (x, y),
        lambda x, y: {"x": x, "labels": y},
        lambda x, y: [(x, y), (x, y)],
        lambda x, y: Split(x.reshape(32, 1, 2, 2), y, ("a", "b"), "", "train"),
        lambda x, y: DataLoader(TensorDataset(x, y), 8),
        lambda x, y: DataLoader(Subset(TensorDataset(drawn()[0], drawn()[1]), x[:, 0].argsort().tolist()), 8),
        lambda x, y: DataLoader(Files(*map(str, x[:, 0].tolist()))),
        lambda x, y: x.numpy(),
    ],
)
def test_data_are_known_in_whatever_they_come(hold: Callable[[Tensor, Tensor], Any]) -> None:
    first, again, other = hold(*drawn()), hold(*drawn()), hold(*drawn(1))
    if isinstance(first, DataLoader):
        next(iter(first))  # reading changes nothing
    assert contents(first) == contents(again) != contents(other)


def test_what_is_no_data_does_not_count() -> None:
    held: list[Any] = []
    held.append(held)
    for value in (None, 3, "cross_entropy", nn.functional.mse_loss, held, BelowQuantile(0.5), TrainOptions()):
        assert contents(value) == ""
    train = TrainCycle(drawn(), on_cycle=lambda *_: held)
    assert contents(train) == contents(TrainCycle(drawn()))
