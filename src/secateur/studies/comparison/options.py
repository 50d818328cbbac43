"""The methods and the options of a comparison of prunings."""

from __future__ import annotations

from secateur.lab.plan.options import Option, Options
from secateur.studies.kit import networks

__all__ = ["METHODS", "OPTIONS"]

METHODS: dict[str, tuple[str, str, str]] = {
    "weight": ("weights", "magnitude", "global"),
    "weight per layer": ("weights", "magnitude", "layer"),
    "weight random": ("weights", "random", "global"),
    "neuron": ("channels", "magnitude", "global"),
    "neuron per layer": ("channels", "magnitude", "layer"),
    "neuron random": ("channels", "random", "global"),
}
"""Method → what is pruned, by which criterion, within which scope."""

_SPARSITIES = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99]


OPTIONS = Options(
    (
        *networks.OPTIONS,
        networks.LOSS,
        Option("sparsities", "number", _SPARSITIES, "fractions of the units to remove", 0, 1, many="list"),
        Option("methods", "text", list(METHODS), "prunings to compare", allowed=tuple(METHODS), many="list"),
        Option("minimum", "count", 0, "units that each layer keeps at least"),
        Option("dense", "number", [], "where to train a small network from scratch", 0, 1, many="any"),
        Option("output", "text", "whole", "what happens to the output layer", allowed=("whole", "pruned")),
    )
)
"""What a comparison takes."""
