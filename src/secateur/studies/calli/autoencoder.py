"""E. Çallı, 2017, sections 2.1.2 and 2.2.2: a convolutional auto-encoder pruned by its activations in cycles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from secateur import data, models
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import macs, parameters
from secateur.studies.calli.autoencoder_pages import NOTES, cards, sections, words
from secateur.studies.calli.common import ON_IMAGES, SOURCE, Course, Way, cycle_options
from secateur.studies.kit.parts import study
from secateur.studies.kit.published import published

__all__ = ["BASELINES", "STUDY", "WAYS"]

NETWORK = "calli-autoencoder"
RATE = 4e-3
PICTURED = 8
EDGES = (("encoder1*", 1.0), ("decoder1*", 5.0))
"""The blocks in which the text's pruned network is smaller; encoder 2 stays whole there."""

_ADAM = Way(optimizer="adam", lr=RATE, momentum=0.0)
_LASSO: dict[str, Any] = {"lasso": 2.5e-4, "lasso_of": EDGES, "roles": ("scale", "in"), "floor": 0.01, "patience": 9}

BASELINES: Mapping[str, tuple[int, ...]] = {
    "unpruned": tuple(published("calli")["autoencoder"]["whole"]),
    "the text's widths from scratch": tuple(published("calli")["autoencoder"]["pruned"]),
    "lossless in theory, from scratch": tuple(published("calli")["autoencoder"]["lossless"]),
}
"""Networks that are trained as long and not pruned: their channels."""

WAYS: Mapping[str, Way] = {
    "activation": _ADAM,
    "activation, standard normal": replace(_ADAM, init="standard-normal"),
    "activation, rate 0.1": replace(_ADAM, lr=0.1),
    "fires in at most 10 %": replace(_ADAM, rule="fraction", limit=0.1),
    "distorted": replace(_ADAM, distort="multiply", patience=3),
    "regularised": replace(_ADAM, l1=3e-5, l1_of=("*.bn.weight",), patience=3),
    "outliers": replace(_ADAM, rule="outliers", limit=2.0, patience=3),
    "group lasso": replace(_ADAM, **_LASSO),
    "combined": replace(_ADAM, **_LASSO, distort="multiply", strength=0.3, decay=0.5, rule="outliers", limit=2.0),
}
"""The rows of the study: the text's, and what was found to make the network smaller."""


def _cells(name: str, settled: Mapping[str, Json]) -> Iterator[Cell]:
    shared = {key: settled[key] for key in ("images", "epochs", "cycles", "settle", "batch_size")}
    for on in [settled["data"]] if isinstance(settled["data"], str) else settled["data"]:
        lookup = {"data": on, "model": NETWORK}
        for seed in range(settled["seeds"]):
            common = {"seed": seed, **shared, **lookup}
            for words_, channels in BASELINES.items():
                parameters_ = {**common, "way": words_, "channels": list(channels)}
                yield Cell(Recipe(name, "scratch", parameters_), scratch_cell, lookup=lookup)
            for way in settled["ways"]:
                yield Cell(
                    Recipe(name, "cycle", {**common, "way": way, "how": WAYS[way].recipe()}), cycle_cell, lookup=lookup
                )


def scratch_cell(context: Context) -> Outcome:
    """Train one network that is not pruned, as long as the others."""
    model = models.build(NETWORK, seed=context["seed"], channels=context["channels"])
    train, test = _images(context)
    _course(context, train).plain(_ADAM, model, context["seed"])
    return _outcome(model, test, context["channels"])


def cycle_cell(context: Context) -> Outcome:
    """Train and prune one network in cycles, and train what is left on."""
    way = Way.of(context["how"])
    model = models.build(NETWORK, seed=context["seed"], init=way.init or None)
    train, test = _images(context)
    result, rows = _course(context, train).prune(way, model, context["seed"])
    left = [int(result.keep[name].sum()) for name in result.keep]
    outcome = _outcome(result.model, test, left)
    return Outcome({**outcome.metrics, "ending": result.history.ending}, rows, outcome.artefact)


def _course(context: Context, images: Tensor) -> Course:
    pairs = (images, images)
    epochs, cycles, settle, batch_size = (context[name] for name in ("epochs", "cycles", "settle", "batch_size"))
    return Course(pairs, pairs, epochs, cycles, settle, batch_size, "mse")


def _images(context: Context) -> tuple[Tensor, Tensor]:
    """Training and test images in [0, 1], the first ones."""
    root = context.options.get("data_dir")
    splits = (
        data.load(context["data"], which, root=root, normalise=False, limit=context["images"])
        for which in ("train", "test")
    )
    train, test = (split.images for split in splits)
    return train, test


def _outcome(model: nn.Module, test: Tensor, left: list[int]) -> Outcome:
    """The loss on test images, the size, and how the first of them come out."""
    model.eval()
    with torch.no_grad():
        outputs = torch.cat([model(part) for part in torch.split(test, 500)])
    blocks = dict(zip(("encoder1", "encoder2", "decoder1"), left, strict=True))
    size = {"parameters": parameters(model).total, "macs": macs(model, test[:1]), "total": sum(left)}
    pictures = {"images": test[:PICTURED].clone(), "reconstructed": outputs[:PICTURED].clone()}
    phases = phase_losses(outputs, test)
    loss = {"loss": float(mse_loss(outputs, test)), "phase_losses": phases, "open_loss": median(phases)}
    return Outcome({**loss, **blocks, **size}, artefact=pictures)


def phase_losses(outputs: Tensor, images: Tensor) -> list[float]:
    """Return the mean squared error on each quarter of the pixels: rows and columns that are even or odd.

    A transposed convolution of stride 2 computes each quarter with other entries of its kernel, so that behind the last ReLU
    a whole quarter can be shut.

    >>> images = torch.zeros(1, 1, 4, 4)
    >>> images[:, :, 1::2, ::2] = 2.0
    >>> phase_losses(torch.zeros(1, 1, 4, 4), images)
    [0.0, 0.0, 4.0, 0.0]
    """
    squares = (outputs - images).square()
    return [float(squares[..., row::2, column::2].mean()) for row in (0, 1) for column in (0, 1)]


STUDY = study(
    "calli-autoencoder",
    "An auto-encoder pruned by its activations",
    "A convolutional auto-encoder with 32, 64 and 32 channels, pruned in cycles: silent channels, outliers, distortion, penalties.",
    source=SOURCE,
    options=cycle_options(
        WAYS, *ON_IMAGES, data=["mnist-5k", "fashion-mnist"], epochs=2, cycles=5, settle=6, batch_size=25
    ),
    cells=lambda name, settled: list(_cells(name, settled)),
    sections=sections,
    words=words,
    cards=cards,
    notes=NOTES,
    network=NETWORK,
    trained=False,
)
