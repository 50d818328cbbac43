"""Checkpoints: a training that was killed ends as the one that was not, and what is refused.

Run as a program, this file is the training that the tests kill.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from secateur.files import write_bytes
from secateur.train import Callback, History, HoldZeros, Run, fit
from secateur.train.checkpoint import pack, unpack
from secateur.types import FileError, InputError

EPOCHS = 6


def net(width: int = 8, dropout: float = 0.3, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(2, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 2)
    )


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    return torch.randn(count, 2, generator=generator) + labels[:, None], labels


def train(model: nn.Module, path: Path | None, *callbacks: Callback, **changes: Any) -> History:
    options: dict[str, Any] = {
        "epochs": EPOCHS,
        "batch_size": 16,
        "lr": 0.05,
        "schedule": "multistep",
        "seed": 3,
    }
    return fit(model, blobs(60, 0), blobs(30, 1), checkpoint=path, callbacks=callbacks, **{**options, **changes})


def same(first: nn.Module, second: nn.Module) -> bool:
    one, other = first.state_dict(), second.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


class Stop(Exception):
    """A crash."""


class Crash(Callback):
    """Crashes in the middle of an epoch."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step(self, run: Run) -> None:
        if run.step == self.step:
            raise Stop


class Wait(Callback):
    """Says when two epochs are written, and then waits to be killed in the third."""

    def on_step(self, run: Run) -> None:
        if len(run.records) == 2:
            print("ready", flush=True)
            time.sleep(60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_training_ends_as_the_one_that_was_not(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "run.safetensors"
    child = subprocess.Popen(
        [sys.executable, __file__, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(how)
        assert child.wait(timeout=60) == -how
    resumed, plain, epochs = net(), net(), Epochs()
    history = train(resumed, path, epochs)
    assert epochs.seen == list(range(3, EPOCHS + 1))
    assert history == train(plain, None)
    assert same(resumed, plain)


class Epochs(Callback):
    """Notes the epochs that are really trained."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_epoch(self, run: Run) -> None:
        self.seen.append(run.records[-1].epoch)


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "schedule": "cosine"},
        {"optimizer": "adamw", "schedule": "onecycle"},
        {"optimizer": "rmsprop", "schedule": "exponential", "patience": 1},
        {"optimizer": "adam", "schedule": "step", "restore_best": False, "clip_norm": 1.0},
        {"schedule": "constant"},
    ],
    ids=lambda options: f"{options.get('optimizer', 'adam')}-{options['schedule']}",
)
def test_every_optimizer_and_schedule_resumes_to_the_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    path = tmp_path / "deep" / "run"
    plain, model = net(), net()
    expected = train(plain, None, **options)
    for step in (1, 6, 11):  # 4 steps an epoch: in epochs 1, 2 and 3
        with pytest.raises(Stop):
            train(model, path, Crash(step), **options)
        assert same(model, net())  # as before: the same object can be given again
    assert train(model, path, **options) == expected
    assert same(model, plain)


def test_what_a_kill_left_half_written_is_ignored_and_cleared_away(tmp_path: Path) -> None:
    path, model, plain = tmp_path / "run", net(), net()
    with pytest.raises(Stop):
        train(model, path, Crash(10))
    half = tmp_path / ".run.abc.part"
    half.write_bytes(path.read_bytes()[:100])
    os.utime(half, (0, 0))  # old: no process is writing it any more
    assert train(model, path) == train(plain, None)
    assert same(model, plain)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_a_finished_training_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "run"
    first, second, epochs = net(), net(), Epochs()
    history = train(first, path, patience=1, lr=0.5)
    assert len(history) < EPOCHS  # stopped early, and remembers it
    assert train(second, path, epochs, patience=1, lr=0.5) == history
    assert epochs.seen == []
    assert same(first, second)
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (net(), {"lr": 0.1}, r"option lr \(was 0\.05, now 0\.1\)"),
        (net(width=9), {}, "differ: model, starting weights"),
        (net(dropout=0.4), {}, "differ: model;"),
        (net(seed=1), {}, "differ: starting weights;"),
    ],
)
def test_a_checkpoint_of_another_training(
    tmp_path: Path, model: nn.Module, options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "run"
    train(net(), path, epochs=1)
    content = path.read_bytes()
    with pytest.raises(FileError, match=message):
        train(model, path, **{"epochs": 1, **options})
    assert path.read_bytes() == content


def test_a_checkpoint_of_other_data_or_masks(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fit(net(), blobs(20, 0), epochs=1, checkpoint=path)
    with pytest.raises(FileError, match="differ: training data;"):
        fit(net(), blobs(20, 1), epochs=1, checkpoint=path)
    hold = HoldZeros({"4.weight": torch.zeros(2, 8, dtype=torch.bool)})
    with pytest.raises(FileError, match="differ: callbacks;"):
        fit(net(), blobs(20, 0), epochs=1, checkpoint=path, callbacks=[hold])


def test_a_damaged_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"
    train(net(), path, epochs=1)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[-5] ^= 1
    for bad, message in (
        (good[: len(good) // 2], "cannot be read"),
        (b"", "cannot be read"),
        (bytes(flipped), "is damaged"),
        (good.replace(b"train_loss", b"train_lost", 1), "is damaged"),
    ):
        path.write_bytes(bad)
        model = net()
        with pytest.raises(FileError, match=message):
            train(model, path, epochs=1)
        assert same(model, net())


def test_a_file_of_something_else_and_a_folder(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(FileError, match="is not a checkpoint of a training"):
        train(net(), tmp_path / "other")
    with pytest.raises(FileError, match="is a folder"):
        train(net(), tmp_path)
    with pytest.raises(FileError, match="its folder cannot be made"):
        train(net(), tmp_path / "other" / "run")


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    path.write_bytes(b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"cannot write .*run: .*No space left on device"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]


def test_state_that_no_checkpoint_can_hold(tmp_path: Path) -> None:
    class Odd(LRScheduler):
        def get_lr(self) -> list[float | torch.Tensor]:
            self.odd = object()
            return [0.1]

    with pytest.raises(InputError, match=r"state\.schedule\.odd is a object, which no checkpoint can hold"):
        train(net(), tmp_path / "run", schedule=Odd)
    assert list(tmp_path.iterdir()) == []


def test_packing_keeps_types() -> None:
    from collections import Counter

    value = {"a": (1, [2.5, None]), 3: Counter({4: 1}), "t": torch.tensor(7), "n": {"deep": torch.ones(2)}}
    found: dict[str, torch.Tensor] = {}
    back = unpack(pack(value, found, "x"), found)
    assert set(found) == {"x.t", "x.n.deep"}
    assert back["a"] == (1, [2.5, None])
    assert type(back[3]) is Counter
    assert torch.equal(back["n"]["deep"], torch.ones(2))


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(net(), Path(sys.argv[1]), Wait())
