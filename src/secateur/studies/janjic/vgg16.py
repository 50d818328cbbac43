"""S. Janjić, 2018, section 5.2.1: the filters of VGG-16 pruned by their energy, every layer alone."""

from __future__ import annotations

from secateur.lab.report import Report
from secateur.lab.study import Results, Study
from secateur.studies.janjic.energy import cells, options
from secateur.studies.janjic.energy_pages import Claim, Layers, pages
from secateur.studies.janjic.filters import SOURCE

__all__ = ["PUBLISHED", "STUDY"]

FOURTH = "without the 4th convolution (the text's layer 8)"


def _removed(layers: Layers) -> float:
    return 100 * layers.mean("compression")


def _lost(layers: Layers) -> float:
    return 0.0 - layers.mean("points")


PUBLISHED = (
    Claim("unpruned: accuracy (%)", 68.14, lambda layers: 100 * layers.base("accuracy")),
    Claim("unpruned: loss", 1.334, lambda layers: layers.base("loss")),
    Claim("1 %: filters removed (%), mean of the layers", 9.83, lambda layers: _removed(layers.at(0.01))),
    Claim("1 %: accuracy lost (points)", 3.23, lambda layers: _lost(layers.at(0.01))),
    Claim(f"1 %: the same {FOURTH}", 2.52, lambda layers: _lost(layers.at(0.01).without(4))),
    Claim("10 %: filters removed (%), mean of the layers", 40.06, lambda layers: _removed(layers.at(0.1))),
    Claim("10 %: accuracy lost (points)", 16.88, lambda layers: _lost(layers.at(0.1))),
    Claim(f"10 %: the same {FOURTH}", 9.48, lambda layers: _lost(layers.at(0.1).without(4))),
    Claim("10 %: filters removed in the 1st layer (%)", 70.93, lambda layers: _removed(layers.at(0.1).only(1))),
    Claim("10 %: accuracy lost by the 1st layer (points)", 3.94, lambda layers: _lost(layers.at(0.1).only(1))),
    Claim("50 %: filters removed in the 1st layer (%)", 81.0, lambda layers: _removed(layers.at(0.5).only(1))),
    Claim("50 %: accuracy lost by the 1st layer (points)", 5.0, lambda layers: _lost(layers.at(0.5).only(1))),
    Claim("50 %: least accuracy lost by any layer (points)", 63.11, lambda layers: 0.0 - layers.at(0.5).most("points")),
)
"""What sections 5.2.1, 5.2.2 and 7 and Table 5.3 say in numbers."""

NOTES = (
    "The text numbers the modules of its network, pools included; here the convolutions are counted. Its layers 1, 8 and "
    "15 are the 1st, 4th and 7th convolution.",
    "The text prunes a layer together with the next convolution, so its 13th, which none follows, takes no part in its "
    "means; it is pruned here as well, and left out of the means.",
    "The text contradicts itself on the first layer: it loses 5 points at 50 %, and no layer less than 63.11. That 70.93 % "
    "of the first layer are removed cannot be with 64 filters.",
    "The text rates ImageNet with a network that was trained by others; how that one's accuracies compare with those of "
    "another network on other data nothing can be said. Shares of filters depend on the weights alone.",
)


DEFAULTS = options(model="vgg-16", model_options={"width": 0.125}, epochs=6)


def _pages(results: Results) -> Report:
    return pages(results, STUDY.title, PUBLISHED, NOTES)


STUDY = Study(
    name="janjic-energy-vgg16",
    title="The filters of VGG-16 pruned by their energy, every layer alone",
    source=SOURCE,
    summary="Each convolution of VGG-16 loses its filters of least energy, the others whole; beside random, L1 and L2.",
    cells=lambda settled: cells("janjic-energy-vgg16", settled, DEFAULTS),
    pages=_pages,
    defaults=DEFAULTS,
)
