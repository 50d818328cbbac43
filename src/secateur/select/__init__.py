"""Scores → keep masks: the only room in the project where the best are picked."""

from secateur.select.choose import SCOPES, Scope, removed_fraction, select
from secateur.select.nested import layer_fractions

__all__ = ["SCOPES", "Scope", "layer_fractions", "removed_fraction", "select"]
