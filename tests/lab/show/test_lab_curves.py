"""Pareto fronts and areas under curves, by hand and against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.lab.show.stats import area, pareto
from secateur.types import InputError, UnknownNameError

MODELS = pd.DataFrame(
    {"accuracy": [0.9, 0.9, 0.8, 0.8, 0.95, math.nan], "ms": [2.0, 2.0, 1.0, 1.5, math.nan, 0.1]}, index=list("abcdef")
)


def test_the_front_by_hand() -> None:
    # a and b are equal; d is beaten by c; e and f miss a number, however good the other one is.
    front = pareto(MODELS, maximise=["accuracy"], minimise=["ms"])
    assert front.to_dict() == {"a": True, "b": True, "c": True, "d": False, "e": False, "f": False}


def test_one_column_keeps_all_of_its_best() -> None:
    assert pareto(MODELS, minimise=["ms"]).to_dict() == dict.fromkeys("abcde", False) | {"f": True}
    assert pareto(MODELS[:4], maximise=["accuracy"]).tolist() == [True, True, False, False]


def test_nothing_has_no_front() -> None:
    assert pareto(MODELS[:0], maximise=["accuracy"]).tolist() == []


POINTS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), max_size=12)


@given(POINTS)
def test_the_front_equals_a_plain_loop(points: list[tuple[int, int, int]]) -> None:
    def beats(one: tuple[int, int, int], other: tuple[int, int, int]) -> bool:
        a, b = (-one[0], *one[1:]), (-other[0], *other[1:])
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    frame = pd.DataFrame(points, columns=["accuracy", "ms", "bytes"])
    expected = [not any(beats(other, point) for other in points) for point in points]
    assert pareto(frame, maximise=["accuracy"], minimise=["ms", "bytes"]).tolist() == expected


def test_pareto_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="give each column once"):
        pareto(MODELS)
    with pytest.raises(InputError, match="give each column once"):
        pareto(MODELS, maximise=["ms"], minimise=["ms"])
    with pytest.raises(UnknownNameError, match="unknown column 'msec'; did you mean 'ms'"):
        pareto(MODELS, minimise=["msec"])
    with pytest.raises(InputError, match="pareto: column 'name' holds no plain numbers"):
        pareto(MODELS.assign(name="x"), maximise=["name"])


def curve(sparsity: list[float], accuracy: list[float], method: str = "l1", seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame({"method": method, "seed": seed, "sparsity": sparsity, "accuracy": accuracy})


def test_the_area_by_hand() -> None:
    # ((1.0 + 0.8) / 2 · 0.4 + (0.8 + 0.2) / 2 · 0.2) / 0.6 = (0.36 + 0.1) / 0.6
    row = area(curve([0.2, 0.8, 0.6], [1.0, 0.2, 0.8])).iloc[0]
    assert row["area"] == pytest.approx(0.46 / 0.6)
    assert (row["method"], row["seed"], row["low"], row["high"], row["points"]) == ("l1", 0, 0.2, 0.8, 3)


def test_a_range_within_the_curve() -> None:
    # At 0.5 the line from (0, 1) to (1, 0) is at 0.5: its mean over 0.5 … 1 is 0.25.
    frame = pd.concat([curve([0, 1], [1, 0]), curve([0.5, 0.75, 1.25], [0.3, 0.3, 0.3], "random")])
    found = area(frame, low=0.5, high=1)
    assert found["area"].tolist() == pytest.approx([0.25, 0.3])
    assert found[["low", "high"]].values.tolist() == [[0.5, 1.0]] * 2


def test_each_seed_is_a_curve() -> None:
    frame = pd.concat([curve([0, 1], [1, 1]), curve([0, 1], [0, 0], seed=1)])
    assert area(frame)["area"].tolist() == [1, 0]


def test_a_diverged_point_shows() -> None:
    frame = curve([0, 0.5, 1], [1, math.nan, 1])
    assert math.isnan(area(frame)["area"][0])


def test_area_of_nothing_keeps_its_columns() -> None:
    assert list(area(curve([], [])).columns) == ["method", "seed", "area", "low", "high", "points"]


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), min_size=2, max_size=9, unique_by=lambda point: point[0]),
)
def test_an_area_is_a_mean(points: list[tuple[int, float]]) -> None:
    places, heights = zip(*points, strict=True)
    frame = curve(list(places), list(heights))
    found = area(frame)["area"][0]
    assert min(heights) - 1e-12 <= found <= max(heights) + 1e-12
    assert area(frame.assign(accuracy=1 - frame["accuracy"]))["area"][0] == pytest.approx(1 - found)
    # A point on the line between two others changes nothing.
    between = (min(places) + sorted(places)[1]) / 2
    height = np.interp(between, sorted(places), [h for _, h in sorted(points)])
    more = curve([*places, between], [*heights, float(height)])
    assert area(more)["area"][0] == pytest.approx(found)


def test_area_refuses_what_cannot_be_compared() -> None:
    two = pd.concat([curve([0, 1], [1, 0]), curve([0, 0.9], [1, 0], "random")])
    with pytest.raises(
        InputError, match=r"high is 0\.9 for method random, seed 0 and 1 for method l1, seed 0; give low and high"
    ):
        area(two)
    assert area(two, high=0.9)["area"].tolist() == pytest.approx([0.55, 0.5])
    with pytest.raises(InputError, match=r"method random, seed 0 reaches from sparsity = 0 to 0\.9, not from 0 to 1"):
        area(two, high=1)
    with pytest.raises(InputError, match="has 1 point; two are the least"):
        area(curve([0.5], [1]))
    with pytest.raises(InputError, match=r"two points at sparsity = 0\.5; name the column"):
        area(curve([0.5, 0.5, 0.9], [1, 2, 3]))
    with pytest.raises(InputError, match="has a point without sparsity"):
        area(curve([0.5, math.nan], [1, 2]))
    with pytest.raises(InputError, match=r"from 0\.5 to 0\.5 is empty; give low < high"):
        area(curve([0, 1], [1, 2]), low=0.5, high=0.5)
    with pytest.raises(InputError, match="at least one column in `by`"):
        area(curve([0, 1], [1, 2]), by=())
    with pytest.raises(UnknownNameError, match="unknown column 'acuracy'"):
        area(curve([0, 1], [1, 2]), y="acuracy")
    with pytest.raises(InputError, match="area: column 'accuracy' holds no plain numbers"):
        area(curve([0, 1], [1, 2]).assign(accuracy="high"))
