"""The options of a comparison of prunings, and their check before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from secateur import data, models
from secateur.lab.recipe import Json
from secateur.types import InputError, unknown_name

__all__ = ["METHODS", "check", "options"]

METHODS: dict[str, tuple[str, str, str]] = {
    "weight": ("weights", "magnitude", "global"),
    "weight per layer": ("weights", "magnitude", "layer"),
    "weight random": ("weights", "random", "global"),
    "neuron": ("channels", "magnitude", "global"),
    "neuron per layer": ("channels", "magnitude", "layer"),
    "neuron random": ("channels", "random", "global"),
}
"""Method → what is pruned, by which criterion, within which scope."""


def options(**changes: Json) -> dict[str, Json]:
    """Return the options of a comparison with their defaults, changed as given."""
    defaults: dict[str, Json] = {
        "seeds": 3,
        "epochs": 10,
        "batch_size": 128,
        "validation": 6000,
        "sparsities": [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99],
        "methods": list(METHODS),
        "data": "fashion-mnist",
        "data_dir": None,
        "model": "fathollahi-5",
        "model_options": {},
        "minimum": 0,
        "output": "whole",
        "dense": [],
    }
    return {**defaults, **changes}


def _count(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _fraction(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1


def _list_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and bool(value) and all(map(right, value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


RIGHT: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seeds": (_count(1), "how many networks to train, 1 or more"),
    "epochs": (_count(1), "a whole number of at least 1"),
    "batch_size": (_count(1), "a whole number of at least 1"),
    "validation": (
        lambda value: _count(1)(value) or (isinstance(value, float) and 0 < value < 1),
        "how many training images to hold out, or a fraction above 0 and below 1",
    ),
    "sparsities": (_list_of(_fraction), "a list of fractions from 0 to 1, such as [0.2,0.5]"),
    "methods": (_list_of(_text), 'a list of names, such as ["weight","neuron"]'),
    "data": (_text, "the name of a data set"),
    "data_dir": (lambda value: value is None or _text(value), "a folder, or null"),
    "model": (_text, "the name of a model"),
    "model_options": (lambda value: isinstance(value, Mapping), 'a mapping, such as {"input_size":8}'),
    "minimum": (_count(0), "how many units each layer keeps at least, 0 or more"),
    "dense": (
        lambda value: isinstance(value, (list, tuple)) and all(map(_fraction, value)),
        "a list of sparsities, such as [0.5], or [] for none: where to train a small network from scratch",
    ),
    "output": (lambda value: value in ("whole", "pruned"), '"whole" or "pruned": what happens to the output layer'),
}
"""What each option must be, with the words that ask for it."""


def check(study: str, settled: Mapping[str, Json]) -> None:
    """Refuse options that no cell could work with.

    Raises:
        InputError: an option is of the wrong kind or out of range; the error names it and its value.
        UnknownNameError: a method, data set, model or option of the model is not known.

    >>> check("demo", options(sparsities=3))
    Traceback (most recent call last):
    secateur.types.InputError: study 'demo': sparsities is 3; give a list of fractions from 0 to 1, such as [0.2,0.5]
    """
    for name, (right, wish) in RIGHT.items():
        if not right(settled[name]):
            raise InputError(f"study {study!r}: {name} is {settled[name]!r}; give {wish}")
    for method in settled["methods"]:
        if method not in METHODS:
            raise unknown_name(f"method of study {study!r}", method, METHODS)
    data.info(settled["data"])
    if ":" not in settled["model"]:
        models.input_shape(settled["model"], **settled["model_options"])
