"""S. Janjić, 2018, section 5.1.2: the weights of a convolutional network's last layer pruned by a genetic algorithm."""

from __future__ import annotations

from secateur.lab.study import Study
from secateur.studies.janjic.evolution import cells, options
from secateur.studies.janjic.evolution_pages import pages
from secateur.studies.janjic.filters import SOURCE
from secateur.studies.janjic.published import CNN

__all__ = ["STUDY"]

STUDY = Study(
    name="janjic-ga-cnn",
    title="Weights of a convolutional network evolved away",
    source=SOURCE,
    summary="The genetic algorithm on the last layer of a small convolutional network, as published and honestly, beside ten other searches.",
    cells=lambda settled: cells("janjic-ga-cnn", settled),
    pages=lambda results: pages(results, "Weights of a convolutional network evolved away", CNN),
    defaults=options("janjic-cnn"),
    best=("untouched_fitness", "max"),
)
