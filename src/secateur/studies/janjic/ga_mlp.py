"""S. Janjić, 2018, section 5.1.1: the weights of a multilayer perceptron's last layer pruned by a genetic algorithm."""

from __future__ import annotations

from secateur.lab.study import Study
from secateur.studies.janjic.evolution import cells, options
from secateur.studies.janjic.evolution_pages import pages
from secateur.studies.janjic.filters import SOURCE
from secateur.studies.janjic.published import MLP

__all__ = ["STUDY"]

STUDY = Study(
    name="janjic-ga-mlp",
    title="Weights of a multilayer perceptron evolved away",
    source=SOURCE,
    summary="The genetic algorithm on the last layer of 1024-2048-10, as published and honestly, beside ten other searches.",
    cells=lambda settled: cells("janjic-ga-mlp", settled),
    pages=lambda results: pages(results, "Weights of a multilayer perceptron evolved away", MLP),
    defaults=options("janjic-mlp"),
    best=("untouched_fitness", "max"),
)
