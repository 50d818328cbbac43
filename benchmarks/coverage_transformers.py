"""Tiny models of the transformers families, from configurations, with no download."""

from __future__ import annotations

import families_pairs
import families_pictures
import families_text
from families import MODELS

__all__ = ["MODELS"]

# Each registers its families when it is imported.
_ = (families_text, families_pairs, families_pictures)
