"""Magnitude: what is small is needed least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.checks import check_number
from secateur.criteria.base import CriterionBase
from secateur.criteria.weight_rows import Reduce, Side, check_reduce, check_side, reduced, side_rows, weights_of
from secateur.types import Site, Sites

__all__ = ["Magnitude"]


@dataclass(frozen=True)
class Magnitude(CriterionBase):
    """Scores a weight by its absolute value, and a channel by the p-norm of the weights that produce it.

    The norm of a channel is taken over its incoming weights, biases left out (Li et al., 2017; with p = 2 the neuron
    pruning of Fathollahi, 2022). Where several layers produce the same channel, as around a residual connection, it is
    the norm over all of them together.

    Attributes:
        p: the order of the norm, ≥ 1; infinity for the greatest absolute weight.
        side: the weights of a channel to look at: ``"incoming"``, ``"outgoing"``, or ``"all"`` that goes with it.
        reduce: how several weights of a tied group become one score; ``"joint"`` takes one norm over all of them.

    >>> from secateur.structure import channels, weights
    >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    >>> model[0].weight.data = torch.tensor([[3.0, 4.0], [0.0, -1.0]])
    >>> Magnitude(p=2)(model, channels(model, torch.zeros(1, 2)))
    {'0': tensor([5., 1.])}
    >>> Magnitude()(model, weights(model, ignore=["2.*"]))
    {'0.weight': tensor([[3., 4.],
            [0., 1.]])}
    """

    p: float = 2
    side: Side = "incoming"
    reduce: Reduce = "joint"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "[1, inf]", "1, 2 and inf are usual", p=self.p)
        check_side(self, self.side)
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        tensors = weights_of(model, sites)
        with torch.no_grad():
            return {name: self._of_site(tensors, site) for name, site in sites.items()}

    def _of_site(self, tensors: dict[str, Tensor], site: Site) -> Tensor:
        if site.kind == "weight":
            return tensors[site.name].detach().abs()
        return reduced(side_rows(tensors, site, self.side), self._norm, self.reduce)

    def _norm(self, rows: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(rows, ord=self.p, dim=1)
        return norm
