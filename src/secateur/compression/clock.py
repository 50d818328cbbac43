"""What a compression says while it goes on, and how long the rest of it may take."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil, log
from time import monotonic

from secateur.compression.journal import StepTrial, Trial
from secateur.compression.options import CompressOptions
from secateur.progress import about_left
from secateur.train.callbacks import Callback, Run

__all__ = ["Stopwatch"]

SAY_AGAIN = 20.0
"""Seconds between two words about the time that is left, within one training."""


@dataclass(eq=False)
class Stopwatch(Callback):
    """Times the cuts and the epochs that are done, and foretells those to come.

    Attributes:
        options: how many steps of how many epochs there are, and the time limit.
        fraction: the goal; None where the steps were given.
        visible: whether anything is said, on standard error.
        trials: those that are over.
        started: the moment at which the compression began.

    >>> from secateur.train.options import TrainOptions
    >>> clock = Stopwatch(CompressOptions(steps=2, train=TrainOptions(epochs=2), finish=TrainOptions(epochs=4)), 0.25, False)
    >>> clock.left() is None      # nothing was timed
    True
    >>> clock.seconds, clock.counts = {"cut": 30.0, "epoch": 20.0}, {"cut": 1, "epoch": 2}
    >>> clock.done = {"cut": 1, "epoch": 2}     # one more cut is to come, and 2 and 4 epochs
    >>> clock.left()
    90.0
    """

    options: CompressOptions
    fraction: float | None
    visible: bool
    trials: Sequence[Trial] | Sequence[StepTrial] = ()
    started: float = field(default_factory=monotonic)
    seconds: dict[str, float] = field(default_factory=lambda: {"cut": 0.0, "epoch": 0.0})
    counts: dict[str, int] = field(default_factory=lambda: {"cut": 0, "epoch": 0})
    done: dict[str, int] = field(default_factory=lambda: {"cut": 0, "epoch": 0})
    _last: float = field(default_factory=monotonic)
    _said: float = 0.0

    def say(self, text: str) -> None:
        """Say a line, and the time that is left."""
        if not self.visible:
            return
        left = self.left()
        print(f"compress: {text}" + (f"; {about_left(left)}" if left else ""), file=sys.stderr)
        self._said = monotonic()

    def begin(self) -> None:
        """A trial begins."""
        self.done, self._last = {"cut": 0, "epoch": 0}, monotonic()

    def lap(self, kind: str, aside: float = 0.0) -> None:
        """A cut or an epoch is done; `aside` are seconds that went into something else."""
        now = monotonic()
        self.seconds[kind] += now - self._last - aside
        self.counts[kind] += 1
        self.done[kind] += 1
        self._last = now

    def on_epoch(self, run: Run) -> None:
        """Count it, and say now and then how long the rest may take."""
        self.lap("epoch")
        if monotonic() - self._said > SAY_AGAIN:
            self.say(f"epoch {run.records[-1].epoch} of {run.options.epochs}")

    def left(self) -> float | None:
        """Return about how many seconds are left; None where there is nothing to foretell by.

        Trials that will be taken back are not foreseen.
        """
        steps, finish = self._steps(), self.options.finish
        epochs = steps * self.options.train.epochs + (finish.epochs if steps and finish else 0)
        ahead = {"cut": steps, "epoch": epochs}
        if any(ahead[kind] and not self.counts[kind] for kind in ahead):
            return None
        rest = {kind: max(ahead[kind] - self.done[kind], 0) for kind in ahead}
        seconds = sum(rest[kind] * self.seconds[kind] / self.counts[kind] for kind in rest if rest[kind])
        limit = self.options.time_limit
        return seconds if limit is None else max(min(seconds, limit - (monotonic() - self.started)), 0.0)

    def _steps(self) -> int:
        """How many cuts lie between the best model that there is and the goal, or how many of the given steps are left."""
        if self.fraction is None or self.options.given_steps:
            return self.options.count - len(self.trials)
        costs = (trial.cost for trial in self.trials if isinstance(trial, Trial) and trial.accepted)
        best = min((cost for cost in costs if cost is not None), default=1.0)
        share = log(self.fraction / best) / log(self.fraction)
        return max(ceil(share * self.options.count - 1e-6), 1) if best > self.fraction else 0
