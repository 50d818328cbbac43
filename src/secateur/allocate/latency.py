"""A budget of time: candidates are cut, and timed in turns with the unpruned model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from secateur.allocate.goals import allowed
from secateur.allocate.steps import Steps
from secateur.measure import compare_latency
from secateur.measure import latency as measured_latency
from secateur.structure import cut
from secateur.types import ExampleInputs, InputError, Sites

__all__ = ["TOLERANCE", "closest_in_time"]

TOLERANCE = 0.05
"""How far the measured time may be from the one asked for, relatively."""

SECONDS = 1.0
"""About how long one candidate is measured, before the one that is taken is measured three times as long."""


def closest_in_time(
    model: nn.Module, sites: Sites, steps: Steps, limit: Any, inputs: ExampleInputs
) -> dict[str, Tensor]:
    """Return the masks whose cut model takes the time asked for, within 5 %.

    Raises:
        InputError: the time is no fraction and no time, or cannot be reached; the message says what can.
    """
    now = measured_latency(model, inputs, repeats=7).median
    search = _Search(steps, _fraction(limit, now), _ratio(model, sites, inputs, now))
    return steps.at(search.run())


def _fraction(limit: Any, now: float) -> float:
    seconds = allowed("latency", limit, now)
    if seconds > now:
        raise InputError(f"budget: the unpruned model takes {1000 * now:.3g} ms, less than the {limit} asked for")
    return seconds / now


Ratio = Callable[[dict[str, Tensor], int], float]
"""The time of the cut model over that of the unpruned one; the number multiplies how long it is measured."""


def _ratio(model: nn.Module, sites: Sites, inputs: ExampleInputs, now: float) -> Ratio:
    repeats = min(max(round(SECONDS / (2 * now)), 7), 41)

    def measure(keep: dict[str, Tensor], longer: int) -> float:
        both = {"before": model, "after": cut(model, sites, keep)}
        comparison = compare_latency(both, inputs, warmup=2, repeats=longer * repeats)
        return 1 / comparison.speedups["after"].median

    return measure


@dataclass(eq=False)
class _Search:
    """Closes in on a time from both sides; what a candidate measured is kept, and what is taken is measured again."""

    steps: Steps
    goal: float
    ratio: Ratio
    ratio_at: dict[int, float] = field(default_factory=dict)
    certain: dict[int, float] = field(default_factory=dict)

    def run(self) -> int:
        """Return the step whose time is the goal's, within 5 %."""
        low, high = 0, self.steps.last
        self.ratio_at[0] = self.certain[0] = 1.0
        if self._close(0, TOLERANCE / 2):
            return 0
        self._check_reachable(high)
        while not self._taken(high):
            if high - low <= 1:
                return self._around(high)
            middle = self._between(low, high)
            if self._taken(middle):
                return middle
            low, high = (middle, high) if self.ratio_at[middle] > self.goal else (low, middle)
        return high

    def _between(self, low: int, high: int) -> int:
        """Where a line through both ends meets the goal, but never close to an end: times are noisy."""
        slow, fast = self.ratio_at[low], self.ratio_at[high]
        share = (slow - self.goal) / (slow - fast) if slow > fast else 0.5
        guess = low + round(min(max(share, 0.15), 0.85) * (high - low))
        return min(max(guess, low + 1), high - 1)

    def _measure(self, step: int, longer: int = 1) -> float:
        self.ratio_at[step] = self.ratio(self.steps.at(step), longer)
        if longer > 1:
            self.certain[step] = self.ratio_at[step]
        return self.ratio_at[step]

    def _close(self, step: int, tolerance: float) -> bool:
        return abs(self.ratio_at[step] / self.goal - 1) <= tolerance

    def _taken(self, step: int) -> bool:
        """Whether a step's time is the goal's, also when measured longer."""
        if step in self.certain:
            return False  # it was looked at before
        if step not in self.ratio_at:
            self._measure(step)
        if not self._close(step, TOLERANCE / 2):
            return False
        self._measure(step, longer=3)
        return self._close(step, 0.7 * TOLERANCE)

    def _check_reachable(self, last: int) -> None:
        if self._measure(last) > self.goal * (1 + TOLERANCE) and self._measure(last, 3) > self.goal * (1 + TOLERANCE):
            raise InputError(
                f"budget: latency cannot come down to {self.goal:.3g} of the unpruned model's; with as much removed as "
                f"may be, it is {self.ratio_at[last]:.3g} of it. Ask for that or more, lower minimum, or ignore fewer sites"
            )
        self.certain = {0: 1.0}  # the last was measured longer to see whether it can be reached, not to be taken

    def _around(self, center: int) -> int:
        """Steps further and further from the crossing: one channel more may be slower, so times do not simply fall."""
        near, far = 1, 2
        while near < max(self.steps.last // 4, 2):
            for step in (center - near, center + near):
                if 0 < step <= self.steps.last and self._taken(step):
                    return step
            near, far = far, near + far
        return self._nearest()

    def _nearest(self) -> int:
        """The nearest step that was tried, if it is near enough when measured longer."""
        for step in sorted(self.ratio_at, key=lambda s: abs(self.ratio_at[s] / self.goal - 1))[:3]:
            if step not in self.certain:
                self._measure(step, longer=3)
            if self._close(step, TOLERANCE):
                return step
        near = min(self.ratio_at, key=lambda s: abs(self.ratio_at[s] / self.goal - 1))
        raise InputError(
            f"budget: no cut was measured within {TOLERANCE:.0%} of {self.goal:.3g} of the unpruned model's latency; the "
            f"nearest has {self.ratio_at[near]:.3g} of it. Ask for that, or try when the machine has less else to do"
        )
