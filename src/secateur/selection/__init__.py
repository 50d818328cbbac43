"""Scores → keep masks: the only room in the project where the best are picked."""

from secateur.selection.choose import SCOPES, Scope, removed_fraction, select
from secateur.selection.nested import layer_fractions

__all__ = ["SCOPES", "Scope", "layer_fractions", "removed_fraction", "select"]
