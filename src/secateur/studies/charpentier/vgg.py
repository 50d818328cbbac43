"""L. Charpentier, 2020, chapter 6: a VGG-16 made smaller by what its filters are worth."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur import data, models
from secateur.criteria import LossChange, Magnitude, Random, UnitWorth
from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome, Study
from secateur.measure import compare_latency
from secateur.models.layers import pad_to, stack
from secateur.models.vgg import vgg_16
from secateur.selection import select
from secateur.state_dicts import fill
from secateur.structure import channels, cut
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.charpentier.measured import METHODS, images_of, rate, worth
from secateur.studies.charpentier.vgg_pages import WAYS, pages
from secateur.studies.kit import networks
from secateur.train import fit
from secateur.types import InputError, Keep, Sites

__all__ = ["STUDY", "vgg"]

NAME = "charpentier-vgg"
TITLE = "A VGG-16 made smaller by what its filters are worth"
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
    own = (
        Option("width", "number", 0.125, "what multiplies the widths of the network", 0.001),
        Option("measured", "count", 1000, "training images to measure the filters on, the first ones", least=1),
        Option("sparsities", "number", [0.3, 0.5, 0.7], "fractions of the units to cut", 0, 0.99, many="list"),
        Option("steps", "count", 3, "cuts of the pruning in steps", least=2),
        Option("tune_epochs", "count", 1, "passes of fine-tuning for each of these steps", least=1),
        Option("tune_images", "count", 20_000, "training images to fine-tune on, the first ones", least=1),
        Option("tune_lr", "number", 0.0005, "learning rate of the fine-tuning", 0),
        Option("device", "text", "cpu", "where to train and measure, such as cuda"),
    )
    made = Options((*(option for option in networks.OPTIONS if option.name not in fixed), *own))
    return made.changed(seeds=2, epochs=5, batch_size=64)


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    model = MODEL
    wanted = {**settled, "model": model, "model_options": {}}
    networks.check(wanted)
    _check_device(settled["device"])
    return [
        cell
        for name, _ in networks.grid(wanted)
        for seed in range(settled["seeds"])
        for cell in _of_network(name, model, seed, settled)
    ]


def _check_device(name: str) -> None:
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"study {NAME!r}: device is {name!r}, which this machine lacks ({error}); give cpu") from error


def _of_network(name: str, model: str, seed: int, settled: Mapping[str, Json]) -> list[Cell]:
    info = data.info(name)
    shape = {"in_channels": info.shape[0], "input_size": info.shape[1], "classes": len(info.classes)}
    base = networks.trained(NAME, seed, {**settled, "model_options": {**shape, "width": settled["width"]}}, name, model)
    base = replace(base, run=train_cell)
    known = {"data": name, "model": "vgg-16", "width": settled["width"]}
    what = {"seed": seed, "images": settled["measured"], **known}
    measure = Cell(Recipe(NAME, "measure", what, (base.id,), known), measure_cell)
    tuning = {key: settled[key] for key in ("tune_images", "tune_lr")}
    shared = {**what, **tuning, "batch_size": settled["batch_size"]}
    long = settled["steps"] * settled["tune_epochs"]
    whole = {**shared, "method": "unpruned", "way": "at once", "sparsity": 0.0, "step": 1, "steps": 1}
    cells = [base, measure, _step({**whole, "tune_epochs": long}, known, base, measure)]
    for sparsity in settled["sparsities"]:
        for way, steps in zip(WAYS, (1, settled["steps"]), strict=True):
            shown = {**shared, "way": way, "sparsity": sparsity, "steps": steps, "tune_epochs": long // steps}
            cells += _path(shown, known, base, measure)
    return cells


def _path(shared: Mapping[str, Json], known: Mapping[str, Json], base: Cell, measure: Cell) -> list[Cell]:
    """The cells of one way to one sparsity: the controls' step after that of the loss change, whose shape they take."""
    cells: list[Cell] = []
    before: dict[str, list[Cell]] = {method: [] for method in METHODS}
    for step in range(1, shared["steps"] + 1):
        guide: list[Cell] = []
        for method in METHODS:
            cell = _step({**shared, "method": method, "step": step}, known, base, measure, *guide, *before[method])
            guide, before[method] = guide or [cell], [cell]
            cells.append(cell)
    return cells


def _step(what: Mapping[str, Json], known: Mapping[str, Json], *needs: Cell) -> Cell:
    return Cell(Recipe(NAME, "prune", what, tuple(cell.id for cell in needs), known), step_cell)


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
    model, held = _so_far(context, whole, sites)
    own = channels(model, image)
    keep = _chosen(context, model, own, held, train)
    small = cut(model, own, keep)
    cut_only = networks.quality(small, networks.split(context, recipe, "test"), "cut_")
    again = {**recipe, "seed": context["seed"], "batch_size": context["batch_size"], "fit": {"lr": context["tune_lr"]}}
    history, _ = _fit(context, small, again, networks.first(train, context["tune_images"]), context["tune_epochs"])
    left = {name: _merged(held[name], keep.get(name)) for name in sites}
    metrics = {
        **rate(small, images_of(context, recipe, context["images"])),
        **cut_only,
        **networks.size(small, image),
        "kept": {name: int(kept.sum()) for name, kept in left.items()},
        "units_removed": 1 - sum(int(k.sum()) for k in left.values()) / sum(k.numel() for k in left.values()),
    }
    if context["method"] == METHODS[0] and context["step"] == context["steps"]:
        metrics |= _speed(whole, small, image)
    kept = {f"keep.{name}": mask for name, mask in left.items()}
    return Outcome(metrics, history, kept | {f"state.{name}": x for name, x in small.state_dict().items()})


def _so_far(context: Context, whole: nn.Module, sites: Sites) -> tuple[nn.Module, Keep]:
    """The network as the step before left it, and which of the original units it has."""
    if context["step"] == 1:
        return whole, {name: torch.ones(site.shape, dtype=torch.bool) for name, site in sites.items()}
    found = context.artefact(len(context.recipe.needs) - 1)
    held = {name: found[f"keep.{name}"] for name in sites}
    model = cut(whole, sites, held)
    fill(model, {n[6:]: x for n, x in found.items() if n.startswith("state.")}, "the artefact of the step before")
    return model, held


def _chosen(context: Context, model: nn.Module, own: Sites, held: Keep, train: data.Split) -> Keep:
    """Which of the units that are left stay; the controls leave as many in each layer as the loss change does."""
    if context["method"] == METHODS[0]:
        total, left = (sum(f(kept) for kept in held.values()) for f in (Tensor.numel, lambda k: int(k.sum())))
        goal = round(context["sparsity"] * context["step"] / context["steps"] * total)
        changes = _changes(context, model, own, train)
        return select(changes, (goal - (total - left)) / sum(site.size for site in own.values()))
    if context["method"] == "unpruned":
        return {name: torch.ones(site.shape, dtype=torch.bool) for name, site in own.items()}
    kept = context.record(2).metrics["kept"]
    scores = (Random(context["seed"]) if context["method"] == "random" else Magnitude(p=2))(model, own)
    return select(scores, {name: 1 - kept[name] / own[name].size for name in own}, scope="layer")


def _changes(context: Context, model: nn.Module, own: Sites, train: data.Split) -> Mapping[str, Tensor]:
    if context["step"] == 1:
        return {name: context.artefact(1)[f"change.{name}"] for name in own}
    return _measure(context, model, networks.first(train, context["images"]))


def _measure(context: Context, model: nn.Module, images: data.Split) -> UnitWorth:
    """The loss change of every unit, measured where the study's options say."""
    device = torch.device(context.options.get("device", "cpu"))
    moved = copy.deepcopy(model).to(device)
    return LossChange(images)(moved, channels(moved, images.images[:1].to(device)))


def _fit(
    context: Context, model: nn.Module, recipe: Mapping[str, Json], images: data.Split, epochs: int
) -> tuple[list[dict[str, Json]], int | None]:
    """Train the model in place, where the study's options say; return the epochs, and which one was the best."""
    model.to(context.options.get("device", "cpu"))
    validation = networks.split(context, recipe, "validation")
    options = {"epochs": epochs, "batch_size": recipe["batch_size"], "seed": recipe["seed"], **recipe.get("fit", {})}
    history = fit(model, images, validation, **options)
    model.to("cpu")
    return history.to_dicts(), history.best_epoch


def _merged(held: Tensor, keep: Tensor | None) -> Tensor:
    """The mask over the original units, of one over those that were left."""
    merged = held.clone()
    if keep is not None:
        merged[held.nonzero().flatten()[~keep]] = False
    return merged


def _speed(whole: nn.Module, small: nn.Module, image: Tensor) -> dict[str, Json]:
    found: dict[str, Json] = {}
    for batch in BATCHES:
        compared = compare_latency({"unpruned": whole, "cut": small}, image, batch_size=batch, repeats=15)
        found |= {f"ms_{name}_{batch}": 1000 * latency.median for name, latency in compared.latencies.items()}
        found[f"speedup_{batch}"] = compared.speedups["cut"].median
    return found


STUDY = Study(
    name=NAME,
    title=TITLE,
    source=SOURCE,
    summary="A VGG-16 at 32×32 cut by measured importance, by magnitude and at random, at once and in steps, with fine-tuning.",
    cells=_cells,
    pages=lambda results: pages(results, TITLE),
    defaults=_options(),
)
