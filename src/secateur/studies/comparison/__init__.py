"""Weight pruning against neuron pruning: after M. Fathollahi, 2022, the demonstration, and studies of one's own."""

from secateur.studies.comparison import (
    demo,
    fathollahi,
)

__all__ = ["STUDIES"]

STUDIES = (
    demo.STUDY,
    fathollahi.STUDY,
)
