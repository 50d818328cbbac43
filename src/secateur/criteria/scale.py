"""The scale of batch norms (network slimming: Liu et al., 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.criteria.base import CriterionBase
from secateur.criteria.weight_rows import Reduce, check_channels, check_reduce, parameters_of, reduced
from secateur.types import Member, Site, Sites

__all__ = ["NormScale"]


@dataclass(frozen=True)
class NormScale(CriterionBase):
    """Scores a channel by the absolute scale γ of the norm that it goes through (Liu et al., 2017).

    Made for networks that were trained with an L1 penalty on these scales. A channel that goes through no norm is
    scaled by nothing, so its scale is 1; in such layers another criterion says more.

    Attributes:
        reduce: how several norms over the same channels become one score.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 4, 2))
    >>> model[1].weight.data = torch.tensor([0.5, -2.0, 0.1])
    >>> NormScale()(model, channels(model, torch.zeros(1, 1, 2, 2)))
    {'0': tensor([0.5000, 2.0000, 0.1000])}
    """

    reduce: Reduce = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_reduce(self, self.reduce)

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep."""
        check_channels(self, sites)
        parameters = parameters_of(model, sites)
        with torch.no_grad():
            return {name: self._of_site(parameters, site) for name, site in sites.items()}

    def _of_site(self, parameters: dict[str, nn.Parameter], site: Site) -> Tensor:
        rows = [_row(parameters[m.parameter], m) for m in site.members if _is_scale(m)]
        if not rows:
            like = next(parameters[m.parameter] for m in site.members)
            return torch.ones(site.shape, device=like.device, dtype=like.dtype)
        return reduced(rows, lambda r: r.abs().mean(1), self.reduce)


def _is_scale(member: Member) -> bool:
    return member.role == "scale" and len(member.shape) == 1 and member.parameter.rpartition(".")[2] == "weight"


def _row(scale: Tensor, member: Member) -> Tensor:
    assert member.index is not None
    return scale.detach()[member.index.to(scale.device)]
