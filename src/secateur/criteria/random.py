"""Random: the control that every criterion must beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.criteria.base import CriterionBase
from secateur.structure.sites import check_same_model
from secateur.types import Sites

__all__ = ["Random"]


@dataclass(frozen=True)
class Random(CriterionBase):
    """Scores every unit with an independent uniform number in [0, 1) from its own seeded generator.

    The control of every honest comparison (Blalock et al., 2020).

    Attributes:
        seed: same seed, same scores; the global random state is neither used nor changed.

    >>> from secateur.structure import weights
    >>> model = nn.Linear(3, 1)
    >>> a, b = Random(seed=1)(model, weights(model)), Random(seed=1)(model, weights(model))
    >>> torch.equal(a["weight"], b["weight"])
    True
    """

    seed: int = 0

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return the scores, high = keep; each has its site's shape."""
        check_same_model(model, sites)
        generator = torch.Generator().manual_seed(self.seed)
        return {name: torch.rand(site.shape, generator=generator, dtype=torch.float32) for name, site in sites.items()}
