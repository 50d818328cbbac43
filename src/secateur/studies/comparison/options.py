"""The options of a comparison of prunings, and their check before anything runs."""

from __future__ import annotations

from collections.abc import Mapping

from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json
from secateur.studies.kit import networks

__all__ = ["METHODS", "OPTIONS", "check", "options"]

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
        Option("sparsities", "number", _SPARSITIES, "fractions of the units to remove", 0, 1, many="list"),
        Option("methods", "text", list(METHODS), "prunings to compare", allowed=tuple(METHODS), many="list"),
        Option("minimum", "count", 0, "units that each layer keeps at least"),
        Option("dense", "number", [], "where to train a small network from scratch", 0, 1, many="any"),
        Option("output", "text", "whole", "what happens to the output layer", allowed=("whole", "pruned")),
    )
)
"""What a comparison takes."""


def options(**changes: Json) -> Options:
    """Return the options of a comparison with their defaults, changed as given."""
    return OPTIONS.changed(**changes)


def check(study: str, settled: Mapping[str, Json]) -> None:
    """Refuse options that no cell could work with.

    Raises:
        InputError: an option is of the wrong kind or out of range; the error names it and its value.
        UnknownNameError: a method, data set, model or option of the model is not known.

    >>> check("demo", options(epochs=0))
    Traceback (most recent call last):
    secateur.types.InputError: study 'demo': epochs is 0; give a whole number of at least 1 (passes over the training ...)
    """
    OPTIONS.check(f"study {study!r}", settled)
    networks.check(settled)
