"""A publication's figures, to stand beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Published"]

Points = Mapping[str, Mapping[float, tuple[float | None, float | None]]]


@dataclass(frozen=True)
class Published:
    """The figures of a publication on accuracy and loss.

    Attributes:
        baseline: accuracy and loss of the unpruned network.
        points: method → sparsity → (accuracy, loss); None where the text does not show the number.
        notes: how its ambiguous passages were read.

    >>> theirs = Published(points={"weight": {0.5: (0.8787, 0.3385)}})
    >>> theirs.at("weight", 0.5, 0), theirs.at("weight", 0.6, 0)
    (0.8787, None)
    """

    baseline: tuple[float | None, float | None] = (None, None)
    points: Points = field(default_factory=dict)
    notes: Sequence[str] = ()

    def at(self, method: str, sparsity: float, which: int) -> float | None:
        """Return the published accuracy (0) or loss (1) of a method at a sparsity, if there is one."""
        return (self.points.get(method, {}).get(sparsity) or (None, None))[which]

    def frame(self, which: int, name: str) -> DataFrame | None:
        """Return the published points of accuracy (0) or loss (1) as a data frame, None if there are none."""
        import pandas

        rows = [
            {"method": method, "sparsity": sparsity, name: pair[which]}
            for method, points in self.points.items()
            for sparsity, pair in points.items()
            if pair[which] is not None
        ]
        return pandas.DataFrame(rows) if rows else None
