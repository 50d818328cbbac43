"""One cut of a compression: which units go, and the weights that make up for them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from secateur.allocate import budget, plan_jointly
from secateur.compression.costs import Costs, now
from secateur.compression.options import CompressOptions
from secateur.criteria import by_name
from secateur.criteria.base import scores_of
from secateur.criteria.joint_loss_change import JointWorth
from secateur.labelled import SampleBatch, Samples, batches, together
from secateur.rate.whole import answered
from secateur.repair import repair
from secateur.repair.norms import norms_of
from secateur.result import Method, Result
from secateur.solvers import StructuredOBS
from secateur.structure import channels
from secateur.structure.cutting import draft
from secateur.trees import side_by_side
from secateur.types import InputError, Keep, Loss, Sites

__all__ = ["Chosen", "Scoring", "calibration", "chosen", "smaller"]

CORRECTIONS = 4
"""How often a cut is planned anew after it was measured and found too slow."""


def calibration(data: Samples, count: int, seed: int) -> SampleBatch:
    """Return `count` samples of the training data: drawn with the seed where they are in memory, else the first.

    >>> len(calibration((torch.zeros(9, 1), torch.zeros(9)), 4, seed=0))
    4
    """
    whole = together(data)
    if whole is not None:
        order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(seed))
        return whole.rows(order[:count])
    taken: list[SampleBatch] = []
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

    @property
    def answers(self) -> tuple[Any, Tensor]:
        """The inputs with the original's answers: the classes themselves, where it tells classes."""
        inputs, targets = self.data
        return (inputs, targets.argmax(1)) if self.loss == "cross_entropy" else (inputs, targets)

    def named(self) -> list[tuple[str, Tensor]]:
        """Return all tensors, with names."""
        return SampleBatch(*self.data).named()

    @classmethod
    def of(cls, original: nn.Module, batch: SampleBatch, classes: bool) -> Self:
        """Ask the original.

        Args:
            original: the unpruned model.
            batch: the samples.
            classes: whether its outputs are the logits of classes.
        """
        samples = batch.without_targets()
        outputs, _ = answered(original, samples, len(samples), "training data", torch.device("cpu"))
        if classes:
            return cls((batch.inputs, outputs.softmax(1)), "cross_entropy")
        if isinstance(outputs, Tensor):
            return cls((batch.inputs, outputs), "mse")
        return cls((batch.inputs, side_by_side(outputs)), _distance)


def _distance(outputs: Any, answers: Tensor) -> Tensor:
    """The mean squared difference of several outputs from answers ``(samples, numbers)``."""
    return mse_loss(side_by_side(outputs), answers)


@dataclass(frozen=True, eq=False)
class Chosen:
    """One cut, decided: what is left of each site, and what that costs."""

    keep: Keep
    cost: float


def chosen(model: nn.Module, asked: float, costs: Costs, scoring: Scoring, options: CompressOptions) -> Chosen:
    """Return masks within what the model may use, by scores of all units together and what they save.

    Args:
        model: as it is now; it is left so.
        asked: the fraction of what the original uses that it may use.
        costs: what is used, and by what.
        scoring: what to score with.
        options: which criterion, rounding and minimum.

    Raises:
        UnreachableError: no widths cost so little.
    """
    sites = channels(model, costs.inputs, options.ignore)
    criterion = options.criterion
    if isinstance(criterion, str):
        criterion = by_name(criterion, scoring.data, scoring.loss)
    scores = scores_of(criterion, model, sites, "compress")
    if isinstance(scores, JointWorth):
        keep = _by_costs(model, sites, scores, asked, costs)
    else:
        limit: dict[str, Any] = {costs.goal.what: asked / costs(model)}
        ways: dict[str, Any] = {"minimum": options.minimum, "round_to": options.round_to, "runtime": options.where}
        keep = budget(model, sites, scores, **limit, **ways)
    return Chosen(keep, costs(draft(model, sites, keep)))


def smaller(
    model: nn.Module, cut: Chosen, asked: float, costs: Costs, scoring: Scoring, options: CompressOptions
) -> Result:
    """Return the model cut to the widths that were chosen, with weights that make up for what is gone.

    Which units go at a site is then for `StructuredOBS`, which fits their readers anew with every one that goes; where a
    site has no reader that it could fit, the units that were chosen go, and as much is repaired as can be.

    Args:
        model: as it is now; it is left so.
        cut: what was chosen.
        asked, costs, scoring, options: as for `chosen`.

    Raises:
        CutError: see `secateur.cut`.
    """
    sites = channels(model, costs.inputs, options.ignore)
    keep, repaired, repairs = _made_up(model, sites, cut.keep, scoring)
    method = Method(
        options.criterion if isinstance(options.criterion, str) else repr(options.criterion),
        None,
        rule={"budget": {costs.goal.what: asked}},
        repair=repairs,
        rounding=str(costs.rounding.seen_in(keep)),
    )
    return Result.of(model, sites, keep, repaired=repaired, method=method)


def _made_up(model: nn.Module, sites: Sites, keep: Keep, scoring: Scoring) -> tuple[Keep, nn.Module, tuple[str, ...]]:
    """Masks of the same widths, weights for what stays, and the names of what made them: the first that can."""
    fractions = {name: 1 - int(mask.sum()) / mask.numel() for name, mask in keep.items()}
    with suppress(InputError):
        solution = StructuredOBS(scoring.answers).solve(model, sites, fractions)
        solved = solution.apply(model)
        has_norms = bool(norms_of(solved))
        done = repair(solved, sites, solution.keep, scoring.data, "norms") if has_norms else solved
        return solution.keep, done, ("structured-obs", *(["norms"] if has_norms else []))
    with suppress(InputError):
        return keep, repair(model, sites, keep, scoring.data), ("least-squares", "norms")
    return keep, model, ()


def _by_costs(model: nn.Module, sites: Sites, worth: JointWorth, asked: float, costs: Costs) -> Keep:
    """Masks that lose least for what they save; costs that are measured are measured of the cut model, and corrected."""
    table = now(costs.table, sites)
    for _ in range(CORRECTIONS):
        allocation = plan_jointly(worth, table, {costs.goal.what: asked})
        if costs.goal.what != "latency":
            break
        cost = costs(draft(model, sites, allocation.keep), quick=True)
        if cost <= asked:
            break
        table = table.corrected("latency", allocation.kept, cost * table.whole["latency"])
    return allocation.keep
