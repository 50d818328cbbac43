"""k-means of numbers: the exact one is the best there is."""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.transforms import centroids, codebooks
from secateur.types import InputError, UnknownNameError


def squares(numbers: Any, values: Any) -> float:
    """The sum of squared distances to the nearest value."""
    return float(((numbers[:, None] - values[None]) ** 2).min(1).sum())


def best_of_all(numbers: Any, k: int) -> float:
    """The least sum of squares over every way to part the sorted numbers."""
    numbers = np.sort(numbers)
    ways = combinations(range(1, len(numbers)), k - 1)
    return min(
        sum(((numbers[a:b] - numbers[a:b].mean()) ** 2).sum() for a, b in pairwise([0, *cuts, len(numbers)]))
        for cuts in ways
    )


@given(
    numbers=st.lists(st.integers(-20, 20) | st.floats(-20, 20, width=32), min_size=1, max_size=9),
    k=st.integers(1, 5),
)
def test_the_exact_one_is_as_good_as_the_best_of_all_ways(numbers: list[float], k: int) -> None:
    x = np.array(numbers, np.float64)
    values = centroids(x, k)
    assert len(values) <= k
    assert np.all(np.diff(values) > 0)
    assert squares(x, values) <= best_of_all(x, min(k, len(x))) + 1e-9


@pytest.mark.parametrize("initialisation", ["exact", *codebooks.INITIALISATIONS])
def test_written_out(initialisation: str) -> None:
    numbers = np.array([0.0, 1.0, 10.0, 12.0, 30.0, 31.0])
    assert centroids(numbers, 3, initialisation, seed=1).tolist() in ([0.5, 11.0, 30.5], [0.0, 1.0, 20.75])
    assert centroids(numbers, 6, initialisation).tolist() == numbers.tolist()
    assert centroids(numbers, 9, initialisation).tolist() == numbers.tolist()
    assert centroids(numbers, 1, initialisation).tolist() == [14.0]


def test_where_the_beginnings_lie() -> None:
    data = codebooks._Sorted.of(np.array([0.0, 1.0, 1.0, 1.0, 2.0, 9.0]))
    values = {name: begin(data, 3, 0) + data.offset for name, begin in codebooks.INITIALISATIONS.items()}
    assert values["linear"].tolist() == [0.0, 4.5, 9.0]
    assert values["density"].tolist() == [0.0, 1.0, 2.0]
    assert set(values["random"]) < {0.0, 1.0, 2.0, 9.0}


@pytest.mark.parametrize("initialisation", list(codebooks.INITIALISATIONS))
def test_lloyd_ends_where_every_value_is_the_mean_of_what_is_nearest(initialisation: str) -> None:
    numbers = np.random.default_rng(0).standard_t(4, 3000)
    values = centroids(numbers, 12, initialisation)
    nearest = np.abs(numbers[:, None] - values[None]).argmin(1)
    means = np.array([numbers[nearest == cluster].mean() for cluster in np.unique(nearest)])
    assert np.allclose(means, values[np.unique(nearest)])
    assert squares(numbers, centroids(numbers, 12)) <= squares(numbers, values) + 1e-9


def test_the_seed_decides_the_random_beginning() -> None:
    numbers = np.random.default_rng(0).standard_normal(500)
    first, again, other = (centroids(numbers, 8, "random", seed).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_numbers_in_bins_lead_near_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = np.random.default_rng(0).standard_normal(4000)
    exact = squares(numbers, centroids(numbers, 16))
    monkeypatch.setattr(codebooks, "EXACT", 500)
    assert exact <= squares(numbers, centroids(numbers, 16)) <= 1.01 * exact


def test_far_numbers_cost_no_digits() -> None:
    numbers = np.array([0.0, 1.0, 10.0, 12.0]) + 1e8
    assert (centroids(numbers, 2) - 1e8).tolist() == [0.5, 11.0]


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no numbers"):
        centroids(np.empty(0), 2)
    with pytest.raises(InputError, match="k=0"):
        centroids(np.ones(3), 0)
    with pytest.raises(UnknownNameError, match="did you mean 'linear'"):
        centroids(np.ones(3), 2, "linaer")
