"""The one call to a goal: score, cut, repair, train with the original as teacher, rate; until the goal or the cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import nn

from secateur.allocate.goals import UnreachableError
from secateur.checks import check_options
from secateur.compression.checking import check_data, check_model, check_training, cuttable
from secateur.compression.choosing import Chosen, Scoring, calibration, chosen, smaller
from secateur.compression.clock import Stopwatch
from secateur.compression.costs import Costs, usable
from secateur.compression.delivery import delivered
from secateur.compression.history import Compression, in_words, nothing_narrower
from secateur.compression.journal import Journal, Trial
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.quality import Quality
from secateur.compression.saved_trials import load_choice, load_trial, save_choice, save_trial
from secateur.deadline import Deadline, OutOfTime
from secateur.labelled import Samples, unlabelled
from secateur.result import Result
from secateur.runtimes import name_of
from secateur.state import digest, restore, snapshot, tensors, usual
from secateur.structure import channels
from secateur.train import distill
from secateur.train.callbacks import Callback, Run
from secateur.train.options import TrainOptions
from secateur.types import ExampleInputs, with_changes
from secateur.untouched import copied

__all__ = ["compress"]

OUT_OF_TIME = "the time limit of {:g} s was reached before the goal"

CHOICE, CHECKPOINT = "trial-{}.choice.json", "trial-{}-{}.checkpoint"
"""Files of the trial under way."""

TEMPERATURE = 1.0
"""Of the teacher's probabilities: what they are, and not their logits far from them, is to be learnt."""

CALMER = 0.1
"""By what the learning rate is multiplied after a training that made the model worse."""

RESERVED = 5
"""One part in so many of the time limit, at most, is kept for the end: export and timing of what comes back."""

FINISHES = 6
"""How often the training at the goal is gone through at most, while at its pace it would bring the metric where it must be."""

SLACK = 0.02
"""By how much less than the goal is aimed at where costs are measured times, which vary by about so much."""


@usual
def compress(
    model: nn.Module,
    example_inputs: ExampleInputs,
    goal: Mapping[str, float],
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

    Args:
        model: a trained module; it is left as it is.
        example_inputs: what it is called with where it will run: latency is that of this batch.
        goal: a fraction of what the original uses: ``{"latency": 0.5}``, or ``macs``, ``parameters``, ``bytes``.
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
        The result, timed in the runtime; its ``history`` is the `Compression`, with all that was tried, whether the goal
        was reached, and all that is needed to repeat it. Where nothing was good enough, nothing is removed.

    Raises:
        InputError, UnknownNameError: an option out of range, or data that do not fit.
        FileError: the folder holds another compression, or cannot be written.
        MissingLibraryError, ExportError: the runtime that was asked for is not installed, or does not take the model.
        TraceError, CutError: see `channels` and `cut`.
    """
    check_options("compress", CompressOptions, or_none=True, options=options)
    chosen = with_changes(options or CompressOptions(), changes, "option of compress")
    return _Walk(model, example_inputs, Goal.of(goal), data, validation, chosen, folder, progress).run()


class _Walk:
    """A compression under way."""

    def __init__(
        self,
        original: nn.Module,
        inputs: ExampleInputs,
        goal: Goal,
        data: Samples,
        validation: Samples,
        options: CompressOptions,
        folder: str | os.PathLike[str] | None,
        progress: bool,
    ) -> None:
        self.original, self.inputs, self.goal, self.options = original, inputs, goal, options
        self.progress, self.data = progress, data
        self.clock = Stopwatch(options, goal.fraction, progress)
        self.deadline = Deadline.after(options.time_limit)
        check_model(original, inputs, options)
        for role, samples, metric in (("training data", data, None), ("validation data", validation, options.metric)):
            check_data(original, inputs, samples, role, classes=metric in (None, "accuracy"))
        self.quality = Quality.of(original, validation, options.metric)
        baseline = self.quality.baseline
        self.classes = self.quality.tells_classes and (options.loss in (None, "cross_entropy"))
        self.loss = options.loss or ("cross_entropy" if self.classes and self.quality.labelled else None)
        check_training(original, data, self.loss)
        sites = cuttable(original, inputs, options.ignore)
        if self.quality.note:
            self.clock.say(f"WARNING: {self.quality.note}")
        self.samples = calibration(data, options.samples, options.seed).without_targets()
        identity = {
            "goal": [goal.what, goal.fraction],
            "options": options.identity(),
            "model": digest(tensors(original).items()),
            "data": digest([("scored inputs", torch.cat([t.flatten() for _, t in self.samples.named()]))]),
        }
        self.journal = Journal.opened(None if folder is None else Path(folder), identity)
        self.clock.trials = self.journal.trials
        self.deadline = self.deadline.sooner(sum(trial.seconds for trial in self.journal.trials))
        if self._has_other_time():
            self.journal.reopen()
        if not self.journal.baseline:
            began = monotonic()
            self.options, seconds = usable(options, original, inputs)
            # At the end the outcome is made ready and timed in the same way.
            self.deadline = self.deadline.sooner(min(monotonic() - began, (options.time_limit or 0) / RESERVED))
            self.journal.baseline = {"metric": baseline, "latency": seconds}
            self.journal.runtime = name_of(self.options.where)
            self.journal.write()
        elif self.options.runtime is None:
            self.options = replace(options, runtime=self.journal.runtime)
        self.costs = Costs(goal, original, inputs, self.options, self.journal.place("costs.json"), progress)
        self.costs.sites = sites

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

    @cached_property
    def scoring(self) -> Scoring:
        """What units are scored with: asked of the original when it is needed first, as that takes long."""
        return Scoring.of(self.original, self.samples, self.classes)

    # What comes next depends on the trials alone, so that a resumed compression decides as it would have.

    def _next(self) -> float | None:
        """The cost to cut to next; None at the end, with the reason in the journal."""
        trials, goal = self.journal.trials, self.goal.fraction
        best = self.journal.cost
        refused = [trial for trial in trials if not trial.accepted]
        if best <= goal:
            return self._end("the goal is reached")
        if self.deadline.over:
            return self._end(OUT_OF_TIME.format(self.options.time_limit))
        if len(refused) > self.options.retries:
            within = "" if refused[-1].cost is None else f" within max_drop={self.options.max_drop:g}"
            return self._end(f"the goal cannot be had{within}")
        if refused and refused[-1].asked < best:
            return sqrt(best * refused[-1].asked)
        return max(goal, best * float(goal ** (1 / self.options.steps)))

    def _end(self, why: str) -> float | None:
        self.journal.done = why
        self.journal.write()
        return None

    def _has_other_time(self) -> bool:
        """Whether a time limit ended it that is not the one of now."""
        limits = ("",) if self.options.time_limit is None else ("", OUT_OF_TIME.format(self.options.time_limit))
        return self._out_of_time and self.journal.done not in limits

    @property
    def _out_of_time(self) -> bool:
        """Whether a time limit ended it."""
        return self.journal.done.startswith(OUT_OF_TIME.split("{")[0])

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
        untrained, floor = self.quality(result.model), self.journal.baseline["metric"] - self.options.max_drop
        self.clock.lap("cut", aside=self.costs.seconds if number == 1 else 0.0)
        metric = self._trained_back(result.model, untrained, choice.cost, floor, number)
        why = "good enough" if metric >= floor else f"{self.quality.name} fell below {floor:.4g}"
        if choice.cost >= self.journal.cost:
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

    def _trained_back(self, model: nn.Module, untrained: float, cost: float, floor: float, number: int) -> float:
        """Train a cut model; return the metric that it has then.

        At the goal, or where the metric is too low, the longer training follows: once, and again as long as the rest of the
        way would be gone in the trainings that are left, at the pace of the last one. One that made the model worse is
        followed by a calmer one.
        """
        metric, helped = self._trained(model, untrained, self.options.train, number, "train")
        finish = self.options.finish
        if finish is None or (cost > self.goal.fraction and metric >= floor):
            return metric
        calm = calmer(finish)
        finish = finish if helped else calm
        for left in reversed(range(FINISHES)):
            before = metric
            metric, helped = self._trained(model, before, finish, number, f"finish-{FINISHES - left}")
            hopeless = floor - metric > left * (metric - before)
            if floor <= metric or (hopeless and (helped or finish.lr == calm.lr)):
                break
            finish = replace(finish if helped else calm, seed=finish.seed + 1)
        return metric

    def _trained(
        self, model: nn.Module, metric: float, options: TrainOptions, number: int, what: str
    ) -> tuple[float, bool]:
        """Train a model of a metric; return the metric that it has then, and whether that helped: if not, it is undone."""
        if not options.epochs or self.deadline.over:
            return metric, True
        before = snapshot(model)
        self._train(model, options, number, what)
        after = self.quality(model)
        if after < metric:
            restore(model, before)
        return max(metric, after), after >= metric

    def _train(self, model: nn.Module, options: TrainOptions, number: int, what: str) -> None:
        more: dict[str, Any] = {} if self.loss is None else {"loss": self.loss}
        distill(
            model,
            self.original,
            self.data if self.loss is not None else unlabelled(self.data),
            options=replace(options, seed=self.options.seed + options.seed),
            match="logits" if self.classes else "auto",
            temperature=TEMPERATURE,
            callbacks=[self.clock, _StopInTime(self.deadline)],
            checkpoint=self.journal.place(CHECKPOINT.format(number, what)),
            progress=self.progress,
            **more,
        )

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


def calmer(options: TrainOptions) -> TrainOptions:
    """Return the training with smaller steps, for a model that it made worse; a callable optimiser has a rate of its own."""
    return options if callable(options.optimizer) else replace(options, lr=options.lr * CALMER)


@dataclass(frozen=True, eq=False)
class _StopInTime(Callback):
    """Ends a training when the time limit is reached."""

    deadline: Deadline

    def on_step(self, run: Run) -> None:
        """Stop after this step."""
        run.stop = run.stop or self.deadline.over
