"""The trained networks that studies begin with: their options, their grid of cells, and how to get at them and their data."""

from __future__ import annotations

import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur import data, models
from secateur.checks import check_name, in_one_line
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome, Resources
from secateur.losses import loss_function
from secateur.measure import evaluate, file_bytes, macs, parameters
from secateur.models.registry import REGISTRY
from secateur.state_dicts import fill
from secateur.structure import channels
from secateur.train import Callback, History, fit
from secateur.types import CheckpointError, InputError, unknown_name

__all__ = [
    "LOSS",
    "OPTIONS",
    "OptionsOf",
    "all_options",
    "bases",
    "check",
    "check_count",
    "check_layers",
    "device_of",
    "drawn",
    "example",
    "first",
    "fit_and_rate",
    "fitted",
    "grid",
    "images_of",
    "layer_sizes",
    "loaded",
    "loss_of",
    "network",
    "quality",
    "rate",
    "resumed",
    "singles",
    "size",
    "split",
    "taken_options",
    "train_cell",
    "trained",
    "training_count",
]

PLAIN = "cross_entropy"
"""The loss that recipes do not name."""

CHECKPOINT_SECONDS = 30
"""A shorter training writes no checkpoint: repeating it is cheaper than hashing its data."""

OPTIONS = (
    Option("seeds", "count", 3, "how many networks to train", least=1, most=1_000_000),
    Option("epochs", "count", 10, "passes over the training images", least=1),
    Option("batch_size", "count", 128, "images a step", least=1),
    Option("validation", "part", 6000, "training images to hold out"),
    Option("data", "text", "fashion-mnist", "data sets, by name", many="either"),
    Option("data_dir", "text", None, "the folder with the data files", optional=True),
    Option("model", "text", "fathollahi-5", "networks, by name or import path", many="either"),
    Option("model_options", "mapping", {}, "options of the networks; what the data decide is added"),
    Option(
        "checkpoint_seconds", "number", CHECKPOINT_SECONDS, "training that a killed run may lose, in seconds", least=0
    ),
    Option("device", "text", "cpu", "where to train, such as cuda"),
    Option("gpus", "number", 0, "graphics processors that a training asks for; a part of one shares it", least=0),
    Option("devices", "count", 1, "devices of one machine that train a network together", least=1),
    Option("amp", "flag", False, "train in bfloat16 where that is safe"),
    Option(
        "augment",
        "text",
        [],
        "what training does to the images of a folder",
        allowed=tuple(data.AUGMENTATIONS),
        many="any",
    ),
    Option("workers", "count", 2, "threads that read the images of a folder"),
)
"""What every study of trained networks takes."""

LOSS = Option("loss", "text", PLAIN, "what networks are trained, scored and rated by: a name or an import path")
"""What studies take whose every step asks for the loss."""

_ENOUGH = 100_000
"""Images of a folder that are counted, where it need not be known how many more there are."""

_TRAINING = ("epochs", "batch_size", "validation")
_IMAGES = ("size", "train_images")

AnyImages = TypeVar("AnyImages", bound=data.Images)

OptionsOf = Callable[[Mapping[str, Json]], Mapping[str, Json]]
"""From a study's options, on one data set with one network, to the options of that network."""


def all_options(settled: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return ``model_options``, for every network the same."""
    options: Mapping[str, Json] = settled["model_options"]
    return options


def taken_options(settled: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return those of ``model_options`` that the network takes; a width is nothing to a network without one.

    >>> taken_options({"model": "ann-128", "model_options": {"width": 0.5}})
    {}
    >>> taken_options({"model": "cnn-4", "model_options": {"width": 0.5}})
    {'width': 0.5}
    """
    options, model = settled["model_options"], settled["model"]
    return dict(options) if ":" in model else {key: options[key] for key in options if key in _takes(model)}


def _takes(model: str) -> list[str]:
    check_name("model", model, REGISTRY)
    return list(inspect.signature(REGISTRY[model]).parameters)


def check(settled: Mapping[str, Json], options_of: OptionsOf = all_options) -> None:
    """Refuse data sets, networks and options of networks that there are not, before anything runs.

    Raises:
        InputError, UnknownNameError: the error names it.
    """
    if options_of is taken_options and not any(":" in single["model"] for single in singles(settled)):
        networks_ = sorted({single["model"] for single in singles(settled)})
        names = {key for network_ in networks_ for key in _takes(network_)}
        for key in settled["model_options"]:
            check_name(f"option of {', '.join(networks_)}:", key, names)
    loss_function(settled.get("loss", PLAIN))
    for single in singles(settled):
        _check_held_out(single)
        if ":" not in single["model"]:
            models.input_shape(single["model"], **fitted(single["data"], single["model"], options_of(single)))


def _check_held_out(single: Mapping[str, Json]) -> None:
    """Refuse to hold out more images than there are, or none; folders are counted no further than that needs."""
    name, validation = single["data"], single["validation"]
    if validation is None:
        return
    is_part = isinstance(validation, float)
    count = data.train_count(name, _ENOUGH if is_part else max(validation + 1, _ENOUGH))
    held_out = round(validation * count) if is_part else validation
    if not 0 < held_out < count:
        raise InputError(
            f"validation is {validation}, which holds out {held_out:,} of the {count:,} training images of {name}; give a "
            f"count from 1 to {count - 1}, or a fraction such as 0.1"
        )


def training_count(single: Mapping[str, Json], enough: int) -> int:
    """Return how many images are left to train on; those of a folder are counted no further than `enough` needs."""
    validation = single["validation"] or 0
    is_part = isinstance(validation, float)
    count = data.train_count(single["data"], _ENOUGH if is_part else validation + enough + 1)
    return count - (round(validation * count) if is_part else validation)


def layer_sizes(model: str, options: Mapping[str, Json]) -> dict[str, int]:
    """Return how many units each site of a network has, by the site's name: channels of layers, entries of weights.

    Sites that are no layer's channels, such as heads, are left out; so is everything of a network of one's own that
    cannot be imported any more.

    >>> layer_sizes("ann-128", {"in_channels": 1, "input_size": 8, "classes": 10})["hidden"]
    128
    """
    try:
        # Without memory for the weights: only their shapes are wanted.
        with torch.device("meta"):
            network_ = models.build(model, **options)
    except InputError:
        return {}
    shapes = {name: parameter.shape for name, parameter in network_.named_parameters()}
    layers = {name.removesuffix(".weight"): shape[0] for name, shape in shapes.items() if name.endswith(".weight")}
    return {**layers, **{name: shape.numel() for name, shape in shapes.items()}}


def check_count(settled: Mapping[str, Json], option: str, options_of: OptionsOf = all_options) -> None:
    """Refuse to remove more units than a network has, before one is trained.

    Raises:
        InputError: the greatest of the values of `option` is more than that.
    """
    most = max(settled[option])
    for single in singles(settled):
        shape = data.info(single["data"]).shape
        if not all(shape):
            continue
        model = models.build(single["model"], seed=0, **fitted(single["data"], single["model"], options_of(single)))
        units = sum(site.size for site in channels(model, torch.zeros(1, *shape)).values())
        if most > units:
            raise InputError(
                f"{option} holds {most}, but {single['model']} has only {units} units; give at most {units}"
            )


def check_layers(
    settled: Mapping[str, Json], option: str, kinds: tuple[type[nn.Module], ...], options_of: OptionsOf = all_options
) -> None:
    """Refuse names and patterns of layers that fit none of a network, before one is trained.

    Raises:
        UnknownNameError: one of the values of `option` fits no layer of these kinds.
    """
    patterns = [settled[option]] if isinstance(settled[option], str) else settled[option]
    for single in singles(settled):
        # Without memory for the weights: only the names are wanted.
        with torch.device("meta"):
            model = models.build(single["model"], **fitted(single["data"], single["model"], options_of(single)))
        names = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        for pattern in patterns:
            if not fnmatch.filter(names, pattern):
                raise unknown_name(f"layer in {option} of {single['model']}:", pattern, names)


def grid(settled: Mapping[str, Json]) -> list[tuple[str, str]]:
    """Return each data set with each network, as one or a list of them was given.

    >>> grid({"data": ["digits", "mnist"], "model": "lenet-5"})
    [('digits', 'lenet-5'), ('mnist', 'lenet-5')]
    """
    names, networks = ([value] if isinstance(value, str) else value for value in (settled["data"], settled["model"]))
    return list(product(names, networks))


def singles(settled: Mapping[str, Json]) -> list[dict[str, Json]]:
    """Return the options for each data set with each network alone."""
    return [{**settled, "data": name, "model": model} for name, model in grid(settled)]


def bases(study: str, settled: Mapping[str, Json], options_of: OptionsOf = all_options) -> Iterator[Cell]:
    """Yield the training cell of each data set, network and seed, having checked them; see `trained`.

    Raises:
        InputError, UnknownNameError: there is no such data set, network or option of it.
    """
    check(settled, options_of)
    for single, seed in product(singles(settled), range(settled["seeds"])):
        yield trained(study, seed, {**single, "model_options": options_of(single)})


def fitted(name: str, model: str, options: Mapping[str, Json]) -> dict[str, Json]:
    """Return the options of a network: those given, and those that the data set decides where they are no defaults."""
    info = data.info(name)
    return {**models.fitting(model, info.shape, len(info.classes)), **options}


def trained(study: str, seed: int, settled: Mapping[str, Json]) -> Cell:
    """Return the cell that trains one network on one data set.

    Args:
        study: the study's name.
        seed: of the network's weights and of the order of the images.
        settled: the study's options, those of `OPTIONS` among them; ``data`` and ``model`` name one each, which the cells
            that build upon this one are looked up by. Further options of `secateur.fit` may stand under ``fit``.
    """
    lookup = {key: settled[key] for key in ("data", "model")}
    parameters = {**lookup, "model_options": fitted(settled["data"], settled["model"], settled["model_options"])}
    parameters |= {key: settled[key] for key in _TRAINING}
    parameters |= {key: settled[key] for key in _IMAGES if settled.get(key) is not None}
    # Without further options the recipe is what it was before there were any.
    loss = settled.get("loss", PLAIN)
    further = {**(settled.get("fit") or {}), **({} if loss == PLAIN else {"loss": loss})}
    further |= {"amp": True} if settled.get("amp") else {}
    devices = settled.get("devices", 1)
    # In the recipe, since norms see each device's share by itself.
    further |= {"devices": devices} if devices > 1 else {}
    parameters |= {"fit": further} if further else {}
    parameters |= {"augment": list(settled["augment"])} if settled.get("augment") else {}
    recipe = Recipe(study, "train", {"seed": seed, **parameters})
    return Cell(recipe, train_cell, Resources(cpus=devices, gpus=settled.get("gpus", 0)), lookup=lookup)


def train_cell(context: Context) -> Outcome:
    """Train one network; keep the weights of the epoch with the lowest validation loss."""
    recipe = context.recipe.parameters
    model = models.build(recipe["model"], seed=recipe["seed"], **recipe["model_options"])
    return fit_and_rate(context, recipe, model, recipe["seed"])


def fit_and_rate(
    context: Context, recipe: Mapping[str, Json], model: nn.Module, seed: int, callbacks: Sequence[Callback] = ()
) -> Outcome:
    """Train a network as a training recipe says, and rate it on the test set.

    Where the recipe has ``images`` or ``rated``, only so many of the first training or test images are taken.
    """
    model.to(device_of(context))
    history = resumed(
        context,
        model,
        first(split(context, recipe, "train"), recipe.get("images")),
        split(context, recipe, "validation"),
        epochs=recipe["epochs"],
        batch_size=recipe["batch_size"],
        seed=seed,
        callbacks=callbacks,
        **recipe.get("fit", {}),
    )
    test = first(split(context, recipe, "test"), recipe.get("rated"))
    metrics = quality(model, test, loss=loss_of(recipe))
    metrics |= size(model.to("cpu"), example(context, recipe))
    return Outcome({**metrics, "best_epoch": history.best_epoch}, history.to_dicts(), model.state_dict())


def device_of(context: Context) -> torch.device:
    """Return where the study's options say to train.

    Raises:
        InputError: torch has no such device here.
    """
    name = context.options.get("device", "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device is {name!r}, which torch cannot use here: {in_one_line(error)}; give cpu") from error
    return torch.device(name)


def resumed(context: Context, model: nn.Module, train: data.Images, validation: data.Images, **options: Any) -> History:
    """Train as `secateur.fit` does, and go on where a killed run of the same cell stopped.

    With callbacks it begins anew, since the cell may keep what they tell it, which is not in the checkpoint.
    """
    checkpoint = None if options.get("callbacks") else context.checkpoint
    seconds = context.options.get("checkpoint_seconds", CHECKPOINT_SECONDS)
    try:
        return fit(model, train, validation, checkpoint=checkpoint, checkpoint_seconds=seconds, **options)
    except CheckpointError:
        # Of other code, or damaged: nothing but this cell reads it.
        if checkpoint is None:
            raise
        checkpoint.unlink(missing_ok=True)
        return fit(model, train, validation, checkpoint=checkpoint, checkpoint_seconds=seconds, **options)


def first(images: AnyImages, count: int | None) -> AnyImages:
    """Return the first `count` images, or all where there are fewer or none is asked for."""
    return images if count is None else _part(images, range(min(count, len(images))))


def _part(images: AnyImages, positions: Tensor | Sequence[int]) -> AnyImages:
    part: Any = images.subset(positions)
    return part  # type: ignore[no-any-return]


def drawn(images: AnyImages, count: int, seed: int) -> AnyImages:
    """Return `count` of the images, drawn by the seed without replacement; all of them where there are no more."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return _part(images, order[:count])


def network(context: Context, position: int = 0) -> tuple[nn.Module, Mapping[str, Json]]:
    """Return the trained network of the needed cell at `position`, and the parameters of its recipe."""
    recipe = context.record(position).recipe.parameters
    model = models.build(recipe["model"], seed=0, **recipe["model_options"])
    fill(model, context.artefact(position), f"the artefact of cell {context.record(position).id}")
    return model, recipe


def split(context: Context, recipe: Mapping[str, Json], which: str) -> data.Images:
    """Return a split of the data that a network was trained on: ``"train"``, ``"validation"`` or ``"test"``.

    A recipe may say to which ``size`` the images are brought, and how many ``train_images`` there are. Those of a
    ``folder:PATH`` or ``datasets:PATH`` are streamed; training augments them as the recipe says.
    """
    limit = recipe.get("train_images") if which == "train" else None
    held_out = recipe["validation"] if which != "test" else 0
    if data.is_local(recipe["data"]):
        augment = tuple(recipe.get("augment", ())) if which == "train" else ()
        workers = context.options.get("workers", 0)
        return _stream(recipe["data"], which, held_out, recipe.get("size"), limit, augment, workers)
    return _load(recipe["data"], which, context.options.get("data_dir"), held_out, recipe.get("size"), limit)


@lru_cache(maxsize=4)
def _load(name: str, which: str, root: str | None, held_out: int, size: int | None, limit: int | None) -> data.Split:
    # seed=None: the last images of train are the validation set, as Keras's validation_split takes them.
    return data.load(name, which, root=root, validation=held_out, seed=None, size=size, limit=limit)


@lru_cache(maxsize=4)
def _stream(
    name: str, which: str, held_out: int, size: int | None, limit: int | None, augment: tuple[str, ...], workers: int
) -> data.Stream:
    # Drawn, since the last images of a folder are those of its largest classes.
    return data.stream(
        name, which, validation=held_out, seed=0, size=size, limit=limit, augment=augment, workers=workers
    )


def loaded(images: data.Images) -> data.Split:
    """Return images in memory, for what needs them all at once."""
    return images if isinstance(images, data.Split) else images.read()


def images_of(context: Context, recipe: Mapping[str, Json], count: int) -> dict[str, data.Images]:
    """Return the images: the first `count` of training, which alone may decide, validation and test."""
    splits = {name: split(context, recipe, name) for name in ("train", "validation", "test")}
    return {**splits, "train": first(splits["train"], count)}


def example(context: Context, recipe: Mapping[str, Json]) -> Tensor:
    """Return one image, as the example inputs."""
    return split(context, recipe, "test").head(1)


def loss_of(recipe: Mapping[str, Json]) -> str:
    """Return what a network was trained by, from its recipe.

    >>> loss_of({}), loss_of({"fit": {"loss": "mse"}})
    ('cross_entropy', 'mse')
    """
    loss: str = recipe.get("fit", {}).get("loss", PLAIN)
    return loss


def quality(model: nn.Module, images: data.Images, prefix: str = "", loss: str = PLAIN) -> dict[str, Json]:
    """Return loss, accuracy and the accuracy of each class."""
    evaluation = evaluate(model, images, loss, batch_size=1000)
    metrics = {
        "loss": evaluation.loss,
        "accuracy": evaluation.accuracy,
        "class_accuracy": list(evaluation.class_accuracy),
    }
    return {f"{prefix}{name}": value for name, value in metrics.items()}


def rate(model: nn.Module, splits: Mapping[str, data.Images], loss: str = PLAIN) -> dict[str, Json]:
    """Return loss, accuracy and the accuracy of each class on each split; those on ``test`` without a prefix."""
    return {
        name: value
        for key, images in splits.items()
        for name, value in quality(model, images, "" if key == "test" else f"{key}_", loss).items()
    }


def size(model: nn.Module, inputs: Tensor) -> dict[str, Json]:
    """Return parameters, those that are not zero, bytes of the file, and MACs for one image."""
    count = parameters(model)
    return {
        "parameters": count.total,
        "nonzero": count.nonzero,
        "bytes": file_bytes(model),
        "macs": macs(model, inputs),
    }
