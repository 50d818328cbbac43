"""What cuts do to a language model."""

from secateur.studies.language import cells

__all__ = ["STUDIES"]

STUDIES = (cells.STUDY,)
