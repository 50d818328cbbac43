"""Transforms: what makes a model smaller in another way than by cutting, one file each."""

from secateur.transforms.base import Transform, Transformed
from secateur.transforms.codebooks import centroids
from secateur.transforms.quantize import Quantize
from secateur.transforms.sharing import HoldShared, Share

__all__ = ["HoldShared", "Quantize", "Share", "Transform", "Transformed", "centroids"]
