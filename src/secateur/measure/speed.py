"""How fast a model is: the wall-clock time of a forward pass, alone and against others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import torch
from torch import nn

from secateur import state
from secateur.checks import check_whole
from secateur.measure.inputs import batch_size_of, caller, with_batch_size
from secateur.state import check_module, device_of, evaluating, usual
from secateur.types import ExampleInputs, InputError

__all__ = ["Latency", "LatencyComparison", "Spread", "compare_latency", "latency"]


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Latency:
    """The wall-clock time of one forward pass.

    Attributes:
        median, low, high: seconds for a whole batch: the median and the lower and upper quartiles.
        batch_size, threads, repeats: how it was measured.
    """

    median: float
    low: float
    high: float
    batch_size: int
    threads: int
    repeats: int

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return self.batch_size / self.median


@dataclass(frozen=True)
class LatencyComparison:
    """The latencies of several models that were measured in turns.

    Attributes:
        latencies: of each model, by its name.
        speedups: the first model's time ÷ this model's, round by round: the median and quartiles over the
            rounds. Above 1 is faster than the first.
    """

    latencies: Mapping[str, Latency]
    speedups: Mapping[str, Spread]


@usual
def latency(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    batch_size: int | None = None,
    threads: int = 1,
    warmup: int = 5,
    repeats: int = 30,
) -> Latency:
    """Measure the time of one forward pass, in evaluation mode without gradients.

    Machines are noisy: to say that one model is faster than another use `compare_latency`. The number of
    threads and the model's modes are put back afterwards.

    Args:
        model: on any device; an accelerator's work is waited for.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        batch_size: samples a pass; the example's are repeated or dropped to make them. None: as they are.
        threads: of the CPU.
        warmup: passes before the first that counts.
        repeats: passes that count.

    Raises:
        InputError: a number is out of range, or the example inputs have no batch.

    >>> result = latency(nn.Linear(4, 2), torch.zeros(1, 4), batch_size=8, repeats=3)
    >>> result.batch_size, result.low <= result.median <= result.high
    (8, True)
    """
    compared = compare_latency(
        {"model": model},
        example_inputs,
        batch_size=batch_size,
        threads=threads,
        warmup=warmup,
        repeats=repeats,
    )
    return compared.latencies["model"]


@usual
def compare_latency(
    models: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    *,
    batch_size: int | None = None,
    threads: int = 1,
    warmup: int = 5,
    repeats: int = 30,
) -> LatencyComparison:
    """Measure several models in turns, and how much faster each is than the first.

    Every round times each model once, beginning with another one each time, so that what else the machine
    does falls on all of them alike; the speedup is the median over the rounds of the ratio within a round.

    Args and errors are those of `latency`, and there must be at least one model.

    >>> small, large = nn.Linear(4, 2), nn.Linear(4, 2000)
    >>> result = compare_latency({"large": large, "small": small}, torch.zeros(64, 4), repeats=9)
    >>> result.speedups["large"].median, result.speedups["small"].median > 1
    (1.0, True)
    """
    check_whole("latency", or_none=True, batch_size=batch_size)
    check_whole("latency", threads=threads, repeats=repeats)
    check_whole("latency", 0, warmup=warmup)
    if not models:
        raise InputError("compare_latency: there are no models; give at least one")
    for model in models.values():
        check_module(model, "latency", compiled=True)
    inputs = with_batch_size(example_inputs, batch_size)
    size = batch_size_of(inputs)
    with ExitStack() as stack:
        stack.enter_context(state.threads(threads))
        for model in models.values():
            stack.enter_context(evaluating(model))
        calls = {name: _timed(model, inputs) for name, model in models.items()}
        times = _rounds(calls, warmup, repeats)
    return LatencyComparison(
        latencies={name: Latency(*_spread(of), size, threads, repeats) for name, of in times.items()},
        speedups=_speedups(times),
    )


def _timed(model: nn.Module, inputs: ExampleInputs) -> Callable[[], float]:
    call, device = caller(model, inputs), device_of(model)

    def once() -> float:
        _wait(device)
        started = perf_counter()
        call()
        _wait(device)
        return perf_counter() - started

    return once


def _wait(device: torch.device) -> Any:
    # An accelerator returns before it is done.
    return None if device.type == "cpu" else torch.accelerator.synchronize(device)


def _rounds(calls: Mapping[str, Callable[[], float]], warmup: int, repeats: int) -> dict[str, list[float]]:
    names, times = list(calls), {name: [0.0] * repeats for name in calls}
    for call in calls.values():
        for _ in range(warmup):
            call()
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            times[name][turn] = calls[name]()
    return times


def _spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles.

    >>> _spread([1.0, 2.0, 3.0, 4.0, 5.0])
    (3.0, 2.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), low, high


def _speedups(times: Mapping[str, list[float]]) -> dict[str, Spread]:
    """Return the spread, over the rounds, of the first one's time ÷ each one's.

    >>> _speedups({"a": [2.0, 4.0, 6.0], "b": [1.0, 1.0, 2.0]})["b"]
    Spread(median=3.0, low=2.5, high=3.5)
    """
    first = next(iter(times.values()))
    return {
        name: Spread(*_spread([first_time / other for first_time, other in zip(first, of, strict=True)]))
        for name, of in times.items()
    }
