"""The one call to a goal: a trained model and what it may cost → the smallest that is nearly as good."""

from secateur.compression.combination import Combination
from secateur.compression.history import Compression
from secateur.compression.journal import StepTrial, Trial
from secateur.compression.options import CompressOptions, Goal
from secateur.compression.quality import METRICS
from secateur.compression.steps import compress
from secateur.types import Metric

__all__ = [
    "METRICS",
    "Combination",
    "CompressOptions",
    "Compression",
    "Goal",
    "Metric",
    "StepTrial",
    "Trial",
    "compress",
]
