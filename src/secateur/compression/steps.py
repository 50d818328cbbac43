"""The one call to a goal: score, cut, repair, train with the original as teacher, rate; until the goal or the cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from torch import nn

from secateur.compression.choosing import Scoring, calibration, smaller
from secateur.compression.costs import Costs
from secateur.compression.journal import Journal, Trial
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.quality import Quality
from secateur.labelled import Samples
from secateur.result import Result
from secateur.saving import load
from secateur.state import check_module, digest, restore, snapshot, tensors, usual
from secateur.train import distill
from secateur.train.options import TrainOptions
from secateur.types import ExampleInputs, with_changes
from secateur.untouched import copied

__all__ = ["compress"]

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
    """docstring below."""
    chosen = with_changes(options or CompressOptions(), changes, "option of compress")
    check_module(model, "compress")
    walk = _Walk.begun(model, example_inputs, Goal.of(goal), data, validation, chosen, folder, progress)
    return walk.run()


@dataclass(eq=False)
class _Walk:
    """A compression under way."""

    original: nn.Module
    inputs: ExampleInputs
    goal: Goal
    data: Samples
    options: CompressOptions
    quality: Quality
    costs: Costs
    scoring: Scoring
    journal: Journal
    started: float

    def run(self) -> Result:
        """Try until the goal is reached, or cannot be."""
        best = self._best()
        while not self.journal.done:
            target = self._next_target()
            if target is None:
                break
            trial, result = self._try(best, target)
            self.journal.trials.append(trial)
            ...
