"""All criteria and solvers held against each other."""

from secateur.studies.shootout import (
    cells,
)

__all__ = ["STUDIES"]

STUDIES = (cells.STUDY,)
