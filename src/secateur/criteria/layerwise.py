"""Layer-adaptive magnitude: magnitude that may be compared between layers (Lee et al., 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.criteria.base import CriterionBase
from secateur.criteria.weight_rows import parameters_of, side_rows
from secateur.types import Sites

__all__ = ["Lamp"]


@dataclass(frozen=True)
class Lamp(CriterionBase):
    """Scores a weight by its square over the sum of the squares that are not smaller in its site (Lee et al., 2021).

    The order within a site is that of magnitude. Between sites the scores say what share of the remaining weight would
    go, so that pruning with scope "global" sets each layer's sparsity by itself. A channel's square is the sum over its
    incoming weights.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(3, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, -2.0, 2.0]])
    >>> Lamp()(model, weights(model))  # 1 / 9, 4 / 8, 4 / 4
    {'weight': tensor([[0.1111, 0.5000, 1.0000]])}
    """

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, in (0, 1]; high = keep."""
        parameters = parameters_of(model, sites)
        scores = {}
        with torch.no_grad():
            for name, site in sites.items():
                if site.kind == "weight":
                    squares = parameters[name].detach().double().square()
                else:
                    squares = torch.cat(side_rows(parameters, site), dim=1).double().square().sum(1)
                scores[name] = _lamp(squares.flatten()).reshape(site.shape).float()
        return scores


def _lamp(squares: Tensor) -> Tensor:
    ordered, order = torch.sort(squares, stable=True)
    left = ordered.flip(0).cumsum(0).flip(0)
    scores = torch.empty_like(squares)
    # Where nothing but zeros is left there is nothing to lose.
    scores[order] = torch.where(left == 0, left, ordered / left)
    return scores
