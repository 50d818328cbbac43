"""Redundancy: a filter that others resemble can go (He et al., 2019; Ayinde et al., 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.criteria.base import CriterionBase
from secateur.criteria.weight_rows import Reduce, channel_scores, check_reduce
from secateur.types import Sites

__all__ = ["Correlation", "GeometricMedian"]


@dataclass(frozen=True)
class GeometricMedian(CriterionBase):
    """Scores a channel by the sum of its distances to all others of its site (FPGM: He et al., 2019).

    A channel near the geometric median of its layer can be made up for by the others, however large its weights are.
    Distances are Euclidean, over the incoming weights.

    Attributes:
        reduce: how the layers of a tied group become one score.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> model[0].weight.data = torch.tensor([[0.0], [1.0], [5.0]])
    >>> GeometricMedian()(model, channels(model, torch.zeros(1, 1)))  # 1 + 5, 1 + 4, 5 + 4
    {'0': tensor([6., 5., 9.])}
    """

    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep."""
        return channel_scores(self, model, sites, _distances, self.reduce)


def _distances(rows: Tensor) -> Tensor:
    # Not by the matrix product, whose rounding would part two filters that are the same.
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


@dataclass(frozen=True)
class Correlation(CriterionBase):
    """Scores a channel by how little the direction of its weights is like that of its nearest neighbour.

    The score is 1 − the greatest absolute cosine between its incoming weights and another channel's of its site (after
    Ayinde et al., 2019): 0 where another one is its multiple, 1 where it stands at right angles to all.

    Of two that are alike both score low; remove in steps, scoring anew, where pairs matter.

    Attributes:
        reduce: how the layers of a tied group become one score.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> model[0].weight.data = torch.tensor([[1.0, 0.0], [-2.0, 0.0], [0.0, 3.0]])
    >>> Correlation()(model, channels(model, torch.zeros(1, 2)))
    {'0': tensor([0., 0., 1.])}
    """

    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, in [0, 1]; high = keep."""
        return channel_scores(self, model, sites, _lonely, self.reduce)


def _lonely(rows: Tensor) -> Tensor:
    directions = torch.nn.functional.normalize(rows.double(), dim=1)
    cosines = (directions @ directions.T).abs().fill_diagonal_(0)
    return (1 - cosines.amax(1)).clamp(0, 1).to(rows.dtype)
