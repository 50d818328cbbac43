"""What candidates are: units as one flat row of genes, True = keep, and numbers that are added to biases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from secateur.types import Sites

__all__ = ["Candidates", "Genes", "Offsets"]

Genes = NDArray[np.bool_]
"""Candidates: ``(candidates, units)`` bool, True = keep; one row is a chromosome."""

Offsets = NDArray[np.float64]
"""What is added to the searched biases: ``(candidates, biases)``."""


class Candidates(Protocol):
    """What candidates choose from, such as `secateur.search.Space`: units as one flat row of genes, and biases."""

    @property
    def model(self) -> nn.Module:
        """The model."""
        ...

    @property
    def sites(self) -> Sites:
        """Whose units the genes are, in this order."""
        ...

    @property
    def biases(self) -> Sequence[str]:
        """The parameters that a candidate adds to."""
        ...

    @property
    def size(self) -> int:
        """How many genes there are."""
        ...

    @property
    def bias_size(self) -> int:
        """How many numbers a candidate adds to the biases."""
        ...

    def keep(self, genes: Genes) -> dict[str, Tensor]:
        """The keep masks of one chromosome ``(units,)``."""
        ...

    def offset(self, offsets: Offsets | None) -> dict[str, Tensor]:
        """What one candidate adds to each bias."""
        ...

    def tensors(self, genes: Genes, offsets: Offsets | None = None) -> dict[str, Tensor]:
        """The parameters that one candidate changes."""
        ...
