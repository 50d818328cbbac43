"""How much to remove where: a fraction for each site, by rule or by what it was found to bear, or masks for a budget."""

from secateur.allocate.budgets import BUDGETS, budget
from secateur.allocate.costing import cost_table, measured_losses
from secateur.allocate.dynamic import Choices, Portions
from secateur.allocate.joint import JointAllocation, plan_jointly
from secateur.allocate.multiples import Rounding, rounding
from secateur.allocate.plans import Allocation, plan
from secateur.allocate.ratios import by_sensitivity, erk, uniform
from secateur.allocate.scan import Sensitivity, SensitivityRow, sensitivity
from secateur.allocate.tables import CostTable, Losses, SiteCosts

__all__ = [
    "BUDGETS",
    "Allocation",
    "Choices",
    "CostTable",
    "JointAllocation",
    "Losses",
    "Portions",
    "Rounding",
    "Sensitivity",
    "SensitivityRow",
    "SiteCosts",
    "budget",
    "by_sensitivity",
    "cost_table",
    "erk",
    "measured_losses",
    "plan",
    "plan_jointly",
    "rounding",
    "sensitivity",
    "uniform",
]
