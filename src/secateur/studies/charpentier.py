"""L. Charpentier, 2020: what the studies after this thesis share."""

from __future__ import annotations

from secateur.lab.study import Source

__all__ = ["SOURCE"]

SOURCE = Source("charpentier", "L. Charpentier", 2020, "master's thesis draft, University of Oslo")
