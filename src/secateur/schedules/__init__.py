"""When to cut: schedules that walk from a model to a smaller one, with a log of every step."""

from __future__ import annotations

from secateur.schedules.cycles import Cycles, CycleTraining
from secateur.schedules.exhaustive import Exhaustive
from secateur.schedules.greedy import Greedy
from secateur.schedules.iterative import Iterative
from secateur.schedules.precomputed import Precomputed
from secateur.schedules.shrink import Shrink
from secateur.schedules.walk import PruningLog, Schedule, Step
from secateur.selection import AtMost, BelowQuantile, Outliers

__all__ = [
    "AtMost",
    "BelowQuantile",
    "CycleTraining",
    "Cycles",
    "Exhaustive",
    "Greedy",
    "Iterative",
    "Outliers",
    "Precomputed",
    "PruningLog",
    "Schedule",
    "Shrink",
    "Step",
]
