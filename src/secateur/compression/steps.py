"""The one call to a goal: score, cut, repair, train with the original as teacher, rate; until the goal or the cost."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from time import monotonic
from typing import Any

import torch
from torch import nn

from secateur.allocate.goals import UnreachableError
from secateur.calls import training
from secateur.checks import check_options
from secateur.compression.checking import cuttable
from secateur.compression.choosing import Chosen, chosen, smaller
from secateur.compression.costs import Costs
from secateur.compression.delivery import delivered
from secateur.compression.given_steps import GivenSteps
from secateur.compression.history import Compression, in_words, nothing_narrower
from secateur.compression.journal import Trial, least_cost
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.saved_trials import load_choice, load_trial, save_choice, save_trial
from secateur.compression.work import CHECKPOINT, OUT_OF_TIME, Task, Work
from secateur.copies import copied
from secateur.deadline import OutOfTime
from secateur.labelled import Samples
from secateur.result import Result
from secateur.structure import channels
from secateur.types import ExampleInputs, with_changes

__all__ = ["compress"]

CHOICE = "trial-{}.choice.json"
"""A file of the trial under way."""

SLACK = 0.02
"""By how much less than the goal is aimed at where costs are measured times, which vary by about so much."""


@training
def compress(
    model: nn.Module,
    example_inputs: ExampleInputs,
    goal: Mapping[str, float] | None,
    data: Samples,
    validation: Samples,
    options: CompressOptions | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **changes: Any,
) -> Result:
    """Return the smallest copy of a trained model that is nearly as good: cut, trained back, verified and measured.

    The goal is approached in steps. In each, all units are scored together, as many are cut as the step asks for, the
    layers that lost inputs are repaired, and the model is trained a little with the original as its teacher. A step
    that costs more of the metric than it may is taken back, and a smaller one tried. All choices are made on the
    training and validation data; rate what comes back on data that were in neither.

    With ``steps=[Prune(…), LowRank(…), Share(…), Quantize(…)]`` these are taken instead, in their order: each is followed by
    the same training, which leaves zeros zero, shared values shared and rounded ones rounded, and each is taken back
    that leaves the metric more than `max_drop` below the original's. Steps that look at data and have none get the
    first `samples` of the training data.

    Args:
        model: a trained module; it is left as it is.
        example_inputs: what it is called with where it will run: latency is that of this batch.
        goal: a fraction of what the original uses: ``{"latency": 0.5}``, or ``macs``, ``parameters``, ``bytes``. Where the
            steps are given, None, or what they are judged by.
        data: training data, as `distill` takes them; without labels the original's answers are all that is trained on.
        validation: data that the metric is taken on.
        options: what to choose; see `CompressOptions`.
        folder: where all that is worked out is kept, so that the same call goes on where a killed one was, and where the
            outcome is put: the result as `Result.save` writes it (``model``, for `load`), the file for the runtime where
            it has files (``model.onnx``, run and compared with torch), and the report (``report.txt``,
            ``report.json``). The same call again rewrites nothing. None keeps nothing.
        progress: say on standard error what is done, and how long it may take.
        changes: single options by name, such as ``max_drop=0.02, runtime="eager"``; they win over `options`.

    Returns:
        The result, timed in the runtime; its ``history`` is the `Compression` (of given steps, the `Combination`), with all
        that was tried, whether the goal was reached, and all that is needed to repeat it. Where nothing was good enough, nothing is removed.

    Raises:
        InputError, UnknownNameError: an option out of range, or data that do not fit.
        FileError: the folder holds another compression, or cannot be written.
        MissingLibraryError, ExportError: the runtime that was asked for is not installed, or does not take the model.
        TraceError, CutError: see `channels` and `cut`.
    """
    check_options("compress", CompressOptions, or_none=True, options=options)
    settled = with_changes(options or CompressOptions(), changes, "option of compress")
    goal_read = None if goal is None and settled.given_steps else Goal.of(goal)
    task = Task(model, example_inputs, goal_read, data, validation, settled, folder, progress)
    work: Work[Any] = GivenSteps(task) if settled.given_steps else _Walk(task)
    return work.run()


class _Walk(Work[Trial]):
    """A compression to a goal."""

    def __init__(self, task: Task) -> None:
        assert task.goal is not None
        self.goal = task.goal
        super().__init__(task)
        place = self.journal.place("costs.json")
        self.costs = Costs(self.goal, self.original, self.inputs, self.options, place, self.progress)
        self.costs.sites = self.sites

    def _attempts(self) -> type[Trial]:
        return Trial

    def _check_sites(self) -> None:
        self.sites = cuttable(self.original, self.inputs, self.options)

    def run(self) -> Result:
        """Try until the goal is reached or cannot be; return the best that there is."""
        best = self._resumed()
        while not self.journal.done:
            asked = self._next()
            if asked is None:
                break
            try:
                trial, result = self._try(best, asked)
            except OutOfTime:
                self._end(OUT_OF_TIME.format(self.options.time_limit))
                break
            if trial.accepted and result is not None:
                best = result
            self._note(trial, result)
        return self._finished(best)

    # What comes next depends on the trials alone, so that a resumed compression decides as it would have.

    def _next(self) -> float | None:
        """The cost to cut to next; None at the end, with the reason in the journal."""
        trials, goal = self.journal.trials, self.goal.fraction
        best = least_cost(self.journal)
        refused = [trial for trial in trials if not trial.accepted]
        if ending := self._ending(refused, best):
            self._end(ending)
            return None
        if refused and refused[-1].asked < best:
            return sqrt(best * refused[-1].asked)
        return max(goal, best * float(goal ** (1 / self.options.count)))

    def _ending(self, refused: Sequence[Trial], best: float) -> str:
        """Why it ends; empty where it goes on."""
        if best <= self.goal.fraction:
            return "the goal is reached"
        if self.deadline.over:
            return OUT_OF_TIME.format(self.options.time_limit)
        if len(refused) > self.options.retries:
            within = "" if refused[-1].cost is None else f" within max_drop={self.options.max_drop:g}"
            return f"the goal cannot be had{within}"
        return ""

    def _try(self, best: Result, asked: float) -> tuple[Trial, Result | None]:
        began, number = monotonic(), len(self.journal.trials) + 1
        now = self.journal.accepted[-1] if self.journal.accepted else None
        aimed = asked * (1 - SLACK if self.goal.what == "latency" else 1)
        self.clock.begin()
        self.clock.say(f"trial {number}: to {asked:.1%} of the {self.goal.what}")
        try:
            with self.deadline.enforced():
                choice = self._choice(best.model, number, aimed)
                result = smaller(best.model, choice, aimed, self.costs, self.scoring, self.options)
        except UnreachableError as error:
            base, seconds = now.number if now else 0, monotonic() - began
            why = nothing_narrower(error.least, self.goal.what)
            return Trial(number, base, asked, None, None, None, False, why, seconds), None
        untrained, floor = self.quality(result.model), self.floor
        self.clock.lap("cut", aside=self.costs.seconds if number == 1 else 0.0)
        metric = self._trained_back(result.model, untrained, number, is_last=choice.cost <= self.goal.fraction)
        why = "good enough" if metric >= floor else f"{self.quality.name} fell below {floor:.4g}"
        if choice.cost >= least_cost(self.journal):
            why = f"no less {self.goal.what} than before"
        good = why == "good enough"
        trial = Trial(
            number, now.number if now else 0, asked, choice.cost, metric, untrained, good, why, monotonic() - began
        )
        return trial, result.after(best) if best.edits else result

    def _choice(self, model: nn.Module, number: int, asked: float) -> Chosen:
        """Which units go; read where it was written before a compression was killed."""
        file = self.journal.place(CHOICE.format(number))
        if file is not None and file.exists():
            return load_choice(file, channels(model, self.inputs, self.options.ignore))
        choice = chosen(model, asked, self.costs, self.scoring, self.options, self.quality)
        if file is not None:
            save_choice(file, choice)
        return choice

    def _note(self, trial: Trial, result: Result | None) -> None:
        folder = self.journal.place(f"trial-{trial.number}")
        if folder is not None and result is not None and trial.accepted:
            save_trial(folder, result)
        self.journal.trials.append(trial)
        self.journal.write()
        self.journal.forget(CHOICE.format(trial.number), CHECKPOINT.format(trial.number, "*"))
        self.clock.say(
            in_words(trial, self.journal.trials, self.goal.what, self.quality.name, self.journal.baseline["metric"])
        )

    def _resumed(self) -> Result:
        """The last model that was good enough; the original where there is none."""
        sites = self.costs.sites
        whole = {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
        if not self.journal.accepted:
            return Result(copied(self.original), self.original, sites, whole, (), inputs=self.inputs)
        folder = self.journal.place(f"trial-{self.journal.accepted[-1].number}")
        assert folder is not None
        return load_trial(folder, self.original, sites, self.inputs)

    def _finished(self, best: Result) -> Result:
        history = Compression.of(self.journal, self.goal, self.quality.name, self.quality.note)
        whole = replace(best, history=history, inputs=self.inputs)
        return delivered(whole, self.journal, self.options, hurried=self._out_of_time)
