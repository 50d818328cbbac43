"""A killed training cell goes on within one checkpoint, and large tensors go by way of the store's folder.

Run as a program, this file is the study that the tests kill.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from typing import Any

import pytest
import torch
from torch import nn

from secateur.lab import Cell, Context, Outcome, Recipe, Record, Report, Store, Study, run_study
from secateur.lab.drive.executors import OnRay, Processes, Serial
from secateur.lab.drive.executors.base import Done
from secateur.lab.drive.executors.wire import BY_PATH, pack, unpack
from secateur.lab.keep import paths
from secateur.lab.keep.arrivals import Arrival
from secateur.lab.keep.presence import Presence
from secateur.studies.kit import networks
from secateur.types import FileError

EPOCHS = 8


class Noted(nn.Module):
    """A network that writes down when it begins a pass over training images, and may die in one."""

    def __init__(self, log: str, kill_at: int) -> None:
        super().__init__()
        self.log, self.kill_at = log, kill_at
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            with Path(self.log).open("a", encoding="utf-8") as file:
                file.write(f"{os.getpid()}\n")
            # The second half of an epoch, so that what is lost is a part of one.
            if len(lines(self.log)) == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        answer: torch.Tensor = self.layers(images)
        return answer


def lines(log: str | Path) -> list[str]:
    path = Path(log)
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def train(context: Context) -> Outcome:
    torch.manual_seed(0)
    recipe = {"data": "digits", "validation": 300, "epochs": EPOCHS, "batch_size": 600}
    options = context.options
    return networks.fit_and_rate(context, recipe, Noted(options["log"], options["kill_at"]), 0)


def study() -> Study:
    cell = Cell(Recipe("killed", "train", {"seed": 0}), train)
    defaults = {"log": "", "kill_at": 0, "checkpoint_seconds": 0}
    return Study("killed", "Killed", None, "", lambda options: [cell], lambda results: Report("Killed"), defaults)


EXECUTORS: dict[str, Any] = {"serial": Serial, "processes": lambda: Processes(1), "ray": lambda: OnRay("local", 1)}


def run(folder: Path, executor: str, kill_at: int = 0) -> tuple[Record, dict[str, torch.Tensor], list[str]]:
    """What the cell came to, its tensors, and the process of each step."""
    store, log = Store(folder / "store"), folder / "log"
    options = {"log": str(log), "kill_at": kill_at}
    summary = run_study(study(), store, options, executor=EXECUTORS[executor](), progress=False)
    assert not summary.failed, summary.failed
    (record,) = store.records()
    return record, store.artefact(record.id), lines(log)


STEPS = 2
"""Steps of an epoch: 1,200 images by 600."""


def alike(
    first: tuple[Record, dict[str, torch.Tensor], Any], second: tuple[Record, dict[str, torch.Tensor], Any]
) -> None:
    (record, tensors, _), (other, others, _) = first, second
    assert record.metrics == other.metrics
    assert [{**row, "seconds": 0} for row in record.history] == [{**row, "seconds": 0} for row in other.history]
    assert all(torch.equal(tensors[name], others[name]) for name in tensors | others)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run(tmp_path_factory.mktemp("whole"), "serial")


@pytest.mark.parametrize("executor", ["processes", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_killed_worker_repeats_no_epoch_that_was_done(tmp_path: Path, undisturbed: Any, executor: str) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
    # In the second step of epoch 6; five epochs are in the checkpoint.
    result = run(tmp_path, executor, kill_at=STEPS * 5 + 2)
    alike(undisturbed, result)
    steps = result[2]
    assert len(set(steps)) == 2, "another process has gone on"
    # One try-out in each process is no training; two steps of the epoch that was lost are repeated.
    assert len(steps) == STEPS * EPOCHS + 2
    assert not paths.checkpoint_file(tmp_path / "store", result[0].id).exists()


def test_a_killed_run_goes_on_in_the_next(tmp_path: Path, undisturbed: Any) -> None:
    words = [sys.executable, __file__, str(tmp_path), str(STEPS * 3 + 1)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with Popen(words, env=environment, stdout=DEVNULL, stderr=PIPE) as process:
        assert process.wait(120) == -signal.SIGKILL, process.stderr and process.stderr.read()
    assert len(lines(tmp_path / "log")) == STEPS * 3 + 1
    result = run(tmp_path, "serial")
    alike(undisturbed, result)
    assert len(result[2]) == STEPS * EPOCHS + 1


def test_a_checkpoint_of_other_code_is_begun_anew(tmp_path: Path, undisturbed: Any) -> None:
    cell = study().plan()[0]
    file = paths.checkpoint_file(tmp_path / "store", cell.id)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"of another program")
    result = run(tmp_path, "serial")
    alike(undisturbed, result)
    assert len(result[2]) == STEPS * EPOCHS


def test_a_short_training_writes_no_checkpoint(tmp_path: Path) -> None:
    store, seen = Store(tmp_path / "store"), []
    cell = study().plan()[0]
    place = paths.checkpoint_file(store.path, cell.id)

    def watched(context: Context) -> Outcome:
        outcome = train(context)
        seen.append(place.exists())
        return outcome

    for seconds in (30, 0):
        planned = Study(
            "killed", "K", None, "", lambda o: [Cell(cell.recipe, watched)], lambda r: Report("K"), study().defaults
        )
        options = {"log": str(tmp_path / "log"), "checkpoint_seconds": seconds}
        run_study(planned, store, options, executor="serial", progress=False)
        store.delete(cell.id)
    assert seen == [False, True]


# Tensors by way of the folder


def done(count: int) -> Done:
    return Done("a" * 16, "1", Outcome({}, (), {"w": torch.arange(float(count))}), 0.0, 0.0, {})


def test_large_tensors_go_by_way_of_the_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    head, sent = pack(done(BY_PATH), tmp_path)
    assert not sent
    event = unpack(head, sent, tmp_path)
    assert isinstance(event, Done)
    assert isinstance(event.outcome.artefact, Arrival)
    recipe = Recipe("s", "k")
    record = store.put(Record(recipe, {}), event.outcome.artefact)
    assert record.artefact == event.outcome.artefact.checksum
    assert torch.equal(store.artefact(recipe.id)["w"], torch.arange(float(BY_PATH)))
    assert torch.equal(event.outcome.artefact["w"], torch.arange(float(BY_PATH))), "trackers look after it was moved"
    assert not list(paths.arrival_file(tmp_path, "x").parent.iterdir())
    store.check()


def test_small_tensors_and_those_without_a_folder_are_sent(tmp_path: Path) -> None:
    for count, folder in ((4, tmp_path), (BY_PATH, None)):
        event = unpack(*pack(done(count), folder), folder)
        assert isinstance(event, Done)
        assert isinstance(event.outcome.artefact, dict)


def test_where_the_folder_cannot_be_written_tensors_are_sent(tmp_path: Path) -> None:
    (tmp_path / "arrivals").write_text("in the way")
    head, sent = pack(done(BY_PATH), tmp_path)
    assert sent
    assert isinstance(unpack(head, sent, tmp_path), Done)


def test_an_arrival_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot move"):
        Arrival(tmp_path / "nothing", "0").move(tmp_path / "there" / "x")


def test_another_folder_of_the_same_path_is_told(tmp_path: Path) -> None:
    presence = Presence.of(tmp_path)
    assert presence.is_here()
    paths.presence_file(tmp_path).write_text("another")
    assert not presence.is_here()
    paths.presence_file(tmp_path).unlink()
    assert not presence.is_here()


def test_what_no_driver_came_for_is_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    done_, begun = Recipe("s", "k", {"n": 1}), Recipe("s", "k", {"n": 2})
    store.put(Record(done_, {}))
    files = [paths.checkpoint_file(tmp_path, done_.id), paths.checkpoint_file(tmp_path, begun.id)]
    files.append(paths.arrival_file(tmp_path, begun.id))
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
        os.utime(file, (time.time() - 1e6,) * 2)
    store.sweep()
    assert [file.exists() for file in files] == [False, True, False], "a cell that was begun may go on"


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        run(Path(sys.argv[1]), "serial", int(sys.argv[2]))
