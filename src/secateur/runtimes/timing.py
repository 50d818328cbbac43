"""Timing models in turns: what else the machine does falls on all of them alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from time import get_clock_info, perf_counter, process_time
from typing import Any

from torch import nn

from secateur.checks import within
from secateur.deadline import check_time
from secateur.runtimes.base import Run, Runtime, Timer
from secateur.runtimes.names import timer
from secateur.types import ExampleInputs, InputError

__all__ = ["Prepared", "Times", "in_turns", "prepared", "threads_of"]

FINE = 1e-6
"""A clock that ticks more slowly than this, in seconds, does not time a forward pass."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model made ready in a runtime: what runs it once, or the seconds that it was said to take.

    Attributes:
        alone: whether all of the work is done by one thread of this process: then the processor's time is the time, and
            what other programs do on the machine does not enter.
    """

    run: Run | None
    seconds: float
    alone: bool

    def once(self) -> tuple[float, float]:
        """Run it once; return the seconds by the wall clock and by the clock to compare by."""
        if self.run is None:
            return self.seconds, self.seconds
        wall, worked = perf_counter(), process_time()
        self.run()
        worked, wall = process_time() - worked, perf_counter() - wall
        # Where profilers are at work, the processor's clock may move by ticks alone.
        return wall, worked if self.alone and worked > 0 else wall


def prepared(runtime: Runtime, model: nn.Module, example_inputs: ExampleInputs, *, quick: bool = False) -> Prepared:
    """Make a model, which must be in evaluation mode, ready in a runtime.

    Args:
        runtime, model, example_inputs: what is to run where.
        quick: take the runtime's short way for plain layers, where it has one, which compares nothing with torch.

    Raises:
        InputError: a timer of one's own returned something else than a function or seconds.
    """
    check_time()
    chosen = timer(runtime)
    prepare = getattr(chosen, "quick", chosen) if quick else chosen
    made: Any = prepare(model, example_inputs)
    if callable(made):
        return Prepared(made, 0.0, _alone(chosen, model))
    if not within(made, "(0, inf]"):
        raise InputError(
            f"the timer {runtime!r} returned {made!r}; it must return a function that runs the model once, or the seconds "
            "that it takes"
        )
    return Prepared(None, float(made), alone=False)


def _alone(chosen: Timer, model: nn.Module) -> bool:
    on_one_thread = getattr(chosen, "on_one_thread", None)
    fine = get_clock_info("process_time").resolution <= FINE
    return fine and on_one_thread is not None and bool(on_one_thread(model))


def threads_of(runtime: Runtime) -> int:
    """Return the threads of the CPU that a runtime takes; 1 where it does not say."""
    return int(getattr(timer(runtime), "threads", 1))


@dataclass(frozen=True, eq=False)
class Times:
    """What several models took, round by round.

    Attributes:
        wall: seconds by the wall clock.
        worked: seconds by the clock to compare by: the processor's where one thread does all of the work.
    """

    wall: Mapping[str, list[float]]
    worked: Mapping[str, list[float]]

    def ratios(self, name: str) -> list[float]:
        """Return the first model's time over another's, within each round."""
        first = next(iter(self.worked.values()))
        return [one / max(other, 1e-12) for one, other in zip(first, self.worked[name], strict=True)]

    def ratio(self, name: str) -> float:
        """Return the median of the ratios."""
        return median(self.ratios(name))


def in_turns(models: Mapping[str, Prepared], *, warmup: int, repeats: int) -> Times:
    """Time each model once a round, beginning with another one each time.

    >>> times = in_turns({"a": Prepared(None, 2.0, False), "b": Prepared(None, 1.0, False)}, warmup=0, repeats=2)
    >>> times.ratios("b")
    [2.0, 2.0]
    """
    names = list(models)
    samples = {name: [(0.0, 0.0)] * repeats for name in names}
    for model in models.values():
        for _ in range(warmup):
            check_time()
            model.once()
    for turn in range(repeats):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            check_time()
            samples[name][turn] = models[name].once()
    return Times(*({name: [pair[clock] for pair in samples[name]] for name in names} for clock in (0, 1)))
