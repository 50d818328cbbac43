"""S. Janjić, 2018, section 5.2.2: the filters of ResNet-101 pruned by their energy, every layer alone."""

from __future__ import annotations

from secateur.lab.report import Report
from secateur.lab.study import Results, Study
from secateur.studies.janjic.energy import cells, options
from secateur.studies.janjic.energy_pages import Claim, Layers, pages
from secateur.studies.janjic.filters import SOURCE

__all__ = ["PUBLISHED", "STUDY"]

TABLE_5_4 = {16: (7.81, 13.38), 17: (24.61, 45.04), 18: (45.70, 80.32), 19: (26.17, 81.83)}
"""Table 5.4: convolution → filters removed at 1 % and accuracy then, both in per cent."""


def _layer(place: int) -> tuple[Claim, Claim]:
    removed, accuracy = TABLE_5_4[place]
    return (
        Claim(
            f"1 %, layer {place}: filters removed (%)",
            removed,
            lambda layers: 100 * _mean(layers, place, "compression"),
        ),
        Claim(f"1 %, layer {place}: accuracy (%)", accuracy, lambda layers: 100 * _mean(layers, place, "accuracy")),
    )


def _mean(layers: Layers, place: int, value: str, threshold: float = 0.01) -> float:
    return layers.at(threshold).only(place).mean(value)


PUBLISHED = (
    Claim("50 %: layers that lose less than 10 points, of 66", 25, lambda layers: len(layers.at(0.5).cheap().frame)),
    Claim("50 %: filters removed in these (%)", 87.94, lambda layers: 100 * layers.at(0.5).cheap().mean("compression")),
    Claim("50 %: accuracy lost by these (points)", 3.30, lambda layers: 0.0 - layers.at(0.5).cheap().mean("points")),
    *(claim for place in TABLE_5_4 for claim in _layer(place)),
    Claim("1 %, layer 8: filters removed (%)", 7.8, lambda layers: 100 * _mean(layers, 8, "compression")),
    Claim("50 %, layer 19: filters removed (%)", 89.45, lambda layers: 100 * _mean(layers, 19, "compression", 0.5)),
    Claim("50 %, layer 19: accuracy (%)", 81.25, lambda layers: 100 * _mean(layers, 19, "accuracy", 0.5)),
)
"""What section 5.2.2, Table 5.4 and section 7 say in numbers."""

NOTES = (
    "Pruned are the first and the second convolution of each of the 33 residual modules, 66 layers as in the text, counted "
    "from 1. The third ones and the stem add into channels that many modules share; the text leaves them whole too.",
    "The text also counts 41 layers that together lose 47.82 % of their filters at a single-digit loss each, and does not "
    "say at which threshold; the table of cheap layers has ours at all of them.",
    "The text says of layer 8 at 1 % that the accuracy collapses “down 12.98 %”, of which it is not clear whether it is "
    "what was lost or what was left.",
    "Layer by layer, networks that were trained apart have nothing in common; so the figures of single layers stand here "
    "for completeness. They mean something when the text's own network is given as weights.",
)


# A sixteenth of the width, few images and two networks: what two cores train and rate in a quarter of an hour.
DEFAULTS = options(
    model="resnet-101",
    model_options={"width": 0.0625},
    layers="layer*",
    seeds=2,
    epochs=3,
    train_images=20_000,
    test_images=500,
    methods=["energy", "random", "l2"],
)


def _pages(results: Results) -> Report:
    return pages(results, STUDY.title, PUBLISHED, NOTES)


STUDY = Study(
    name="janjic-energy-resnet101",
    title="The filters of ResNet-101 pruned by their energy, every layer alone",
    source=SOURCE,
    summary="The two inner convolutions of each residual module of ResNet-101 lose their filters of least energy, one layer at a time.",
    cells=lambda settled: cells("janjic-energy-resnet101", settled, DEFAULTS),
    pages=_pages,
    defaults=DEFAULTS,
)
