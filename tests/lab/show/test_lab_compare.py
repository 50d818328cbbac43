"""Comparisons of methods over seeds, against numbers worked by hand and against plain loops."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.lab.show.stats import compare
from secateur.lab.show.tables import comparison_table
from secateur.types import InputError, UnknownNameError


def runs(**methods: list[float]) -> pd.DataFrame:
    """One row a run: each method's values, one a seed, at one sparsity."""
    rows = [
        {"method": method, "seed": seed, "sparsity": 0.5, "accuracy": value}
        for method, values in methods.items()
        for seed, value in enumerate(values)
    ]
    return pd.DataFrame(rows)


def only(frame: pd.DataFrame, **options: Any) -> Any:
    """The one row of a comparison."""
    found = compare(frame, value="accuracy", **options)
    assert len(found) == 1
    return found.iloc[0]


def test_the_t_test_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, std 1, t = 2 / (1 / √3) = 3.4641. With 2 degrees of freedom
    # p = 1 − t / √(2 + t²) = 1 − 3.4641 / √14 = 0.07418; t(0.975, 2) = 4.3027.
    row = only(runs(a=[11, 22, 33], b=[10, 20, 30]))
    assert (row["method"], row["against"], row["n"], row["dropped"]) == ("a", "b", 3, 0)
    assert row["difference"] == pytest.approx(2)
    assert row["p"] == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(14), rel=1e-9)
    assert row["p_corrected"] == row["p"]  # one test needs no correction
    assert row["effect"] == pytest.approx(2)  # mean ÷ std
    assert (row["low"], row["high"]) == pytest.approx((2 - 2.4841, 2 + 2.4841), abs=1e-4)
    assert row["verdict"] == "no difference shown"
    assert only(runs(a=[11, 22, 33], b=[10, 20, 30]), confidence=0.9)["verdict"] == "better"


def test_pairs_see_what_means_hide() -> None:
    # The networks differ by ten times what the methods do; the pairs do not.
    row = only(runs(a=[0.11, 0.32, 0.53, 0.71], b=[0.10, 0.30, 0.50, 0.69]))
    assert row["difference"] == pytest.approx(0.02)
    assert row["p"] < 0.05


def test_wilcoxon_by_hand() -> None:
    # Differences 1, −2, 3, 4, 5, 6: the ranks of the negative ones add up to 2, of the positive ones to 19.
    # Of the 64 ways to set the signs those with a sum of at most 2 are {}, {1}, {2}: p = 2 · 3 / 64.
    row = only(runs(a=[1, -2, 3, 4, 5, 6], b=[0.0] * 6), test="wilcoxon")
    assert row["p"] == pytest.approx(6 / 64)
    assert row["effect"] == pytest.approx((19 - 2) / 21)
    assert row["low"] < row["difference"] < row["high"]


def test_the_permutation_test_by_hand() -> None:
    # All six differences are positive: only one in 64 ways has so great a mean, and one so small.
    row = only(runs(a=[1, 2, 3, 4, 5, 6], b=[0.0] * 6), test="permutation")
    assert row["p"] == pytest.approx(2 / 64)
    assert row["effect"] == pytest.approx(3.5 / math.sqrt(3.5))
    assert row["verdict"] == "better"


def test_the_permutation_test_equals_all_sign_flips() -> None:
    found = np.array([0.3, -0.1, 0.7, 0.2, 0.4, -0.25, 0.9])
    means = np.array([np.mean(found * signs) for signs in product([1, -1], repeat=7)])
    reference = 2 * np.mean(means >= found.mean() - 1e-12)
    row = only(runs(a=found.tolist(), b=[0.0] * 7), test="permutation")
    assert row["p"] == pytest.approx(reference)


def test_many_pairs_flip_at_random_from_the_seed() -> None:
    frame = runs(a=[math.sin(k) + 0.4 for k in range(20)], b=[0.0] * 20)
    first, again, other = (only(frame, test="permutation", seed=seed)["p"] for seed in (0, 0, 1))
    assert first == again
    assert first == pytest.approx(other, abs=0.02)


def test_five_pairs_can_show_nothing_without_the_t_test() -> None:
    frame = runs(a=[1, 2, 3, 4, 5], b=[0.0] * 5)
    for test in ("wilcoxon", "permutation"):
        assert only(frame, test=test)["p"] == pytest.approx(2 / 32)
    assert only(frame, test="t")["verdict"] == "better"


FOUR = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}


def four_tests(correction: str | None) -> pd.DataFrame:
    """Four sparsities, with p-values of different size."""
    parts = []
    for k, scale in enumerate((0.05, 0.5, 1.0, 4.0)):
        noise = np.array([1.0, -1.0, 2.0, -2.0, 0.0]) * scale
        parts.append(runs(x=(2 + noise).tolist(), y=[0.0] * 5).assign(sparsity=k / 10))
    return compare(pd.concat(parts), value="accuracy", correction=correction)  # type: ignore[arg-type]


def test_the_corrections_by_hand() -> None:
    p = four_tests(None)["p"].tolist()
    assert p == sorted(p)
    assert p[3] > 0.05 > p[2]
    assert four_tests(None)["p_corrected"].tolist() == p
    bonferroni = four_tests("bonferroni")["p_corrected"]
    assert bonferroni.tolist() == pytest.approx([min(4 * one, 1) for one in p])
    # Holm: the least times 4, the next times 3, …; never less than one before.
    assert four_tests("holm")["p_corrected"].tolist() == pytest.approx([4 * p[0], 3 * p[1], 2 * p[2], p[3]])
    # Benjamini and Hochberg: the k-th of m times m / k; never more than one behind.
    assert four_tests("fdr")["p_corrected"].tolist() == pytest.approx([4 * p[0], 2 * p[1], 4 / 3 * p[2], p[3]])


def test_holm_never_falls() -> None:
    from secateur.lab.show.stats.comparisons import _corrected

    # 0.01 · 3 = 0.03; 0.02 · 2 = 0.04; 0.03 · 1 = 0.03, less than the one before.
    assert _corrected(np.array([0.03, 0.01, 0.02]), "holm").tolist() == pytest.approx([0.04, 0.03, 0.04])


def test_what_was_no_test_does_not_count() -> None:
    lonely = runs(x=[1.0], y=[0.5]).assign(sparsity=0.9)
    found = compare(pd.concat([runs(x=[1, 2.1, 3], y=[0.0, 1, 2]), lonely]), value="accuracy")
    assert found["p_corrected"][0] == found["p"][0]
    assert math.isnan(found["p"][1])
    assert math.isnan(found["p_corrected"][1])
    assert found["verdict"].tolist() == ["better", "not tested"]


def test_all_pairs_or_against_the_baseline() -> None:
    frame = runs(a=[1, 2], b=[3, 5], c=[4, 9])
    every = compare(frame, value="accuracy")
    assert list(zip(every["method"], every["against"], strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    some = compare(frame, value="accuracy", baseline="b")
    assert list(zip(some["method"], some["against"], strict=True)) == [("a", "b"), ("c", "b")]
    assert some["difference"].tolist() == [-2.5, 2.5]


def test_each_sparsity_by_itself() -> None:
    frame = pd.concat([runs(a=[1, 2], b=[0, 0]), runs(a=[5, 6], b=[0, 0]).assign(sparsity=0.2)])
    assert compare(frame, value="accuracy")[["sparsity", "difference"]].values.tolist() == [[0.2, 5.5], [0.5, 1.5]]
    assert compare(frame, value="accuracy", within=(), pair=["seed", "sparsity"])["n"].tolist() == [4]


def test_runs_without_a_partner_are_dropped_and_counted() -> None:
    frame = runs(a=[1, 2, 3, math.nan], b=[0, 0, 0, 0, 7])
    frame = frame[~((frame["method"] == "a") & (frame["seed"] == 2))]
    row = only(frame)
    # Left: seeds 0 and 1. Left out: b's 2 and 4, whose partners are missing, and both of 3, as one diverged.
    assert (row["n"], row["dropped"], row["difference"]) == (2, 4, 1.5)


def test_seeds_are_paired_by_number_and_not_by_row() -> None:
    frame = runs(a=[1, 2, 4], b=[0, 0, 0])
    pd.testing.assert_frame_equal(
        compare(frame, value="accuracy"),
        compare(frame.sort_values("seed", ascending=False, kind="stable"), value="accuracy"),
    )


def test_less_than_two_pairs_give_no_p() -> None:
    one = only(runs(a=[0.5], b=[0.25]))
    assert (one["n"], one["difference"]) == (1, 0.25)
    none = only(pd.concat([runs(a=[1.0]), runs(b=[2.0]).assign(seed=9)]))
    assert (none["n"], none["dropped"]) == (0, 2)
    assert math.isnan(none["difference"])
    for row in (one, none):
        assert row["verdict"] == "not tested"
        assert all(math.isnan(row[name]) for name in ("low", "high", "p", "p_corrected", "effect"))


@pytest.mark.parametrize("test", ["t", "wilcoxon", "permutation"])
def test_equal_runs_show_nothing(test: str) -> None:
    row = only(runs(a=[0.1, 0.2, 0.3], b=[0.1, 0.2, 0.3]), test=test)
    assert (row["difference"], row["low"], row["high"], row["p"], row["effect"]) == (0, 0, 0, 1, 0)
    assert row["verdict"] == "no difference shown"


def test_equal_differences_leave_t_no_spread() -> None:
    # 0.3 − 0.2 and 0.2 − 0.1 differ in the last bit, which must not pass for a spread.
    frame = runs(a=[0.3, 0.2, 0.9, 0.8, 0.7, 0.6], b=[0.2, 0.1, 0.8, 0.7, 0.6, 0.5])
    row = only(frame)
    assert row["difference"] == pytest.approx(0.1)
    assert all(math.isnan(row[name]) for name in ("low", "high", "p", "effect"))
    assert row["verdict"] == "not tested"
    for test in ("wilcoxon", "permutation"):
        assert only(frame, test=test)["p"] == pytest.approx(2 / 64)
        assert only(frame, test=test)["verdict"] == "better"


def test_lower_is_better_for_losses() -> None:
    frame = runs(a=[1, 2, 3.1], b=[10, 11, 12])
    assert only(frame, better="lower")["verdict"] == "better"
    assert only(frame, better="higher")["verdict"] == "worse"


def test_rows_without_a_method_take_no_part() -> None:
    frame = pd.concat([runs(a=[1, 2], b=[0, 0]), runs(none=[9.0, 9.0]).assign(method=None)])
    assert len(compare(frame, value="accuracy")) == 1


VALUES = st.lists(st.floats(-1, 1, allow_subnormal=False), min_size=0, max_size=7)


@settings(max_examples=40)
@given(a=VALUES, b=VALUES, test=st.sampled_from(["t", "wilcoxon", "permutation"]))
def test_turning_a_comparison_round(a: list[float], b: list[float], test: Any) -> None:
    a, b = [*a, 0.5], [*b, 0.25]
    there = compare(runs(a=a, b=b), value="accuracy", test=test).iloc[0]
    back = compare(runs(b=b, a=a), value="accuracy", test=test).iloc[0]
    assert there["n"] == min(len(a), len(b))
    assert there["dropped"] == abs(len(a) - len(b))
    same = {"nan_ok": True, "abs": 1e-9}
    assert there["difference"] == pytest.approx(-back["difference"], **same)
    assert there["p"] == pytest.approx(back["p"], **same)
    assert there["effect"] == pytest.approx(-back["effect"], **same)
    assert math.isnan(there["p"]) or 0 <= there["p"] <= 1


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_corrections_only_ever_raise_p(p: list[float]) -> None:
    from secateur.lab.show.stats.comparisons import _corrected

    plain = np.array(p)
    fdr, holm, bonferroni = (_corrected(plain, name) for name in ("fdr", "holm", "bonferroni"))  # type: ignore[arg-type]
    slack = 1e-12
    assert (plain <= fdr + slack).all()
    assert (fdr <= holm + slack).all()
    assert (holm <= bonferroni + slack).all()
    assert (bonferroni <= 1).all()


def test_bad_input() -> None:
    frame = runs(a=[1, 2], b=[3, 4])
    with pytest.raises(UnknownNameError, match="unknown column 'acuracy'; did you mean 'accuracy'"):
        compare(frame, value="acuracy")
    with pytest.raises(UnknownNameError, match="unknown method 'c'"):
        compare(frame, value="accuracy", baseline="c")
    with pytest.raises(UnknownNameError, match="unknown test 'T'"):
        compare(frame, value="accuracy", test="T")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown correction 'hulm'; did you mean 'holm'"):
        compare(frame, value="accuracy", correction="hulm")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="what is better 'less'"):
        compare(frame, value="accuracy", better="less")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"confidence=95 must be a number in \(0, 1\): for 95 % give 0\.95"):
        compare(frame, value="accuracy", confidence=95)
    with pytest.raises(InputError, match=r"two runs have sparsity 0\.5, method a, seed 0"):
        compare(pd.concat([frame, frame[:1]]), value="accuracy")
    with pytest.raises(InputError, match="has no seed"):
        compare(frame.assign(seed=[0, 1, 0, None]), value="accuracy")
    with pytest.raises(InputError, match=r"method has the values \['a'\]"):
        compare(frame[:2], value="accuracy")
    with pytest.raises(InputError, match=r"method has the values \[\]"):
        compare(frame[:0], value="accuracy")
    with pytest.raises(InputError, match="column 'accuracy' holds no plain numbers"):
        compare(frame.assign(accuracy=[[1], [2], [3], [4]]), value="accuracy")
    with pytest.raises(InputError, match="column 'n' of its own; rename"):
        compare(frame.assign(n=1), value="accuracy", within=["n"])


def test_the_table_says_how_it_was_made() -> None:
    frame = pd.concat([runs(a=[11, 22, 33], b=[10, 20, 30]), runs(b=[1.0]).assign(sparsity=0.9)])
    table = comparison_table(compare(frame, value="accuracy", confidence=0.9), "who", "Who is better.")
    assert [column.heading for column in table.columns] == [
        *("sparsity", "method", "against", "pairs", "difference", "from (90 %)", "to (90 %)"),
        *("p", "p corrected", "effect d_z", "verdict"),
    ]  # fmt: skip
    shown = [column.text(value) for column, value in zip(table.columns, table.rows[0], strict=True)]
    assert shown[:5] == ["50\N{NO-BREAK SPACE}%", "a", "b", "3", "+2.0000"]
    assert shown[-4:] == ["0.0742", "0.0742", "+2.00", "better"]
    assert table.basis == "paired t-test, Holm's correction over 1 test; 1 run without a partner left out"
    ranked = comparison_table(compare(frame, value="accuracy", test="wilcoxon"), "who", "Who is better.")
    assert ranked.columns[-2].title == "rank-biserial"
    with pytest.raises(UnknownNameError, match="against"):
        comparison_table(frame, "who", "Who is better.")
