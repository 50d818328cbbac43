"""S. Janjić, 2018, section 5.2.2: the filters of ResNet-101 pruned by their energy, every layer alone."""

from __future__ import annotations

from secateur.studies.janjic.energy import energy_study

__all__ = ["STUDY"]

STUDY = energy_study(
    "janjic-energy-resnet101",
    "The filters of ResNet-101 pruned by their energy, every layer alone",
    "The two inner convolutions of each residual module of ResNet-101 lose their filters of least energy, one layer at a time.",
    notes=[
        "Pruned are the first and the second convolution of each of the 33 residual modules, 66 layers as in the text, "
        "counted from 1. The third ones and the stem add into channels that many modules share; the text leaves them whole "
        "too.",
        "The text also counts 41 layers that together lose 47.82 % of their filters at a single-digit loss each, and does "
        "not say at which threshold; the table of cheap layers has ours at all of them.",
        "The text says of layer 8 at 1 % that the accuracy collapses “down 12.98 %”, of which it is not clear whether it is "
        "what was lost or what was left.",
        "Layer by layer, networks that were trained apart have nothing in common; so the figures of single layers stand here "
        "for completeness. They mean something when the text's own network is given as weights.",
    ],
    model="resnet-101",
    model_options={"width": 0.0625},
    layers="layer*",
    # A sixteenth of the width, few images and two networks: what two cores train and rate in a quarter of an hour.
    seeds=2,
    epochs=3,
    train_images=20_000,
    test_images=500,
    methods=["energy", "random", "l2"],
)
