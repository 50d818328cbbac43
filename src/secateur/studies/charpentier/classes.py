"""L. Charpentier, 2020, sections 5.1 and 5.2: what cuts do to each class, and cutting for or against a class."""

from __future__ import annotations

from collections.abc import Mapping

from secateur import data
from secateur.criteria import ClassAccuracy, Random
from secateur.lab.plan.options import Option
from secateur.lab.plan.recipe import Json
from secateur.lab.plan.study import Cell, Context, Outcome
from secateur.selection import select
from secateur.structure import channels, cut
from secateur.studies.charpentier.classes_pages import NOTES, WAYS, sections, words
from secateur.studies.charpentier.common import SOURCE, options
from secateur.studies.charpentier.measured import OPTIONS, measured
from secateur.studies.kit import networks
from secateur.studies.kit.controls import as_many, by_magnitude
from secateur.studies.kit.networks import images_of, rate
from secateur.studies.kit.parts import study
from secateur.types import InputError

__all__ = ["STUDY"]


def _cells(name: str, settled: Mapping[str, Json]) -> list[Cell]:
    cells = []
    for base in networks.bases(name, settled):
        cells += measured(base, settled)
        parameters = {"images": settled["measured"], "sparsity": settled["class_sparsity"]}
        for number in _classes(name, base.lookup["data"], settled["classes"]):
            cells += [base.then("class", class_cell, {"class": number, "way": way, **parameters}) for way in WAYS]
    return cells


def _classes(study: str, name: str, class_numbers: list[int]) -> list[int]:
    count = len(data.info(name).classes)
    for number in class_numbers:
        if number >= count:
            raise InputError(f"study {study!r}: classes holds {number}, but {name} has the classes 0 to {count - 1}")
    return class_numbers or list(range(count))


def class_cell(context: Context) -> Outcome:
    """Cut what a class does not need, or what serves it, and rate what is left of every class."""
    model, recipe = networks.network(context)
    image, test = networks.example(context, recipe), networks.split(context, recipe, "test")
    sites = channels(model, image)
    images = networks.first(networks.split(context, recipe, "train"), context["images"])
    loss = networks.loss_of(recipe)
    scores = ClassAccuracy(images, [context["class"]], forget=context["way"] == "forget", loss=loss)(model, sites)
    keep = select(scores, context["sparsity"])
    small = cut(model, sites, keep)
    metrics = {**rate(small, images_of(context, recipe, context["images"]), loss), **networks.size(small, image)}
    at_random = as_many(Random(context["seed"])(model, sites), keep)
    for name, control in (("random", at_random), ("magnitude", by_magnitude(keep, model, sites))):
        metrics |= networks.quality(cut(model, sites, control), test, f"{name}_", loss)
    return Outcome({**metrics, "kept": {site: int(mask.sum()) for site, mask in keep.items()}})


STUDY = study(
    "charpentier-classes",
    "What cuts do to each class, and cutting for or against one",
    "The accuracy of each class after cuts by loss; and cuts of what a class does not need, or of what serves it.",
    source=SOURCE,
    options=options(
        *OPTIONS,
        Option("classes", "count", [], "classes to cut for and against, by number; [] for all", many="any"),
        Option("class_sparsity", "number", 0.25, "the fraction of the units to cut for or against a class", 0, 1),
        model="cnn-4",
        model_options={"width": 0.25},
        measured=5000,
        sparsities=[0.125, 0.25, 0.5],
    ),
    cells=_cells,
    sections=sections,
    words=words,
    notes=NOTES,
    trained=False,
)
