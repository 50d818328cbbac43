"""The one call to a goal: score, cut, repair, train with the original as teacher, rate; until the goal or the cost."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from torch import nn

from secateur.compression.choosing import chosen_units
from secateur.compression.costs import Costs
from secateur.compression.journal import Journal, Trial
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.quality import Quality
from secateur.result import Result
from secateur.saving import load
from secateur.state import check_module, digest, tensors, usual
from secateur.train import Data, distill
from secateur.train.options import TrainOptions, describe
from secateur.types import ExampleInputs, with_changes
from secateur.untouched import copied

__all__ = ["compress"]


@usual
def compress(
    model: nn.Module,
    example_inputs: ExampleInputs,
    goal: Mapping[str, float],
    data: Data,
    validation: Data,
    options: CompressOptions | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
    **changes: Any,
) -> Result:
    """Return the smallest copy of a trained model that is nearly as good: cut, trained back, verified and measured.

    The goal is approached in steps. In each, all units are scored together, as many are cut as the step asks for, the
    layers that lost inputs are repaired, and the model is trained a little with the original as its teacher. A step that
    costs more of the metric than it may is taken back, and a smaller one tried. All choices are made on the training
    and validation data; rate what comes back on data that were in neither.

    Args:
        model: a trained module; it is left as it is.
        example_inputs: what it is called with where it will run: the latency is that of this batch.
        goal: a fraction of what the original uses: ``{"latency": 0.5}``, or ``macs``, ``parameters``, ``bytes``.
        data: training data; without labels the original's answers are all that is trained on.
        validation: data that the metric is taken on.
        options: what to choose; see `CompressOptions`.
        folder: where all that is worked out is kept, so that the same call goes on where a killed one was; the model,
            its report and its file for the runtime are written there. None keeps nothing.
        progress: say on standard error what is done, and how long it may take.
        changes: single options by name; they win over `options`.

    Returns:
        The result, whose ``history`` is the `Compression`: what was tried, and whether the goal was reached.
    """
    chosen = with_changes(options or CompressOptions(), changes, "option of compress")
    check_module(model, "compress")
    return _Walk(model, example_inputs, Goal.of(goal), data, validation, chosen, folder, progress).run()
