"""When to cut: schedules that walk from a model to a smaller one, with a log of every step."""

from __future__ import annotations

from secateur.schedules.exhaustive import Exhaustive
from secateur.schedules.greedy import Greedy
from secateur.schedules.iterative import Iterative
from secateur.schedules.precomputed import Precomputed
from secateur.schedules.shrink import Shrink
from secateur.schedules.walk import PruningLog, Schedule, Step

__all__ = ["Exhaustive", "Greedy", "Iterative", "Precomputed", "PruningLog", "Schedule", "Shrink", "Step"]
