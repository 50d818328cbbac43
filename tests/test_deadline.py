"""Long work ends at its deadline: data, timings, scores, tables of costs and solvers are asked between units of work."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur import deadline
from secateur.allocate import cost_table
from secateur.criteria import JointLossChange
from secateur.deadline import Deadline, OutOfTime, check_time
from secateur.solvers import StructuredOBS
from secateur.solvers.elimination import LeastSquares, removals

X, Y = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that goes on by a second whenever it is looked at."""
    seconds = [0.0]

    def tick() -> float:
        seconds[0] += 1
        return seconds[0]

    monkeypatch.setattr(deadline, "monotonic", tick)
    return seconds


def _timer(model: nn.Module, inputs: Any) -> Callable[[], None]:
    return lambda: None


def _scores(model: nn.Module) -> object:
    return JointLossChange((X, Y), batch_size=5)(model, sc.channels(model, X))


def _times(model: nn.Module) -> object:
    return cost_table(model, sc.channels(model, X), measures=["latency"], widths=4, runtime=_timer)


def _counts(model: nn.Module) -> object:
    return cost_table(model, sc.channels(model, X), measures=["macs"])


def _solution(model: nn.Module) -> object:
    return StructuredOBS((X, Y), batch_size=5).solve(model, sc.channels(model, X), 0.5)


def _eliminations(model: nn.Module) -> object:
    moments = torch.eye(9, dtype=torch.float64)
    return removals([LeastSquares(moments, moments, torch.arange(9), torch.arange(9).view(9, 1))], 9, 8)


def _rating(model: nn.Module) -> object:
    return sc.measure.predict(model, X, batch_size=5)


@pytest.mark.parametrize("work", [_scores, _times, _counts, _solution, _eliminations, _rating])
def test_long_work_asks_between_units_and_is_ended(
    model: nn.Module, clock: list[float], work: Callable[[nn.Module], object]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with Deadline(5.5).enforced(), pytest.raises(OutOfTime):
        work(model)
    assert clock[0] == 6.0  # ended as soon as the moment was past
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()


def test_without_a_deadline_nothing_is_ended(model: nn.Module) -> None:
    check_time()
    with Deadline.after(None).enforced():
        check_time()
        assert _scores(model) is not None


def test_an_inner_deadline_ends_and_the_outer_one_goes_on() -> None:
    with Deadline.after(60.0).enforced():
        with pytest.raises(OutOfTime), Deadline.after(0.0).enforced():
            check_time()
        check_time()


def test_code_that_catches_every_error_does_not_go_on_after_it() -> None:
    with pytest.raises(OutOfTime), Deadline(monotonic() - 1).enforced(), suppress(Exception):
        check_time()
