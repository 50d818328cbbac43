"""Getting accuracy back without training: from what the unpruned model computes on a few unlabelled samples."""

from secateur.repair.consumers import REPAIRS, repair
from secateur.repair.norms import recalibrate

__all__ = ["REPAIRS", "recalibrate", "repair"]
