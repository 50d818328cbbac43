"""Means and intervals, against numbers that a table of t gives."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from secateur.lab.stats import describe, summarise
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
    with pytest.raises(InputError, match=r"got 95; for 95 % give 0\.95"):
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
