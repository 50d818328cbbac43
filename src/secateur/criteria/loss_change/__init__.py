"""The measured importance of units: what the loss does when each one alone is removed.

`criterion` is the face; `tally` sums what an engine yields; `plain` is the engine that every other one must equal.
"""

from secateur.criteria.loss_change.criterion import LossChange
from secateur.criteria.loss_change.result import Base, UnitWorth

__all__ = ["Base", "LossChange", "UnitWorth"]
