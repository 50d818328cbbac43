"""Transforms: what makes a model smaller in another way than by cutting, one file each."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.transforms.base import Transform, Transformed
from secateur.transforms.codebooks import centroids
from secateur.transforms.csr import CsrLayer, CsrModel, CsrTiming, as_csr
from secateur.transforms.held import train_held
from secateur.transforms.low_rank import LowRank
from secateur.transforms.quantize import Quantize
from secateur.transforms.sharing import HoldShared, Share
from secateur.transforms.structures import STRUCTURES, Replace
from secateur.transforms.tensor_factors import FACTORISATIONS, factor_layer

__all__ = [
    "FACTORISATIONS",
    "STRUCTURES",
    "TRANSFORMS",
    "CsrLayer",
    "CsrModel",
    "CsrTiming",
    "HoldShared",
    "LowRank",
    "Quantize",
    "Replace",
    "Share",
    "Transform",
    "Transformed",
    "as_csr",
    "centroids",
    "factor_layer",
    "train_held",
]

TRANSFORMS: Mapping[str, type[Transform]] = {
    transform.kind: transform for transform in (LowRank, Replace, Share, Quantize)
}
"""The transforms by name."""
