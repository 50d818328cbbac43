"""How a compression went, for the reader: what was tried, what each step cost and gained, and how to do it again."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Self

from secateur.compression.journal import Journal, Trial, least_cost
from secateur.compression.options import Goal

__all__ = ["Compression", "in_words", "nothing_narrower"]

LIBRARIES = ("secateur", "torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class Compression:
    """How a compression went: the `history` of its `Result`.

    Attributes:
        goal: what was to be reached.
        metric: the name of what was rated by.
        runtime: where latency was measured.
        baseline: the original's metric on the validation data.
        trials: all that was tried, in order.
        reached: whether the best is within the goal.
        why: what ended it, in a sentence.
        settings: all that decides the outcome: goal, options with the seed, and digests of the model and of the inputs
            that units were scored with.
        versions: of Python and the libraries.
        note: what is not rated, and what to give so that it is; empty where there is nothing to say.
    """

    goal: Goal
    metric: str
    runtime: str
    baseline: float
    trials: tuple[Trial, ...]
    reached: bool
    why: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    note: str = ""

    @classmethod
    def of(cls, journal: Journal[Trial], goal: Goal, metric: str, note: str = "") -> Self:
        """Read it from the journal of a compression that has ended."""
        return cls(
            goal,
            metric,
            journal.runtime,
            journal.baseline["metric"],
            tuple(journal.trials),
            least_cost(journal) <= goal.fraction,
            journal.done,
            journal.identity,
            versions(),
            note,
        )

    @property
    def best(self) -> Trial | None:
        """The trial that came back; None where none was good enough."""
        return next((trial for trial in reversed(self.trials) if trial.accepted), None)

    @property
    def rejected(self) -> tuple[Trial, ...]:
        """The trials that were taken back; `Trial.why` says why."""
        return tuple(trial for trial in self.trials if not trial.accepted)

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """Cost and metric of every model that was tried, the original first."""
        return (1.0, self.baseline), *(
            (trial.cost, trial.metric) for trial in self.trials if trial.cost is not None and trial.metric is not None
        )

    @property
    def front(self) -> tuple[tuple[float, float], ...]:
        """The points that none is better than in cost and metric, the dearest first.

        >>> trials = [Trial(1, 0, 0.5, 0.5, 0.90, 0.8, True, "", 1.0), Trial(2, 1, 0.3, 0.3, 0.91, 0.7, True, "", 1.0)]
        >>> Compression(Goal("macs", 0.3), "accuracy", "eager", 0.95, tuple(trials), True, "", {}, {}).front
        ((1.0, 0.95), (0.3, 0.91))
        """
        beaten = {(c, m) for c, m in self.points for k, n in self.points if k <= c and n >= m and (k, n) != (c, m)}
        return tuple(sorted({*self.points} - beaten, reverse=True))

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {**asdict(self), "front": self.front}

    def __str__(self) -> str:
        measure = self.goal.what
        asked = f"{measure} {self.goal.fraction:g}" + (f" in {self.runtime}" if measure == "latency" else "")
        if self.best is None:
            outcome = "nothing smaller was good enough; the original comes back"
        else:
            outcome = f"{self.best.cost:.1%} of it, {self.metric} {self.baseline:.4f} → {self.best.metric:.4f} on the validation data"
        rows = [in_words(trial, self.trials, measure, self.metric, self.baseline) for trial in self.trials]
        notes = [f"WARNING: {self.note}"] if self.note else []
        return "\n".join([f"goal {asked}: {self.why}; {outcome}", *notes, *rows])


def in_words(trial: Trial, trials: Sequence[Trial], what: str, metric: str, baseline: float) -> str:
    """Return what a trial cost and gained, in one line.

    Args:
        trial: the trial.
        trials: all so far, among which is the one that it began with.
        what: the goal's measure.
        metric: its name.
        baseline: the original's metric.

    >>> first = Trial(1, 0, 0.5, 0.48, 0.9, 0.85, True, "good enough", 12.0)
    >>> in_words(first, [], "macs", "accuracy", 0.91)
    'trial 1 on the original: macs 100.0% → 48.0%, accuracy 0.9100 → 0.9000 (0.8500 untrained), kept; 12 s'
    """
    base = f"trial {trial.base}" if trial.base else "the original"
    verdict = "kept" if trial.accepted else f"taken back: {trial.why}"
    if trial.cost is None:
        return f"trial {trial.number} on {base}: {what} {trial.asked:.1%} cannot be had: {trial.why}; {trial.seconds:.0f} s"
    earlier = {other.number: (other.cost, other.metric) for other in trials}
    cost, value = earlier.get(trial.base, (1.0, baseline))
    return (
        f"trial {trial.number} on {base}: {what} {cost:.1%} → {trial.cost:.1%}, {metric} {value:.4f} → {trial.metric:.4f} "
        f"({trial.untrained:.4f} untrained), {verdict}; {trial.seconds:.0f} s"
    )


def nothing_narrower(least: float, what: str) -> str:
    """Return why a goal cannot be had, and what to do.

    Args:
        least: what is left when all is removed that may be, as a fraction of the original's.
        what: the goal's measure.

    >>> nothing_narrower(0.0417, "macs")
    '4.2% are left with as much removed as may be; give a greater fraction, a smaller round_to or minimum, or ignore less'
    """
    more = ", or time another batch" if what == "latency" else ""
    return (
        f"{least:.1%} are left with as much removed as may be; give a greater fraction, a smaller round_to or minimum, "
        f"or ignore less{more}"
    )


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that are installed."""
    numbers = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            numbers[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return numbers
