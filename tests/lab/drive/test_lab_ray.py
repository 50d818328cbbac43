"""Cells on Ray: the same numbers, and a study that ends although a node dies."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fragile
import pytest
from sixty import SIXTY
from test_lab_killed import results, undisturbed

from secateur.lab import Cell, Recipe, Record, Resources, Store, Study, run_study
from secateur.lab.drive.executors import OnRay, by_name
from secateur.lab.drive.executors.base import Done, Failed
from secateur.lab.drive.executors.ray import _Parcel, _work
from secateur.lab.drive.executors.wire import unpack
from secateur.types import FileError, InputError, MissingLibraryError, UnknownNameError

__all__ = ["undisturbed"]
SCRIPT = Path(__file__).parents[1] / "sixty.py"
MARK = "SECATEUR_TEST_NODE"


# Without a cluster


def test_ray_is_asked_for_by_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'secateur\[ray\]'"):
        by_name("ray")


def test_addresses_are_read() -> None:
    pytest.importorskip("ray")
    names = {"ray": None, "ray:auto": "auto", "ray:10.0.0.1:6379": "10.0.0.1:6379", "ray://a:1": "ray://a:1"}
    made = {name: by_name(name, 3) for name in names}
    assert {name: one.address for name, one in made.items() if isinstance(one, OnRay)} == names
    for options, words in (({"jobs": 0}, "jobs=0 must be"), ({"retries": -1}, "retries=-1 must be")):
        with pytest.raises(InputError, match=words):
            OnRay(**options)  # type: ignore[arg-type]


def parcel(run: Any, needs: dict[str, Record] | None = None, threads: int = 1) -> _Parcel:
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    recipe = Recipe("fragile", "cell", {"how": "work"}, tuple(needs or ()))
    known: dict[str, Any] = {"folder": ""}
    return _Parcel(recipe.id, cloudpickle.dumps(run), recipe, needs or {}, {}, known, threads, "abc", ())


def test_a_cell_is_computed_from_its_parcel_alone() -> None:
    event = unpack(*_work(parcel(fragile.behave, threads=2)))
    assert isinstance(event, Done)
    assert event.outcome.metrics["threads"] == event.environment["threads"] == 2
    assert event.environment["commit"] == "abc"


def test_a_function_that_a_node_cannot_load_is_a_failure() -> None:
    event = unpack(*_work(_Parcel("a" * 16, b"nonsense", Recipe("s", "k"), {}, {}, {}, 1, None, ())))
    assert isinstance(event, Failed)
    assert "cannot be loaded on a node" in event.error
    assert "install its module there" in event.error


def test_a_parcel_holds_what_was_packed_and_says_what_was_not() -> None:
    record = Record(Recipe("s", "train"), {"x": 1})
    packed = parcel(fragile.behave, {record.id: record})
    assert packed.get(record.id).metrics == {"x": 1}
    with pytest.raises(UnknownNameError, match="unknown needed cell 'b'"):
        packed.get("b")
    with pytest.raises(FileError, match="kept no tensors"):
        packed.artefact(record.id)


# On this machine


@pytest.mark.slow
def test_the_numbers_on_ray_are_those_of_this_process(
    memory_path: Path, undisturbed: dict[str, tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    store = Store(memory_path / "store")
    words = [sys.executable, str(SCRIPT), str(store.path), "", "ray", "2", "0"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert results(store.path) == undisturbed
    assert {record.environment["executor"] for record in store.records()} == {"ray"}
    told = [line for line in done.stderr.splitlines() if not line.startswith("sixty ")]
    assert not told, "Ray keeps quiet"


HARD = """
import sys
from pathlib import Path
import test_lab_ray
from secateur.lab import Store, run_study
from secateur.lab.drive.executors import OnRay
summary = run_study(test_lab_ray.demanding(), Store(Path(sys.argv[1])), executor=OnRay(retries=1), progress=False)
print(*(f"{f.recipe.parameters['how']}: {f.error}" for f in summary.failed), summary, sep="\\n")
"""


def demanding() -> Study:
    """Cells that die, and one that asks for more than there is."""
    plain = fragile.study("work", "die", "raise")
    cells = [*plain.plan(), Cell(Recipe("fragile", "cell", {"how": "greedy"}), fragile.behave, Resources(gpus=1000))]
    return Study("fragile", "F", None, "", lambda options: cells, plain.pages, plain.defaults)


@pytest.mark.slow
def test_what_goes_wrong_on_ray_fails_its_cell_alone(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    words = [sys.executable, "-c", HARD, str(tmp_path / "store")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert said["greedy"] == "no node of the Ray cluster has 1 CPUs, 1000 GPUs; add one, or ask for less"
    assert said["raise"] == "ValueError: as it was told"
    assert said["die"].startswith("Ray lost the cell after 1 retries: WorkerCrashedError")
    assert "1 done, 3 failed in" in done.stdout
    logs = [path.read_text() for path in (tmp_path / "store" / "logs").iterdir()]
    assert any("about to raise" in log for log in logs)


@pytest.mark.slow
def test_no_cluster_is_one_clear_error(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(InputError, match=r"cannot use Ray at .*ray start --head"):
        run_study(SIXTY, Store(tmp_path / "store"), executor="ray:auto", progress=False)


# Two nodes


def environment(**more: str) -> dict[str, str]:
    quiet = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    given = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    return {**given, **quiet, "PYTHONPATH": os.pathsep.join(sys.path), **more}


@dataclass(frozen=True)
class Cluster:
    """Two Ray nodes of one processor each, and how to run a program on the first."""

    address: str
    first: tuple[str, ...]
    token: dict[str, str]
    name: str

    def kill(self, node: int) -> int:
        """Kill everything of a node at one blow; return how many processes that were."""
        wanted = f"{MARK}={self.name}-{node}\0".encode()
        struck = 0
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdecimal() and wanted in (folder / "environ").read_bytes():
                    os.kill(int(folder.name), signal.SIGKILL)
                    struck += 1
        return struck


def quietly(*words: str, env: dict[str, str] | None = None) -> bool:
    try:
        return subprocess.run(words, env=env, capture_output=True, timeout=180, check=False).returncode == 0
    except OSError:
        return False


@contextlib.contextmanager
def two_networks(name: str) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], str, str]]:
    """Two network namespaces joined by a cable, or the machine's own network where that is not permitted."""
    spaces, ends = (f"{name}a", f"{name}b"), (f"{name}v", f"{name}w")
    number = 16 + secrets.randbelow(200)
    addresses = [f"10.213.{number}.{host}" for host in (1, 2)]
    joined = all(quietly("ip", "netns", "add", space) for space in spaces)
    joined = joined and quietly("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
    for space, end, address in zip(spaces, ends, addresses, strict=True):
        inside = ("ip", "netns", "exec", space, "ip")
        joined = joined and quietly("ip", "link", "set", end, "netns", space)
        joined = joined and quietly(*inside, "addr", "add", f"{address}/24", "dev", end)
        joined = joined and all(quietly(*inside, "link", "set", one, "up") for one in ("lo", end))
    try:
        if joined:
            first, second = (("ip", "netns", "exec", space) for space in spaces)
            yield first, second, *addresses
        else:
            yield (), (), "127.0.0.1", "127.0.0.1"
    finally:
        for space in spaces:
            quietly("ip", "netns", "del", space)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head and a second node, with a token of their own."""
    pytest.importorskip("ray")
    name = f"s{secrets.token_hex(3)}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    folder = tempfile.mkdtemp(prefix="r", dir="/tmp")  # short, since Ray puts sockets there
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--num-cpus=1", "--object-store-memory=100000000"]
    with two_networks(name) as (first, second, here, there):
        port = 20000 + secrets.randbelow(9000)
        address = f"{here}:{port}"
        head = [*ray, "--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}"]
        made = Cluster(address, first, token, name)
        try:
            starts = (
                (*first, *head, f"--node-ip-address={here}"),
                (*second, *ray, f"--address={address}", f"--node-ip-address={there}"),
            )
            for node, words in enumerate(starts, 1):
                assert quietly(*words, env=environment(**token, **{MARK: f"{name}-{node}"})), "Ray does not start"
            yield made
        finally:
            made.kill(1)
            made.kill(2)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="nodes are looked up in /proc")
def test_a_node_dies_and_the_study_ends_complete(
    cluster: Cluster, memory_path: Path, undisturbed: dict[str, tuple[Any, ...]]
) -> None:
    store, log = memory_path / "store", memory_path / "log"
    study = [sys.executable, str(SCRIPT), str(store), str(log), f"ray:{cluster.address}", "0", "0.3"]
    out = (memory_path / "out").open("w")
    process = subprocess.Popen([*cluster.first, *study], env=environment(**cluster.token), stdout=out, stderr=out)
    out.close()
    deadline = time.monotonic() + 300
    while not log.exists() or len(log.read_text().split()) < 20:
        assert process.poll() is None, (memory_path / "out").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert cluster.kill(2) > 1
    assert process.wait(300) == 0, (memory_path / "out").read_text()
    assert "60 done in" in (memory_path / "out").read_text()
    assert results(store) == undisturbed
    begun = log.read_text().split()
    # The node had one processor, so few cells were in flight there.
    assert 60 <= len(begun) <= 64
