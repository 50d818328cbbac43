"""Scores → keep masks: the only room in the project where the best are picked."""

from secateur.selection.choose import SCOPES, Scope, removed_fraction, select
from secateur.selection.nested import layer_fractions
from secateur.selection.thresholds import AtMost, BelowQuantile, Outliers, Rule, checked_masks

__all__ = [
    "SCOPES",
    "AtMost",
    "BelowQuantile",
    "Outliers",
    "Rule",
    "Scope",
    "checked_masks",
    "layer_fractions",
    "removed_fraction",
    "select",
]
