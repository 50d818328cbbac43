"""How fast a model is: what is timed, in which order, and what is put back. Nothing rests on real time."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from clocks import Clock
from torch import Tensor, nn

from secateur.measure import compare_latency, latency, speed
from secateur.runtimes import timing
from secateur.runtimes.inputs import batch_size_of, with_batch_size
from secateur.types import InputError


class Takes(nn.Module):
    """Takes as many seconds as it is told, and notes how it was called."""

    def __init__(self, clock: Clock, name: str, log: list[str], *seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.note = partial(log.append, name)  # what the model itself holds is put back
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        self.clock.now += self.seconds[self.calls % len(self.seconds)]
        self.calls += 1
        self.note()
        return x


def test_median_and_quartiles_in_seconds(clock: Clock) -> None:
    model = Takes(clock, "a", [], 100, 1, 2, 3, 4, 5)
    result = latency(model, torch.zeros(4, 2), warmup=1, repeats=5)
    assert (result.low, result.median, result.high) == (2, 3, 4)
    assert (result.batch_size, result.threads, result.repeats) == (4, 1, 5)
    assert result.throughput == 4 / 3
    assert model.training


def test_models_take_turns_and_ratios_are_taken_in_each_round(clock: Clock) -> None:
    log: list[str] = []
    # The machine slows down to a half in the second round: the times differ, the ratio does not.
    models = {"a": Takes(clock, "a", log, 2, 4, 2), "b": Takes(clock, "b", log, 1, 2, 1)}
    result = compare_latency(models, torch.zeros(1), warmup=0, repeats=3)
    assert "".join(log) == "ab" + "ba" + "ab"
    assert result.speedups["a"] == speed.Spread(1, 1, 1)
    assert result.speedups["b"] == speed.Spread(2, 2, 2)
    assert result.latencies["a"].median == 2
    assert result.latencies["b"].high == 1.5


def test_one_repeat(clock: Clock) -> None:
    result = latency(Takes(clock, "a", [], 7), torch.zeros(1), warmup=0, repeats=1)
    assert (result.low, result.median, result.high) == (7, 7, 7)


def test_threads_and_modes_are_put_back_after_an_error_too() -> None:
    class Fails(nn.Module):
        threads = 0

        def forward(self, x: Tensor) -> Tensor:
            Fails.threads = torch.get_num_threads()
            raise RuntimeError("no")

    model, before = Fails(), torch.get_num_threads()
    with pytest.raises(InputError, match=r"failed on the example inputs .*: RuntimeError: no"):
        latency(model, torch.zeros(1), threads=2)
    assert Fails.threads == 2
    assert torch.get_num_threads() == before
    assert model.training


def test_a_wide_layer_really_takes_longer() -> None:
    models = {"wide": nn.Linear(256, 4096), "narrow": nn.Linear(256, 8)}
    result = compare_latency(models, torch.zeros(1, 256), batch_size=64, repeats=11)
    assert result.speedups["narrow"].median > 2


def test_batches_are_made_of_the_examples() -> None:
    x, table = torch.tensor([[1.0], [2.0]]), torch.zeros(7)
    assert with_batch_size((x, table), 3)[0].tolist() == [[1], [2], [1]]  # type: ignore[index]
    assert with_batch_size((x, table), 3)[1] is table  # type: ignore[index]
    assert with_batch_size({"x": x}, 1)["x"].tolist() == [[1]]  # type: ignore[call-overload]
    assert with_batch_size(x, None) is x
    assert batch_size_of({"flag": 1, "x": x}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"repeats": 0}, "repeats=0 must be a whole number, 1 or more"),
        ({"threads": 0}, "threads=0 must be"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"batch_size": 2.0}, "batch_size=2.0 must be"),
        ({"warmup": -1}, "warmup=-1 must be a whole number, 0 or more"),
    ],
)
def test_numbers_out_of_range(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        latency(nn.Identity(), torch.zeros(1), **options)


def test_what_cannot_be_timed() -> None:
    with pytest.raises(InputError, match="there are no models"):
        compare_latency({}, torch.zeros(1))
    with pytest.raises(InputError, match="no tensor with a batch dimension"):
        latency(nn.Identity(), torch.tensor(1.0))
    with pytest.raises(InputError, match="an empty batch"):
        latency(nn.Identity(), torch.zeros(0, 2), batch_size=4)


def test_a_timer_of_ones_own_runs_or_says_seconds() -> None:
    def seconds(model: nn.Module, example: Any) -> float:
        return float(next(model.parameters()).numel())

    models = {"a": nn.Linear(4, 2, bias=False), "b": nn.Linear(2, 2, bias=False)}
    result = compare_latency(models, torch.zeros(1, 4), runtime=seconds)
    assert result.speedups["b"] == speed.Spread(2, 2, 2)
    assert result.latencies["a"].median == 8

    calls: list[str] = []

    def runs(model: nn.Module, example: Any) -> Any:
        assert not model.training
        name = "ab"[next(model.parameters()).shape[1] // 2 % 2]
        return lambda: calls.append(name)

    compare_latency(models, torch.zeros(1, 4), runtime=runs, warmup=0, repeats=2)
    assert "".join(calls) == "ab" + "ba"


def test_timers_that_give_neither() -> None:
    for wrong in (None, 0.0, True, "fast"):
        with pytest.raises(InputError, match="it must return a function that runs the model once, or the seconds"):
            latency(nn.Identity(), torch.zeros(1), runtime=lambda model, example, wrong=wrong: wrong)
    with pytest.raises(InputError, match="threads=2 is for a runtime of secateur's"):
        latency(nn.Identity(), torch.zeros(1), runtime=lambda model, example: 1.0, threads=2)


def test_threads_of_the_runtime_and_of_the_call() -> None:
    counts = []

    class Counts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            counts.append(torch.get_num_threads())
            return x

    assert latency(Counts(), torch.zeros(1), runtime="eager:threads=2", warmup=0, repeats=1).threads == 2
    assert latency(Counts(), torch.zeros(1), runtime="eager:threads=2", threads=1, warmup=0, repeats=1).threads == 1
    assert counts == [2, 1]


def test_one_thread_is_compared_by_the_processors_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, worked = Clock(), Clock()
    monkeypatch.setattr(timing, "perf_counter", wall)
    monkeypatch.setattr(timing, "process_time", worked)

    class Waits(nn.Module):
        """Works one second, and waits for the processor for some more."""

        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self, x: Tensor) -> Tensor:
            worked.now += 1
            wall.now += 1 + self.seconds
            return x

    models = {"a": Waits(0), "b": Waits(3)}
    result = compare_latency(models, torch.zeros(1), warmup=0, repeats=3)
    assert result.speedups["b"].median == 1
    assert result.latencies["b"].median == 4
    assert compare_latency(models, torch.zeros(1), threads=2, warmup=0, repeats=3).speedups["b"].median == 0.25


def test_latency_in_onnx_runtime() -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library)
    models = {"wide": nn.Linear(256, 4096), "narrow": nn.Linear(256, 8)}
    result = compare_latency(models, torch.zeros(64, 256), runtime="onnxruntime", repeats=11)
    assert result.speedups["narrow"].median > 2
