"""Scores → keep masks: the only room in the project where the best are picked."""

from secateur.select.choose import Scope, removed_fraction, select

__all__ = ["Scope", "removed_fraction", "select"]
