"""Transforms: what makes a model smaller in another way than by cutting, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.transforms.base import Transform, Transformed
from secateur.transforms.low_rank import LowRank
from secateur.transforms.structures import STRUCTURES, Replace
from secateur.transforms.tensor_factors import FACTORISATIONS, factor_layer

__all__ = [
    "FACTORISATIONS",
    "STRUCTURES",
    "TRANSFORMS",
    "LowRank",
    "Replace",
    "Transform",
    "Transformed",
    "factor_layer",
]

TRANSFORMS: Mapping[str, type[Transform]] = {transform.kind: transform for transform in (LowRank, Replace)}
"""The transforms by name."""
