"""What the studies of E. Çallı's sections 1.3 to 1.8 share: trained networks, changed in one way each, rated, trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from secateur.copies import copied
from secateur.data import Images
from secateur.edits import Edit, Quantised, Shared
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import evaluate
from secateur.result import Result
from secateur.saving import stored_bytes
from secateur.studies.kit.networks import OPTIONS, bases, drawn, example, first, loaded, network, split
from secateur.train import Callback, TrainOptions, fit
from secateur.transforms import TRANSFORMS, Quantize, Replace, Transform, train_held
from secateur.types import Sites

__all__ = ["UNCHANGED", "WaySetting", "cells", "rated", "smaller_options"]

UNCHANGED = "unchanged"
"""The way of the network as it is, which is trained on as long as the others."""


@dataclass(frozen=True)
class WaySetting:
    """How a network is made smaller in one cell.

    Attributes:
        name: how much, in words, such as ``"4 bits"``.
        amount: the same as a number, to draw over.
        options: of the transform, as plain data.
        with_data: whether it is given images to look at.
    """

    name: str
    amount: float
    options: Mapping[str, Json]
    with_data: bool = False


SettingsOf = Callable[[Mapping[str, Json]], Sequence[WaySetting]]


def smaller_options(ways: Sequence[str], *further: Option, **defaults: Json) -> Options:
    """Return the options of such a study.

    >>> dict(smaller_options(["SVD"], tune=2))["tune"]
    2
    """
    table = (
        *OPTIONS,
        Option("ways", "text", list(ways), "what is done to the networks", allowed=tuple(ways), many="list"),
        *further,
        Option("train_images", "count", 3000, "training images, the first ones", least=1),
        Option("rated", "count", 2000, "test images, the first ones", least=1),
        Option("few", "count", 300, "training images that layers are looked at with, drawn by the seed", least=1),
        Option("tune", "count", 1, "passes over the training images afterwards", least=1),
    )
    return Options(table).changed(**{"seeds": 3, "epochs": 8, "batch_size": 64, "validation": 1000, **defaults})


def cells(name: str, settled: Mapping[str, Json], transform: str, ways: Mapping[str, SettingsOf]) -> Iterator[Cell]:
    """Yield the networks, and for each the cells of every way and setting, the unchanged one first."""
    shared = {key: settled[key] for key in ("rated", "few", "tune", "batch_size")}
    for base in bases(name, settled):
        yield base
        yield base.then("smaller", smaller_cell, {**shared, "way": UNCHANGED, "setting": "", "amount": 0.0})
        for way in settled["ways"]:
            for setting in ways[way](settled):
                how = {"transform": transform, "options": dict(setting.options), "with_data": setting.with_data}
                parameters = {**shared, "way": way, "setting": setting.name, "amount": setting.amount, "how": how}
                yield base.then("smaller", smaller_cell, parameters)


def smaller_cell(context: Context) -> Outcome:
    """Change one network, rate it, and rate it again after it was trained on, held to what was done to it."""
    model, recipe = network(context)
    train = split(context, recipe, "train")
    test = first(split(context, recipe, "test"), context["rated"])
    image = example(context, recipe)
    tuning = TrainOptions(epochs=context["tune"], batch_size=context["batch_size"], lr=5e-4, seed=context["seed"])
    whole = Result(copied(model), model, Sites({}, {}), {}, (), inputs=image)
    if context["way"] == UNCHANGED:
        return Outcome(rated(whole, _tuned(whole, train, tuning), test))
    transform = _transform(context["how"], drawn(train, context["few"], context["seed"]), context["seed"])
    result = transform(model, image)
    if isinstance(transform, Quantize):
        return Outcome(rated(result, replace(transform, data=train, train=tuning)(model, image).model, test))
    return Outcome(rated(result, _tuned(result, train, tuning), test))


def _transform(how: Mapping[str, Json], few: Images, seed: int) -> Transform:
    options = dict(how["options"])
    kind: Any = TRANSFORMS[how["transform"]]
    if how["with_data"]:
        options["data"] = loaded(few).images
    if kind is Replace or options.get("initialisation") == "random":
        options["seed"] = seed
    transform: Transform = kind(**options)
    return transform


def _tuned(result: Result, train: Images, options: TrainOptions) -> nn.Module:
    """The smaller model after a training on the labels."""

    def go_on(model: nn.Module, holds: Sequence[Callback]) -> None:
        fit(model, train, options=options, callbacks=holds)

    model = copied(result.model)
    train_held(model, result.edits, go_on)
    return model


def rated(result: Result, tuned: nn.Module, test: Images) -> dict[str, Json]:
    """Return what a result costs and answers, and what it answers after the training."""
    report = result.report
    ratings = [evaluate(model, test, batch_size=500) for model in (result.model, tuned)]
    macs = report.macs or (0, 0)
    return {
        "accuracy": ratings[0].accuracy,
        "tuned": ratings[1].accuracy,
        "macs_left": macs[1] / macs[0],
        "parameters_left": report.parameters[1] / report.parameters[0],
        "bytes_left": report.bytes[1] / report.bytes[0],
        "coded_left": _coded(result.model, result.edits) / report.bytes[0],
        "layers": len(result.layers),
        "difference": None if result.change is None else result.change.relative,
    }


def _coded(model: nn.Module, edits: Sequence[Edit]) -> int:
    """The bytes on disk where numbers are coded by how often each stands, by the standard library."""
    coded = tuple(replace(edit, coder="lzma") if isinstance(edit, Shared | Quantised) else edit for edit in edits)
    return stored_bytes(model, coded)
