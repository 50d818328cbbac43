"""The progress bars: one line of 80 columns that says what matters, and nothing cut in the middle."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
import rich.console
import torch
from torch import nn

from secateur.lab import run as lab_run
from secateur.lab.recipe import Recipe
from secateur.lab.records import Failure
from secateur.lab.study import Cell, Study
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


def test_a_study_shows_how_many_cells_and_which(screen: io.StringIO) -> None:
    made = cells()
    study: Any = Study("demo", "D", None, "", lambda o: made, lambda r: None)  # type: ignore[arg-type, return-value]
    tally = lab_run._Tally()
    with lab_run._bar(study, made, True) as show:
        tally.done += [c.recipe for c in made[:12]]
        tally.seconds["prune"] = [1.25] * 12
        show(made[12], tally)
    line = last_line(screen)
    assert re.fullmatch(r"demo [━╸╺]{16} 12/78 ETA 0:01:22 prune neuron per layer 51\.2 % \(seed 2\)", line), line


def test_failures_are_counted_when_there_are_some(screen: io.StringIO) -> None:
    made = cells()
    study: Any = Study("demo", "D", None, "", lambda o: made, lambda r: None)  # type: ignore[arg-type, return-value]
    tally = lab_run._Tally(failed=[Failure(made[0].recipe, "ValueError: bad", "")])
    with lab_run._bar(study, made, True) as show:
        show(made[1], tally)
    assert "failed: " in ESCAPES.sub("", screen.getvalue()), "each failure has a line of its own"
    assert "1/78" in last_line(screen)
    assert "1 failed  prune" in last_line(screen)


def test_a_hidden_bar_draws_nothing(screen: io.StringIO) -> None:
    made = cells()
    study: Any = Study("demo", "D", None, "", lambda o: made, lambda r: None)  # type: ignore[arg-type, return-value]
    with lab_run._bar(study, made, False) as show:
        show(made[0], lab_run._Tally())
    assert not screen.getvalue()
