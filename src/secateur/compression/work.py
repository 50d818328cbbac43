"""What every compression does, whoever says what comes next: it is checked, rated, trained back and written down."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from time import monotonic
from typing import Any, Generic

import torch
from torch import nn

from secateur.compression.checking import check_data, check_model, check_training
from secateur.compression.choosing import Scoring, calibration
from secateur.compression.clock import Stopwatch
from secateur.compression.costs import usable
from secateur.compression.journal import Attempt, Journal
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.quality import Quality
from secateur.deadline import Deadline
from secateur.edits import Edit
from secateur.labelled import Samples, unlabelled
from secateur.result import Result
from secateur.runtimes import name_of
from secateur.state import digest, restore, snapshot, tensors
from secateur.train import distill
from secateur.train.callbacks import Callback, Run
from secateur.train.options import TrainOptions
from secateur.transforms import train_held
from secateur.types import ExampleInputs

__all__ = ["CHECKPOINT", "OUT_OF_TIME", "Task", "Work"]

OUT_OF_TIME = "the time limit of {:g} s was reached before the goal"

CHECKPOINT = "trial-{}-{}.checkpoint"
"""A file of the trial under way."""

TEMPERATURE = 1.0
"""Of the teacher's probabilities: what they are, and not their logits far from them, is to be learnt."""

CALMER = 0.1
"""By what the learning rate is multiplied after a training that made the model worse."""

RESERVED = 5
"""One part in so many of the time limit, at most, is kept for the end: export and timing of what comes back."""

FINISHES = 6
"""How often the training at the goal is gone through at most, while at its pace it would bring the metric where it must be."""


@dataclass(frozen=True, eq=False)
class Task:
    """What `compress` was called with."""

    original: nn.Module
    inputs: ExampleInputs
    goal: Goal | None
    data: Samples
    validation: Samples
    options: CompressOptions
    folder: str | os.PathLike[str] | None
    progress: bool


class Work(ABC, Generic[Attempt]):
    """A compression under way: model and data are checked, and the journal is open, when it is there."""

    def __init__(self, task: Task) -> None:
        original, inputs, goal, options = task.original, task.inputs, task.goal, task.options
        self.original, self.inputs, self.options = original, inputs, options
        self.progress, self.data = task.progress, task.data
        self.clock = Stopwatch(options, None if goal is None else goal.fraction, task.progress)
        self.deadline = Deadline.after(options.time_limit)
        check_model(original, inputs, options)
        for role, samples, metric in (
            ("training data", task.data, None),
            ("validation data", task.validation, options.metric),
        ):
            check_data(original, inputs, samples, role, classes=metric in (None, "accuracy"))
        self.quality = Quality.of(original, task.validation, options.metric)
        baseline = self.quality.baseline
        self.classes = self.quality.tells_classes and (options.loss in (None, "cross_entropy"))
        self.loss = options.loss or ("cross_entropy" if self.classes and self.quality.labelled else None)
        check_training(original, task.data, self.loss)
        self._check_sites()
        if self.quality.note:
            self.clock.say(f"WARNING: {self.quality.note}")
        self.samples = calibration(task.data, options.samples, options.seed).without_targets()
        identity = {
            "goal": None if goal is None else [goal.what, goal.fraction],
            "options": options.identity(),
            "model": digest(tensors(original).items()),
            "data": digest([("scored inputs", torch.cat([t.flatten() for _, t in self.samples.named()]))]),
        }
        self.journal: Journal[Attempt] = Journal.opened(
            None if task.folder is None else Path(task.folder), identity, self._attempts()
        )
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

    @abstractmethod
    def run(self) -> Result:
        """Do it; return the best that there is."""

    @abstractmethod
    def _attempts(self) -> type[Attempt]:
        """What the journal has a line for."""

    def _check_sites(self) -> None:
        """Refuse a model with nothing to be made smaller, where that can be told before it is begun."""
        return

    @cached_property
    def scoring(self) -> Scoring:
        """What units are scored with: asked of the original when it is needed first, as that takes long."""
        return Scoring.of(self.original, self.samples, self.classes)

    @property
    def floor(self) -> float:
        """What the metric must be."""
        return self.journal.baseline["metric"] - self.options.max_drop

    def _end(self, why: str) -> None:
        self.journal.done = why
        self.journal.write()

    def _has_other_time(self) -> bool:
        """Whether a time limit ended it that is not the one of now."""
        limits = ("",) if self.options.time_limit is None else ("", OUT_OF_TIME.format(self.options.time_limit))
        return self._out_of_time and self.journal.done not in limits

    @property
    def _out_of_time(self) -> bool:
        """Whether a time limit ended it."""
        return self.journal.done.startswith(OUT_OF_TIME.split("{")[0])

    def _trained_back(
        self, model: nn.Module, untrained: float, number: int, edits: Sequence[Edit] = (), *, is_last: bool
    ) -> float:
        """Train a smaller model; return the metric that it has then.

        At the end, or where the metric is too low, the longer training follows: once, and again as long as the rest of the
        way would be gone in the trainings that are left, at the pace of the last one. One that made the model worse is
        followed by a calmer one.
        """
        floor, trained = self.floor, partial(self._trained, model, number=number, edits=edits)
        metric, helped = trained(untrained, self.options.train, what="train")
        finish = self.options.finish
        if finish is None or (not is_last and metric >= floor):
            return metric
        calm = calmer(finish)
        finish = finish if helped else calm
        for left in reversed(range(FINISHES)):
            before = metric
            metric, helped = trained(before, finish, what=f"finish-{FINISHES - left}")
            hopeless = floor - metric > left * (metric - before)
            if floor <= metric or (hopeless and (helped or finish.lr == calm.lr)):
                break
            finish = replace(finish if helped else calm, seed=finish.seed + 1)
        return metric

    def _trained(
        self, model: nn.Module, metric: float, options: TrainOptions, number: int, what: str, edits: Sequence[Edit] = ()
    ) -> tuple[float, bool]:
        """Train a model of a metric; return the metric that it has then, and whether that helped: if not, it is undone."""
        if not options.epochs or self.deadline.over:
            return metric, True
        before = snapshot(model)
        train_held(model, edits, partial(self._train, options=options, number=number, what=what))
        after = self.quality(model)
        if after < metric:
            restore(model, before)
        return max(metric, after), after >= metric

    def _train(
        self, model: nn.Module, holds: Sequence[Callback], *, options: TrainOptions, number: int, what: str
    ) -> None:
        more: dict[str, Any] = {} if self.loss is None else {"loss": self.loss}
        distill(
            model,
            self.original,
            self.data if self.loss is not None else unlabelled(self.data),
            options=replace(options, seed=self.options.seed + options.seed),
            match="logits" if self.classes else "auto",
            temperature=TEMPERATURE,
            callbacks=[*holds, self.clock, _StopInTime(self.deadline)],
            checkpoint=self.journal.place(CHECKPOINT.format(number, what)),
            progress=self.progress,
            **more,
        )


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
