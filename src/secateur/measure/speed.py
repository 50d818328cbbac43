"""How fast a model is: the time of a forward pass in a runtime, alone and against others."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median, quantiles

from torch import nn

from secateur import state
from secateur.calls import running
from secateur.checks import check_whole
from secateur.runtimes.base import Runtime, Timer
from secateur.runtimes.inputs import batch_size_of, with_batch_size
from secateur.runtimes.names import timer
from secateur.runtimes.timing import in_turns, prepared, threads_of
from secateur.state import evaluating
from secateur.types import ExampleInputs, InputError
from secateur.wrappers import check_module

__all__ = ["Latency", "LatencyComparison", "Spread", "compare_latency", "latency", "spread"]


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
            rounds. Above 1 is faster than the first. Where one thread does all of the work, these are times of the
            processor, so that what else the machine does hardly enters.
        compared: the seconds that the speedups are taken of: of the processor or of the wall clock, as there.
    """

    latencies: Mapping[str, Latency]
    speedups: Mapping[str, Spread]
    compared: Mapping[str, Spread]


@running
def latency(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    runtime: Runtime = "eager",
    batch_size: int | None = None,
    threads: int | None = None,
    warmup: int = 5,
    repeats: int = 30,
) -> Latency:
    """Measure the time of one forward pass, in evaluation mode without gradients.

    Machines are noisy: to say that one model is faster than another use `compare_latency`. The number of
    threads and the model's modes are put back afterwards.

    Args:
        model: on any device; an accelerator's work is waited for.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs.
        runtime: where it runs: ``"eager"`` PyTorch, ``"onnxruntime"``, one with options, as in
            ``"onnxruntime:threads=2"``, or a timer of your own: a function of (model, example inputs) that returns a
            function that runs the model once, or the seconds that it takes.
        batch_size: samples a pass; the example's are repeated or dropped to make them. None: as they are.
        threads: of the CPU; None leaves them as the runtime has them, which is 1 unless it says otherwise.
        warmup: passes before the first that counts.
        repeats: passes that count.

    Raises:
        InputError: a number is out of range, or the example inputs have no batch.
        MissingLibraryError, ExportError, UnknownNameError: see `secateur.export`.

    >>> import torch
    >>> result = latency(nn.Linear(4, 2), torch.zeros(1, 4), batch_size=8, repeats=3)
    >>> result.batch_size, result.low <= result.median <= result.high
    (8, True)
    """
    compared = compare_latency(
        {"model": model},
        example_inputs,
        runtime=runtime,
        batch_size=batch_size,
        threads=threads,
        warmup=warmup,
        repeats=repeats,
    )
    return compared.latencies["model"]


@running
def compare_latency(
    models: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    *,
    runtime: Runtime = "eager",
    batch_size: int | None = None,
    threads: int | None = None,
    warmup: int = 5,
    repeats: int = 30,
    quick: bool = False,
) -> LatencyComparison:
    """Measure several models in turns, and how much faster each is than the first.

    Every round times each model once, beginning with another one each time, so that what else the machine
    does falls on all of them alike; the speedup is the median over the rounds of the ratio within a round.

    Args and errors are those of `latency`, and there must be at least one model. With `quick`, for many candidates of
    which none is kept, the runtime's short way is taken, where it has one, which compares nothing with torch.

    >>> import torch
    >>> small, large = nn.Linear(4, 2), nn.Linear(4, 2000)
    >>> result = compare_latency({"large": large, "small": small}, torch.zeros(64, 4), repeats=9)
    >>> result.speedups["large"].median, result.speedups["small"].median > 1
    (1.0, True)
    """
    check_whole("latency", or_none=True, batch_size=batch_size, threads=threads)
    check_whole("latency", repeats=repeats)
    check_whole("latency", 0, warmup=warmup)
    if not models:
        raise InputError("compare_latency: there are no models; give at least one")
    for model in models.values():
        check_module(model, "latency", compiled=True)
    inputs = with_batch_size(example_inputs, batch_size)
    size, runtime_timer = batch_size_of(inputs), _with_threads(runtime, threads)
    with ExitStack() as stack:
        stack.enter_context(state.threads(threads_of(runtime_timer)))
        for model in models.values():
            stack.enter_context(evaluating(model))
        ready = {name: prepared(runtime_timer, model, inputs, quick=quick) for name, model in models.items()}
        times = in_turns(ready, warmup=warmup, repeats=repeats)
    count = threads_of(runtime_timer)
    return LatencyComparison(
        latencies={name: Latency(*spread(wall), size, count, repeats) for name, wall in times.wall.items()},
        speedups={name: Spread(*spread(times.ratios(name))) for name in models},
        compared={name: Spread(*spread(worked)) for name, worked in times.worked.items()},
    )


def _with_threads(runtime: Runtime, threads: int | None) -> Timer:
    runtime_timer = timer(runtime)
    if threads is None:
        return runtime_timer
    if not hasattr(runtime_timer, "threads"):
        raise InputError(
            f"latency: threads={threads} is for a runtime of secateur's; the timer {runtime!r} decides by itself"
        )
    with_threads: Timer = replace(runtime_timer, threads=threads)  # type: ignore[type-var]
    return with_threads


def spread(values: list[float]) -> tuple[float, float, float]:
    """Return the median and the quartiles.

    >>> spread([1.0, 2.0, 3.0, 4.0, 5.0])
    (3.0, 2.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, _, high = quantiles(values, n=4, method="inclusive")
    return median(values), low, high
