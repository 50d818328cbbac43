"""L. Charpentier, 2020, chapter 6: a VGG-16 made smaller by what its filters are worth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur import data, models
from secateur.criteria import LossChange, Magnitude, Random, UnitWorth
from secateur.lab.plan.options import Option, Options
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.measure import compare_latency
from secateur.models.layers import pad_to, stack
from secateur.models.vgg import vgg_16
from secateur.selection import select
from secateur.state_dicts import fill
from secateur.structure import channels, cut
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.charpentier.measured import worth
from secateur.studies.charpentier.vgg_pages import WAYS, cards, notes, sections, words
from secateur.studies.kit import networks
from secateur.studies.kit.controls import METHODS
from secateur.studies.kit.networks import images_of, rate
from secateur.studies.kit.parts import study
from secateur.types import InputError, Keep, Sites

__all__ = ["STUDY", "vgg"]

MODEL = "secateur.studies.charpentier_vgg:vgg"
"""The network, `vgg` below, by the path at which it stood when the first cells were named after it."""
BATCHES = (1, 256)
"""The batch sizes at which latency is measured."""


def vgg(
    *,
    classes: int = 10,
    in_channels: int = 1,
    input_size: int = 28,
    width: float = 0.125,
    dropout: float = 0.0,
    batch_norm: bool = True,
) -> nn.Module:
    """Return a VGG-16 for small images, which zeros pad to 32×32.

    >>> vgg().vgg.features[0]
    Conv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    """
    network = vgg_16(
        classes=classes,
        in_channels=in_channels,
        input_size=max(input_size, 32),
        width=width,
        batch_norm=batch_norm,
        dropout=dropout,
    )
    return stack({"pad": pad_to(max(input_size, 32), input_size), "vgg": network})


def _options() -> Options:
    fixed = ("model", "model_options")
    further = (
        Option("width", "number", 0.125, "what multiplies the widths of the network", 0.001),
        Option("measured", "count", 1000, "training images to measure the filters on, the first ones", least=1),
        Option("sparsities", "number", [0.3, 0.5, 0.7], "fractions of the units to cut", 0, 0.99, many="list"),
        Option("steps", "count", 3, "cuts of the pruning in steps", least=2),
        Option("tune_epochs", "count", 1, "passes of fine-tuning for each of these steps", least=1),
        Option("tune_images", "count", 20_000, "training images to fine-tune on, the first ones", least=1),
        Option("tune_lr", "number", 0.0005, "learning rate of the fine-tuning", 0),
    )
    table = Options((*(option for option in networks.OPTIONS if option.name not in fixed), *further))
    return table.changed(seeds=2, epochs=5, batch_size=64)


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    _check_device(name, settled["device"])
    lookup = {"model": "vgg-16", "width": settled["width"]}
    return [
        cell
        for base in networks.bases(name, {**settled, "model": MODEL}, _shape)
        for cell in _of_network(replace(base, run=train_cell, lookup={**base.lookup, **lookup}), settled)
    ]


def _shape(settled: Mapping[str, Json]) -> dict[str, Json]:
    info = data.info(settled["data"])
    shape = {"in_channels": info.shape[0], "input_size": info.shape[1], "classes": len(info.classes)}
    return {**shape, "width": settled["width"]}


def _check_device(study: str, name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"study {study!r}: device is {name!r}, which this machine lacks ({error}); give cpu"
        ) from error


def _of_network(base: Cell, settled: Mapping[str, Json]) -> list[Cell]:
    images = {"images": settled["measured"]}
    measure = base.then("measure", measure_cell, images)
    shared = {**images, **{key: settled[key] for key in ("tune_images", "tune_lr", "batch_size")}}
    epochs = settled["steps"] * settled["tune_epochs"]
    whole = {"method": "unpruned", "way": "at once", "sparsity": 0.0, "step": 1, "steps": 1, "tune_epochs": epochs}
    cells = [base, measure, base.then("prune", step_cell, {**shared, **whole}, after=[measure])]
    for sparsity in settled["sparsities"]:
        for way, steps in zip(WAYS, (1, settled["steps"]), strict=True):
            goal = {"way": way, "sparsity": sparsity, "steps": steps, "tune_epochs": epochs // steps}
            cells += _path({**shared, **goal}, base, measure)
    return cells


def _path(shared: Mapping[str, Json], base: Cell, measure: Cell) -> list[Cell]:
    """The cells of one way to one sparsity: the controls' step after that of the loss change, whose shape they take."""
    cells: list[Cell] = []
    before: dict[str, list[Cell]] = {method: [] for method in METHODS}
    for step in range(1, shared["steps"] + 1):
        guide: list[Cell] = []
        for method in METHODS:
            parameters = {**shared, "method": method, "step": step}
            cell = base.then("prune", step_cell, parameters, after=[measure, *guide, *before[method]])
            guide, before[method] = guide or [cell], [cell]
            cells.append(cell)
    return cells


def train_cell(context: Context) -> Outcome:
    """Train the whole network."""
    recipe = context.recipe.parameters
    model = models.build(recipe["model"], seed=recipe["seed"], **recipe["model_options"])
    history, best = _fit(context, model, recipe, networks.split(context, recipe, "train"), recipe["epochs"])
    rating = networks.quality(model, networks.split(context, recipe, "test"))
    rating |= networks.size(model, networks.example(context, recipe))
    return Outcome({**rating, "best_epoch": best}, history, model.state_dict())


def measure_cell(context: Context) -> Outcome:
    """Measure the loss change of every filter and neuron on training images."""
    model, recipe = networks.network(context)
    image = networks.example(context, recipe)
    changes = _measure(context, model, networks.first(networks.split(context, recipe, "train"), context["images"]))
    metrics = {
        **rate(model, images_of(context, recipe, context["images"])),
        **networks.size(model, image),
        **worth(changes),
    }
    return Outcome(metrics, artefact={f"change.{name}": change.cpu() for name, change in changes.items()})


def step_cell(context: Context) -> Outcome:
    """Cut a network further, fine-tune it, and rate it before and after."""
    whole, recipe = networks.network(context)
    image, train = networks.example(context, recipe), networks.split(context, recipe, "train")
    sites = channels(whole, image)
    model, left_before = _so_far(context, whole, sites)
    sites_left = channels(model, image)
    keep = _keep(context, model, sites_left, left_before, train)
    small = cut(model, sites_left, keep)
    cut_only = networks.quality(small, networks.split(context, recipe, "test"), "cut_")
    again = {**recipe, "seed": context["seed"], "batch_size": context["batch_size"], "fit": {"lr": context["tune_lr"]}}
    history, _ = _fit(context, small, again, networks.first(train, context["tune_images"]), context["tune_epochs"])
    left = {name: _merged(left_before[name], keep.get(name)) for name in sites}
    metrics = {
        **rate(small, images_of(context, recipe, context["images"])),
        **cut_only,
        **networks.size(small, image),
        "kept": {name: int(units.sum()) for name, units in left.items()},
        "units_removed": 1 - sum(int(k.sum()) for k in left.values()) / sum(k.numel() for k in left.values()),
    }
    if context["method"] == METHODS[0] and context["step"] == context["steps"]:
        metrics |= _speed(whole, small, image)
    tensors = {f"keep.{name}": mask for name, mask in left.items()}
    return Outcome(metrics, history, tensors | {f"state.{name}": x for name, x in small.state_dict().items()})


def _so_far(context: Context, whole: nn.Module, sites: Sites) -> tuple[nn.Module, Keep]:
    """The network as the step before left it, and which of the original units it has."""
    if context["step"] == 1:
        return whole, {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
    tensors = context.artefact(len(context.recipe.needs) - 1)
    left = {name: tensors[f"keep.{name}"] for name in sites}
    model = cut(whole, sites, left)
    fill(model, {n[6:]: x for n, x in tensors.items() if n.startswith("state.")}, "the artefact of the step before")
    return model, left


def _keep(context: Context, model: nn.Module, sites: Sites, left: Keep, train: data.Images) -> Keep:
    """Which of the units that are left stay; the controls leave as many in each layer as the loss change does."""
    if context["method"] == METHODS[0]:
        total, units = (sum(count(mask) for mask in left.values()) for count in (Tensor.numel, lambda k: int(k.sum())))
        goal = round(context["sparsity"] * context["step"] / context["steps"] * total)
        changes = _changes(context, model, sites, train)
        return select(changes, (goal - (total - units)) / sum(site.size for site in sites.values()))
    if context["method"] == "unpruned":
        return {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
    counts = context.record(2).metrics["kept"]
    scores = (Random(context["seed"]) if context["method"] == "random" else Magnitude(p=2))(model, sites)
    return select(scores, {name: 1 - counts[name] / sites[name].size for name in sites}, scope="layer")


def _changes(context: Context, model: nn.Module, sites: Sites, train: data.Images) -> Mapping[str, Tensor]:
    if context["step"] == 1:
        return {name: context.artefact(1)[f"change.{name}"] for name in sites}
    return _measure(context, model, networks.first(train, context["images"]))


def _measure(context: Context, model: nn.Module, images: data.Images) -> UnitWorth:
    """The loss change of every unit, measured where the study's options say."""
    device = torch.device(context.options.get("device", "cpu"))
    moved = copy.deepcopy(model).to(device)
    return LossChange(images)(moved, channels(moved, images.head(1).to(device)))


def _fit(
    context: Context, model: nn.Module, recipe: Mapping[str, Json], images: data.Images, epochs: int
) -> tuple[list[dict[str, Json]], int | None]:
    """Train the model in place, where the study's options say; return the epochs, and which one was the best."""
    model.to(context.options.get("device", "cpu"))
    validation = networks.split(context, recipe, "validation")
    options = {"epochs": epochs, "batch_size": recipe["batch_size"], "seed": recipe["seed"], **recipe.get("fit", {})}
    history = networks.resumed(context, model, images, validation, **options)
    model.to("cpu")
    return history.to_dicts(), history.best_epoch


def _merged(left: Tensor, keep: Tensor | None) -> Tensor:
    """The mask over the original units, of one over those that were left."""
    merged = left.clone()
    if keep is not None:
        merged[left.nonzero().flatten()[~keep]] = False
    return merged


def _speed(whole: nn.Module, small: nn.Module, image: Tensor) -> dict[str, Json]:
    metrics: dict[str, Json] = {}
    for batch in BATCHES:
        compared = compare_latency({"unpruned": whole, "cut": small}, image, batch_size=batch, repeats=15)
        metrics |= {f"ms_{name}_{batch}": 1000 * latency.median for name, latency in compared.latencies.items()}
        metrics[f"speedup_{batch}"] = compared.speedups["cut"].median
    return metrics


STUDY = study(
    "charpentier-vgg",
    "A VGG-16 made smaller by what its filters are worth",
    "A VGG-16 at 32×32 cut by measured importance, by magnitude and at random, at once and in steps, with fine-tuning.",
    source=SOURCE,
    options=_options(),
    cells=_cells,
    sections=sections,
    words=words,
    cards=cards,
    notes=notes,
    trained=False,
    network="vgg-16",
)
