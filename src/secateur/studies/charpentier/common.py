"""What the studies after L. Charpentier, 2020, share: the source, the networks, their options, what the text prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Publication
from secateur.studies.kit import networks
from secateur.studies.kit.published import published

__all__ = ["NETWORKS", "SOURCE", "WIDTH", "bases", "options", "printed"]

SOURCE = Publication("charpentier", "L. Charpentier", 2020, "master's thesis draft, University of Oslo")

NETWORKS = ["ann-128", "mlp-3", "cnn-4"]
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
    defaults = {"epochs": 5, "batch_size": 32, "model": "ann-128"}
    return Options((*networks.OPTIONS, networks.LOSS, *further)).changed(**{**defaults, **changes})


def bases(study: str, settled: Mapping[str, Json]) -> Iterator[Cell]:
    """Yield the training cells; each network is told those of ``model_options`` that it takes."""
    return networks.bases(study, settled, networks.taken_options)


def printed(table: str, data: str, model: str = "ann-128") -> dict[Any, Any]:
    """Return what the text prints of its network of one hidden layer on a data set; nothing of another network.

    >>> printed("shrink", "mnist-5k")[8][0], printed("shrink", "mnist", "mlp-3")
    (2.4, {})
    """
    name = "mnist" if data == "mnist-5k" else data
    return published("charpentier")[table].get(name, {}) if model == "ann-128" else {}
