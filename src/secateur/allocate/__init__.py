"""How much to remove where: one fraction a site, by a rule or by what each site was found to bear."""

from secateur.allocate.dynamic import Choices, Portions
from secateur.allocate.ratios import by_sensitivity, erk, uniform
from secateur.allocate.sensitivity import Sensitivity, SensitivityRow, sensitivity

__all__ = [
    "Choices",
    "Portions",
    "Sensitivity",
    "SensitivityRow",
    "by_sensitivity",
    "erk",
    "sensitivity",
    "uniform",
]
