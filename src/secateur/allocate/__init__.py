"""How much to remove where: a fraction for each site, by rule or by what it was found to bear, or masks for a budget."""

from secateur.allocate.budgets import BUDGETS, budget
from secateur.allocate.dynamic import Choices, Portions
from secateur.allocate.ratios import by_sensitivity, erk, uniform
from secateur.allocate.scan import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "BUDGETS",
    "Choices",
    "Portions",
    "Sensitivity",
    "SensitivityRow",
    "budget",
    "by_sensitivity",
    "erk",
    "sensitivity",
    "uniform",
]
