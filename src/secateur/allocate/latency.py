"""A budget of time: candidates are cut, and timed in a runtime in turns with the unpruned model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median, quantiles
from time import perf_counter
from typing import Any

from torch import Tensor, nn

from secateur import state
from secateur.allocate.goals import UnreachableError, allowed
from secateur.allocate.steps import Steps
from secateur.runtimes import Runtime, timer
from secateur.runtimes.timing import Prepared, in_turns, prepared, threads_of
from secateur.state import evaluating
from secateur.structure.cutting import draft
from secateur.types import ExampleInputs, InputError, Keep, Sites

__all__ = ["TOLERANCE", "closest_in_time"]

TOLERANCE = 0.05
"""How far the measured time may be from the one asked for, relatively."""

CLOSE = 0.7 * TOLERANCE
"""How far what was measured may be: the error of measuring comes on top of it."""

PRECISION = 0.02
"""A candidate is timed until the standard error of the median ratio is below this, relatively, …"""

SURE = 3.0
"""… or so many standard errors from being taken, …"""

SECONDS = 0.25
"""… or for so long."""

LEAST = 3
"""Rounds that are always timed."""

MOST = 20
"""How many candidates are timed at most."""


def closest_in_time(
    model: nn.Module,
    sites: Sites,
    steps: Steps,
    limit: Any,
    inputs: ExampleInputs,
    runtime: Runtime,
    expected: Callable[[Keep], float] | None = None,
) -> dict[str, Tensor]:
    """Return the masks whose cut model takes the time asked for, within 5 %, or less where no cut comes so near.

    Args:
        model, sites, steps, inputs: what is cut, where, in which order, and what it is timed on.
        limit: a fraction of the unpruned model's time, or a time.
        runtime: where it is timed.
        expected: the share of the time that masks may leave, to begin with; None expects equal parts for each step.

    Raises:
        InputError: the time is no fraction and no time, or cannot be reached; the message says what can.
    """
    clock = timer(runtime)
    with ExitStack() as stack:
        stack.enter_context(state.threads(threads_of(clock)))
        stack.enter_context(evaluating(model))
        before = prepared(clock, model, inputs, quick=True)
        in_turns({"before": before}, warmup=1, repeats=1)
        goal = _fraction(limit, lambda: median(in_turns({"before": before}, warmup=2, repeats=7).wall["before"]))

        def ratio(keep: Keep) -> float:
            small = draft(model, sites, keep)
            with evaluating(small):
                return _ratio(before, prepared(clock, small, inputs, quick=True), goal)

        return steps.at(_Search(steps, goal, ratio, expected).run())


def _fraction(limit: Any, unpruned: Callable[[], float]) -> float:
    """The fraction of the unpruned model's seconds that is asked for."""
    if isinstance(limit, float) and 0 < limit <= 1:
        return limit
    seconds, now = allowed("latency", limit, 1.0), unpruned()
    if seconds > now:
        raise InputError(f"budget: the unpruned model takes {1000 * now:.3g} ms, less than the {limit} asked for")
    return seconds / now


def _ratio(before: Prepared, after: Prepared, goal: float) -> float:
    """The time of the cut model over that of the unpruned one: the median over as many rounds as it takes to be sure."""
    started, ratios = perf_counter(), list[float]()
    in_turns({"after": after}, warmup=1, repeats=1)
    while len(ratios) < LEAST or (not _certain(ratios, goal) and perf_counter() - started < SECONDS):
        ratios += [1 / r for r in in_turns({"before": before, "after": after}, warmup=0, repeats=2).ratios("after")]
    return float(median(ratios))


def _certain(ratios: list[float], goal: float) -> bool:
    error, apart = _error(ratios), abs(median(ratios) / goal - 1)
    return error <= PRECISION or apart - CLOSE > SURE * error


def _error(ratios: list[float]) -> float:
    """The standard error of the median, relatively, from the quartiles: 1.25 σ/√n, where σ = (q₃ − q₁)/1.35."""
    low, middle, high = quantiles(ratios, n=4, method="inclusive")
    return float(1.25 * (high - low) / 1.35 / len(ratios) ** 0.5 / max(middle, 1e-12))


@dataclass(eq=False)
class _Search:
    """Closes in on a time from both sides.

    Attributes:
        steps: the candidates, in order.
        goal: the time asked for, over that of the unpruned model.
        ratio: measures the time of a candidate over that of the unpruned model.
        expected: what it is taken for before it is measured.
        times: what was measured, by step.
        by_counts: the same by how many units each site keeps, as rounding makes many steps alike.
        confirmed: the steps that were measured again, as what is taken is chosen for what was measured.
    """

    steps: Steps
    goal: float
    ratio: Callable[[Keep], float]
    expected: Callable[[Keep], float] | None = None
    times: dict[int, float] = field(default_factory=lambda: {0: 1.0})
    by_counts: dict[tuple[int, ...], float] = field(default_factory=dict)
    confirmed: set[int] = field(default_factory=lambda: {0})

    def run(self) -> int:
        """Return a step whose time is the goal's, within 5 %, or else the slowest measured that is faster."""
        low, high = 0, self.steps.last
        while high - low > 1 and not self._close(low) and len(self.by_counts) < MOST:
            middle = self._between(low, high)
            if self._close(middle):
                return middle
            low, high = (middle, high) if self.times[middle] > self.goal else (low, middle)
            if high == self.steps.last:
                self._check_reachable()
        if self._close(low):
            return low
        if high == self.steps.last:
            self._check_reachable()
        return high if self._close(high) else self._around(high)

    def _between(self, low: int, high: int) -> int:
        """Where a line through both ends meets the goal, but never close to an end: times are noisy.

        The line is one of time over expected time, which is nearer to straight than time over steps.
        """
        first, last = self._expectation(low), self._expectation(high)
        slow, fast = self.times[low], self.times.get(high, min(last, self.goal))
        aim = first + (last - first) * ((slow - self.goal) / (slow - fast) if slow > fast else 0.5)
        left, right = low, high
        while right - left > 1:
            middle = (left + right) // 2
            left, right = (middle, right) if self._expectation(middle) > aim else (left, middle)
        margin = max(round(0.1 * (high - low)), 1)
        return min(max(right, low + margin), high - margin)

    def _expectation(self, step: int) -> float:
        return 1 - step / self.steps.last if self.expected is None else self.expected(self.steps.at(step))

    def _measured(self, step: int) -> float:
        if step not in self.times:
            keep = self.steps.at(step)
            counts = tuple(int(mask.sum()) for mask in keep.values())
            if counts not in self.by_counts:
                self.by_counts[counts] = self.ratio(keep)
            self.times[step] = self.by_counts[counts]
        return self.times[step]

    def _apart(self, step: int) -> float:
        return abs(self._measured(step) / self.goal - 1)

    def _close(self, step: int) -> bool:
        """Whether a step's time is the goal's, by the mean of two measurements."""
        if self._apart(step) <= CLOSE and step not in self.confirmed:
            self.confirmed.add(step)
            self.times[step] = (self.times[step] + self.ratio(self.steps.at(step))) / 2
        return self._apart(step) <= CLOSE

    def _check_reachable(self) -> None:
        least = self._measured(self.steps.last)
        if least > self.goal * (1 + TOLERANCE):
            raise UnreachableError(
                f"budget: latency cannot come down to {self.goal:.3g} of the unpruned model's; with as much removed as "
                f"may be, it is {least:.3g} of it. Ask for that or more, lower minimum, or ignore fewer sites",
                least,
            )

    def _around(self, center: int) -> int:
        """Steps further and further from the crossing: one channel more may be slower, so times do not simply fall."""
        near, far = 1, 2
        while near < max(self.steps.last // 4, 2):
            for step in (center - near, center + near):
                if 0 < step <= self.steps.last and len(self.by_counts) < MOST and self._close(step):
                    return step
            near, far = far, near + far
        nearest = min(self.times, key=self._apart)
        within = [step for step, time in self.times.items() if time <= self.goal]
        if not within or self._apart(nearest) <= TOLERANCE:
            return nearest
        return max(within, key=lambda step: self.times[step])
