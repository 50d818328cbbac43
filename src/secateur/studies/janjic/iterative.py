"""S. Janjić, 2018, sections 6.1 and 8: layer after layer pruned by energy, without and with retraining and repairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Images, Split
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome, Study
from secateur.measure import evaluate, macs, parameters
from secateur.rate.masks import Removals
from secateur.repair import repair
from secateur.selection import select
from secateur.structure import channels, cut
from secateur.studies.janjic import filters
from secateur.studies.janjic.iterative_pages import NOTES, sections, words
from secateur.studies.kit import networks
from secateur.studies.kit.parts import study
from secateur.train import fit
from secateur.types import Sites

__all__ = ["MODES", "RESNET", "VGG", "slices"]

REPAIRS = ("norms", "bias", "least-squares")
MODES = ("none", "each", "end", *REPAIRS)
"""What follows a pruned layer: nothing (6.1), retraining after each layer or once at the end (8), or a repair."""

_TAKES = {"none": (), "each": ("retrain_images", "retrain_lr"), "end": ("retrain_images", "retrain_lr")}
"""The options that decide what a mode does; those of a repair where it is none of these."""


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    """One cell a network, one that finds its cheap layers, and one for each threshold, method and mode."""
    cells: list[Cell] = []
    shared = {key: settled[key] for key in ("layers", "test_images", "tolerance")}
    for base in filters.bases(name, settled):
        cells.append(base)
        for threshold in settled["thresholds"]:
            scan = base.then("scan", scan_cell, {"threshold": threshold, **shared}, defaults={"layers": "*"})
            cells.append(scan)
            for method, mode in _pairs(settled):
                parameters = {
                    "threshold": threshold,
                    "test_images": settled["test_images"],
                    "method": method,
                    "mode": mode,
                }
                parameters |= {key: settled[key] for key in _TAKES.get(mode, ("calibration",))}
                cells.append(base.then("iterate", iterate_cell, parameters, after=[scan]))
    return cells


def _pairs(settled: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    for method in settled["methods"]:
        for mode in settled["modes"]:
            # The controls show what the choice is worth where nothing makes up for it, and where training does.
            if method == "energy" or mode in ("none", "end"):
                yield method, mode


def scan_cell(context: Context) -> Outcome:
    """Prune each layer alone by energy, and find those that lose little, on validation images."""
    model, recipe = networks.network(context)
    held_out = filters.rated(context, recipe, "validation")
    image = held_out.head(1)
    sites = filters.filters(model, image, context["layers"])
    keep = filters.choose(model, sites, context["threshold"])
    rate = Removals(model, sites, held_out, max_memory=0, batch_size=filters.step_size(image))
    base = float(rate([{}]).accuracy[0])
    lost = {name: 100 * (base - float(rate([{name: keep[name]}]).accuracy[0])) for name in sites}
    removed = {name: int((~mask).sum()) for name, mask in keep.items()}
    # Energy depends on the layer's own weights alone, so how many go is known before the layers before it are pruned.
    cheap = {name: removed[name] for name in sites if lost[name] < context["tolerance"] and removed[name]}
    return Outcome({"lost": lost, "removed": removed, "chosen": cheap, "base_validation": base})


def iterate_cell(context: Context) -> Outcome:
    """Cut one layer after another out of a network, front to back, and rate it after each."""
    model, recipe = networks.network(context)
    work = _Retraining(context, recipe, networks.loaded(networks.split(context, recipe, "train")))
    test = filters.rated(context, recipe)
    rows = [_row(0, "none", model, test)]
    first = rows[0]
    counts: dict[str, int] = context.record(1).metrics["chosen"]
    for place, (name, count) in enumerate(counts.items(), 1):
        model = work.shrink(model, name, count, test.head(1), place)
        rows.append(_row(place, name, model, test))
    if context["mode"] == "end" and counts:
        model = work.retrain(model, 1, len(counts))
        rows.append(_row(len(counts) + 1, "retrained", model, test))
    last = rows[-1]
    quality = {**networks.quality(model, test), "base_accuracy": first["accuracy"], "base_loss": first["loss"]}
    size = {"parameters": last["parameters"], "macs": last["macs"], "layers_pruned": len(counts)}
    before = networks.quality(networks.network(context)[0], test, "base_")["base_class_accuracy"]
    change = {"parameters_removed": 1 - last["parameters"] / first["parameters"], "base_class_accuracy": before}
    return Outcome({**quality, **size, **change}, rows)


def _row(place: int, name: str, model: nn.Module, test: Images) -> dict[str, Json]:
    image = test.head(1)
    rating = evaluate(model, test, batch_size=filters.step_size(image))
    size = {"parameters": parameters(model).total, "macs": macs(model, image)}
    return {"step": place, "layer": name, "accuracy": rating.accuracy, "loss": rating.loss, **size}


@dataclass(frozen=True, eq=False)
class _Retraining:
    """What is done to a network at each step, as its cell says."""

    context: Context
    recipe: Mapping[str, Json]
    train: Split

    def shrink(self, model: nn.Module, name: str, count: int, image: Tensor, place: int) -> nn.Module:
        """Return the network without the worst filters of one layer, with what the cell's mode does about it."""
        mode, every = self.context["mode"], channels(model, image)
        sites = Sites({name: every[name]}, every.frozen, every.structure)
        scores = filters.scorer(self.context["method"], self.context["seed"])(model, sites)
        keep = select(scores, {name: count / sites[name].size}, scope="layer")
        if mode in REPAIRS:
            some = self.train.subset(range(min(self.context["calibration"], len(self.train.labels))))
            # By name, since a network without batch norms has none to repair.
            model = repair(model, sites, keep, some, (mode, "norms"))
        small = cut(model, sites, keep, form="module")
        return self.retrain(small, place, place) if mode == "each" else small

    def retrain(self, model: nn.Module, first: int, last: int) -> nn.Module:
        """Return the network after one pass over the images that belong to the layers from `first` to `last`."""
        index = slices(len(self.train.labels), self.context["retrain_images"], first, last)
        options: dict[str, Any] = {"lr": self.context["retrain_lr"], "batch_size": self.recipe.get("batch_size", 128)}
        fit(model, self.train.subset(index), epochs=1, seed=self.context["seed"] + first, **options)
        return model


def slices(images: int, count: int, first: int, last: int) -> Tensor:
    """Return which training images belong to the layers `first` to `last`: the next `count` for each, begun anew at the end.

    So retraining after each layer and once at the end see the same images, once each.

    >>> slices(10, 4, 1, 1).tolist(), slices(10, 4, 3, 3).tolist(), slices(10, 4, 1, 2).tolist()
    ([0, 1, 2, 3], [8, 9, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7])
    """
    return torch.arange((first - 1) * count, last * count) % images


def _layer_after_layer(name: str, network: str, **defaults: Json) -> Study:
    return study(
        name,
        f"Layer after layer of {network} pruned by energy, without and with retraining and repairs",
        f"The layers of {network} that can be pruned alone at little cost, pruned one after another: alone, retrained, repaired.",
        source=filters.SOURCE,
        options=filters.options(
            Option("thresholds", "number", [0.01, 0.1], "shares of a layer's energy to remove", 0, 1, many="list"),
            Option("modes", "text", list(MODES), "what follows a pruned layer", allowed=MODES, many="list"),
            Option("methods", "text", ["energy", "random", "l2"], "what chooses", allowed=filters.METHODS, many="list"),
            Option("tolerance", "number", 2.0, "points that a layer may lose alone, to be pruned at all", least=0),
            Option("retrain_images", "count", 2048, "training images for each pruned layer", least=1),
            Option("retrain_lr", "number", 1e-4, "the learning rate of the retraining", least=0),
            Option("calibration", "count", 512, "training images for a repair", least=1),
            **defaults,
        ),
        cells=_cells,
        sections=sections,
        words=words,
        notes=NOTES,
    )


VGG = _layer_after_layer(
    "janjic-iterative", "VGG-16", model="vgg-16", model_options={"width": 0.125, "batch_norm": True}, epochs=6
)

RESNET = _layer_after_layer(
    "janjic-iterative-resnet101",
    "ResNet-101",
    model="resnet-101",
    model_options={"width": 0.0625},
    layers="layer*",
    # As in the study of its layers alone; each of some tens of cuts is traced and verified.
    seeds=1,
    epochs=3,
    train_images=20_000,
    test_images=500,
    thresholds=[0.01],
    modes=["none", "end"],
    methods=["energy", "random"],
    retrain_images=512,
)
