"""Transforms: what makes a model smaller in another way than by cutting, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.transforms.base import Transform, Transformed
from secateur.transforms.low_rank import LowRank
from secateur.transforms.tensor_factors import FACTORISATIONS, factor_layer

__all__ = ["FACTORISATIONS", "TRANSFORMS", "LowRank", "Transform", "Transformed", "factor_layer"]

TRANSFORMS: Mapping[str, type[Transform]] = {transform.kind: transform for transform in (LowRank,)}
"""The transforms by name."""
