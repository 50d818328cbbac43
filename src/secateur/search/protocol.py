"""On which data a search is judged: the author's way, and an honest one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from secateur.calls import usual
from secateur.checks import check_name
from secateur.labelled import Data
from secateur.result import Result
from secateur.search.fitness import Fitness, Rating
from secateur.search.run import Search
from secateur.search.space import Space
from secateur.types import Loss, Metric

__all__ = ["Judged", "Protocol", "judge"]

Protocol = Literal["honest", "thesis"]
"""``"honest"`` searches on the validation data and reports on the test data; ``"thesis"`` searches on the test data."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A search's result on the data that it was searched with, and on others that it never saw.

    Attributes:
        result: what was found.
        searched: its rating on the data that it was searched with, of one candidate.
        untouched: its rating on the others.
        protocol: which of the two is the one to report: untouched for ``"honest"``, searched for ``"thesis"``.
    """

    result: Result
    searched: Rating
    untouched: Rating
    protocol: Protocol

    @property
    def reported(self) -> Rating:
        """The rating that the protocol reports."""
        return self.untouched if self.protocol == "honest" else self.searched

    @property
    def gap(self) -> float:
        """By how many points of accuracy the data searched with flatter the result."""
        return float(self.searched.accuracy[0] - self.untouched.accuracy[0])


@usual
def judge(
    search: Search,
    space: Space,
    validation: Data,
    test: Data,
    *,
    protocol: Protocol = "honest",
    budget: float = 1050,
    seed: int = 0,
    alpha: float = 100.0,
    beta: float = 1.0,
    loss: str | Loss | None = None,
    metric: str | Metric | None = None,
) -> Judged:
    """Search on one split, and rate what was found on both.

    Args:
        search: how to search.
        space: what is searched.
        validation, test: two splits that share no sample, each as `Fitness` takes it.
        protocol: ``"honest"`` searches on the validation split; ``"thesis"`` on the test split, as Janjić (2018) did,
            and the validation split is then the untouched one.
        budget, seed: as a search takes them.
        alpha, beta, loss, metric: of `Fitness`.

    Raises:
        UnknownNameError: a protocol that is not known.

    >>> import torch
    >>> from torch import nn
    >>> from secateur.search.local import OneShotMagnitude
    >>> from secateur.structure import weights
    >>> model = nn.Linear(2, 2, bias=False)
    >>> model.weight.data = torch.eye(2)
    >>> data = (torch.eye(2), torch.tensor([0, 1]))
    >>> judged = judge(OneShotMagnitude(points=5), Space(model, weights(model)), data, data, budget=20)
    >>> judged.reported.fitness.tolist(), judged.gap
    ([0.75], 0.0)
    """
    check_name("protocol", protocol, get_args(Protocol))
    near, far = (validation, test) if protocol == "honest" else (test, validation)
    fitness, other = (Fitness(space, data, alpha, beta, loss=loss, metric=metric) for data in (near, far))
    result = search(fitness, space, budget, seed)
    log = result.history
    genes, offsets = log.genes[None], None if log.offsets is None else log.offsets[None]
    return Judged(result, fitness(genes, offsets), other(genes, offsets), protocol)
