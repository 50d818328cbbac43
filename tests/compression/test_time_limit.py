"""A compression ends at its time limit, whatever it is doing, with the best that there is and one sentence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from secateur import deadline
from secateur.compression import steps
from secateur.criteria import JointLossChange
from secateur.train.options import TrainOptions

LIMIT, GRACE = 2.0, 4.0
"""Seconds; what is slow below takes more than 20 if nobody ends it."""

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, :3] + X[:, 3:]).argmax(1)
SENTENCE = "the time limit of 2 s was reached before the goal"


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trained = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    sc.fit(trained, (X, Y), epochs=5, lr=0.01)
    return trained


def sleeping_timer(model: nn.Module, inputs: Any) -> Callable[[], None]:
    """A model that takes 80 ms."""
    return lambda: sleep(0.08)


def sleeping_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """A loss that takes a tenth of a second."""
    sleep(0.1)
    return nn.functional.cross_entropy(outputs, targets)


SLOW: dict[str, dict[str, Any]] = {
    "table of costs": {"goal": {"latency": 0.3}, "runtime": sleeping_timer},
    "criterion": {"goal": {"macs": 0.3}, "criterion": JointLossChange((X, Y), sleeping_loss, batch_size=1)},
    "training": {"goal": {"macs": 0.3}, "loss": sleeping_loss, "train": TrainOptions(epochs=9, batch_size=4)},
}


def compressed(model: nn.Module, goal: dict[str, float], folder: Path | None = None, **changes: Any) -> sc.Result:
    options: dict[str, Any] = {
        "runtime": "eager",
        "round_to": 1,
        "train": TrainOptions(epochs=1),
        "finish": None,
        "max_drop": 0.0,
        "metric": "fidelity",
        **changes,
    }
    return sc.compress(model, X[:2], goal, (X, Y), (X, Y), folder=folder, **options)


@pytest.mark.parametrize("what", SLOW)
def test_it_ends_in_time(model: nn.Module, what: str) -> None:
    began = monotonic()
    result = compressed(model, **SLOW[what], time_limit=LIMIT)
    assert monotonic() - began < LIMIT + GRACE
    assert result.history.why == SENTENCE
    assert str(result.history).count(SENTENCE) == 1
    assert all(
        torch.equal(ours, theirs) for ours, theirs in zip(result.model.parameters(), model.parameters(), strict=True)
    )


def test_what_was_good_enough_by_then_comes_back(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    now, real = [0.0], steps.chosen

    def slow_the_second_time(*args: Any) -> Any:
        if now[0]:
            now[0] = 1e9
        now[0] += 1
        return real(*args)

    monkeypatch.setattr(steps, "chosen", slow_the_second_time)
    monkeypatch.setattr(deadline, "monotonic", lambda: now[0])
    result = compressed(model, {"macs": 0.3}, max_drop=1.0, time_limit=60.0)
    (trial,) = result.history.trials
    assert trial.accepted
    assert result.history.best == trial
    assert "time limit" in result.history.why


def test_the_time_of_trials_before_a_kill_counts(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    real = steps._Walk._try

    def dying(self: Any, best: Any, asked: float) -> Any:
        if self.journal.trials:
            raise Killed
        trial, result = real(self, best, asked)
        return replace(trial, seconds=70.0), result

    monkeypatch.setattr(steps._Walk, "_try", dying)
    with pytest.raises(Killed):
        compressed(model, {"macs": 0.3}, tmp_path, max_drop=1.0, time_limit=60.0)
    monkeypatch.setattr(steps._Walk, "_try", real)
    resumed = compressed(model, {"macs": 0.3}, tmp_path, max_drop=1.0, time_limit=60.0)
    assert "time limit of 60 s" in resumed.history.why
    assert len(resumed.history.trials) == 1
    longer = compressed(model, {"macs": 0.3}, tmp_path, max_drop=1.0, time_limit=600.0)
    assert longer.history.reached
