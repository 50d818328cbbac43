"""Keep masks that meet a budget: of multiply-accumulates, parameters, bytes, or measured latency."""

from secateur.budget.choose import BUDGETS, budget

__all__ = ["BUDGETS", "budget"]
