"""The rule book: one small function for each ATen op, in files by kind. `RULES` has them by the op's name."""

from secateur.structure.rules import contractions, elementwise, indexing, parts, recurrent, reductions, shapes
from secateur.structure.rules.registry import RULES, Call, Ties, Value, fixed_value, freeze_all, op_name, shape_of

__all__ = [
    "RULES",
    "Call",
    "Ties",
    "Value",
    "contractions",
    "elementwise",
    "fixed_value",
    "freeze_all",
    "indexing",
    "op_name",
    "parts",
    "recurrent",
    "reductions",
    "shape_of",
    "shapes",
]
