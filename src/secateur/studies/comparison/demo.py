"""The main line in a minute, on the digits that scikit-learn ships: train, prune, cut, measure, report."""

from __future__ import annotations

from secateur.studies.comparison.declare import comparison
from secateur.studies.comparison.options import OPTIONS

__all__ = ["STUDY"]

STUDY = comparison(
    "demo",
    "Pruning a small network",
    "LeNet-300-100 on 8×8 digits: weights removed, neurons cut, costs and gains measured. Takes about a minute.",
    options=OPTIONS.changed(
        data="digits",
        model="lenet-300-100",
        model_options={"input_size": 8},
        epochs=30,
        batch_size=32,
        validation=300,
        minimum=1,
        sparsities=[0.2, 0.5, 0.8, 0.9, 0.95],
        methods=["weight", "weight random", "neuron", "neuron per layer", "neuron random"],
        dense=[0.5],
    ),
)
