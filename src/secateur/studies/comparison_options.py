"""The options of a comparison of prunings, and their check before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

from secateur import data, models
from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json

__all__ = ["METHODS", "OPTIONS", "check", "fitted", "grid", "options"]

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
        Option("seeds", "count", 3, "how many networks to train", least=1),
        Option("epochs", "count", 10, "passes over the training images", least=1),
        Option("batch_size", "count", 128, "images a step", least=1),
        Option("validation", "part", 6000, "training images to hold out"),
        Option("sparsities", "number", _SPARSITIES, "fractions of the units to remove", 0, 1, many="list"),
        Option("methods", "text", list(METHODS), "prunings to compare", allowed=tuple(METHODS), many="list"),
        Option("data", "text", "fashion-mnist", "data sets, by name", many="either"),
        Option("data_dir", "text", None, "the folder with the data files", optional=True),
        Option("model", "text", "fathollahi-5", "networks, by name or import path", many="either"),
        Option("model_options", "mapping", {}, "options of the networks; what the data decide is added"),
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
    for name, model in grid(settled):
        data.info(name)
        if ":" not in model:
            models.input_shape(model, **fitted(name, model, settled["model_options"]))


def grid(settled: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Return each data set with each network, as one or a list of them was given.

    >>> grid({"data": ["digits", "mnist"], "model": "lenet-5"})
    [('digits', 'lenet-5'), ('mnist', 'lenet-5')]
    """
    one, other = ([value] if isinstance(value, str) else value for value in (settled["data"], settled["model"]))
    return list(product(one, other))


def fitted(name: str, model: str, given: Mapping[str, Json]) -> dict[str, Json]:
    """Return the options of a network: those given, and those that the data set decides where they are no defaults."""
    info = data.info(name)
    return {**models.fitting(model, info.shape, len(info.classes)), **given}
