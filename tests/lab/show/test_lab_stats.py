"""Means and intervals, against numbers that a table of t gives and against plain resampling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.lab.show.stats import bootstrap, describe, summarise
from secateur.types import InputError, UnknownNameError


def test_against_a_table_of_t() -> None:
    # 1, 2, 3: mean 2, std 1; t(0.975, 2) = 4.3027, so half a width is 4.3027 / sqrt(3) = 2.4841.
    one = summarise([1, 2, 3])
    assert (one.mean, one.std, one.n) == (2, 1, 3)
    assert one.low == pytest.approx(2 - 2.4841, abs=1e-4)
    assert one.high == pytest.approx(2 + 2.4841, abs=1e-4)


def test_another_confidence() -> None:
    # t(0.95, 2) = 2.91999
    assert summarise([1, 2, 3], confidence=0.9).high == pytest.approx(2 + 2.91999 / math.sqrt(3), abs=1e-4)


def test_one_value_has_no_bounds() -> None:
    one = summarise([0.5])
    assert (one.mean, one.n) == (0.5, 1)
    assert all(map(math.isnan, (one.std, one.low, one.high)))


def test_a_diverged_run_shows() -> None:
    assert math.isnan(summarise([1.0, math.nan]).mean)


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no values"):
        summarise([])
    with pytest.raises(InputError, match=r"confidence=95 must be a number in \(0, 1\): for 95 % give 0\.95"):
        summarise([1, 2], confidence=95)


RUNS = pd.DataFrame(
    {"method": ["b", "b", "a"], "seed": [0, 1, 0], "accuracy": [0.5, 0.7, 0.9], "loss": [1.0, None, None]}
)


def test_describe_groups_and_counts() -> None:
    table = describe(RUNS, ["method"], ["accuracy", "loss"])
    assert table["method"].tolist() == ["a", "b"]
    assert table["accuracy"].tolist() == pytest.approx([0.9, 0.6])
    assert table["accuracy.std"][1] == pytest.approx(math.sqrt(0.02))
    assert table["accuracy.n"].tolist() == [1, 2]
    assert table["loss.n"].tolist() == [0, 1]
    assert math.isnan(table["loss"][0])


def test_describe_of_nothing_keeps_its_columns() -> None:
    table = describe(RUNS[:0], ["method"], ["accuracy"])
    assert list(table.columns) == [
        "method", "accuracy", "accuracy.std", "accuracy.low", "accuracy.high", "accuracy.n",
    ]  # fmt: skip
    assert len(table) == 0


def test_describe_refuses_unknown_columns() -> None:
    with pytest.raises(UnknownNameError, match="unknown column 'acuracy'; did you mean 'accuracy'"):
        describe(RUNS, ["method"], ["acuracy"])
    with pytest.raises(InputError, match="at least one column"):
        describe(RUNS, [], ["accuracy"])


def test_the_bootstrap_equals_a_plain_loop() -> None:
    values = [0.86, 0.9, 0.87, 0.95, 0.91, 0.88]
    noise = np.random.default_rng(1)
    means = sorted(sum(noise.choice(values, 6)) / 6 for _ in range(4000))
    one = bootstrap(values, method="percentile")
    assert one.low == pytest.approx(means[100], abs=2e-3)
    assert one.high == pytest.approx(means[3900], abs=2e-3)
    assert (one.mean, one.std, one.n) == (summarise(values).mean, summarise(values).std, 6)


def test_bca_leans_where_the_values_lean() -> None:
    # One value far above the others: the interval must reach further up than down, and further than percentiles do.
    values = [0.0, 0.1, 0.2, 0.1, 0.0, 0.1, 2.0]
    one, plain = bootstrap(values), bootstrap(values, method="percentile")
    assert one.high - one.mean > one.mean - one.low
    assert one.high > plain.high
    assert (one.interval, plain.interval) == ("bca", "percentile")


def test_the_same_seed_gives_the_same_bootstrap() -> None:
    values = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert bootstrap(values, seed=3) == bootstrap(values, seed=3)
    assert bootstrap(values, seed=3, resamples=200) != bootstrap(values, seed=4, resamples=200)


def test_the_bootstrap_leaves_the_global_state_alone() -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]  # noqa: NPY002
    bootstrap([1.0, 2.0, 4.0, 8.0, 16.0])
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]  # noqa: NPY002


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.2, 0.3, 0.4], [0.3] * 9])
def test_where_the_bootstrap_cannot_judge_t_does(values: list[float]) -> None:
    assert repr(bootstrap(values)) == repr(summarise(values))
    assert bootstrap(values).interval == "t"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_run_shows_in_the_bootstrap(bad: float) -> None:
    one = bootstrap([1.0, 2.0, 3.0, 4.0, 5.0, bad])
    assert not math.isfinite(one.mean)
    assert math.isnan(one.low)


@given(st.lists(st.floats(-1, 1), min_size=5, max_size=9), st.sampled_from(["bca", "percentile", "basic"]))
@settings(max_examples=50)
def test_bootstrap_bounds_are_in_order_and_finite(values: list[float], method: Any) -> None:
    one = bootstrap(values, resamples=500, method=method)
    assert one.low <= one.high
    if method != "basic":
        assert min(values) - 1e-12 <= one.low <= one.high <= max(values) + 1e-12


def test_bootstrap_refuses_bad_input() -> None:
    with pytest.raises(InputError, match="no values"):
        bootstrap([])
    with pytest.raises(InputError, match="resamples=0 must be a whole number, 1 or more"):
        bootstrap([1.0], resamples=0)
    with pytest.raises(UnknownNameError, match="unknown bootstrap method 'bcaa'; did you mean 'bca'"):
        bootstrap([1.0], method="bcaa")  # type: ignore[arg-type]


def test_describe_with_bootstrap_intervals() -> None:
    values = [0.5, 0.7, 0.9, 0.6, 0.8, 0.2]
    frame = pd.DataFrame({"method": "a", "accuracy": values})
    row = describe(frame, ["method"], ["accuracy"], interval="bootstrap").iloc[0]
    assert (row["accuracy.low"], row["accuracy.high"]) == (bootstrap(values).low, bootstrap(values).high)
    assert row["accuracy.low"] != describe(frame, ["method"], ["accuracy"])["accuracy.low"][0]
    with pytest.raises(UnknownNameError, match="unknown interval 'z'"):
        describe(frame, ["method"], ["accuracy"], interval="z")  # type: ignore[arg-type]
