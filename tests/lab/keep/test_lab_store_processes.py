"""The store with several processes, killed processes, forks, threads, and a disk that is full."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.lab import Failure, Recipe, Record, Store
from secateur.lab.keep import database, paths
from secateur.types import FileError

FORK = get_context("fork")


def cell(seed: int, who: int = 0) -> Recipe:
    return Recipe("toy", "train", {"seed": seed, "who": who})


def write(path: Path, who: int, count: int, barrier: Any) -> None:
    """Open the store at the same moment as the others, write, and read what is there."""
    barrier.wait(60)
    store = Store(path)
    for seed in range(count):
        tensors = {"w": torch.full((50,), float(seed))} if seed % 5 == 0 else None
        store.put(Record(cell(seed, who), {"x": seed}), tensors)
        assert store.get(cell(seed, who).id).metrics == {"x": seed}
        if seed % 10 == 0:
            store.fail(Failure(cell(-1, who), "E", "T"))
            assert len(store.query(where={"who": who})) == seed + 1
            assert len(store.records()) >= seed + 1


def ended(processes: list[BaseProcess]) -> list[int | None]:
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.mark.parametrize("writers", [2, 4])
def test_processes_write_and_read_one_store_that_they_make_together(tmp_path: Path, writers: int) -> None:
    for round_ in range(2):
        path, barrier = tmp_path / f"store{round_}", FORK.Barrier(writers)
        processes = [FORK.Process(target=write, args=(path, who, 25, barrier)) for who in range(writers)]
        assert ended(processes) == [0] * writers
        store = Store(path)
        store.check()
        assert store.ids() == {cell(seed, who).id for seed in range(25) for who in range(writers)}
        assert store.artefact(cell(20, writers - 1).id)["w"][0].item() == 20.0
        assert len(store.failures()) == writers


def open_only(path: Path, barrier: Any) -> None:
    barrier.wait(60)
    assert Store(path).ids() == set()


def test_many_processes_make_one_store_at_the_same_moment(tmp_path: Path) -> None:
    for round_ in range(10):
        barrier = FORK.Barrier(4)
        processes = [FORK.Process(target=open_only, args=(tmp_path / str(round_), barrier)) for _ in range(4)]
        assert ended(processes) == [0] * 4


def test_a_store_goes_through_a_fork_and_a_pickle(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put(Record(cell(0), {}))

    def child(text: bytes) -> None:
        for place in (store, pickle.loads(text)):
            assert place.ids() == {cell(0).id}
        store.put(Record(cell(1), {}))

    assert ended([FORK.Process(target=child, args=(pickle.dumps(store),))]) == [0]
    store.put(Record(cell(2), {}))
    assert store.ids() == {cell(seed).id for seed in range(3)}


def test_a_store_that_was_replaced_is_opened_anew(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.put(Record(cell(0), {}))
    shutil.rmtree(store.path)
    with pytest.raises(FileError, match="cannot use the store's database"):
        store.ids()
    assert Store(store.path).ids() == set()


def test_many_stores_do_not_use_up_the_handles(tmp_path: Path) -> None:
    stores = [Store(tmp_path / str(number)) for number in range(40)]
    for number, store in enumerate(stores):
        store.put(Record(cell(number), {}))
    assert all(store.has(cell(number).id) for number, store in enumerate(stores))
    handles = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _is_open(fd)]
    assert len([name for name in handles if name.startswith(str(tmp_path))]) <= 3 * 16


def _is_open(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_a_process_that_ends_leaves_no_log_behind(tmp_path: Path) -> None:
    code = "import sys; from secateur.lab import Recipe, Record, Store\n"
    code += "Store(sys.argv[1]).put(Record(Recipe('s', 'k'), {}))"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True, env=environ)
    assert sorted(os.listdir(tmp_path)) == ["records.sqlite", "records.witness"]


def put_for_ever(path: Path, told: Any) -> None:
    store, seed = Store(path), len(Store(path).ids())
    told.send_bytes(b"ready")
    while True:
        recipe = cell(seed)
        store.put(Record(recipe, {"x": seed}), {"w": torch.full((2000,), float(seed))} if seed % 2 else None)
        told.send_bytes(recipe.id.encode())
        seed += 1


def test_killed_at_twenty_moments_it_loses_nothing_that_was_kept(tmp_path: Path) -> None:
    path, chance, kept = tmp_path / "store", random.Random(7), set()
    for _ in range(20):
        here, there = FORK.Pipe(duplex=False)
        process = FORK.Process(target=put_for_ever, args=(path, there))
        process.start()
        there.close()
        assert here.recv_bytes() == b"ready"
        # By what it told, not by the clock, so that a busy machine has its twenty moments as well.
        for _ in range(chance.randrange(6)):
            kept.add(here.recv_bytes().decode())
        time.sleep(chance.uniform(0, 0.004))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(60)
        try:
            while True:
                kept.add(here.recv_bytes().decode())
        except EOFError:
            here.close()
    store = Store(path)
    store.check()
    assert len(kept) > 20
    assert kept <= store.ids()
    for record in store.records():
        assert record.id == cell(record.metrics["x"]).id
        if record.artefact:
            assert store.artefact(record.id)["w"].unique().tolist() == [record.metrics["x"]]
    store.sweep(older_than=-1.0)
    wanted = {paths.artefact_file(path, record.id).name for record in store.records() if record.artefact}
    assert set(os.listdir(paths.artefacts_dir(path))) == wanted


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one and a half megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        database.close()
        subprocess.run(["umount", str(folder)], check=True)


def fill(store: Store, tensors: dict[str, torch.Tensor] | None) -> None:
    for seed in range(2000):
        store.put(Record(cell(seed), {"text": "x" * 2000}), tensors)


@pytest.mark.parametrize("tensors", [None, {"w": torch.ones(2000)}], ids=["record", "artefact"])
def test_a_full_disk_is_one_error_and_then_it_goes_on(
    small_disk: Path, tensors: dict[str, torch.Tensor] | None
) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 500_000)
    store = Store(small_disk / "store")
    with pytest.raises(FileError, match=r"cannot (use|write) .*"):
        fill(store, tensors)
    done = len(store.ids())
    assert 0 < done < 2000
    assert store.ids() == {cell(seed).id for seed in range(done)}  # reading goes on
    artefacts = paths.artefacts_dir(store.path)
    assert not artefacts.exists() or len(os.listdir(artefacts)) == done
    ballast.unlink()
    for seed in range(done, done + 5):
        store.put(Record(cell(seed), {"text": "x" * 2000}), tensors)
    store.check()
    assert len(store.ids()) == done + 5
