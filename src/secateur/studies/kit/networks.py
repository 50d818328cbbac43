"""The trained networks that studies begin with: their options, their cells, and how to get at them and their data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product

from torch import Tensor, nn

from secateur import data, models
from secateur.lab.options import Option
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome
from secateur.measure import evaluate, file_bytes, macs, parameters
from secateur.state_dicts import fill
from secateur.train import Callback, fit

__all__ = [
    "OPTIONS",
    "check",
    "example",
    "first",
    "fit_and_rate",
    "fitted",
    "grid",
    "network",
    "quality",
    "size",
    "split",
    "train_cell",
    "trained",
]

OPTIONS = (
    Option("seeds", "count", 3, "how many networks to train", least=1),
    Option("epochs", "count", 10, "passes over the training images", least=1),
    Option("batch_size", "count", 128, "images a step", least=1),
    Option("validation", "part", 6000, "training images to hold out"),
    Option("data", "text", "fashion-mnist", "data sets, by name", many="either"),
    Option("data_dir", "text", None, "the folder with the data files", optional=True),
    Option("model", "text", "fathollahi-5", "networks, by name or import path", many="either"),
    Option("model_options", "mapping", {}, "options of the networks; what the data decide is added"),
)
"""What every study of trained networks takes."""

_TRAINING = ("epochs", "batch_size", "validation")
_IMAGES = ("size", "train_images")


def check(settled: Mapping[str, Json]) -> None:
    """Refuse data sets, networks and options of networks that there are not, before anything runs.

    Raises:
        InputError, UnknownNameError: the error names it.
    """
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


def trained(study: str, seed: int, settled: Mapping[str, Json], name: str, model: str, **fit_options: Json) -> Cell:
    """Return the cell that trains one network on one data set.

    Args:
        study: the study's name.
        seed: of the network's weights and of the order of the images.
        settled: the study's options, those of `OPTIONS` among them.
        name, model: the data set and the network.
        fit_options: further options of `secateur.fit`, such as ``lr``.
    """
    what = {"data": name, "model": model, "model_options": fitted(name, model, settled["model_options"])}
    what |= {key: settled[key] for key in _TRAINING}
    what |= {key: settled[key] for key in _IMAGES if settled.get(key) is not None}
    # Without further options the recipe is what it was before there were any.
    further = {"fit": fit_options} if fit_options else {}
    return Cell(Recipe(study, "train", {"seed": seed, **what, **further}), train_cell)


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
    history = fit(
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
    metrics = {**quality(model, test), **size(model, example(context, recipe))}
    return Outcome({**metrics, "best_epoch": history.best_epoch}, history.to_dicts(), model.state_dict())


def first(images: data.Split, count: int | None) -> data.Split:
    """Return the first `count` images, or all where there are fewer or none is asked for."""
    return images if count is None else images.subset(range(min(count, len(images))))


def network(context: Context, position: int = 0) -> tuple[nn.Module, Mapping[str, Json]]:
    """Return the trained network of the needed cell at `position`, and the parameters of its recipe."""
    recipe = context.record(position).recipe.parameters
    model = models.build(recipe["model"], seed=0, **recipe["model_options"])
    fill(model, context.artefact(position), f"the artefact of cell {context.record(position).id}")
    return model, recipe


def split(context: Context, recipe: Mapping[str, Json], which: str) -> data.Split:
    """Return a split of the data that a network was trained on: ``"train"``, ``"validation"`` or ``"test"``.

    A recipe may say to which ``size`` the images are brought, and how many ``train_images`` there are.
    """
    limit = recipe.get("train_images") if which == "train" else None
    return _load(
        recipe["data"], which, context.options.get("data_dir"), recipe["validation"], recipe.get("size"), limit
    )


@lru_cache(maxsize=4)
def _load(name: str, which: str, root: str | None, validation: int, size: int | None, limit: int | None) -> data.Split:
    # seed=None: the last images of train are the validation set, as Keras's validation_split takes them.
    held_out = validation if which != "test" else 0
    return data.load(name, which, root=root, validation=held_out, seed=None, size=size, limit=limit)


def example(context: Context, recipe: Mapping[str, Json]) -> Tensor:
    """Return one image, as the example inputs."""
    return split(context, recipe, "test").images[:1]


def quality(model: nn.Module, rated_on: data.Split, prefix: str = "") -> dict[str, Json]:
    """Return loss, accuracy and the accuracy of each class."""
    rated = evaluate(model, rated_on, batch_size=1000)
    found = {"loss": rated.loss, "accuracy": rated.accuracy, "class_accuracy": list(rated.class_accuracy)}
    return {f"{prefix}{name}": value for name, value in found.items()}


def size(model: nn.Module, inputs: Tensor) -> dict[str, Json]:
    """Return parameters, those that are not zero, bytes of the file, and MACs for one image."""
    count = parameters(model)
    return {
        "parameters": count.total,
        "nonzero": count.nonzero,
        "bytes": file_bytes(model),
        "macs": macs(model, inputs),
    }
