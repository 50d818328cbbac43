"""What a search maximises: accuracy gained plus weights removed, on all data, on some of them, or estimated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.calls import usual
from secateur.checks import check_number, check_whole
from secateur.labelled import SampleBatch, Samples, batches, check_samples, together
from secateur.measure.quality import rated
from secateur.rate.masks import Removals
from secateur.rate.population import Population
from secateur.search.space import Genes, Offsets, Space
from secateur.structure.sites import with_zeros
from secateur.trees import joined
from secateur.types import InputError, Loss, Metric, Scores

__all__ = ["Fitness", "FitnessLike", "Rating", "Screened", "Surrogate"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rating:
    """What candidates are worth.

    Attributes:
        fitness: ``(candidates,)``, what is maximised; the unpruned model has 0.
        accuracy: ``(candidates,)``, the change of accuracy in percentage points.
        compression: ``(candidates,)``, the fraction of the units that are removed.
        exact: ``(candidates,)`` bool, whether the candidate was rated on all data; only such a one can be the result.
    """

    fitness: Floats
    accuracy: Floats
    compression: Floats
    exact: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.fitness)

    def part(self, index: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Rating:
        """Return the rating of some of the candidates."""
        return Rating(self.fitness[index], self.accuracy[index], self.compression[index], self.exact[index])

    @staticmethod
    def join(parts: Iterable[Rating]) -> Rating:
        """Return the rating of all parts after each other."""
        parts = list(parts)
        return Rating(
            np.concatenate([p.fitness for p in parts]),
            np.concatenate([p.accuracy for p in parts]),
            np.concatenate([p.compression for p in parts]),
            np.concatenate([p.exact for p in parts]),
        )


class FitnessLike(Protocol):
    """What a search calls: candidates in, their rating out.

    Attributes:
        cost: what rating one candidate costs, in evaluations of all data.
    """

    @property
    def cost(self) -> float:
        """What rating one candidate costs, in evaluations of all data."""
        ...

    def __call__(self, genes: Genes, offsets: Offsets | None = None) -> Rating:
        """Rate candidates."""
        ...


class Fitness:
    """α · change of accuracy + β · fraction removed, on all the data given (Janjić, 2018, equation 4.2).

    The change of accuracy is that of the fraction of right answers, so α = 100 weighs one percentage point as much as
    the removal of all units: the author's figures are Δ points + compression.

    Args:
        space: what is searched.
        data: a pair (inputs, labels), a `Split`, or batches of such pairs; right answers are those of one tensor of inputs.
        alpha: the weight of the change of accuracy.
        beta: the weight of the fraction removed.
        loss: where right answers say too little, as in a regression: the fall of this loss, as a fraction of the unpruned
            model's, stands for the change of accuracy. A name that `fit` takes, or a function of (outputs, targets).
        metric: what is gained of it stands for the change of accuracy: a function of (outputs, targets) of all samples
            that returns a number, high = good, or its import path. Each candidate takes a pass of the masked model.
        batch_size: samples a batch; the counts equal those of the masked model run in such batches.
        memory: bytes that populations may take beside what is kept of the data.

    Raises:
        InputError: the data do not fit the model, a weight is not finite, or both loss and metric are given.
        UnknownNameError: a loss or a metric of no known name.

    >>> from torch import nn
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> fitness = Fitness(Space(model, weights(model)), (torch.eye(2), torch.tensor([0, 1])))
    >>> rating = fitness(np.array([[True, False, False, True], [False] * 4]))
    >>> rating.accuracy.tolist(), rating.compression.tolist(), rating.fitness.tolist()
    ([0.0, -50.0], [0.5, 1.0], [0.5, -49.0])
    """

    cost = 1.0

    @usual
    def __init__(
        self,
        space: Space,
        data: Samples,
        alpha: float = 100.0,
        beta: float = 1.0,
        *,
        loss: str | Loss | None = None,
        metric: str | Metric | None = None,
        batch_size: int = 256,
        memory: int = 2**29,
    ) -> None:
        check_number("Fitness", "(-inf, inf)", alpha=alpha, beta=beta)
        self.space, self.alpha, self.beta, self.loss, self.metric = space, alpha, beta, loss, metric
        self.data, self._batch_size, self._memory = _joined(data), batch_size, memory
        self._right = self._losses = None
        self._check_ways()
        if metric is not None:
            self.start: float = self._measured(np.ones((1, space.size), dtype=np.bool_))[0]
        elif loss is not None:
            self._losses = Removals(space.model, space.sites, self.data, loss, memory, batch_size)
            self.start = float(self._losses([{}]).losses[0])
        else:
            right = {"batch_size": batch_size, "memory": memory}
            self._right = Population(space, self.data.inputs, self.data.targets, **right)
            self.start = int(self._right.right(np.ones((1, space.size), dtype=np.bool_))[0])

    def _check_ways(self) -> None:
        """Refuse two ways of rating at once, and biases where right answers are not counted."""
        if self.loss is not None and self.metric is not None:
            raise InputError("Fitness: loss and metric are two ways to rate a candidate; give one of them")
        if self.space.biases and not (self.loss is None and self.metric is None):
            raise InputError(
                "Fitness: biases are searched by right answers; leave out loss and metric, or the space's biases"
            )

    @property
    def population(self) -> Population:
        """What counts right answers."""
        if self._right is None:
            raise InputError(
                "Fitness: with a loss or a metric no right answers are counted, nor gradients taken; leave it out"
            )
        return self._right

    @property
    def samples(self) -> int:
        """How many samples a candidate is rated on."""
        return len(self.data)

    def _change(self, genes: Genes, offsets: Offsets | None) -> Floats:
        """What candidates gain: as a fraction of the samples, or of the unpruned model's loss; or of the metric itself."""
        if self.metric is not None:
            return np.array(self._measured(genes), dtype=np.float64) - self.start
        if self._losses is None:
            gained: Floats = (self.population.right(genes, offsets) - self.start) / self.samples
            return gained
        losses = self._losses([self.space.keep(row) for row in genes]).losses.numpy()
        return np.asarray((self.start - losses) / max(abs(self.start), 1e-12), dtype=np.float64)

    def _measured(self, genes: Genes) -> list[float]:
        """What the metric says of each masked model."""
        model, sites = self.space.model, self.space.sites
        assert self.metric is not None
        return [
            rated(with_zeros(model, sites, self.space.keep(row)), self.data, self.metric, self._batch_size, "Fitness")
            for row in genes
        ]

    def __call__(self, genes: Genes, offsets: Offsets | None = None) -> Rating:
        """Rate candidates ``(candidates, units)``, with what they add to the searched biases if any."""
        change = self._change(genes, offsets)
        removed = 1 - genes.sum(1) / genes.shape[1]
        return self.rated(change, removed, np.ones(len(genes), dtype=np.bool_))

    def rated(self, change: Floats, removed: Floats, exact: NDArray[np.bool_]) -> Rating:
        """Return the rating of a change of accuracy (a fraction) and a fraction removed."""
        return Rating(self.alpha * change + self.beta * removed, 100 * change, removed, exact)

    def subset(self, count: int, seed: int = 0) -> Fitness:
        """Return the fitness on `count` samples drawn at random: cheap, and not exact.

        Raises:
            InputError: there are not so many samples.
        """
        check_whole("subset", 1, "samples", most=self.samples, count=count)
        order = torch.randperm(self.samples, generator=torch.Generator().manual_seed(seed))[:count].sort().values
        data = self.data.changed(lambda part: part[order.to(part.device)])
        options: dict[str, Any] = {"batch_size": self._batch_size, "memory": self._memory}
        options |= {"loss": self.loss, "metric": self.metric}
        fitness = Fitness(self.space, data, self.alpha, self.beta, **options)
        fitness.cost = count / self.samples
        return fitness


class Surrogate:
    """Fitness with an estimated change of accuracy: the scores of what is removed, added up (Janjić, 2018, chapter 8).

    A score is taken for the harm that the removal of its unit does, as Taylor criteria estimate it (Molchanov et al.,
    2017). Points per unit of harm are fitted by least squares to `trials` random masks that are rated in full, of 5 to
    50 % removed. It rates at no cost and is never exact.

    Args:
        fitness: the fitness that is estimated.
        scores: one tensor a site, high = keep, from any criterion.
        trials: masks to calibrate with.
        seed: draws the masks.

    >>> from torch import nn
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> fitness = Fitness(Space(model, weights(model)), (torch.eye(2), torch.tensor([0, 1])))
    >>> cheap = Surrogate(fitness, {"weight": torch.eye(2)})
    >>> rating = cheap(np.array([[True, False, False, True]]))
    >>> rating.fitness.tolist(), rating.exact.tolist()
    ([0.5], [False])
    """

    cost = 0.0

    def __init__(self, fitness: Fitness, scores: Scores, *, trials: int = 20, seed: int = 0) -> None:
        check_whole("Surrogate", trials=trials)
        self.fitness, self.harm = fitness, fitness.space.flat(scores).astype(np.float64)
        rng = np.random.default_rng(seed)
        rates = np.linspace(0.05, 0.5, trials)[:, None]
        genes = rng.random((trials, len(self.harm))) >= rates
        lost, harm = -fitness(genes).accuracy / 100, self._harm(genes)
        self.slope = float(max(0.0, (lost * harm).sum() / max((harm * harm).sum(), 1e-300)))

    def _harm(self, genes: Genes) -> Floats:
        removed_harm: Floats = self.harm.sum() - genes @ self.harm
        return removed_harm

    def __call__(self, genes: Genes, offsets: Offsets | None = None) -> Rating:
        """Rate candidates by their estimate; what they add to biases is not seen."""
        removed = 1 - genes.sum(1) / genes.shape[1]
        return self.fitness.rated(-self.slope * self._harm(genes), removed, np.zeros(len(genes), dtype=np.bool_))


class Screened:
    """Rates all candidates cheaply, and the best of them again on all data.

    Only what was rated on all data can be the result of a search; the others go into its next step with their estimate.

    Args:
        full: the fitness on all data.
        cheap: what stands for it: `Fitness.subset`, or a `Surrogate`.
        share: the fraction of the candidates to rate again, in (0, 1]; one at least.

    >>> from torch import nn
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> full = Fitness(Space(model, weights(model)), (torch.eye(2), torch.tensor([0, 1])))
    >>> screened = Screened(full, full.subset(1), share=0.5)
    >>> screened(np.array([[True] * 4, [True, False, False, True]])).exact.tolist(), screened.cost
    ([False, True], 1.0)
    """

    def __init__(self, full: Fitness, cheap: FitnessLike, share: float = 0.2) -> None:
        check_number("Screened", "(0, 1]", share=share)
        self.full, self.cheap, self.share = full, cheap, share
        self.cost = cheap.cost + share * full.cost

    def __call__(self, genes: Genes, offsets: Offsets | None = None) -> Rating:
        """Rate candidates."""
        guess = self.cheap(genes, offsets)
        best = np.argsort(-guess.fitness, kind="stable")[: max(1, round(self.share * len(genes)))]
        sure = self.full(genes[best], None if offsets is None else offsets[best])
        rating = Rating(
            guess.fitness.copy(), guess.accuracy.copy(), guess.compression.copy(), np.zeros_like(guess.exact)
        )
        rating.fitness[best], rating.accuracy[best], rating.exact[best] = sure.fitness, sure.accuracy, True
        return rating


def _joined(data: Samples) -> SampleBatch:
    """All samples, in memory."""
    check_samples(data, "Fitness")
    whole: SampleBatch = together(data) or joined(list(batches(data, 256, "Fitness")))
    return whole
