"""Steps that were given, in their order: each done, trained back, rated, measured; kept or taken back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from torch import nn

from secateur.checks import in_one_line
from secateur.compression.combination import Combination, figures, step_in_words
from secateur.compression.costs import usable
from secateur.compression.delivery import delivered
from secateur.compression.journal import StepTrial
from secateur.compression.options import CompressOptions, Step
from secateur.compression.saved_trials import load_trial, save_trial
from secateur.compression.work import CHECKPOINT, OUT_OF_TIME, Task, Work
from secateur.copies import copied
from secateur.deadline import OutOfTime
from secateur.measure import file_bytes, macs, parameters
from secateur.pruning import Prune
from secateur.result import Result
from secateur.runtimes import name_of
from secateur.structure import channels, weights
from secateur.transforms import LowRank, Replace
from secateur.types import (
    CutError,
    ExportError,
    InputError,
    Sites,
    TraceError,
    UnknownNameError,
    changed_options,
)

__all__ = ["GivenSteps"]

CANNOT = (InputError, UnknownNameError, CutError, TraceError)
"""What a step says that cannot be done to the model as it is then."""

FEW = {"warmup": 2, "repeats": 10}
"""How often both models are run after a step; what comes back is timed longer."""


class GivenSteps(Work[StepTrial]):
    """A compression by given steps."""

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.goal, self.asked = task.goal, task.options
        self.steps = [self._supplied(step) for step in task.options.given_steps]
        counts = {"macs": macs(self.original, self.inputs), "parameters": parameters(self.original).total}
        self.journal.baseline |= {**counts, "bytes": file_bytes(self.original)}

    def _attempts(self) -> type[StepTrial]:
        return StepTrial

    def run(self) -> Result:
        """Do one after the other, each to what the last good one left."""
        best = self._resumed()
        for number, step in enumerate(self.steps, 1):
            if number <= len(self.journal.trials):
                continue
            if self.deadline.over:
                self._end(OUT_OF_TIME.format(self.options.time_limit))
                break
            try:
                trial, result = self._try(best, step, number)
            except OutOfTime:
                self._end(OUT_OF_TIME.format(self.options.time_limit))
                break
            before = self._figures_of_last()
            self._note(trial, result)
            self.clock.say(step_in_words(trial, before, self.journal.baseline, self.quality.name))
            best = _composed(best, result) if trial.accepted and result is not None else best
        if not self.journal.done:
            self._end("all steps were taken")
        return self._finished(best)

    def _supplied(self, step: Step) -> Step:
        """A step with data to look at, where it has none of its own and looks at some."""
        if isinstance(step, Prune) and step.data is None:
            return replace(step, data=self.scoring.answers, loss=step.loss or self.scoring.loss)
        if isinstance(step, LowRank | Replace) and step.data is None:
            return replace(step, data=self.samples)
        return step

    def _try(self, best: Result, step: Step, number: int) -> tuple[StepTrial, Result | None]:
        began, words = monotonic(), changed_options(self.asked.given_steps[number - 1])
        self.clock.begin()
        self.clock.say(f"step {number}: {words}")
        try:
            with self.deadline.enforced():
                result = step(best.model, self.inputs)
        except CANNOT as error:
            seconds = monotonic() - began
            why = in_one_line(error)
            return StepTrial(number, words, None, None, None, [], None, None, False, why, seconds), None
        untrained = self.quality(result.model)
        self.clock.lap("cut")
        edits, is_last = (*best.edits, *result.edits), number == len(self.steps)
        metric = self._trained_back(result.model, untrained, number, edits, is_last=is_last)
        good = metric >= self.floor
        why = "good enough" if good else f"{self.quality.name} fell below {self.floor:.4g}"
        result = replace(result)  # what the report counted before the training is forgotten
        whole = _composed(best, result)
        report, latency = whole.report, self._latency(whole)
        counts = report.macs[1] if report.macs else 0, report.parameters[1], report.bytes[1]
        return StepTrial(number, words, *counts, latency, metric, untrained, good, why, monotonic() - began), result

    def _latency(self, result: Result) -> Sequence[float]:
        """Seconds of the original and of a result in the runtime; none where it does not run there."""
        try:
            timed = result.timed(self.options.where, **FEW)
        except ExportError as error:
            self.clock.say(f"WARNING: not timed: {in_one_line(error)}")
            return []
        assert timed.latency is not None
        return [*timed.latency]

    def _figures_of_last(self) -> dict[str, float]:
        accepted = self.journal.accepted
        return dict(figures(accepted[-1]) if accepted else self.journal.baseline)

    def _note(self, trial: StepTrial, result: Result | None) -> None:
        folder = self.journal.place(_folder(trial.number))
        if folder is not None and result is not None and trial.accepted:
            save_trial(folder, result)
        self.journal.trials.append(trial)
        self.journal.write()
        self.journal.forget(CHECKPOINT.format(trial.number, "*"))

    def _resumed(self) -> Result:
        """What the steps that were done already left."""
        best = Result(copied(self.original), self.original, Sites({}, {}), {}, (), inputs=self.inputs)
        for trial in self.journal.accepted:
            folder = self.journal.place(_folder(trial.number))
            assert folder is not None
            sites = self._sites(self.steps[trial.number - 1], best.model)
            best = _composed(best, load_trial(folder, best.model, sites, self.inputs))
        return best

    def _sites(self, step: Step, model: nn.Module) -> Sites:
        if not isinstance(step, Prune):
            return Sites({}, {})
        return channels(model, self.inputs, step.ignore) if step.unit == "channels" else weights(model, step.ignore)

    def _finished(self, best: Result) -> Result:
        options = self.options
        if self._out_of_time and (latency := self._last_latency()):
            # To make it ready once more would take time that is over.
            self.journal.latency = self.journal.latency or latency
            self.journal.write()
        elif self.asked.runtime is None and best.edits:
            options, _ = usable(replace(options, runtime=None), best.model, self.inputs)
            self.journal.runtime = name_of(options.where)
        within = True
        if self.goal is not None:
            within = self._cost(best, self.goal.what, options) <= self.goal.fraction
        history = Combination.of(self.journal, self.quality.name, self.quality.note, self.goal, within=within)
        whole = replace(best, history=history, inputs=self.inputs)
        return delivered(whole, self.journal, options, hurried=self._out_of_time)

    def _last_latency(self) -> list[float]:
        """Seconds of the original and of what comes back, from when it was tried; none where it was not timed."""
        return [*self.journal.accepted[-1].latency] if self.journal.accepted else []

    def _cost(self, best: Result, what: str, options: CompressOptions) -> float:
        """What comes back uses of something, as a part of what the original does."""
        if not self.journal.accepted:
            return 1.0
        if what == "latency":
            if not self.journal.latency:
                timed = best.timed(options.where)
                assert timed.latency is not None
                self.journal.latency = [*timed.latency]
            before, after = self.journal.latency
            return after / before
        return float(getattr(self.journal.accepted[-1], what) / self.journal.baseline[what])


def _composed(best: Result, result: Result) -> Result:
    """A step's result as one from the start."""
    if not best.edits:
        return replace(result, original=best.original)
    criterion = f"{best.method.criterion}, then {result.method.criterion}"
    warnings = (*best.method.warnings, *result.method.warnings)
    return replace(result, method=replace(result.method, criterion=criterion, warnings=warnings)).after(best)


def _folder(number: int) -> str:
    return f"trial-{number}"
