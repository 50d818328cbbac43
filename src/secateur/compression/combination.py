"""How given steps went, for the reader: what each cost and gained, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from secateur.compression.history import versions
from secateur.compression.journal import Journal, StepTrial
from secateur.compression.options import Goal

__all__ = ["Combination", "Figures", "step_in_words"]

COUNTED = ("macs", "parameters", "bytes")

Figures = Mapping[str, float]
"""Metric, MACs, parameters and bytes of a model."""


@dataclass(frozen=True)
class Combination:
    """How given steps went: the `history` of their `Result`.

    Attributes:
        metric: the name of what was rated by.
        runtime: where latency was measured.
        baseline: of the original: its metric, MACs, parameters and bytes.
        steps: as they were tried, in order.
        reached: whether all of them were good enough, and the goal, where there is one, is met.
        why: what ended it, in a sentence.
        settings: all that decides the outcome, and digests of the model and of the inputs that layers were looked at with.
        versions: of Python and the libraries.
        goal: what was to be reached; None where nothing was asked for.
        note: what is not rated, and what to give so that it is; empty where there is nothing to say.
    """

    metric: str
    runtime: str
    baseline: Figures
    steps: tuple[StepTrial, ...]
    reached: bool
    why: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    goal: Goal | None = None
    note: str = ""

    @classmethod
    def of(
        cls, journal: Journal[StepTrial], metric: str, note: str = "", goal: Goal | None = None, *, within: bool = True
    ) -> Combination:
        """Read it from the journal of steps that have ended; `within` says whether the goal is met."""
        steps = tuple(journal.trials)
        reached = within and all(step.accepted for step in steps)
        why = journal.done
        if goal is not None:
            why += f"; {goal.what} {goal.fraction:g} is {'' if within else 'not '}reached"
        settings = journal.identity
        return cls(metric, journal.runtime, journal.baseline, steps, reached, why, settings, versions(), goal, note)

    @property
    def best(self) -> StepTrial | None:
        """The step whose model came back; None where none was good enough."""
        return next((step for step in reversed(self.steps) if step.accepted), None)

    @property
    def rejected(self) -> tuple[StepTrial, ...]:
        """The steps that were taken back; `StepTrial.why` says why."""
        return tuple(step for step in self.steps if not step.accepted)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{len(self.steps) - len(self.rejected)} of {len(self.steps)} steps kept: {self.why}"]
        lines += [f"WARNING: {self.note}"] if self.note else []
        earlier = self.baseline
        for step in self.steps:
            lines.append(step_in_words(step, earlier, self.baseline, self.metric))
            earlier = figures(step) if step.accepted else earlier
        if self.best is not None:
            ends = ", ".join(f"{name} {_part(earlier, self.baseline, name)}" for name in COUNTED)
            change = f"{self.metric} {self.baseline['metric']:.4f} → {earlier['metric']:.4f}"
            lines.append(f"all together: {ends} of the original's, {change} on the validation data")
        return "\n".join(lines)


def figures(step: StepTrial) -> Figures:
    """Return what a step that was done came to."""
    values = {name: getattr(step, name) for name in ("metric", *COUNTED)}
    return {name: float(value) for name, value in values.items() if value is not None}


def step_in_words(step: StepTrial, earlier: Figures, baseline: Figures, metric: str) -> str:
    """Return what a step cost and gained, in one line.

    Args:
        step: the step.
        earlier: of the model that it was done to.
        baseline: of the original.
        metric: the metric's name.

    >>> whole = {"metric": 0.91, "macs": 1000, "parameters": 100, "bytes": 400}
    >>> step = StepTrial(1, "Share(bits=4)", 1000, 100, 100, [2e-3, 1e-3], 0.9, 0.85, True, "good enough", 3.0)
    >>> step_in_words(step, whole, whole, "accuracy")
    'step 1, Share(bits=4): bytes 100.0% → 25.0%, 2.00 times as fast as the original, accuracy 0.9100 → 0.9000 (0.8500 \
untrained), kept; 3 s'
    """
    head = f"step {step.number}, {step.step}"
    if step.metric is None:
        return f"{head}: left out: {step.why}; {step.seconds:.0f} s"
    now = figures(step)
    changed = [name for name in COUNTED if now[name] != earlier[name]]
    parts = [f"{name} {_part(earlier, baseline, name)} → {_part(now, baseline, name)}" for name in changed]
    parts.append(_speed(step.latency))
    parts.append(f"{metric} {earlier['metric']:.4f} → {step.metric:.4f} ({step.untrained:.4f} untrained)")
    parts.append("kept" if step.accepted else f"taken back: {step.why}")
    return f"{head}: {', '.join(parts)}; {step.seconds:.0f} s"


def _part(now: Figures, baseline: Figures, name: str) -> str:
    return f"{now[name] / baseline[name]:.1%}" if baseline[name] else "0"


def _speed(latency: Sequence[float]) -> str:
    if not latency:
        return "does not run in the runtime"
    before, after = latency
    return f"{before / after:.2f} times as fast as the original"
