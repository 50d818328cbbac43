"""The progress bars: one line of 80 columns that says what matters, and nothing cut in the middle."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
import rich.console
import torch
from torch import nn

from secateur.lab.drive.progress import JsonLines, Lines, Notice, Screen, watcher
from secateur.lab.drive.tally import RunTally
from secateur.lab.keep.records import Failure, Record
from secateur.lab.plan.recipe import Recipe
from secateur.lab.plan.study import Cell
from secateur.train import fit

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 80 columns in the place of standard error."""
    written = io.StringIO()
    plain = rich.console.Console

    def console(**options: Any) -> rich.console.Console:
        return plain(file=written, force_terminal=True, width=80, quiet=bool(options.get("quiet", False)))

    monkeypatch.setattr(rich.console, "Console", console)
    return written


def last_line(screen: io.StringIO) -> str:
    drawn = [line for line in re.split(r"[\r\n]", ESCAPES.sub("", screen.getvalue())) if line.strip()]
    # A failure is told in one line of any length, so that it can be copied.
    assert all(len(line) <= 80 for line in drawn if not line.startswith("failed: "))
    return drawn[-1].rstrip()


def test_training_shows_the_epoch_and_its_figures(screen: io.StringIO) -> None:
    inputs, labels = torch.randn(8, 2), torch.tensor([0, 1] * 4)
    fit(nn.Linear(2, 2), (inputs, labels), (inputs, labels), epochs=2, seed=0, progress=True)
    assert re.match(r"epoch 2/2  loss \d\.\d{3}  val \d\.\d{3}  val acc \d+\.\d % ━+ \d", last_line(screen))


def cells() -> list[Cell]:
    chosen = {"method": "neuron per layer", "minimum": 1}
    return [
        Cell(Recipe("demo", "prune", {"seed": 2, "sparsity": 0.5 + i / 1000, **chosen}), lambda c: None)
        for i in range(78)
    ]  # type: ignore[arg-type, misc]


def finished(cell: Cell, accuracy: float = 0.5, seconds: float = 1.25) -> Record:
    return Record(cell.recipe, {"accuracy": accuracy}, wall_seconds=seconds)


def drawn_at_the_end(screen: io.StringIO, what: Any, tally: RunTally, **facts: Any) -> list[str]:
    """The lines of the last picture, which is drawn when the run ends."""
    with watcher(True) as watch:
        assert isinstance(watch, Screen)
        watch(Notice(what, "demo", tally, **facts))
        screen.truncate(0)
        watch(Notice("end", "demo", tally))
    return [line.rstrip() for line in re.split(r"[\r\n]", ESCAPES.sub("", screen.getvalue())) if line.strip("\0 ")]


def test_a_study_shows_how_many_cells_and_which(screen: io.StringIO) -> None:
    made = cells()
    tally = RunTally(made, workers=2, best_of=("accuracy", "max"))
    for place, cell in enumerate(made[:12]):
        tally.finish(finished(cell, accuracy=0.9 if place == 3 else 0.5))
    for place in (12, 13):
        tally.start(made[place].recipe, worker=str(place - 11))
    bar, best, *running = drawn_at_the_end(screen, "started", tally)[-4:]
    # 66 cells of 1.25 s with two workers: 41 s.
    assert re.fullmatch(r"\0*demo ━[━╸╺]{15} 12/78 ETA 0:00:41", bar), bar
    assert best == "  highest accuracy so far 0.9: prune neuron per layer 50.3 % (seed 2)"
    assert running == [f"    {n}  0:00:00  prune neuron per layer {p} % (seed 2)" for n, p in ((1, 51.2), (2, 51.3))]


def test_many_running_cells_are_counted(screen: io.StringIO) -> None:
    made = cells()
    tally = RunTally(made)
    for place, cell in enumerate(made[:20]):
        tally.start(cell.recipe, worker=str(place))
    lines = drawn_at_the_end(screen, "started", tally)
    assert lines[-1] == "  … and 12 more"
    assert all(len(line.strip("\0")) <= 80 for line in lines)


def test_failures_are_counted_when_there_are_some(screen: io.StringIO) -> None:
    made = cells()
    tally = RunTally(made)
    tally.fail(Failure(made[0].recipe, "ValueError: bad", ""))
    with watcher(True) as watch:
        watch(Notice("failed", "demo", tally, made[0].recipe, words="ValueError: bad"))
        watch(Notice("end", "demo", tally))
    told = ESCAPES.sub("", screen.getvalue())
    assert f"failed: {made[0].recipe}: ValueError: bad (secateur runs show {made[0].id})\n" in told
    assert last_line(screen).endswith(" 1/78 1 failed")


def test_a_hidden_picture_draws_nothing(screen: io.StringIO) -> None:
    with watcher(False) as watch:
        watch(Notice("begin", "demo", RunTally(cells())))
    assert not screen.getvalue()


def test_lines_come_now_and_then() -> None:
    made, written = cells(), io.StringIO()
    tally, often, seldom = RunTally(made), Lines(written, every=0.0), Lines(io.StringIO(), every=1000.0)
    seldom_written = seldom._stream
    for watch in (often, seldom):
        watch(Notice("begin", "demo", tally))
    tally.finish(finished(made[0]))
    for watch in (often, seldom):
        watch(Notice("done", "demo", tally, made[0].recipe))
    assert written.getvalue() == "demo 0/78\ndemo 1/78 ETA 0:01:36\n"
    assert isinstance(seldom_written, io.StringIO)
    assert seldom_written.getvalue() == "demo 0/78\n"


def test_json_lines_say_everything() -> None:
    made, written = cells()[:2], io.StringIO()
    tally, watch = RunTally(made), JsonLines(written)
    tally.finish(finished(made[0]))
    watch(Notice("done", "demo", tally, made[0].recipe, "1", finished(made[0])))
    tally.fail(Failure(made[1].recipe, "ValueError: bad", ""))
    watch(Notice("failed", "demo", tally, made[1].recipe, "2", words="ValueError: bad"))
    watch(Notice("end", "demo", tally, summary=tally.summary(False)))
    done, failed, summary = map(json.loads, written.getvalue().splitlines())
    cell = {"study": "demo", "kind": "prune", "total": 2}
    wanted = {"event": "done", "id": made[0].id, "worker": "1", "metrics": {"accuracy": 0.5}, "seconds": 1.25}
    assert done.items() >= {**cell, "settled": 1, "seconds_left": 1.25, **wanted}.items()
    assert failed.items() >= {**cell, "event": "failed", "worker": "2", "words": "ValueError: bad"}.items()
    counts = {"done": 1, "found": 0, "failed": 1, "failed_before": 0, "skipped": 0, "left": 0}
    assert summary.items() >= {"event": "summary", "settled": 2, **counts, "interrupted": False}.items()


def test_what_is_left_is_estimated_by_kind() -> None:
    train = [Cell(Recipe("s", "train", {"seed": k}), print) for k in range(3)]  # type: ignore[arg-type]
    prune = [Cell(Recipe("s", "prune", {"seed": k}), print) for k in range(5)]  # type: ignore[arg-type]
    tally = RunTally([*train, *prune])
    assert tally.remaining() is None
    tally.finish(finished(train[0], seconds=10.0))
    assert tally.remaining() == 70.0, "nothing is known of pruning yet, so it is taken for the mean of what is known"
    tally.finish(finished(prune[0], seconds=1.0))
    assert tally.remaining() == 2 * 10.0 + 4 * 1.0
    tally.workers = 4
    assert tally.remaining() == 6.0
    for cell in (*train[1:], *prune[1:]):
        tally.finish(finished(cell))
    assert tally.remaining() is None


def test_the_best_ignores_what_is_no_number() -> None:
    made = cells()[:4]
    tally = RunTally(made, best_of=("loss", "min"))
    for cell, value in zip(made, (0.5, float("nan"), 0.25, "low"), strict=True):
        tally.rate(Record(cell.recipe, {"loss": value}))
    assert tally.best == (0.25, made[2].recipe)
