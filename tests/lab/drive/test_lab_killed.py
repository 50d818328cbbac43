"""Runs that are killed, interrupted, or out of room: what is finished stays, and goes on to the same end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sixty import SIXTY

from secateur.lab import Store, run_study
from secateur.types import FileError

SCRIPT = Path(__file__).parents[1] / "sixty.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


class Sitting:
    """One run of the study in a process group of its own, which can be struck."""

    def __init__(self, folder: Path, executor: str, sleep: float = 0.03) -> None:
        self.log, self.store = folder / "log", folder / "store"
        self.before = begun(self.log)
        words = [sys.executable, str(SCRIPT), str(self.store), str(self.log), executor, "2", str(sleep)]
        out = (folder / "out").open("w")
        self.process = subprocess.Popen(words, env=ENVIRONMENT, stdout=out, stderr=out, start_new_session=True)
        out.close()
        self.said = folder / "out"

    def new(self) -> list[str]:
        """The cells that were begun in this sitting."""
        return begun(self.log)[len(self.before) :]

    def wait_for(self, cells: int) -> None:
        """Wait until so many cells were begun, or it has ended."""
        wait_until(lambda: len(self.new()) >= cells or self.process.poll() is not None)

    def members(self) -> list[int]:
        """All processes of the sitting that are alive, the driver among them."""
        return [pid for pid, (_, session, _) in processes().items() if session == self.process.pid]

    def workers(self) -> list[int]:
        """The worker processes: children of the server that forks them."""
        table = processes()
        servers = [p for p, (parent, _, line) in table.items() if parent == self.process.pid and "forkserver" in line]
        return [pid for pid, (parent, _, _) in table.items() if parent in servers]


def processes() -> dict[int, tuple[int, int, str]]:
    """The parent, the session and the command line of every process that is alive."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                state, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
                if state != "Z":
                    found[int(folder.name)] = (
                        int(parent),
                        int(session),
                        (folder / "cmdline").read_text(errors="replace"),
                    )
    return found


def begun(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def results(folder: Path) -> dict[str, tuple[Any, ...]]:
    store = Store(folder)
    # Reading the artefact checks its checksum.
    return {
        record.id: (dict(record.metrics), [dict(row) for row in record.history], record.artefact)
        for record in store.records()
        if store.artefact(record.id)
    }


def sizes(few: int, many: int) -> list[Any]:
    """A few blows by default, as many as asked among the long tests."""
    return [few, pytest.param(many, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert len(run_study(SIXTY, Store(folder), executor="serial", progress=False).done) == 60
    return results(folder)


def finish(folder: Path, executor: str, undisturbed: dict[str, tuple[Any, ...]]) -> None:
    """Run to the end, and see that nothing shows of what came before."""
    store, before = Store(folder / "store"), begun(folder / "log")
    finished = store.ids()
    summary = run_study(SIXTY, store, {"log": str(folder / "log")}, executor=executor, progress=False)
    assert (len(summary.found), len(summary.done), summary.exit_code) == (len(finished), 60 - len(finished), 0)
    assert not finished & set(begun(folder / "log")[len(before) :]), "a finished cell was computed again"
    assert results(store.path) == undisturbed
    left = [path.name for path in store.path.rglob("*") if path.suffix in (".part", ".lock")]
    assert not left, "files that no one needs"


@pytest.mark.parametrize(
    ("executor", "blows"),
    [
        ("processes", 2),
        pytest.param("processes", 20, marks=pytest.mark.slow),
        pytest.param("serial", 20, marks=pytest.mark.slow),
    ],
)
def test_the_driver_is_killed(
    memory_path: Path, undisturbed: dict[str, tuple[Any, ...]], executor: str, blows: int
) -> None:
    chance = random.Random(blows)
    for blow in range(blows):
        known = Store(memory_path / "store").ids()
        sitting = Sitting(memory_path, executor)
        # Some while it starts, most while it works.
        sitting.wait_for(0 if blow % 4 == 3 else chance.randint(1, 3))
        time.sleep(chance.uniform(0, 1.0 if blow % 4 == 3 else 0.1))
        assert sitting.process.poll() is None, sitting.said.read_text()
        sitting.process.kill()
        sitting.process.wait()
        wait_until(lambda: not sitting.members(), seconds=60.0)  # noqa: B023  (waited for before the next one)
        again = sitting.new()
        assert len(again) == len(set(again)), "twice in one sitting"
        assert not known & set(again), "a finished cell was computed again"
    sweep(memory_path)
    finish(memory_path, executor, undisturbed)


@pytest.mark.parametrize("rounds", sizes(1, 20))
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_between_finished_cells(
    memory_path: Path, undisturbed: dict[str, tuple[Any, ...]], how: signal.Signals, rounds: int
) -> None:
    """Each time in a new store, with five cells or more done; what was done is there, and the rest comes to the same bits."""
    for number in range(rounds):
        folder = memory_path / str(number)
        folder.mkdir()
        sitting = Sitting(folder, "processes")
        sitting.wait_for(8 + 2 * number)  # two are at work
        assert sitting.process.poll() is None, sitting.said.read_text()
        os.kill(sitting.process.pid, how)
        assert sitting.process.wait(60) != 0
        wait_until(lambda: not sitting.members(), seconds=30.0)  # noqa: B023  (waited for before the next one)
        done = results(sitting.store)
        assert 5 <= len(done) < 60
        assert done.items() <= undisturbed.items()
        sweep(folder)
        finish(folder, "serial", undisturbed)


def test_a_clock_that_goes_backwards(
    tmp_path: Path, undisturbed: dict[str, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times are told and never decided by: an hour is lost with every question."""
    hours = iter(range(10**6))
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600 * next(hours))
    monkeypatch.setattr("secateur.lab.keep.records.now", lambda: f"2020-01-01T{23 - next(hours) % 24:02}:00:00+00:00")
    store = Store(tmp_path / "store")
    run_study(SIXTY, store, {"seeds": 1}, executor="serial", progress=False)
    assert run_study(SIXTY, store, executor="serial", progress=False).exit_code == 0
    assert results(store.path) == undisturbed


def test_ctrl_c_twice(memory_path: Path, undisturbed: dict[str, tuple[Any, ...]]) -> None:
    sitting = Sitting(memory_path, "processes")
    sitting.wait_for(4)
    os.killpg(sitting.process.pid, signal.SIGINT)
    time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(sitting.process.pid, signal.SIGINT)
    assert sitting.process.wait(60) == 130, sitting.said.read_text()
    assert "Traceback" not in sitting.said.read_text()
    wait_until(lambda: not sitting.members(), seconds=30.0)
    sweep(memory_path)
    finish(memory_path, "serial", undisturbed)


def sweep(folder: Path) -> None:
    """Temporary files of killed writers are swept after a day; let it be one."""
    for path in (folder / "store").rglob("*.part"):
        os.utime(path, (0, 0))


@pytest.mark.parametrize("blows", sizes(4, 20))
def test_workers_are_killed(memory_path: Path, undisturbed: dict[str, tuple[Any, ...]], blows: int) -> None:
    chance = random.Random(blows)
    sitting = Sitting(memory_path, "processes", sleep=0.05 if blows < 10 else 0.2)
    killed = 0
    sitting.wait_for(1)
    while killed < blows:
        time.sleep(chance.uniform(0, 0.15))
        assert sitting.process.poll() is None, sitting.said.read_text()
        victims = sitting.workers()
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)
                killed += 1
    assert sitting.process.wait(120) == 0, sitting.said.read_text()
    assert "60 done in" in sitting.said.read_text()
    again = begun(sitting.log)
    assert 60 <= len(again) <= 60 + killed, "only what was in flight is computed again"
    assert results(sitting.store) == undisturbed


@pytest.mark.parametrize("blows", sizes(1, 20))
def test_ctrl_c(memory_path: Path, undisturbed: dict[str, tuple[Any, ...]], blows: int) -> None:
    chance = random.Random(blows)
    for _ in range(blows):
        known = Store(memory_path / "store").ids()
        sitting = Sitting(memory_path, "processes")
        sitting.wait_for(chance.randint(1, 3))
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(sitting.process.pid, signal.SIGINT)
        struck = time.monotonic()
        assert sitting.process.wait(20) == 130, sitting.said.read_text()
        assert time.monotonic() - struck < 5
        wait_until(lambda: not sitting.members(), seconds=5.0)  # noqa: B023  (waited for before the next one)
        said = sitting.said.read_text()
        assert "Traceback" not in said
        assert "interrupted: " in said.splitlines()[-1]
        assert not known & set(sitting.new())
        assert not list((sitting.store / "locks").iterdir())
    finish(memory_path, "processes", undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mounting, capture_output=True, check=False)
    except OSError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip("mounting is not permitted")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_a_full_disk(small_disk: Path, undisturbed: dict[str, tuple[Any, ...]], executor: str) -> None:
    store, filler = Store(small_disk / "store"), small_disk / "filler"
    run_study(SIXTY, store, {"seeds": 1}, executor=executor, progress=False)
    for room in (150_000, 60_000, 0):
        state = os.statvfs(small_disk)
        filler.write_bytes(b"x" * max(0, state.f_bavail * state.f_frsize - room))
        with pytest.raises(FileError, match=r"room|space"):
            run_study(SIXTY, store, executor=executor, progress=False)
        filler.unlink()
        finished = store.ids()
        assert results(store.path).items() <= undisturbed.items()
    summary = run_study(SIXTY, store, executor=executor, progress=False)
    assert (len(summary.found), summary.exit_code) == (len(finished), 0)
    assert results(store.path) == undisturbed
