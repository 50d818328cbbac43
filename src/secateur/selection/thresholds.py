"""Masks by what a score is, not by how many are to go: absolute, by quantile, or as an outlier of its layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.checks import check_number
from secateur.types import Scores

__all__ = ["AtMost", "BelowQuantile", "Outliers", "Rule"]

Rule = Callable[[Scores], dict[str, Tensor]]
"""From scores to keep masks; how many go is up to the scores, and may be none or all."""


@dataclass(frozen=True)
class AtMost:
    """Removes the units that score this or less (Çallı, 2017, section 2.2.1: the activation threshold).

    >>> AtMost(0)({"fc": torch.tensor([0.0, 3.0, 0.0])})
    {'fc': tensor([False,  True, False])}
    """

    limit: float = 0.0

    def __post_init__(self) -> None:
        check_number(self, "(-inf, inf)", limit=self.limit)

    def __call__(self, scores: Scores) -> dict[str, Tensor]:
        """Return the masks."""
        return {name: score > self.limit for name, score in scores.items()}


@dataclass(frozen=True)
class BelowQuantile:
    """Removes the units of each site that score below its quantile; equal scores go or stay together.

    Attributes:
        quantile: in [0, 1]; between two scores it is taken linearly.

    >>> BelowQuantile(0.5)({"fc": torch.tensor([4.0, 1.0, 3.0, 1.0])})
    {'fc': tensor([ True, False,  True, False])}
    """

    quantile: float

    def __post_init__(self) -> None:
        check_number(self, "[0, 1]", quantile=self.quantile)

    def __call__(self, scores: Scores) -> dict[str, Tensor]:
        """Return the masks."""
        return {name: s >= torch.quantile(s.double().flatten(), self.quantile) for name, s in scores.items()}


@dataclass(frozen=True)
class Outliers:
    """Removes the units of each site that score below mean − k · standard deviation (Çallı, 2017, section 2.2.2: k = 2).

    Mean and standard deviation (over all units, not one less) are those of the site's scores.

    >>> scores = torch.tensor([0.0, 9.0, 10.0, 10.0, 11.0, 10.0])      # mean 8.33, standard deviation 3.77
    >>> Outliers()({"conv": scores})
    {'conv': tensor([False,  True,  True,  True,  True,  True])}
    """

    deviations: float = 2.0

    def __post_init__(self) -> None:
        check_number(self, "[0, inf)", deviations=self.deviations)

    def __call__(self, scores: Scores) -> dict[str, Tensor]:
        """Return the masks."""
        exact = {name: score.double() for name, score in scores.items()}
        return {name: s >= s.mean() - self.deviations * s.std(correction=0) for name, s in exact.items()}
