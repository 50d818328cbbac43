"""S. Janjić, 2018, section 5.1: the weights of a network's last layer pruned by a genetic algorithm."""

from __future__ import annotations

from functools import partial

from secateur.lab.plan.study import Study
from secateur.studies.janjic.evolution import cells, options
from secateur.studies.janjic.evolution_pages import NOTES, cards, sections, words
from secateur.studies.janjic.filters import SOURCE
from secateur.studies.kit.parts import study
from secateur.studies.kit.published import published

__all__ = ["CNN", "MLP"]


def _evolved(name: str, model: str, title: str, layer: str) -> Study:
    return study(
        name,
        title,
        f"The genetic algorithm on the last layer of {layer}, as published and honestly, beside ten other searches.",
        source=SOURCE,
        options=options(model),
        cells=cells,
        sections=partial(sections, theirs={model: published("janjic")["ga"][model]}),
        words=words,
        cards=cards,
        notes=NOTES,
        best=("untouched_fitness", "max"),
    )


MLP = _evolved("janjic-ga-mlp", "janjic-mlp", "Weights of a multilayer perceptron evolved away", "1024-2048-10")

CNN = _evolved(
    "janjic-ga-cnn",
    "janjic-cnn",
    "Weights of a convolutional network evolved away",
    "a small convolutional network",
)
