"""Scores → keep masks: the only room in the project where the best are picked."""

from secateur.select.choose import SCOPES, Scope, removed_fraction, select

__all__ = ["SCOPES", "Scope", "removed_fraction", "select"]
