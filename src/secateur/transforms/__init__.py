"""Transforms: what makes a model smaller in another way than by cutting, one file each."""

from secateur.transforms.base import Transform, Transformed

__all__ = ["Transform", "Transformed"]
