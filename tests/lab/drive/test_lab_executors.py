"""The executors: the same numbers everywhere, and nothing that one cell does harms another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from multiprocessing.forkserver import _forkserver
from pathlib import Path
from typing import Any

import fragile
import pytest
import torch
from sixty import SIXTY

from secateur.lab import Cell, Context, Outcome, Recipe, Report, Resources, RunSummary, Store, Study, run_study
from secateur.lab.drive.executors import Executor, Processes, Serial, by_name, suited
from secateur.lab.drive.executors.base import Done, Setting
from secateur.lab.drive.executors.wire import pack, unpack
from secateur.lab.drive.progress import Notice
from secateur.types import InputError, UnknownNameError

FEW: dict[str, Any] = {"seeds": 2, "points": 3}
Told = list[Notice]


class Listener:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.notices: Told = []

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, notice: Notice) -> None:
        self.notices.append(notice)

    def of(self, what: str) -> Told:
        return [notice for notice in self.notices if notice.what == what]


@pytest.fixture
def store(memory_path: Path) -> Store:
    return Store(memory_path / "store")


def results(store: Store) -> dict[str, tuple[Any, ...]]:
    """All that a cell computed, to the last bit: the artefact by its checksum."""
    found = store.records()
    return {r.id: (dict(r.metrics), [dict(row) for row in r.history], r.artefact) for r in found}


# The same numbers


def test_the_numbers_do_not_depend_on_the_executor(memory_path: Path) -> None:
    stores = {name: Store(memory_path / name) for name in ("serial", "processes")}
    for name, place in stores.items():
        summary = run_study(SIXTY, place, FEW, executor=name, progress=False)
        assert (len(summary.done), summary.exit_code) == (8, 0)
        assert {record.environment["executor"] for record in place.records()} == {name}
        assert {record.environment["threads"] for record in place.records()} == {1}
    assert results(stores["serial"]) == results(stores["processes"])
    assert torch.get_num_threads() == 1


def test_workers_take_as_many_threads_as_they_are_told(store: Store) -> None:
    before = torch.get_num_threads()
    for name in ("serial", "processes"):
        place = Store(store.path / name)
        run_study(fragile.study("work"), place, executor=name, threads=2, progress=False)
        assert [record.metrics["threads"] for record in place.records()] == [2]
    assert torch.get_num_threads() == before


def test_workers_work_side_by_side(store: Store) -> None:
    listen = Listener()
    study = fragile.study(*["sleep"] * 4)
    run_study(study, store, {"sleep": 0.2}, executor="processes", jobs=2, progress=listen)
    assert len({record.metrics["pid"] for record in store.records()}) == 2
    assert os.getpid() not in {record.metrics["pid"] for record in store.records()}
    kinds = "".join(notice.what[0] for notice in listen.notices)
    assert kinds.startswith("bss"), "two are running before the first is done"
    assert {notice.worker for notice in listen.of("started")} == {"1", "2"}


def test_what_a_cell_leaves_survives_the_wire() -> None:
    state = {
        "w": torch.randn(3, 2),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "n": torch.tensor(3),
        "b": torch.eye(2) > 0,
    }
    tied = state["w"].t()  # not contiguous, and sharing memory
    outcome = Outcome({"x": 0.1, "nan": float("nan"), "list": [1, None]}, [{"epoch": 1}], {**state, "tied": tied})
    found = unpack(*pack(Done("a" * 16, "1", outcome, 0.5, 0.25, {"torch": "2"})))
    assert isinstance(found, Done)
    assert found.outcome.artefact is not None
    assert repr(found.outcome.metrics) == repr(outcome.metrics)
    assert (found.outcome.history, found.wall_seconds, found.cpu_seconds) == ([{"epoch": 1}], 0.5, 0.25)
    for name, tensor in {**state, "tied": tied}.items():
        assert torch.equal(found.outcome.artefact[name], tensor)
        assert found.outcome.artefact[name].dtype == tensor.dtype
    none = unpack(*pack(Done("a" * 16, "1", Outcome({}), 0.5, 0.25, {})))
    assert isinstance(none, Done)
    assert none.outcome.artefact is None


# What goes wrong in one cell


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_errors_and_their_output_are_kept(store: Store, executor: str) -> None:
    summary = run_study(fragile.study("raise", "exit", "work"), store, executor=executor, progress=False)
    errors = {failure.recipe.parameters["how"]: failure for failure in summary.failed}
    assert errors["raise"].error == "ValueError: as it was told"
    assert errors["exit"].error == "SystemExit: 3"
    assert "fragile.py" in errors["raise"].traceback
    log = (store.path / "logs" / f"{errors['raise'].recipe.id}.log").read_text()
    assert "as it\nwas told" in log
    assert "about to raise" in log
    assert len(summary.done) == 1


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_what_cannot_be_kept_fails_alike(store: Store, executor: str) -> None:
    study = fragile.study("set", "numpy", "array", run=fragile.odd)
    summary = run_study(study, store, executor=executor, progress=False)
    words = {failure.recipe.parameters["how"]: failure.error for failure in summary.failed}
    assert "cannot be kept: Object of type set is not JSON" in words["set"]
    assert "cannot be kept: Object of type float32 is not JSON" in words["numpy"]
    assert "'w' is a ndarray; give tensors" in words["array"]


def test_tensors_that_cannot_travel_fail_their_cell_alone(store: Store) -> None:
    summary = run_study(fragile.study("sparse", run=fragile.odd), store, executor="processes", progress=False)
    assert "the artefact cannot be kept" in summary.failed[0].error


def test_a_killed_worker_costs_its_own_cell_alone(store: Store, tmp_path: Path) -> None:
    study = fragile.study("work", "die", "die once", "crash", "work", "work")
    options = {"folder": str(tmp_path)}
    summary = run_study(study, store, options, executor=Processes(2), progress=False)
    assert sorted(recipe.parameters["how"] for recipe in summary.done) == ["die once", "work", "work", "work"]
    died, crashed = sorted(summary.failed, key=lambda failure: str(failure.recipe.parameters["how"]), reverse=True)
    assert died.error == "the worker process died 2 times: killed by SIGKILL, perhaps since memory ran out"
    assert "2 times: killed by SIGABRT" in crashed.error
    log = (store.path / "logs" / f"{crashed.recipe.id}.log").read_text()
    assert "about to crash" in log or "Fatal Python error: Aborted" in log


def kill_fork_server() -> None:
    """End the process that workers are forked from, as a lack of memory may."""
    if pid := _forkserver._forkserver_pid:
        os.kill(pid, signal.SIGKILL)


def test_a_killed_fork_server_costs_no_result(store: Store) -> None:
    """Once before the workers are started, and once while they are at work."""

    class Killer(Listener):
        def __call__(self, notice: Notice) -> None:
            super().__call__(notice)
            if notice.what == "done" and len(self.of("done")) == 1:
                kill_fork_server()

    executor = Processes(2)
    executor.start(Setting(store, {}, 1))
    executor.stop()
    kill_fork_server()
    summary = run_study(SIXTY, store, FEW, executor=Processes(2), progress=Killer())
    assert not summary.failed, [failure.error for failure in summary.failed]
    assert len(store.ids()) == len(SIXTY.plan(FEW))


def test_a_fork_server_that_never_lives_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("multiprocessing.context.ForkServerProcess.start", refuse)
    with pytest.raises(
        InputError, match=r"their fork server was killed 5 times \(ConnectionRefusedError\); the serial"
    ):
        run_study(SIXTY, store, FEW, executor=Processes(2), progress=False)


def test_retries_are_counted(store: Store, tmp_path: Path) -> None:
    study, options = fragile.study("die once"), {"folder": str(tmp_path)}
    summary = run_study(study, store, options, executor=Processes(1, retries=0), progress=False)
    assert summary.failed[0].error.startswith("the worker process died once: killed by SIGKILL")


def test_functions_that_cannot_be_sent_are_named(store: Store) -> None:
    study = fragile.study("work", run=lambda context: Outcome({}))
    with pytest.raises(InputError, match=r"cannot be sent to another process: its function .*lambda"):
        run_study(study, store, executor="processes", progress=False)
    assert run_study(study, store, jobs=1, progress=False).exit_code == 0


def test_a_function_that_no_worker_can_load_fails_its_cell(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("only_here")
    module.behave = fragile.behave.__class__(fragile.behave.__code__, vars(module), "behave")  # type: ignore[attr-defined]
    module.behave.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", module)
    summary = run_study(fragile.study("work", run=module.behave), store, executor="processes", progress=False)
    assert "cannot be loaded in a worker: ModuleNotFoundError: No module named 'only_here'" in summary.failed[0].error


UNGUARDED = """
import sys
from pathlib import Path
from sixty import SIXTY
from secateur.lab import Store, run_study
run_study(SIXTY, Store(Path(sys.argv[1])), executor="processes", jobs=1, progress=False)
"""


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(tmp_path / "store")]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "the worker processes do not start: " in done.stderr.splitlines()[-1]
    assert "if __name__ == '__main__':" in done.stderr.splitlines()[-1]


# Several runs on one store


def test_two_runs_share_the_work(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "sixty.py"),
        str(store.path),
        str(log),
        "processes",
        "1",
        "0.03",
    ]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    both = [subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    begun = log.read_text().split()
    assert len(begun) == len(set(begun)) == 60, "no cell is computed twice"
    done = [int(words.split()[0]) if "done" in words else 0 for words in said]
    assert sum(done) == 60
    assert not list((store.path / "locks").iterdir())


def test_a_cell_that_fails_elsewhere_is_not_tried_again(store: Store) -> None:
    """The first run is in the middle of its cell when the second one comes by."""
    begun, go, tries = threading.Event(), threading.Event(), list[int]()

    def fail(context: Context) -> Outcome:
        tries.append(1)
        begun.set()
        assert go.wait(30)
        raise ValueError("no")

    study = fragile.study("work", run=fail)
    summaries: list[RunSummary] = []
    threads = [threading.Thread(target=lambda: summaries.append(run_study(study, store, progress=False))) for _ in "12"]
    threads[0].start()
    assert begun.wait(30)
    threads[1].start()
    time.sleep(0.3)
    go.set()
    for thread in threads:
        thread.join()
    assert len(tries) == 1
    assert [summary.failed[0].error for summary in summaries] == ["ValueError: no"] * 2


# Trackers


class Diary:
    """A tracker that writes down what it hears, and fails where it is told."""

    def __init__(self, bad: str = "") -> None:
        self.bad, self.heard = bad, list[tuple[str, Any]]()

    def _hear(self, what: str, *values: Any) -> None:
        self.heard.append((what, values))
        if what == self.bad:
            raise RuntimeError("no room\nin the diary")

    def start(self, study: str, options: Mapping[str, Any]) -> None:
        self._hear("start", study, options)

    def cell(self, record: Any, tensors: Any) -> None:
        self._hear("cell", record, tensors)

    def report(self, report: Report) -> None:
        self._hear("report", report)

    def close(self) -> None:
        self._hear("close")


@pytest.mark.parametrize("executor", ["serial", "processes"])
def test_trackers_hear_of_everything(store: Store, executor: str) -> None:
    diary = Diary()
    run_study(SIXTY, store, {"seeds": 1, "points": 1}, executor=executor, progress=False, trackers=[diary])
    assert [what for what, _ in diary.heard] == ["start", "cell", "cell", "report", "close"]
    assert diary.heard[0][1][0] == "sixty"
    record, tensors = diary.heard[1][1]
    assert (record.recipe.kind, sorted(tensors)) == ("train", ["0.bias", "0.weight", "2.bias", "2.weight"])
    assert record.artefact is not None
    assert diary.heard[3][1][0].title == "Sixty"


@pytest.mark.parametrize("bad", ["start", "cell", "report", "close"])
def test_a_tracker_that_raises_is_dropped_and_told_once(store: Store, bad: str) -> None:
    first, second, listen = Diary(bad), Diary(), Listener()
    summary = run_study(SIXTY, store, FEW, progress=listen, trackers=[first, second])
    assert summary.exit_code == 0
    words = [notice.words for notice in listen.of("warning")]
    assert words == ["tracker Diary failed and was dropped: RuntimeError: no room in the diary"]
    assert first.heard[-1][0] == bad
    assert [what for what, _ in second.heard].count("cell") == 8


# Which executor


def test_executors_have_names() -> None:
    assert isinstance(by_name("serial"), Serial)
    processes = by_name("processes", 3)
    assert isinstance(processes, Processes)
    assert processes.jobs == 3
    with pytest.raises(UnknownNameError, match="unknown executor 'proceses'; did you mean 'processes'"):
        by_name("proceses")
    with pytest.raises(InputError, match="jobs=0 must be a whole number, 1 or more"):
        by_name("processes", 0)
    with pytest.raises(InputError, match="retries=-1 must be a whole number, 0 or more"):
        Processes(1, retries=-1)


def test_processes_are_taken_where_they_can_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    def kind(study: Study, jobs: int | None = None) -> type[Executor]:
        return type(suited(study.plan(), jobs))

    many = fragile.study(*["work"] * 9)
    monkeypatch.setenv("SECATEUR_JOBS", "2")
    assert kind(many) is Processes
    assert kind(fragile.study("work")) is Serial, "a single cell gains nothing"
    assert kind(fragile.study(*["work"] * 9, run=lambda context: None)) is Serial, "a lambda cannot be sent"
    assert kind(many, 1) is Serial
    monkeypatch.setenv("SECATEUR_JOBS", "1")
    assert kind(many) is Serial
    monkeypatch.setenv("SECATEUR_JOBS", "many")
    with pytest.raises(InputError, match="SECATEUR_JOBS is 'many'; give 1 or more"):
        kind(many)


def test_numbers_out_of_range_are_refused(store: Store) -> None:
    for options, words in (({"threads": 0}, "threads=0 must be"), ({"jobs": 0}, "jobs=0 must be")):
        with pytest.raises(InputError, match=words):
            run_study(SIXTY, store, FEW, progress=False, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give the number to the executor itself"):
        run_study(SIXTY, store, FEW, executor=Serial(), jobs=2, progress=False)
    with pytest.raises(InputError, match="cannot need -1 gpus"):
        Resources(gpus=-1)


def test_resources_in_words() -> None:
    assert str(Resources(2, 0.5, 8 * 10**9)) == "2 CPUs, 0.5 GPUs, 8 GB of memory"
    assert Cell(Recipe("s", "k"), fragile.behave).resources == Resources(1, 0, 0)


def test_a_large_grid_is_handed_over_in_a_window(store: Store) -> None:
    handed: list[int] = []

    class Counting(Processes):
        def submit(self, cell: Cell) -> None:
            super().submit(cell)
            handed.append(len(self._queue) + sum(worker.cell is not None for worker in self._workers))

    run_study(SIXTY, store, {"seeds": 2, "points": 10}, executor=Counting(2), progress=False)
    assert len(handed) == 22
    assert max(handed) <= 4


def test_a_stopped_executor_leaves_no_process() -> None:
    executor = Processes(2)
    executor.start(Setting(None, {"sleep": 60.0}))  # type: ignore[arg-type]
    for cell in fragile.study("sleep", "sleep").plan():
        executor.submit(cell)
    processes = [worker.process for worker in executor._workers]
    pids = [process.pid for process in processes]
    executor.stop()
    executor.stop()
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
