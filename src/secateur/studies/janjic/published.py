"""What the thesis prints on its genetic algorithm (S. Janjić, 2018, section 5.1), to stand beside ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["BANDS", "CNN", "MEANS", "MLP", "POSITIVE", "Trials"]

Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class Trials:
    """The published figures of one network's five trials.

    Attributes:
        model: the network's name here.
        kurtosis: excess kurtosis of the layer's weights before pruning.
        low: the least and the greatest of these weights.
        bottom: the fraction of them that are smaller than a tenth of the greatest magnitude.
        base: test accuracy of the unpruned network in per cent.
        best: of the best trial: damage rate, fitness, accuracy in per cent, compression.
        fitness, accuracy, compression: damage rate → least, mean and greatest of the initial population, then of the
            final one, as in Tables 5.1 and 5.2; per cent, except for the fitness; None where nothing is printed.
        common: the fraction of the weights that all five best solutions removed.
    """

    model: str
    kurtosis: float
    low: tuple[float, float]
    bottom: float
    base: float
    best: tuple[float, float, float, float]
    fitness: Mapping[float, Numbers] = field(default_factory=dict)
    accuracy: Mapping[float, Numbers] = field(default_factory=dict)
    compression: Mapping[float, Numbers] = field(default_factory=dict)
    common: float | None = None


MLP = Trials("janjic-mlp", 12.03, (-0.3490, 0.3137), 0.8345, 94.59, (0.1, 2.0, 95.69, 0.896))

CNN = Trials(
    "janjic-cnn",
    -0.862,
    (-0.3395, 0.3022),
    0.1795,
    98.39,
    (0.5, 0.894, 98.56, 0.7240),
    fitness={
        0.1: (-0.2280, 0.0257, 0.2160, 0.3025, 0.5223, 0.7125),
        0.3: (-0.3845, 0.0424, 0.3945, 0.2705, 0.5296, 0.7515),
        0.5: (-2.0870, -0.0291, 0.5225, 0.1220, 0.4735, 0.8940),
        0.7: (-5.3250, -0.9569, 0.3080, -0.6440, 0.0472, 0.6135),
        0.9: (-25.3005, -11.2025, 0.0000, -10.9710, -5.0511, 0.3340),
    },
    accuracy={
        0.1: (98.06, 98.32, 98.51, 98.18, 98.34, 98.56),
        0.3: (97.71, 98.14, 98.48, 98.06, 98.29, 98.52),
        0.5: (95.78, 97.87, 98.42, 97.83, 98.19, 98.56),
        0.7: (92.37, 96.75, 98.39, 97.01, 97.65, 98.43),
        0.9: (72.19, 86.30, 98.39, 86.48, 92.42, 98.33),
    },
    # "Minimum compression for all trials is 0%."
    compression={
        0.1: (0.0, 9.69, 11.50, 25.25, 57.15, 75.35),
        0.3: (0.0, 29.36, 32.45, 43.45, 62.90, 75.45),
        0.5: (0.0, 49.11, 52.40, 44.75, 67.77, 77.85),
        0.7: (0.0, 68.37, 71.90, 57.35, 79.10, 87.10),
        0.9: (0.0, 88.35, 91.70, 39.40, 92.11, 95.65),
    },
    common=0.0945,
)

BANDS: Mapping[tuple[str, str], Mapping[str, tuple[float, float]]] = {
    ("janjic-mlp", "mnist-5k"): {"fitness": (1.4, 2.1), "compression": (0.55, 0.78)},
    ("janjic-cnn", "mnist-5k"): {"fitness": (1.1, 1.7), "compression": (0.60, 0.78)},
}
"""What trials of this algorithm gave before the study was written: the best solution at 10 to 50 % damage, on the data
that it was evolved on, means of networks; no figures of the text."""

MEANS: Mapping[tuple[str, str], Mapping[float, tuple[float, float]]] = {
    ("janjic-cnn", "mnist-5k"): {0.1: (50.0, 62.0), 0.3: (56.0, 68.0), 0.5: (64.0, 76.0)},
}
"""The same for the mean compression of the final population, in per cent."""

POSITIVE = 10
"""At 90 % damage fewer individuals than this end above the unpruned layer."""
