"""Runs: nothing twice, nothing lost, and failures that stay where they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_study import STUDY

from secateur.lab import Cell, Context, Outcome, Recipe, Report, Store, Study, run_study
from secateur.lab.drive.driver import RunSummary
from secateur.types import FileError, InputError, UnknownNameError

SMALL: dict[str, Any] = {"seeds": 2, "sparsities": [0.5, 0.9]}  # 2 trainings, 8 prunings


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


def study_of(*cells: Cell) -> Study:
    return Study("s", "S", None, "", lambda options: list(cells), lambda results: Report("S"))


def cell(run: Callable[[Context], Any], seed: int = 0, needs: tuple[str, ...] = ()) -> Cell:
    return Cell(Recipe("s", "k", {"seed": seed}, needs), run)


def test_a_rerun_repeats_nothing(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    first = run_study(STUDY, store, SMALL | {"log": str(log)}, progress=False)
    again = run_study(STUDY, store, SMALL | {"log": str(log)}, progress=False)
    assert (len(first.done), len(first.found), first.exit_code) == (10, 0, 0)
    assert (len(again.done), len(again.found), again.exit_code) == (0, 10, 0)
    assert len(lines(log)) == 10
    assert str(again).startswith("10 found in 0:00:0")


def test_a_larger_grid_runs_what_is_new_alone(store: Store) -> None:
    run_study(STUDY, store, SMALL, progress=False)
    more = run_study(STUDY, store, SMALL | {"seeds": 3}, progress=False)
    assert (len(more.done), len(more.found)) == (5, 10)


def test_records_hold_what_the_cells_gave(store: Store) -> None:
    run_study(STUDY, store, SMALL, progress=False)
    record = store.get(STUDY.plan(SMALL)[0].id)
    assert len(record.history) == 15
    assert record.environment["torch"] == torch.__version__
    assert record.wall_seconds > 0


def test_a_failing_cell_stops_only_those_that_need_it(store: Store) -> None:
    bad = run_study(STUDY, store, SMALL | {"fail": ["train"]}, progress=False)
    assert (len(bad.failed), len(bad.skipped), len(bad.done), bad.exit_code) == (2, 8, 0, 1)
    assert bad.failed[0].error == "RuntimeError: made to fail at seed 0"
    assert "toy_study.py" in store.failures()[0].traceback
    logs = [store.path / "logs" / f"{failure.recipe.id}.log" for failure in bad.failed]
    assert "made to fail\nat seed 0" in logs[0].read_text()

    again = run_study(STUDY, store, SMALL, progress=False)
    assert (len(again.failed_before), len(again.skipped), len(again.done), again.exit_code) == (2, 8, 0, 1)
    assert str(again).startswith("2 failed before, 8 skipped in ")
    good = run_study(STUDY, store, SMALL, retry_failed=True, progress=False)
    assert (len(good.done), good.exit_code, store.failures()) == (10, 0, [])
    assert not any(log.exists() for log in logs)


def test_failing_again_is_told_again(store: Store) -> None:
    run_study(STUDY, store, SMALL | {"fail": ["prune"]}, progress=False)
    again = run_study(STUDY, store, SMALL | {"fail": ["prune"]}, retry_failed=True, progress=False)
    assert (len(again.found), len(again.failed), len(again.failed_before)) == (2, 8, 0)


def test_the_rest_goes_on_after_a_failure(store: Store) -> None:
    def fail(context: Context) -> Outcome:
        raise ValueError

    def work(context: Context) -> Outcome:
        return Outcome({"x": 1})

    summary = run_study(study_of(cell(fail, 0), cell(work, 1)), store, progress=False)
    assert (len(summary.done), summary.failed[0].error) == (1, "ValueError")


def test_what_cannot_be_kept_is_a_failure(store: Store) -> None:
    cells = [cell(lambda context: Outcome({"x": {1}}), 0), cell(lambda context: 3, 1)]
    summary = run_study(study_of(*cells), store, progress=False)
    assert "cannot be kept" in summary.failed[0].error
    assert "must return an Outcome, got int" in summary.failed[1].error


def test_a_store_that_cannot_be_written_ends_the_run(store: Store) -> None:
    (store.path / "artefacts").touch()  # a file in the folder's place
    outcome = Outcome({}, artefact={"w": torch.ones(1)})
    with pytest.raises(FileError, match="artefacts"):
        run_study(study_of(cell(lambda context: outcome)), store, progress=False)


def test_ctrl_c_keeps_what_is_finished(store: Store, tmp_path: Path) -> None:
    calls: list[int] = []

    def run(context: Context) -> Outcome:
        calls.append(context["seed"])
        if calls == [0, 1]:
            signal.raise_signal(signal.SIGINT)
        return Outcome({})

    study = study_of(*(cell(run, seed) for seed in range(4)))
    summary = run_study(study, store, progress=False)
    assert (len(summary.done), len(summary.left), summary.exit_code) == (1, 3, 130)
    assert str(summary).startswith("interrupted: 1 done, 3 left in 0:00:0")
    assert len(run_study(study, store, progress=False).done) == 3
    assert calls == [0, 1, 1, 2, 3]


KILLED = """
import sys
from pathlib import Path
from toy_study import STUDY
from secateur.lab import Store, run_study
options = {"seeds": 2, "sparsities": [0.5, 0.9], "sleep": 0.1, "log": sys.argv[2]}
run_study(STUDY, Store(Path(sys.argv[1])), options, executor="serial")
"""


def test_kill_9_and_rerun(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", KILLED, str(store.path), str(log)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(lines(log)) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    before, finished = lines(log), store.ids()
    assert 4 <= len(finished) < 10
    summary = run_study(STUDY, store, SMALL | {"log": str(log)}, progress=False)
    assert summary.exit_code == 0
    assert len(summary.found) == len(finished)
    assert finished.isdisjoint(lines(log)[len(before) :])
    assert len(store.ids()) == 10


def test_randomness_is_the_cells_own(store: Store, tmp_path: Path) -> None:
    def run(context: Context) -> Outcome:
        return Outcome({"x": torch.rand(1).item()})

    cells = [cell(run, 0), cell(run, 1)]
    state = torch.random.get_rng_state()
    run_study(study_of(*cells), store, progress=False)
    other = Store(tmp_path / "other")
    torch.rand(5)
    run_study(study_of(*reversed(cells)), other, progress=False)
    values = [store.get(one.id).metrics["x"] for one in cells]
    assert values == [other.get(one.id).metrics["x"] for one in cells]
    assert values[0] != values[1]
    torch.random.set_rng_state(state)
    run_study(study_of(*cells), Store(tmp_path / "third"), progress=False)
    assert torch.equal(state, torch.random.get_rng_state())


def test_progress_tells_of_failures_in_one_line(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    run_study(STUDY, store, SMALL | {"fail": ["train"]})
    err = capfd.readouterr().err
    identity = STUDY.plan(SMALL)[0].id
    assert f"failed: train seed=0: RuntimeError: made to fail at seed 0 (secateur runs show {identity})\n" in err
    assert "2 failed" in err
    assert "10/10" in err


def test_quiet_is_quiet(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    run_study(STUDY, store, SMALL | {"fail": ["train"]}, progress=False)
    assert capfd.readouterr() == ("", "")


def test_context_knows_its_cell_alone(store: Store) -> None:
    context = Context(Recipe("s", "k", {"seed": 3}, ("0" * 16,)), store)
    assert context["seed"] == 3
    with pytest.raises(UnknownNameError, match="unknown parameter 'sed'; did you mean 'seed'"):
        context["sed"]
    with pytest.raises(InputError, match="needs 1 cells, so there is none at 1"):
        context.record(1)


def test_plans_are_checked() -> None:
    def run(context: Context) -> Outcome:
        return Outcome({})

    with pytest.raises(InputError, match="has no cells"):
        study_of().plan()
    with pytest.raises(InputError, match="lists the cell k seed=0 twice"):
        study_of(cell(run), cell(run)).plan()
    first = cell(run, 0)
    with pytest.raises(InputError, match="which no earlier cell makes"):
        study_of(cell(run, 1, (first.id,)), first).plan()
    with pytest.raises(UnknownNameError, match="unknown option of study 'toy' 'seed'; did you mean 'seeds'"):
        STUDY.plan({"seed": 3})


def test_summary_in_words() -> None:
    recipe = Recipe("s", "k")
    assert str(RunSummary((recipe,), (recipe,) * 2, seconds=3725.4)) == "1 done, 2 found in 1:02:05"
