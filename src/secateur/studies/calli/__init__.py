"""The studies after E. Çallı, 2017."""

from secateur.studies.calli import summation

__all__ = ["STUDIES"]

STUDIES = (summation.STUDY,)
