"""What a run would compute is told beforehand, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path

import fragile
import pytest
from typer.testing import CliRunner

from secateur.cli import app
from secateur.lab import Store, run_study
from secateur.lab.drive.forecast import Forecast, KindForecast, forecast


def test_what_is_finished_failed_and_left_is_counted(tmp_path: Path) -> None:
    study, store = fragile.study("work", "raise"), Store(tmp_path)
    run_study(study, store, progress=False, executor="serial")
    (kind,) = forecast(fragile.study("work", "raise", "die").planned(), store).kinds
    assert (kind.cells, kind.finished, kind.failed, kind.left) == (3, 1, 1, 1)
    assert kind.seconds is not None
    assert kind.seconds == store.records()[0].wall_seconds


def test_the_estimate_is_of_what_is_left() -> None:
    told = Forecast("s", (KindForecast("train", 4, 1, 1, 30.0), KindForecast("prune", 2, 0, 0, None)))
    assert told.seconds == 60.0
    assert told.untimed == ("prune",)
    assert str(Forecast("s", (KindForecast("train", 1, 1, 0, 30.0),))).endswith("Nothing is left to compute.")
    assert str(Forecast("s", (KindForecast("train", 1, 0, 0, None),))).endswith(
        "Of train none has been timed here yet."
    )


def test_a_dry_run_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["study", "run", "demo", "--dry-run", "--seeds", "2", "--set", "sparsities=[0.5]", "--set", "dense=[]"]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0
    assert told.stdout.splitlines()[0] == "demo: 12 cells, 0 finished, 0 failed before, 12 to compute"
    answer = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [(kind["kind"], kind["cells"]) for kind in answer["kinds"]] == [("train", 2), ("prune", 10)]
    assert answer["seconds"] == 0
    assert not list(tmp_path.iterdir())
