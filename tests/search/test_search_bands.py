"""Bands that trials of the author's search gave before this one was written: means of five networks, on MNIST-5k.

The networks learn from the 4,000 training digits, none held out, and the search sees the 1,000 test digits, as the
author's did.
"""

from __future__ import annotations

from math import sqrt
from statistics import fmean, stdev

import pytest

from secateur import data
from secateur.models import build
from secateur.result import Result
from secateur.search import Fitness, Genetic, Space, only
from secateur.structure import weights
from secateur.train import fit

DAMAGES = (0.1, 0.3, 0.5, 0.9)


def _searched(model: str, seed: int) -> dict[float, Result]:
    """Train as long as the author did, and search on the test digits as he did, from each damage rate."""
    network = build(model, seed=seed)
    train, test = data.load("mnist-5k", validation=0), data.load("mnist-5k", "test")
    fit(network, train, epochs=8, batch_size=10, optimizer="sgd", lr=0.05, seed=seed)
    space = Space(network, only(weights(network), "fc2.weight"))
    fitness = Fitness(space, (test.images, test.labels))
    return {damage: Genetic(damage)(fitness, space, budget=1050, seed=seed) for damage in DAMAGES}


def within(values: list[float], band: tuple[float, float]) -> bool:
    """Whether the mean lies in the band, give or take its standard error."""
    error = stdev(values) / sqrt(len(values))
    return band[0] - error <= fmean(values) <= band[1] + error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "fitness", "compression", "ends"),
    [
        ("janjic-mlp", (1.4, 2.1), (0.55, 0.78), None),
        ("janjic-cnn", (1.1, 1.7), (0.60, 0.78), (0.56, 0.62, 0.70)),
    ],
)
def test_the_genetic_search_ends_in_the_bands(
    model: str,
    fitness: tuple[float, float],
    compression: tuple[float, float],
    ends: tuple[float, float, float] | None,
) -> None:
    networks = [_searched(model, seed) for seed in range(5)]
    for number, damage in enumerate(DAMAGES[:3]):
        runs = [one[damage] for one in networks]
        assert within([r.history.fitness for r in runs], fitness), damage
        assert compression[0] <= fmean(r.history.compression for r in runs) <= compression[1], damage
        if ends is not None:
            assert fmean(r.history.generations[-1].rating.compression.mean() for r in runs) == pytest.approx(
                ends[number], abs=0.06
            ), damage
    assert fmean((one[0.9].history.generations[-1].rating.fitness > 0).sum() for one in networks) < 10
    for result in (r for one in networks for r in one.values()):
        best = [g.rating.fitness.max() for g in result.history.generations]
        assert best[0] >= 0
        assert best == sorted(best)
