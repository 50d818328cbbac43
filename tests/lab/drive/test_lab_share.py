"""Large tensors travel by way of a place that all machines reach, where they do not all see the store."""

from __future__ import annotations

import hashlib
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
from secateur.lab.keep.share import SHARE_VARIABLE, Share
from secateur.types import FileError

NAME = "a" * 16


@pytest.fixture(params=["folder", "file", "memory"])
def share(request: pytest.FixtureRequest, tmp_path: Path) -> Share:
    folder = tmp_path / "all machines"
    places = {"folder": str(folder), "file": f"file://{folder}", "memory": f"memory://{tmp_path.name}"}
    return Share(places[request.param])


def test_bytes_and_files_lie_there(share: Share, tmp_path: Path) -> None:
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
        Share(str(tmp_path / "file")).put(NAME, b"x")
    with pytest.raises(FileError, match="cannot be read from no-such-kind://there"):
        Share("no-such-kind://there").read(NAME)


def test_a_place_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SHARE_VARIABLE, raising=False)
    assert Share.of_environment() is None
    monkeypatch.setenv(SHARE_VARIABLE, "s3://bucket/tensors")
    assert Share.of_environment() == Share("s3://bucket/tensors")


def done(count: int) -> Done:
    return Done(NAME, "1", Outcome({}, (), {"w": torch.arange(float(count))}), 0.0, 0.0, {})


def test_large_tensors_go_by_way_of_it_and_are_removed(share: Share, tmp_path: Path) -> None:
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


def test_small_tensors_are_sent_and_failures_are_the_cells(share: Share, tmp_path: Path) -> None:
    assert pack(done(4), None, share)[1]
    (tmp_path / "blocked").write_text("")
    event = unpack(*pack(done(BY_PATH), None, Share(str(tmp_path / "blocked"))), tmp_path)
    assert isinstance(event, Failed)
    assert "cannot be written to" in event.error


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
@pytest.mark.parametrize("shared", [True, False])
def test_cells_on_ray_find_what_others_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    first = Cell(Recipe("share", "make", {}), make)
    second = Cell(Recipe("share", "use", {}, needs=(first.id,)), use)
    study = Study("share", "S", None, "", lambda options: [first, second], lambda results: Report("S"), {})
    place, store = tmp_path / "place", Store(tmp_path / "store")
    executor = Apart("local", 1, share=str(place) if shared else None)
    summary = run_study(study, store, executor=executor, progress=False)
    assert not summary.failed, summary.failed
    assert executor.seen == ["Share" if shared else "ObjectRef"]
    assert store.get(second.id).metrics["sum"] == float(torch.arange(float(BY_PATH)).sum())
    assert torch.equal(store.artefact(second.id)["w"], torch.arange(float(BY_PATH)) + 1)
    assert not shared or not list(place.iterdir()), "what has arrived is removed"
    assert not list(paths.arrival_file(store.path, "x").parent.glob("*"))
    store.check()
