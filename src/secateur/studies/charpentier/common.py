"""L. Charpentier, 2020: what the studies after this thesis share: the source, the options and their check."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping

from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json
from secateur.lab.study import Cell, Source
from secateur.models.registry import REGISTRY
from secateur.studies.kit import networks
from secateur.types import unknown_name

__all__ = ["NETWORKS", "SOURCE", "WIDTH", "bases", "check", "options", "own_options"]

SOURCE = Source("charpentier", "L. Charpentier", 2020, "master's thesis draft, University of Oslo")

NETWORKS = ("ann-128", "mlp-3", "cnn-4")
"""The three networks of chapter 3."""

WIDTH = {"width": 0.5}
"""What makes the convolutional network small enough to measure every filter again and again on a small machine."""


def options(*further: Option, **changes: Json) -> Options:
    """Return the options of a study of trained networks as the thesis trains them: 5 epochs, batches of 32.

    Args:
        further: options of the study's own.
        changes: other defaults.

    >>> options(seeds=8)["epochs"]
    5
    """
    own = {"epochs": 5, "batch_size": 32, "model": "ann-128"}
    return Options((*networks.OPTIONS, *further)).changed(**{**own, **changes})


def own_options(model: str, settled: Mapping[str, Json]) -> dict[str, Json]:
    """Return those of ``model_options`` that a network takes; a width is nothing to a network without one.

    >>> own_options("ann-128", {"model_options": {"width": 0.5}}), own_options("cnn-4", {"model_options": WIDTH})
    ({}, {'width': 0.5})
    """
    given = settled["model_options"]
    return dict(given) if ":" in model else {key: given[key] for key in given if key in _takes(model)}


def check(study: str, table: Options, settled: Mapping[str, Json]) -> None:
    """Refuse options that no cell could work with, before anything runs.

    Raises:
        InputError, UnknownNameError: the error names the option.
    """
    table.check(f"study {study!r}", settled)
    found = networks.grid(settled)
    if not any(":" in model for _, model in found):
        taken = {key for _, model in found for key in _takes(model)}
        for key in settled["model_options"]:
            if key not in taken:
                raise unknown_name(f"option of the networks of study {study!r}", key, taken)
    for name, model in found:
        own = own_options(model, settled)
        networks.check({**settled, "data": name, "model": model, "model_options": own})


def bases(study: str, settled: Mapping[str, Json]) -> Iterator[tuple[Cell, dict[str, Json]]]:
    """Yield the training cell of each network, data set and seed, and what else tells its cells apart.

    The second is for the parameters of the cells that need it, and for their recipes' ``defaults``: the needed cell
    decides these, so they take no part in the id.
    """
    for name, model in networks.grid(settled):
        own = {**settled, "model_options": own_options(model, settled)}
        for seed in range(settled["seeds"]):
            yield networks.trained(study, seed, own, name, model), {"data": name, "model": model}


def _takes(model: str) -> list[str]:
    if model not in REGISTRY:
        raise unknown_name("model", model, REGISTRY)
    return list(inspect.signature(REGISTRY[model]).parameters)
