"""L. Charpentier, 2020, sections 5.1 and 5.2: what cuts do to each class, and cutting for or against a class."""

from __future__ import annotations

from collections.abc import Mapping

from secateur import data
from secateur.criteria import ClassAccuracy, Random
from secateur.lab.options import Option, Options
from secateur.lab.recipe import Json, Recipe
from secateur.lab.study import Cell, Context, Outcome, Study
from secateur.selection import select
from secateur.structure import channels, cut
from secateur.studies.charpentier.classes_pages import WAYS, pages
from secateur.studies.charpentier.common import SOURCE
from secateur.studies.charpentier.measured import OPTIONS, as_many, by_magnitude, images_of, measured, rate
from secateur.studies.kit import networks
from secateur.types import InputError

__all__ = ["STUDY"]

NAME = "charpentier-classes"
TITLE = "What cuts do to each class, and cutting for or against one"


def _options() -> Options:
    own = (
        Option("classes", "count", [], "classes to cut for and against, by number; [] for all", many="any"),
        Option("class_sparsity", "number", 0.25, "the fraction of the units to cut for or against a class", 0, 1),
    )
    made = Options((*networks.OPTIONS, *OPTIONS, *own))
    further = {"model": "cnn-4", "model_options": {"width": 0.25}, "measured": 5000, "sparsities": [0.125, 0.25, 0.5]}
    return made.changed(epochs=5, batch_size=32, **further)


def _cells(settled: Mapping[str, Json]) -> list[Cell]:
    networks.check(settled)
    cells = []
    for name, model in networks.grid(settled):
        classes = _classes(name, settled["classes"])
        known = {"data": name, "model": model}
        for seed in range(settled["seeds"]):
            base = networks.trained(NAME, seed, settled, name, model)
            cells += measured(NAME, base, settled, known)
            for number in classes:
                for way in WAYS:
                    what = {"seed": seed, "class": number, "way": way, "images": settled["measured"]}
                    what |= {"sparsity": settled["class_sparsity"], **known}
                    cells.append(Cell(Recipe(NAME, "class", what, (base.id,), known), class_cell))
    return cells


def _classes(name: str, wanted: list[int]) -> list[int]:
    count = len(data.info(name).classes)
    for number in wanted:
        if number >= count:
            raise InputError(f"study {NAME!r}: classes holds {number}, but {name} has the classes 0 to {count - 1}")
    return wanted or list(range(count))


def class_cell(context: Context) -> Outcome:
    """Cut what a class does not need, or what serves it, and rate what is left of every class."""
    model, recipe = networks.network(context)
    image, test = networks.example(context, recipe), networks.split(context, recipe, "test")
    sites = channels(model, image)
    images = networks.first(networks.split(context, recipe, "train"), context["images"])
    scores = ClassAccuracy(images, [context["class"]], forget=context["way"] == "forget")(model, sites)
    keep = select(scores, context["sparsity"])
    small = cut(model, sites, keep)
    metrics = {**rate(small, images_of(context, recipe, context["images"])), **networks.size(small, image)}
    at_random = as_many(Random(context["seed"])(model, sites), keep)
    for name, control in (("random", at_random), ("magnitude", by_magnitude(keep, model, sites))):
        metrics |= networks.quality(cut(model, sites, control), test, f"{name}_")
    return Outcome({**metrics, "kept": {site: int(kept.sum()) for site, kept in keep.items()}})


STUDY = Study(
    name=NAME,
    title=TITLE,
    source=SOURCE,
    summary="The accuracy of each class after cuts by loss; and cuts of what a class does not need, or of what serves it.",
    cells=_cells,
    pages=lambda results: pages(results, TITLE),
    defaults=_options(),
)
