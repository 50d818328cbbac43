"""A study while it runs: what a store tells of it, and the page that shows it."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import COMMAND, Browser
from filelock import FileLock
from toy_study import STUDY
from typer.testing import CliRunner

from secateur.cli import app
from secateur.lab import Store, run_study
from secateur.lab.keep import paths
from secateur.lab.show import live
from secateur.types import InputError

FEW = {"seeds": 2, "sparsities": [0.2, 0.5]}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("toy"))
    run_study(STUDY, store, FEW, progress=False, executor="serial")
    return store


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("failed"))
    run_study(STUDY, store, {**FEW, "fail": ["prune"]}, progress=False, executor="serial")
    return store


@pytest.fixture
def address(failed: Store) -> Iterator[str]:
    with live.server(failed) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def test_a_run_that_is_over(done: Store) -> None:
    now = live.progress(done)
    assert (now.studies, now.total, now.done, now.is_over) == (("toy",), 10, 10, True)
    assert str(now) == "10 of 10 cells done, 0 running, 0 failed"


def test_failures_come_with_their_logs(failed: Store) -> None:
    now = live.progress(failed)
    assert (now.done, len(now.failed), now.is_over) == (2, 8, True)
    first = now.failed[0]
    assert first.words == "prune weight 20 % (seed 0)"
    assert "RuntimeError: made to fail" in first.error
    assert "Traceback" in first.log
    assert "toy_study.py" in first.log


def test_what_is_locked_is_running_and_what_was_killed_is_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    cells = STUDY.plan(FEW)
    plan = {cell.id: cell.recipe.short for cell in cells}
    paths.plan_file(tmp_path, "toy").parent.mkdir()
    paths.plan_file(tmp_path, "toy").write_text(json.dumps({"study": "toy", "cells": plan}))
    file = paths.lock_file(tmp_path, cells[0].id)
    file.parent.mkdir()
    paths.lock_file(tmp_path, cells[1].id).touch()  # as a killed run leaves it
    with FileLock(file):
        (running,) = live.progress(store).running
        assert (running.id, running.words) == (cells[0].id, "train (seed 0)")
    assert live.progress(store).running == ()


def stopped(path: Path) -> Store:
    """A run that was killed: some of its cells are there, and nobody computes the rest."""
    store = Store(path)
    run_study(STUDY, store, FEW, progress=False, executor="serial")
    store.delete(*list(store.query(kind="prune", columns=["id"])["id"])[:3])
    return store


def test_a_run_that_was_killed_says_what_is_left_and_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = live.progress(stopped(tmp_path))
    assert (now.left, now.is_idle, now.is_over) == (3, True, False)
    assert str(now) == "7 of 10 cells done, 0 running, 0 failed; nothing computes the 3 left"
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    watched = CliRunner().invoke(app, ["study", "watch", str(tmp_path), "--terminal"])
    assert watched.exit_code == 0
    assert naps == [1] * 10
    assert "nothing computes the 3 cells that are left: the run was stopped" in watched.stderr


def test_looking_writes_nothing(done: Store) -> None:
    def seen() -> dict[str, float]:
        return {
            str(file): file.stat().st_mtime
            for file in done.path.rglob("*")
            if file.suffix in (".sqlite", ".json", ".lock")
        }

    before = seen()
    live.progress(done)
    live.curves(done)
    assert seen() == before


def test_curves_come_as_soon_as_there_are_rows(done: Store, tmp_path: Path) -> None:
    assert set(live.curves(done)) == {"Accuracy by the part removed", "Training"}
    assert live.curves(Store(tmp_path)) == {}


def test_the_server_answers_this_machine_alone(address: str) -> None:
    with urllib.request.urlopen(f"{address}/state.json") as answer:
        state = json.loads(answer.read())
    assert (state["total"], state["done"], len(state["failed"])) == (10, 2, 8)
    for path, host, status in (("/state.json", "evil.example", 403), ("/records.sqlite", "127.0.0.1", 404)):
        request = urllib.request.Request(f"{address}{path}", headers={"Host": host})
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == status
        caught.value.close()


def test_a_port_that_is_taken_is_named(address: str, done: Store) -> None:
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(InputError, match=f"port {port}"):
        live.server(done, port)


def test_the_commands(done: Store) -> None:
    answer = CliRunner().invoke(app, ["study", "watch", str(done.path), "--json"])
    assert json.loads(answer.stdout)["over"] is True
    lines = CliRunner().invoke(app, ["study", "watch", str(done.path), "--terminal"])
    assert lines.stdout == "toy: 10 of 10 cells done, 0 running, 0 failed\n"


@pytest.mark.slow
@pytest.mark.skipif(COMMAND is None, reason="chromium is not on this machine")
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(address: str, tmp_path: Path, width: int) -> None:
    with Browser(tmp_path) as page:
        page.size(width)
        page.open(f"{address}/")
        for _ in range(100):
            if page.ask("document.documentElement.dataset.script") == "ready":
                break
            time.sleep(0.1)
        assert page.ask('document.getElementById("words").textContent').startswith("2 of 10 cells done")
        assert page.ask('document.querySelectorAll("#curves svg").length') == 1
        assert page.ask('document.querySelectorAll("#failed details").length') == 8
        page.ask('document.querySelector("#failed details").open = true')
        assert "Traceback" in page.ask('document.querySelector("#failed pre").textContent')
        assert page.cut_off() == []
        assert page.complaints == []
