"""Large tensors travel by way of a place that all machines reach, where they do not all see the store.

Run as a program, this file is a worker that leaves a cell's tensors at a place, or reads what lies there.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur.lab import Cell, Context, Outcome, Recipe, Report, Store, Study, run_study
from secateur.lab.drive.executors import OnRay
from secateur.lab.drive.executors.base import Done, Failed, Setting
from secateur.lab.drive.executors.wire import BY_PATH, pack, unpack
from secateur.lab.keep import paths
from secateur.lab.keep.arrivals import Arrival
from secateur.lab.keep.share import SHARE_VARIABLE, SharedPlace
from secateur.types import FileError

NAME = "a" * 16


@pytest.fixture(params=["folder", "file", "memory"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> SharedPlace:
    folder = tmp_path / "all machines"
    places = {"folder": str(folder), "file": f"file://{folder}", "memory": f"memory://{tmp_path.name}"}
    return SharedPlace(places[request.param])


def test_bytes_and_files_lie_there(share: SharedPlace, tmp_path: Path) -> None:
    assert share.put(NAME, b"some bytes") == hashlib.sha256(b"some bytes").hexdigest()
    assert share.read(NAME) == b"some bytes"
    share.fetch(NAME, tmp_path / "here")
    share.put_file("b" * 16, tmp_path / "here")
    assert share.read("b" * 16) == b"some bytes"
    for name in (NAME, "b" * 16, "c" * 16):
        share.drop(name)
    with pytest.raises(FileError, match=f"cannot be read from .*; give \\${SHARE_VARIABLE} a place"):
        share.read(NAME)


def test_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot be written to"):
        SharedPlace(str(tmp_path / "file")).put(NAME, b"x")
    with pytest.raises(FileError, match="cannot be read from no-such-kind://there"):
        SharedPlace("no-such-kind://there").read(NAME)


def test_a_place_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARE_VARIABLE, raising=False)
    assert SharedPlace.of_environment() is None
    monkeypatch.setenv(SHARE_VARIABLE, "s3://bucket/tensors")
    assert SharedPlace.of_environment() == SharedPlace("s3://bucket/tensors")


def done(count: int) -> Done:
    return Done(NAME, "1", Outcome({}, (), {"w": torch.arange(float(count))}), 0.0, 0.0, {})


def test_large_tensors_go_by_way_of_it_and_are_removed(share: SharedPlace, tmp_path: Path) -> None:
    head, sent = pack(done(BY_PATH), None, share)
    assert not sent
    assert len(head) < 1000, "no tensor travels through the driver"
    event = unpack(head, sent, tmp_path)
    assert isinstance(event, Done)
    assert isinstance(event.outcome.artefact, Arrival)
    store = Store(tmp_path)
    record = store.put(record_of(event), event.outcome.artefact)
    assert torch.equal(store.artefact(record.id)["w"], torch.arange(float(BY_PATH)))
    with pytest.raises(FileError):
        share.read(NAME)


def record_of(event: Done) -> Any:
    from secateur.lab import Record

    return Record(Recipe("s", "k"), event.outcome.metrics)


def test_small_tensors_are_sent_and_failures_are_the_cells(share: SharedPlace, tmp_path: Path) -> None:
    assert pack(done(4), None, share)[1]
    (tmp_path / "blocked").write_text("")
    event = unpack(*pack(done(BY_PATH), None, SharedPlace(str(tmp_path / "blocked"))), tmp_path)
    assert isinstance(event, Failed)
    assert "cannot be written to" in event.error


# On S3


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The address of a bucket of an S3 server on this machine, which other processes reach as well."""
    pytest.importorskip("s3fs")
    pytest.importorskip("moto")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    words = [sys.executable, "-c", "from moto.server import main; main()", "--port", str(port)]
    # One server for all tests here: s3fs remembers where it found the first.
    with (
        pytest.MonkeyPatch.context() as environment,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server,
    ):
        for name, value in {**credentials, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
            environment.setenv(name, value)
        try:
            until = time.monotonic() + 120
            while not answers(port):
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            yield "s3://secateur/tensors"
        finally:
            server.terminate()


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def elsewhere(*words: str) -> bytes:
    """What this file as a program, in another process, prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, __file__, *words], env=environment, stdout=subprocess.PIPE, check=True
    ).stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_two_processes_hand_tensors_over_on_s3(bucket: str, tmp_path: Path) -> None:
    share = SharedPlace(bucket)
    event = unpack(elsewhere("leave", bucket), b"", tmp_path)
    assert isinstance(event, Done)
    store = Store(tmp_path)
    record = store.put(record_of(event), event.outcome.artefact)
    assert torch.equal(store.artefact(record.id)["w"], torch.arange(float(BY_PATH)))
    with pytest.raises(FileError):
        share.read(NAME)

    share.put_file(record.id, paths.artefact_file(store.path, record.id))
    assert elsewhere("read", bucket, record.id).decode() == record.artefact
    share.drop(record.id)
    with pytest.raises(subprocess.CalledProcessError):
        elsewhere("read", bucket, record.id)


# On Ray


def make(context: Context) -> Outcome:
    return Outcome({"sum": 1.0}, artefact={"w": torch.arange(float(BY_PATH))})


def use(context: Context) -> Outcome:
    tensors = context.artefact()
    return Outcome({"sum": float(tensors["w"].sum())}, artefact={"w": tensors["w"] + 1})


class Apart(OnRay):
    """Ray whose nodes do not see the store."""

    seen: list[str]

    def start(self, setting: Setting) -> None:
        super().start(setting)
        self._presence = None  # type: ignore[assignment]
        self.seen = []

    def _all_nodes_see(self) -> bool:
        return False

    def _placed(self, identity: str) -> Any:
        place = super()._placed(identity)
        self.seen.append(type(place).__name__)
        return place


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("shared", ["folder", "bucket", ""])
def test_cells_on_ray_find_what_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, shared: str
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    first = Cell(Recipe("share", "make", {}), make)
    second = Cell(Recipe("share", "use", {}, needs=(first.id,)), use)
    study = Study("share", "S", None, "", lambda options: [first, second], lambda results: Report("S"), {})
    place = {"folder": str(tmp_path / "place"), "": None}.get(shared) or (shared and request.getfixturevalue(shared))
    store, executor = Store(tmp_path / "store"), Apart("local", 1, share=place or None)
    summary = run_study(study, store, executor=executor, progress=False)
    assert not summary.failed, summary.failed
    assert executor.seen == ["SharedPlace" if shared else "ObjectRef"]
    assert store.get(second.id).metrics["sum"] == float(torch.arange(float(BY_PATH)).sum())
    assert torch.equal(store.artefact(second.id)["w"], torch.arange(float(BY_PATH)) + 1)
    for identity in (first.id, second.id) if place else ():
        with pytest.raises(FileError):  # what has arrived is removed
            SharedPlace(place).read(identity)
    assert not list(paths.arrival_file(store.path, "x").parent.glob("*"))
    store.check()


if __name__ == "__main__":
    task, address, *identity = sys.argv[1:]
    if task == "leave":
        sys.stdout.buffer.write(pack(done(BY_PATH), None, SharedPlace(address))[0])
    else:
        print(hashlib.sha256(SharedPlace(address).read(*identity)).hexdigest(), end="")
