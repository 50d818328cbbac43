"""One cut of a compression: which units go, and the weights that make up for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from secateur.allocate import budget, plan_jointly
from secateur.allocate.goals import UnreachableError
from secateur.compression.costs import Costs, now
from secateur.compression.options import CompressOptions
from secateur.criteria import by_name
from secateur.criteria.base import scores_of
from secateur.criteria.joint_loss_change import JointLossChange, JointWorth
from secateur.labelled import SampleBatch, Samples, batches, together
from secateur.rate.whole import answered
from secateur.repair import repair
from secateur.repair.norms import norms_of
from secateur.result import Method, Result
from secateur.solvers import StructuredOBS
from secateur.structure import channels
from secateur.structure.cutting import draft
from secateur.trees import side_by_side
from secateur.types import Criterion, Keep, Loss, Sites

__all__ = ["Chosen", "Scoring", "calibration", "chosen", "smaller"]

CORRECTIONS = 4
"""How often a cut is planned at most: anew where it was measured and found too slow, or faster than it needs to be."""

UNUSED = 0.03
"""What part of the original's latency a cut may save beyond what was asked before it is planned anew."""

PROBES, LEAST = 2, 4
"""Random directions of the outputs that units are scored by, for each unit over all samples; and for each sample."""


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
    sites = _of_original(channels(model, costs.inputs, options.ignore), costs.sites)
    scores = scores_of(_criterion(options, scoring, sites), model, sites, "compress")
    if isinstance(scores, JointWorth):
        keep = _by_costs(model, sites, scores, asked, costs)
    else:
        limit: dict[str, Any] = {costs.goal.what: asked / costs(model)}
        ways: dict[str, Any] = {"minimum": options.minimum, "round_to": options.round_to, "runtime": options.where}
        try:
            keep = budget(model, sites, scores, **limit, **ways)
        except UnreachableError as error:
            raise UnreachableError(str(error), error.least * costs(model)) from None  # of the original's
    return Chosen(keep, costs(draft(model, sites, keep)))


def _of_original(sites: Sites, original: Sites) -> Sites:
    """The sites that the original has, too: where one head is left, say, its dimensions are a site whose cost nobody knows."""
    return replace(sites, table={name: site for name, site in sites.items() if name in original})


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


def _criterion(options: CompressOptions, scoring: Scoring, sites: Sites) -> Criterion:
    """The criterion; one of that name looks at as many directions of the outputs as it takes to tell the units apart."""
    if not isinstance(options.criterion, str):
        return options.criterion
    criterion = by_name(options.criterion, scoring.data, scoring.loss)
    if isinstance(criterion, JointLossChange) and scoring.data[1][0].numel() > criterion.directions:
        units, samples = sum(site.size for site in sites.values()), len(scoring.data[1])
        enough = max(-(-PROBES * units // samples), LEAST)
        return replace(criterion, directions=min(enough, criterion.directions))
    return criterion


def _made_up(model: nn.Module, sites: Sites, keep: Keep, scoring: Scoring) -> tuple[Keep, nn.Module, tuple[str, ...]]:
    """Masks of the same widths, weights for what stays, and the names of what made them.

    Sites that the solver cannot choose from keep what was chosen, and their readers their weights.
    """
    solver = StructuredOBS(scoring.answers, rounds=0)  # the training that follows does the same, on more data
    able = solver.able(model, sites)
    fractions = {name: 1 - int(mask.sum()) / mask.numel() for name, mask in keep.items() if name in able}
    if not any(fractions.values()):
        return keep, model, ()
    solution = solver.solve(model, sites, fractions)
    solved, ways = solution.apply(model), ["structured-obs"]
    solved_keep = {name: solution.keep[name] for name in fractions}
    if norms_of(solved):
        solved, ways = repair(solved, sites, solved_keep, scoring.data, "norms"), [*ways, "norms"]
    return {**keep, **solved_keep}, solved, tuple(ways)


def _by_costs(model: nn.Module, sites: Sites, worth: JointWorth, asked: float, costs: Costs) -> Keep:
    """Masks that lose least for what they save; costs that are measured are measured of the cut model, and corrected.

    Of those that were measured, the dearest that is within what was asked; where none is, the cheapest.
    """
    table, best, best_rank = now(costs.table, sites), None, (False, -torch.inf)
    planned: list[Mapping[str, int]] = []
    for _ in range(CORRECTIONS):
        try:
            allocation = plan_jointly(worth, table, {costs.goal.what: asked})
        except UnreachableError:
            if best is None:
                raise
            break
        if costs.goal.what != "latency":
            return allocation.keep
        if allocation.kept in planned:
            break
        planned.append(allocation.kept)
        cost = costs(draft(model, sites, allocation.keep), quick=True)
        rank = (cost <= asked, cost if cost <= asked else -cost)
        if best is None or rank > best_rank:
            best, best_rank = allocation.keep, rank
        if cost >= 1 or asked - UNUSED <= cost <= asked:
            break
        table = table.corrected("latency", allocation.kept, cost * table.whole["latency"])
    assert best is not None
    return best
