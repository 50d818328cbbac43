"""One cut of a compression: which units go, and the weights that make up for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from secateur.allocate import budget
from secateur.allocate.goals import UnreachableError
from secateur.compression.costs import Costs
from secateur.compression.options import CompressOptions
from secateur.compression.planning import plans_within
from secateur.criteria import by_name
from secateur.criteria.base import DataCriterion, scores_of
from secateur.criteria.joint_loss_change import JointLossChange, JointWorth
from secateur.labelled import SampleBatch, Samples, batches, together
from secateur.measure import macs
from secateur.rate.whole import answered
from secateur.repair import repair
from secateur.repair.norms import norms_of
from secateur.result import Method, Result
from secateur.selection.uniform import uniform_sites
from secateur.solvers import StructuredOBS
from secateur.structure import channels
from secateur.structure.cutting import draft
from secateur.trees import numbers_within, side_by_side
from secateur.types import Criterion, Keep, Loss, RoundTo, Sites

__all__ = ["Chosen", "Scoring", "calibration", "chosen", "smaller"]

PASS = 2 * 10**9
"""About how many multiply-accumulates a pass through the original has, so that work can be ended between two of them."""

LEAST_SAMPLES, MOST_SAMPLES = 8, 500
"""Samples of such a pass."""

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
    with its probabilities where it tells classes, else by the squared difference, that of each of several outputs as a
    share of its variance.

    Attributes:
        data: inputs ``(n, …)`` and what stands for targets.
        loss: of (outputs, those targets).
        batch_size: samples a pass: so few that no pass takes long.
    """

    data: tuple[Any, Tensor]
    loss: str | Loss
    batch_size: int = MOST_SAMPLES

    @property
    def answers(self) -> tuple[Any, Tensor]:
        """The inputs with the original's answers: the classes themselves, where it tells classes."""
        inputs, targets = self.data
        return (inputs, targets.argmax(1)) if self.loss == "cross_entropy" else (inputs, targets)

    @classmethod
    def of(cls, original: nn.Module, batch: SampleBatch, classes: bool) -> Self:
        """Ask the original.

        Args:
            original: the unpruned model.
            batch: the samples.
            classes: whether its outputs are the logits of classes.
        """
        samples = batch.without_targets()
        few = samples.rows(slice(2))
        size = PASS // max(macs(original, few.inputs) // len(few), 1)
        size = min(max(size, LEAST_SAMPLES), MOST_SAMPLES)
        outputs, _ = answered(original, samples, size, "training data", torch.device("cpu"))
        if classes:
            return cls((batch.inputs, outputs.softmax(1)), "cross_entropy", size)
        if isinstance(outputs, Tensor):
            return cls((batch.inputs, outputs), "mse", size)
        alike = _Alike.of(outputs)
        return cls((batch.inputs, alike.numbers(outputs)), alike, size)


@dataclass(frozen=True)
class _Alike:
    """The mean squared difference of several outputs from what `numbers` made of answers: all weigh alike.

    Attributes:
        spreads: what the numbers of each output are divided by, so that their variances add up to 1.
    """

    spreads: tuple[float, ...]

    @classmethod
    def of(cls, outputs: Any) -> Self:
        """Take the spreads from answers to many samples."""
        parts = [tensor.double().unsqueeze(-1).flatten(1) for tensor in numbers_within(outputs)]
        variances = (float((part - part.mean(0)).square().mean(0).sum()) for part in parts)
        return cls(tuple(sqrt(variance) or 1.0 for variance in variances))

    def numbers(self, outputs: Any) -> Tensor:
        """Return all outputs beside one another, ``(samples, numbers)``."""
        parts = zip(numbers_within(outputs), self.spreads, strict=True)
        return side_by_side([tensor / spread for tensor, spread in parts])

    def __call__(self, outputs: Any, answers: Tensor) -> Tensor:
        return mse_loss(self.numbers(outputs), answers)


@dataclass(frozen=True, eq=False)
class Chosen:
    """One cut, decided: what is left of each site, what that costs, and the sites of the model that is to be cut."""

    keep: Keep
    cost: float
    sites: Sites


Rating = Callable[[nn.Module], float]


def chosen(
    model: nn.Module, asked: float, costs: Costs, scoring: Scoring, options: CompressOptions, rating: Rating
) -> Chosen:
    """Return masks within what the model may use, by scores of all units together and what they save.

    Where there are several allocations, each is repaired and rated, and the best is taken.

    Args:
        model: as it is now; it is left so.
        asked: the fraction of what the original uses that it may use.
        costs: what is used, and by what.
        scoring: what to score with.
        options: which criterion, rounding and minimum.
        rating: of smaller models, high = good.

    Raises:
        UnreachableError: no widths cost so little.
    """
    all_sites = channels(model, costs.inputs, options.ignore)
    sites, widths = uniform_sites(model, _of_original(all_sites, costs.sites), options.uniform, "compress")
    scores = scores_of(_criterion(options, scoring, sites), model, sites, "compress")
    if isinstance(scores, JointWorth) and not widths:
        keeps: list[Keep] = plans_within(model, sites, scores, asked, costs)
    else:
        limit: dict[str, Any] = {costs.goal.what: asked / costs(model)}
        ways: dict[str, Any] = {
            "minimum": options.minimum,
            "round_to": _of(sites, options.round_to),
            "runtime": options.where,
        }
        ways["widths"] = widths
        try:
            keeps = [budget(model, sites, scores, **limit, **ways)]
        except UnreachableError as error:
            raise UnreachableError(str(error), error.least * costs(model)) from None  # of the original's
    cuts = [Chosen(keep, costs(draft(model, sites, keep)), all_sites) for keep in keeps]
    return cuts[0] if len(cuts) == 1 else max(cuts, key=lambda cut: rating(_repaired_draft(model, cut, scoring)))


def _repaired_draft(model: nn.Module, cut: Chosen, scoring: Scoring) -> nn.Module:
    """A cut of a model as `smaller` makes it, not verified."""
    keep, repaired, _ = _made_up(model, cut, scoring)
    return draft(repaired, cut.sites, keep)


def _of(sites: Sites, round_to: RoundTo | Literal["auto"]) -> RoundTo | Literal["auto"]:
    """The multiples of those sites that are still there."""
    return {n: m for n, m in round_to.items() if n in sites} if isinstance(round_to, Mapping) else round_to


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
    keep, repaired, repairs = _made_up(model, cut, scoring)
    method = Method(
        options.criterion if isinstance(options.criterion, str) else repr(options.criterion),
        None,
        rule={"budget": {costs.goal.what: asked}},
        repair=repairs,
        rounding=str(costs.rounding.seen_in(keep)),
    )
    return Result.of(model, cut.sites, keep, repaired=repaired, method=method)


def _criterion(options: CompressOptions, scoring: Scoring, sites: Sites) -> Criterion:
    """The criterion; one of that name looks at as many directions of the outputs as it takes to tell the units apart."""
    if not isinstance(options.criterion, str):
        return options.criterion
    criterion = by_name(options.criterion, scoring.data, scoring.loss)
    if isinstance(criterion, DataCriterion):
        criterion = replace(criterion, batch_size=scoring.batch_size)
    if isinstance(criterion, JointLossChange) and scoring.data[1][0].numel() > criterion.directions:
        units, samples = sum(site.size for site in sites.values()), len(scoring.data[1])
        enough = max(-(-PROBES * units // samples), LEAST)
        return replace(criterion, directions=min(enough, criterion.directions))
    return criterion


def _made_up(model: nn.Module, cut: Chosen, scoring: Scoring) -> tuple[Keep, nn.Module, tuple[str, ...]]:
    """Masks of the same widths, weights for what stays, and the names of what made them.

    Sites that the solver cannot choose from keep what was chosen, and their readers their weights.
    """
    sites, keep = cut.sites, cut.keep
    # The training that follows fits all layers together, on more data.
    solver = StructuredOBS(scoring.answers, batch_size=scoring.batch_size, rounds=0)
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
