"""Is one method better than another, or only luckier? Paired tests over seeds, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_name, check_number
from secateur.files import require
from secateur.lab.show.stats.columns import check_columns, numbers, range_of
from secateur.lab.show.stats.summary import bootstrap, summarise
from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame, Series

__all__ = ["UNTESTED", "compare"]

UNTESTED = "not tested"
"""The verdict where there was no test."""

Numbers = NDArray[np.float64]
Test = Literal["t", "wilcoxon", "permutation"]
Correction = Literal["holm", "bonferroni", "fdr"]

_TESTS = ("t", "wilcoxon", "permutation")
_CORRECTIONS = ("holm", "bonferroni", "fdr")
_DIRECTIONS = ("higher", "lower")
_COLUMNS = (
    *("against", "n", "dropped", "difference", "low", "high", "p", "p_corrected", "effect", "verdict"),
    *("test", "correction", "confidence"),
)
# Differences of numbers of size 1 that are equal on paper differ by about 1e-16 in floating point; none of
# the tests may take that for a spread, nor for an order of ranks. A power of two rounds 2.5 to itself.
_GRAIN = 2.0**-40


@dataclass(frozen=True)
class _Tested:
    """What a test says of the differences."""

    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    effect: float = math.nan


def compare(
    frame: DataFrame,
    *,
    value: str,
    by: str = "method",
    baseline: Hashable | None = None,
    pair: str | Sequence[str] = "seed",
    within: Sequence[str] = ("sparsity",),
    test: Test = "t",
    correction: Correction | None = "holm",
    better: Literal["higher", "lower"] = "higher",
    confidence: float = 0.95,
    seed: int = 0,
) -> DataFrame:
    """Compare methods pair by pair: what they differ by, how surely, and by how much beside the spread.

    Runs of one seed start from the same network, so their difference is freed of what makes that network
    better or worse than others: a test of the differences (a paired test) sees much smaller effects.

    Args:
        frame: one row a run, as from `Store.frame`. Rows whose `by` is missing (trained baselines) take no part.
        value: the column to compare.
        by: the column that names the methods.
        baseline: the method that all others are compared with; None for all pairs of methods.
        pair: the column, or columns, in which two runs must agree to be a pair.
        within: the columns that methods are compared within, each combination of their values by itself.
        test: ``"t"``, the paired t-test (Student, 1908), for roughly normal differences; ``"wilcoxon"``, the
            signed-rank test (Wilcoxon, 1945), for symmetric ones; ``"permutation"``, which flips the signs of
            the differences (Fisher, 1935), all ways up to 13 pairs and 9,999 random ones beyond.
        correction: for the number of tests in the whole table: ``"holm"`` (Holm, 1979), ``"bonferroni"``, or
            ``"fdr"``, the false discovery rate (Benjamini and Hochberg, 1995); None for none.
        better: whether a higher or a lower value is better; for losses and times ``"lower"``.
        confidence: the coverage of the intervals; a difference is shown when p_corrected < 1 − confidence.
        seed: of the random sign flips and of the bootstrap.

    Returns:
        One row a comparison: the columns of `within`; `by` and ``against``, the two methods; ``n``, the pairs,
        and ``dropped``, how many runs were left out since they, or their partner, are missing or not finite;
        ``difference``, the mean of (method − against), and ``low``, ``high``, its own interval, uncorrected (of
        t, or for the other tests of the bootstrap); ``p`` and ``p_corrected``; ``effect``: Cohen's d_z, mean
        over standard deviation of the differences (Cohen, 1988), or for ``"wilcoxon"`` the matched-pairs
        rank-biserial correlation, from −1 to 1 (Kerby, 2014); ``verdict``: ``"better"``, ``"worse"``,
        ``"no difference shown"`` or, without a p, ``"not tested"``; then ``test``, ``correction`` and ``confidence`` as given.

        With fewer than two pairs p and bounds are nan. Pairs that all differ by exactly nothing give p = 1;
        by exactly the same something, t has no spread to judge by, and its p and bounds are nan. Such rows
        are no tests, so the correction does not count those without a p.

    Raises:
        InputError: two runs would be one (the same method, pair and `within`), a run has no `pair`, there are
            fewer than two methods, the value holds no numbers, or a column's name is one of the result's.
        UnknownNameError: an unknown column, baseline, test, correction or direction.

    >>> import pandas
    >>> runs = pandas.DataFrame({"method": ["l1"] * 3 + ["random"] * 3, "seed": [0, 1, 2] * 2, "sparsity": 0.5,
    ...                          "accuracy": [0.90, 0.88, 0.89, 0.80, 0.79, 0.78]})
    >>> found = compare(runs, value="accuracy", baseline="random")
    >>> found[["method", "n", "difference", "p", "verdict"]].round(4).values.tolist()
    [['l1', 3, 0.1, 0.0033, 'better']]
    """
    pairing = [pair] if isinstance(pair, str) else list(pair)
    _check_choices(test, correction, better, confidence)
    table = _table(frame, value, by, pairing, within)
    methods = _methods(table, by, baseline)
    rows = [
        [*place, method, other, *_compared(group, value, by, (method, other), pairing, test, confidence, seed)]
        for place, group in _groups(table, within)
        for method, other in _duels(methods, set(group[by]), baseline)
    ]
    names = [*within, by, "against", "n", "dropped", "difference", "low", "high", "p", "effect"]
    tests = require("pandas", "lab").DataFrame(rows, columns=names)
    tests[["low", "high"]] = tests[["low", "high"]].clip(*_difference_range(value, table[value]))
    tests["p_corrected"] = _corrected(tests["p"].to_numpy(dtype=np.float64), correction)
    tests["verdict"] = _verdicts(tests, better, 1 - confidence)
    tests = tests.assign(test=test, correction=correction or "none", confidence=confidence)
    return tests[[*within, by, *_COLUMNS]]


def _check_choices(test: str, correction: str | None, better: str, confidence: float) -> None:
    check_name("test", test, _TESTS)
    check_name("correction", correction, _CORRECTIONS, or_none=True)
    check_name("direction of what is better", better, _DIRECTIONS)
    check_number("interval", "(0, 1)", "for 95 % give 0.95", confidence=confidence)


def _table(frame: DataFrame, value: str, by: str, pair: Sequence[str], within: Sequence[str]) -> DataFrame:
    """Return the runs that have a method, their values as numbers, each of them one of a kind."""
    keys = [*within, by, *pair]
    check_columns(frame, [value, *keys])
    clashes = [name for name in (*within, by) if name in _COLUMNS]
    if clashes:
        raise InputError(f"compare: the result has a column {clashes[0]!r} of its own; rename yours")
    runs = frame[frame[by].notna()]
    runs = runs.assign(**{value: numbers(runs, value, "compare")})
    if runs[list(pair)].isna().any(axis=None):
        raise InputError(
            f"compare: a run has no {' or '.join(pair)} to be paired by; drop it, or pair by another column"
        )
    twice = runs[runs.duplicated(keys)]
    if len(twice):
        run = ", ".join(f"{name} {twice.iloc[0][name]}" for name in keys)
        raise InputError(f"compare: two runs have {run}; name the column that tells them apart in `within` or `pair`")
    return runs


def _difference_range(value: str, values: Series[float]) -> tuple[float, float]:
    """The range that a mean difference cannot leave: of accuracies from −1 to 1, of losses none."""
    least, most = range_of(value, values) or (-math.inf, math.inf)
    return least - most, most - least


def _groups(table: DataFrame, within: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], DataFrame]]:
    if not within:
        return iter([((), table)])
    return iter(table.groupby(list(within), sort=True, dropna=False))


def _methods(table: DataFrame, by: str, baseline: Hashable | None) -> list[Any]:
    methods = list(table[by].unique())
    if len(methods) < 2:
        raise InputError(f"compare: {by} has the values {methods}, so there is nothing to compare; give two or more")
    if baseline is not None and baseline not in methods:
        raise unknown_name(by, baseline, map(str, methods))
    return methods


def _duels(methods: Sequence[Any], here: set[Any], baseline: Hashable | None) -> list[tuple[Any, Any]]:
    """Return who is compared with whom: those of which at least one has a run here."""
    others = ((method, baseline) for method in methods if method != baseline)
    pairs = combinations(methods, 2) if baseline is None else others
    return [(method, other) for method, other in pairs if method in here or other in here]


def _compared(
    group: DataFrame,
    value: str,
    by: str,
    methods: tuple[Any, Any],
    pair: Sequence[str],
    test: Test,
    confidence: float,
    seed: int,
) -> tuple[int, int, float, float, float, float, float]:
    """Return n, dropped, difference, low, high, p and effect of two methods in one group."""
    ours, theirs = (group[group[by] == name].set_index(list(pair))[value] for name in methods)
    both = ours.index.union(theirs.index)
    differences = _differences(ours.reindex(both).to_numpy(), theirs.reindex(both).to_numpy())
    n, mean = len(differences), float(differences.mean()) if len(differences) else math.nan
    dropped = len(ours) + len(theirs) - 2 * n
    tested = _tested(differences, test, confidence, seed) if n > 1 else _Tested()
    return n, dropped, mean, tested.low, tested.high, tested.p, tested.effect


def _differences(ours: Numbers, theirs: Numbers) -> Numbers:
    """Return the differences of whole pairs, in order, so that the order of rows does not matter."""
    whole = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs = ours[whole], theirs[whole]
    size = max(np.abs(ours).max(initial=0.0), np.abs(theirs).max(initial=0.0))
    grain = _GRAIN * 2.0 ** math.frexp(size)[1]
    return np.sort(np.round((ours - theirs) / grain) * grain)


def _tested(found: Numbers, test: Test, confidence: float, seed: int) -> _Tested:
    """Return what a test says of two or more differences."""
    if not found.any():
        return _Tested(0.0, 0.0, 1.0, 0.0)
    alike = bool(found[0] == found[-1])
    if test == "t":
        return _Tested() if alike else _by_t(found, confidence)
    bounds = (math.nan, math.nan)
    if not alike:
        summary = bootstrap(found.tolist(), confidence=confidence, seed=seed)
        bounds = (summary.low, summary.high)
    if test == "wilcoxon":
        return _Tested(*bounds, float(require("scipy.stats", "lab").wilcoxon(found).pvalue), _rank_biserial(found))
    return _Tested(*bounds, _by_signs(found, seed), math.nan if alike else _cohen(found))


def _by_t(found: Numbers, confidence: float) -> _Tested:
    summary = summarise(found.tolist(), confidence)
    p = float(require("scipy.stats", "lab").ttest_1samp(found, 0.0).pvalue)
    return _Tested(summary.low, summary.high, p, _cohen(found))


def _by_signs(found: Numbers, seed: int) -> float:
    scipy_stats = require("scipy.stats", "lab")
    result = scipy_stats.permutation_test(
        (found,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(seed)
    )
    return float(result.pvalue)


def _cohen(found: Numbers) -> float:
    return float(found.mean() / found.std(ddof=1))


def _rank_biserial(found: Numbers) -> float:
    moved = found[found != 0]
    ranks = require("scipy.stats", "lab").rankdata(np.abs(moved))
    return float((ranks * np.sign(moved)).sum() / ranks.sum())


def _corrected(p: Numbers, correction: Correction | None) -> Numbers:
    """Return the p-values corrected for their number; a nan was no test."""
    corrected, tested = p.copy(), ~np.isnan(p)
    if not tested.any() or correction is None:
        return corrected
    if correction == "bonferroni":
        corrected[tested] = np.minimum(p[tested] * tested.sum(), 1.0)
    elif correction == "holm":
        corrected[tested] = _holm(p[tested])
    else:
        corrected[tested] = require("scipy.stats", "lab").false_discovery_control(p[tested], method="bh")
    return corrected


def _holm(p: Numbers) -> Numbers:
    order = np.argsort(p, kind="stable")
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _verdicts(found: DataFrame, better: str, level: float) -> list[str]:
    # The effect is of the test's own kind, so its sign is that of what the test has shown.
    signs = np.sign(found["effect"].fillna(found["difference"]).to_numpy(dtype=np.float64))
    good = signs > 0 if better == "higher" else signs < 0
    significant = found["p_corrected"].to_numpy(dtype=np.float64) < level
    words = np.where(significant, np.where(good, "better", "worse"), "no difference shown")
    # Without a p there was no test, and so nothing that it could have failed to show.
    return [str(word) for word in np.where(found["p"].isna(), UNTESTED, words)]
