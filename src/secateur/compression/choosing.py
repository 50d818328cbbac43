"""One cut of a compression: which units go, and the weights that make up for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from secateur.allocate import budget
from secateur.compression.options import CompressOptions
from secateur.criteria import by_name
from secateur.criteria.base import scores_of
from secateur.labelled import Batch, Samples, batches, together
from secateur.repair import repair
from secateur.result import Method, Result
from secateur.structure import channels
from secateur.types import ExampleInputs, Loss

__all__ = ["calibration", "smaller"]


def calibration(data: Samples, count: int, seed: int) -> Batch:
    """Return `count` samples of the training data: drawn with the seed where they are in memory, else the first.

    >>> len(calibration((torch.zeros(9, 1), torch.zeros(9)), 4, seed=0))
    4
    """
    whole = together(data)
    if whole is not None:
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        return whole.rows(order[:count])
    taken: list[Batch] = []
    for batch in batches(data, count, "training data"):  # type: ignore[arg-type]
        taken.append(batch)
        if sum(map(len, taken)) >= count:
            break
    return taken[0]


@dataclass(frozen=True, eq=False)
class Scoring:
    """What units are scored and layers repaired with: some inputs, with what the original answers to them.

    Units are scored by how far the answers move from the original's, so that no labels are needed: by the cross-entropy
    with its probabilities where it tells classes, else by the squared difference, each output by its own variance.

    Attributes:
        data: inputs ``(n, …)`` and what stands for targets.
        loss: of (outputs, those targets).
    """

    data: tuple[Any, Tensor]
    loss: str | Loss

    @classmethod
    def of(cls, original: nn.Module, batch: Batch, classes: bool) -> Self:
        """Ask the original.

        Args:
            original: the unpruned model.
            batch: the samples.
            classes: whether its outputs are the logits of classes.
        """
        outputs, _ = answers_of(original, [batch.without_targets()], "training data")
        if classes:
            return cls((batch.inputs, outputs.softmax(1)), "cross_entropy")
        return cls((batch.inputs, beside_one_another(outputs)), "mse")


def smaller(model: nn.Module, inputs: ExampleInputs, limit: Mapping[str, float], scoring: Scoring, options: CompressOptions) -> Result:
    """Return the model cut to what may be used, and repaired.

    Args:
        model: as it is now.
        inputs: example inputs.
        limit: the budget, as `secateur.allocate.budget` takes it: a fraction of what `model` uses.
        scoring: what to score and repair with.
        options: which criterion, rounding and minimum.
    """
    sites = channels(model, inputs, options.ignore)
    criterion = options.criterion
    if isinstance(criterion, str):
        criterion = by_name(criterion, scoring.data, scoring.loss)
    scores = scores_of(criterion, model, sites, "compress")
    keep = budget(model, sites, scores, **limit, minimum=options.minimum, round_to=options.round_to)
    repaired = repair(model, sites, keep, scoring.data)
    method = Method(repr(criterion), "global", rule={"budget": dict(limit)}, repair=("least-squares", "norms"))
    return Result.of(model, sites, keep, repaired=repaired, method=method)
