"""S. Janjić, 2018, section 5.2.1: the filters of VGG-16 pruned by their energy, every layer alone."""

from __future__ import annotations

from secateur.studies.janjic.energy import energy_study

__all__ = ["STUDY"]

STUDY = energy_study(
    "janjic-energy-vgg16",
    "The filters of VGG-16 pruned by their energy, every layer alone",
    "Each convolution of VGG-16 loses its filters of least energy, the others whole; beside random, L1 and L2.",
    notes=[
        "The text numbers the modules of its network, pools included; here the convolutions are counted. Its layers 1, 8 and "
        "15 are the 1st, 4th and 7th convolution.",
        "The text prunes a layer together with the next convolution, so its 13th, which none follows, takes no part in its "
        "means; it is pruned here as well, and left out of the means.",
        "The text contradicts itself on the first layer: it loses 5 points at 50 %, and no layer less than 63.11. That 70.93 "
        "% of the first layer are removed cannot be with 64 filters.",
        "The text rates ImageNet with a network that was trained by others; how that one's accuracies compare with those of "
        "another network on other data nothing can be said. Shares of filters depend on the weights alone.",
    ],
    model="vgg-16",
    model_options={"width": 0.125},
    epochs=6,
)
