"""One cut of a compression: which units go, and the weights that make up for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from secateur.allocate import budget, cost_table
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.quality import answers_of
from secateur.criteria import by_name
from secateur.criteria.base import scores_of
from secateur.criteria.joint_loss_change import JointWorth
from secateur.labelled import Batch, Samples, batches, together
from secateur.repair import repair
from secateur.result import Method, Result
from secateur.runtimes import Runtime
from secateur.structure import channels
from secateur.train.matching import output_tensors
from secateur.types import ExampleInputs, Keep, Loss, Scores, Sites

__all__ = ["Scoring", "calibration", "smaller"]


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
    for batch in batches(data, count, "training data"):
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

    def named(self) -> list[tuple[str, Tensor]]:
        """Return all tensors, with names."""
        return Batch(*self.data).named()

    @classmethod
    def of(cls, original: nn.Module, batch: Batch, classes: bool) -> Self:
        """Ask the original.

        Args:
            original: the unpruned model.
            batch: the samples.
            classes: whether its outputs are the logits of classes.
        """
        outputs, _ = answers_of(original, batch.without_targets(), "training data")
        if classes:
            return cls((batch.inputs, outputs.softmax(1)), "cross_entropy")
        return cls((batch.inputs, torch.cat([part.flatten(1) for part in output_tensors(outputs)], dim=1)), "mse")


def smaller(
    model: nn.Module,
    inputs: ExampleInputs,
    goal: Goal,
    share: float,
    scoring: Scoring,
    options: CompressOptions,
    runtime: Runtime,
) -> Result:
    """Return the model cut to what it may use, and repaired.

    Args:
        model: as it is now; it is left so.
        inputs: example inputs.
        goal: of what it may use less.
        share: the fraction of what `model` uses that it may use.
        scoring: what to score and repair with.
        options: which criterion, rounding and minimum.
        runtime: where latency is measured.

    Raises:
        InputError: the share cannot be reached.
    """
    sites = channels(model, inputs, options.ignore)
    criterion = options.criterion
    if isinstance(criterion, str):
        criterion = by_name(criterion, scoring.data, scoring.loss)
    scores = scores_of(criterion, model, sites, "compress")
    keep = _within(model, sites, scores, goal, share, options, runtime)
    repaired = repair(model, sites, keep, scoring.data)
    method = Method(repr(criterion), None, rule={"budget": {goal.what: share}}, repair=("least-squares", "norms"))
    return Result.of(model, sites, keep, repaired=repaired, method=method)


def _within(
    model: nn.Module,
    sites: Sites,
    scores: Scores,
    goal: Goal,
    share: float,
    options: CompressOptions,
    runtime: Runtime,
) -> Keep:
    """Keep masks within the budget: by what each site's removals cost and save where that is known, else by the scores."""
    limits: dict[str, Any] = {goal.what: share, "minimum": options.minimum, "round_to": options.round_to}
    if goal.what == "latency":
        limits["runtime"] = runtime
    if not isinstance(scores, JointWorth):
        return budget(model, sites, scores, **limits)
    where = {"runtime": runtime} if goal.what == "latency" else {}
    table = cost_table(
        model,
        sites,
        scores.losses(),
        measures=[goal.what],
        widths=16,
        minimum=options.minimum,
        round_to=options.round_to,
        **where,
    )
    keep = budget(model, sites, scores, costs=table, **limits)
    return scores.choose({name: int(mask.sum()) for name, mask in keep.items()})
