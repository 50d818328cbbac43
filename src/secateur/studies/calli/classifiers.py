"""E. Çallı, 2017, sections 2.1.3 and 2.1.4: the classifiers for MNIST and CIFAR-10, pruned by their activations in cycles.

The text prints neither accuracies nor what pruning does to these; its notes ask for what stands in the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from torch import Tensor

from secateur import data, models
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json, Recipe
from secateur.lab.plan.study import Cell, Context, Outcome, Study
from secateur.labelled import Samples
from secateur.measure import evaluate, macs, parameters
from secateur.result import Result
from secateur.studies.calli.augment import Augmented, centred, cifar_form
from secateur.studies.calli.classifiers_pages import CIFAR_NOTES, MNIST_NOTES, cards, sections, words
from secateur.studies.calli.common import ON_IMAGES, SOURCE, Course, Way, cycle_options
from secateur.studies.kit.parts import study
from secateur.types import InputError

__all__ = ["CIFAR", "CIFAR_WAYS", "MNIST", "MNIST_WAYS"]

_RMSPROP = Way(optimizer="rmsprop", lr=1e-4, momentum=0.0)
_ADAM = Way(optimizer="adam", lr=1e-3, momentum=0.0)

MNIST_WAYS: Mapping[str, Way] = {
    "unpruned": _RMSPROP,
    "activation": _RMSPROP,
    "no biases": replace(_RMSPROP, network=(("bias", False),)),
    "batch norm": replace(_RMSPROP, network=(("batch_norm", True),)),
    "1-D convolutions": replace(_RMSPROP, network=(("one_dimensional", True),)),
    "higher rate and momentum": replace(_RMSPROP, lr=1e-3, momentum=0.9),
    "Adam": _ADAM,
    "fires in at most 1 %": replace(_RMSPROP, rule="fraction", limit=0.01),
    "outliers": replace(_RMSPROP, rule="outliers", limit=2.0),
    "distorted": replace(_RMSPROP, distort="multiply", strength=0.5, patience=2),
    "L1 of activations": replace(_ADAM, activity=1e-4, patience=2),
    "group lasso": replace(_ADAM, lasso=3e-3, floor=0.01, patience=2),
}

CIFAR_WAYS: Mapping[str, Way] = {
    "unpruned": _ADAM,
    "activation": _ADAM,
    "fires in at most 1 %": replace(_ADAM, rule="fraction", limit=0.01),
    "outliers": replace(_ADAM, rule="outliers", limit=2.0),
    "distorted": replace(_ADAM, distort="multiply", strength=0.5, patience=2),
    "group lasso": replace(_ADAM, lasso=1e-3, roles=("scale", "in"), floor=0.01, patience=2),
}
"""Rows; the first is not pruned."""

CourseOf = Callable[[Context], tuple[Course, data.Split]]
"""How the networks of a cell are trained, and what they are rated on."""


def _cells(name: str, network: str, ways: Mapping[str, Way], settled: Mapping[str, Json]) -> Iterator[Cell]:
    shared = {key: settled[key] for key in ("images", "rated", "epochs", "cycles", "settle", "batch_size")}
    for on in [settled["data"]] if isinstance(settled["data"], str) else settled["data"]:
        if network == "calli-cifar":
            _check_whole_batch(name, on, settled)
        lookup = {"data": on, "model": network}
        for seed in range(settled["seeds"]):
            for way in settled["ways"]:
                parameters_ = {"seed": seed, "way": way, "how": ways[way].recipe(), **shared, **lookup}
                yield Cell(Recipe(name, "cycle", parameters_), cycle_cell, lookup=lookup)


def _check_whole_batch(name: str, on: str, settled: Mapping[str, Json]) -> None:
    """Refuse fewer images than a batch: `Augmented` leaves a last smaller one out."""
    images, batch_size = settled["images"], settled["batch_size"]
    count = min(images, data.info(on).counts.get("train") or images)
    if count < batch_size:
        raise InputError(
            f"study {name!r} trains on whole batches only: images={images} gives {count:,} of {on}, fewer than "
            f"batch_size={batch_size}; give more images, or a batch_size of at most {count}"
        )


def cycle_cell(context: Context) -> Outcome:
    """Train one network, and prune it in cycles unless it is the unpruned one."""
    way, network, seed = Way.of(context["how"]), context["model"], context["seed"]
    course, test = (_cifar if network == "calli-cifar" else _mnist)(context)
    options = {**models.fitting(network, tuple(course.counted[0].shape[1:]), len(test.classes)), **dict(way.network)}
    model = models.build(network, seed=seed, **options)
    example = course.counted[0][:1]
    whole = {"parameters_before": parameters(model).total, "macs_before": macs(model, example)}
    rows: list[dict[str, Json]] = []
    left: dict[str, Json] = {}
    if context["way"] == "unpruned":
        course.plain(way, model, seed)
    else:
        result, rows = course.prune(way, model, seed)
        model, left = result.model, _left(result)
    rating = evaluate(model, test, batch_size=500)
    size = {"parameters": parameters(model).total, "macs": macs(model, example)}
    return Outcome({"accuracy": rating.accuracy, "loss": rating.loss, **whole, **size, **left}, rows)


def _left(result: Result) -> dict[str, Json]:
    counts = [int(keep_mask.sum()) for keep_mask in result.keep.values()]
    widths = [keep_mask.numel() for keep_mask in result.keep.values()]
    return {
        "left": "-".join(map(str, counts)),
        "units_removed": 1 - sum(counts) / sum(widths),
        "ending": result.history.ending,
    }


def _split(context: Context, which: str, count: str, *, normalise: bool = True) -> data.Split:
    root = context.options.get("data_dir")
    return data.load(context["data"], which, root=root, limit=context[count], normalise=normalise)


def _mnist(context: Context) -> tuple[Course, data.Split]:
    """Plain images."""
    train = _split(context, "train", "images")
    pairs = train.images, train.labels
    return _course(context, pairs, pairs), _split(context, "test", "rated")


def _cifar(context: Context) -> tuple[Course, data.Split]:
    """Images in CIFAR-10's form, distorted anew in each pass; counted and rated on centre crops."""
    train, test = (_split(context, *which, normalise=False) for which in (("train", "images"), ("test", "rated")))
    images = cifar_form(train.images)
    augmented = Augmented(images, train.labels, context["batch_size"], context["seed"])
    return _course(context, augmented, (centred(images), train.labels)), replace(
        test, images=centred(cifar_form(test.images))
    )


def _course(context: Context, train: Samples, counted: tuple[Tensor, Tensor]) -> Course:
    epochs, cycles, settle, batch_size = (context[name] for name in ("epochs", "cycles", "settle", "batch_size"))
    return Course(train, counted, epochs, cycles, settle, batch_size, "cross_entropy")


def _study(
    network: str,
    title: str,
    summary: str,
    ways: Mapping[str, Way],
    notes: tuple[str, ...],
    **defaults: Json,
) -> Study:
    tested = Option("rated", "count", 1000, "test images, the first ones", least=1)
    return study(
        network,
        title,
        summary,
        source=SOURCE,
        options=cycle_options(ways, *ON_IMAGES, tested, least_batch=2, **defaults),
        cells=lambda name, settled: list(_cells(name, network, ways, settled)),
        sections=sections,
        words=words,
        cards=cards,
        notes=notes,
        network=network,
        trained=False,
    )


MNIST = _study(
    "calli-mnist",
    "A classifier of three convolutions pruned by its activations",
    "Three convolutions and a dense layer, pruned in cycles, and what the text's notes would change about its training.",
    MNIST_WAYS,
    MNIST_NOTES,
    data="mnist-5k",
    images=4000,
    epochs=5,
    cycles=4,
    settle=5,
)
CIFAR = _study(
    "calli-cifar",
    "A classifier of two convolutions pruned by its activations",
    "Two convolutions and three dense layers with batch norm on distorted images, pruned in cycles.",
    CIFAR_WAYS,
    CIFAR_NOTES,
    data="fashion-mnist",
    batch_size=100,
)
