"""Scores in, written-out masks out; and the properties that every selection has."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from secateur.selection import removed_fraction, select
from secateur.structure import channels
from secateur.types import InputError, UnknownNameError


def bits(keep: dict[str, Tensor]) -> dict[str, list[int]]:
    assert all(k.dtype is torch.bool for k in keep.values())
    return {name: k.int().tolist() for name, k in keep.items()}


def scores(**values: list[float]) -> dict[str, Tensor]:
    return {name: torch.tensor(v, dtype=torch.float32) for name, v in values.items()}


TWO = scores(a=[1, 2, 3, 4], b=[10, 20, 30, 40])


@pytest.mark.parametrize(
    ("sparsity", "a", "b"),
    [
        (0, [1, 1, 1, 1], [1, 1, 1, 1]),
        (0.25, [0, 0, 1, 1], [1, 1, 1, 1]),  # the two lowest of eight are both in a
        (0.375, [0, 0, 0, 1], [1, 1, 1, 1]),
        (0.5, [0, 0, 0, 1], [0, 1, 1, 1]),  # a keeps its best, so the next lowest goes: b's 10
        (0.75, [0, 0, 0, 1], [0, 0, 0, 1]),
    ],
)
def test_global_ranks_all_sites_together(sparsity: float, a: list[int], b: list[int]) -> None:
    assert bits(select(TWO, sparsity)) == {"a": a, "b": b}


@pytest.mark.parametrize(
    ("sparsity", "a", "b"),
    [
        (0, [1, 1, 1, 1], [1, 1, 1, 1]),
        (0.25, [0, 1, 1, 1], [0, 1, 1, 1]),
        (0.5, [0, 0, 1, 1], [0, 0, 1, 1]),
        (0.75, [0, 0, 0, 1], [0, 0, 0, 1]),
        (1, [0, 0, 0, 1], [0, 0, 0, 1]),  # the best of each site stays
    ],
)
def test_layer_takes_each_site_by_itself(sparsity: float, a: list[int], b: list[int]) -> None:
    assert bits(select(TWO, sparsity, scope="layer")) == {"a": a, "b": b}


def test_a_mapping_names_the_sites_and_the_others_stay() -> None:
    assert bits(select(TWO, {"b": 0.5}, scope="layer")) == {"a": [1, 1, 1, 1], "b": [0, 0, 1, 1]}
    assert bits(select(TWO, {}, scope="layer")) == {"a": [1, 1, 1, 1], "b": [1, 1, 1, 1]}


def test_the_position_in_the_site_decides_not_the_value_s_place() -> None:
    assert bits(select(scores(a=[3, 1, 2, 4]), 0.5)) == {"a": [1, 0, 0, 1]}
    matrix = {"w": torch.tensor([[5.0, 1.0, 4.0], [2.0, 6.0, 3.0]])}
    assert select(matrix, 0.5)["w"].int().tolist() == [[1, 0, 1], [0, 1, 0]]


def test_of_equal_scores_the_earlier_goes_first() -> None:
    assert bits(select(scores(a=[7, 7, 7, 7]), 0.5)) == {"a": [0, 0, 1, 1]}
    assert bits(select(scores(a=[7, 7], b=[7, 7, 7]), 0.6)) == {"a": [0, 1], "b": [0, 0, 1]}
    assert bits(select(scores(a=[2, 1, 1, 2]), 0.25)) == {"a": [1, 0, 1, 1]}
    matrix = {"w": torch.ones(2, 3)}
    assert select(matrix, 4 / 6)["w"].int().tolist() == [[0, 0, 0], [0, 1, 1]]


def test_ties_are_exact_in_numbers_beyond_hand_sizes() -> None:
    """An unstable sort shows itself only on longer tensors."""
    kept = select({"w": torch.zeros(100, 100)}, 0.3)["w"].flatten()
    assert kept.tolist() == [False] * 3000 + [True] * 7000


def test_nearly_equal_doubles_are_told_apart() -> None:
    close = torch.tensor([1.0, 1.0 - 1e-12], dtype=torch.float64)
    assert bits(select({"a": close}, 0.5)) == {"a": [1, 0]}
    assert bits(select({"a": close}, 0.5, scope="layer")) == {"a": [1, 0]}


@pytest.mark.parametrize(
    ("sparsity", "removed"),
    [(0.1, 1), (0.3, 3), (0.25, 2), (0.35, 4), (0.05, 0), (0.15, 2), (0.29, 3), (1 / 3, 3)],
)
def test_the_number_removed_is_rounded_halves_to_even(sparsity: float, removed: int) -> None:
    ten = {"a": torch.arange(10.0)}
    assert int((~select(ten, sparsity)["a"]).sum()) == removed
    assert int((~select(ten, sparsity, scope="layer")["a"]).sum()) == removed


def test_a_threshold_removes_what_is_below_it() -> None:
    assert bits(select(TWO, threshold=3)) == {"a": [0, 0, 1, 1], "b": [1, 1, 1, 1]}
    assert bits(select(TWO, threshold=20)) == {"a": [0, 0, 0, 1], "b": [0, 1, 1, 1]}
    assert bits(select(TWO, threshold=-inf)) == {"a": [1, 1, 1, 1], "b": [1, 1, 1, 1]}
    assert bits(select(TWO, threshold=20, minimum=0)) == {"a": [0, 0, 0, 0], "b": [0, 1, 1, 1]}


def test_minimum_keeps_the_best_of_every_site() -> None:
    assert bits(select(TWO, 0.5, minimum=2)) == {"a": [0, 0, 1, 1], "b": [0, 0, 1, 1]}
    assert bits(select(TWO, 0.5, minimum=0)) == {"a": [0, 0, 0, 0], "b": [1, 1, 1, 1]}
    assert bits(select(TWO, 1, minimum=0)) == {"a": [0, 0, 0, 0], "b": [0, 0, 0, 0]}
    assert bits(select(TWO, 1, scope="layer", minimum=3)) == {"a": [0, 1, 1, 1], "b": [0, 1, 1, 1]}
    assert bits(select(TWO, 1, scope="layer", minimum=9)) == {"a": [1, 1, 1, 1], "b": [1, 1, 1, 1]}
    assert bits(select(TWO, threshold=100, minimum=2)) == {"a": [0, 0, 1, 1], "b": [0, 0, 1, 1]}


def test_the_minimum_of_ties_keeps_the_later() -> None:
    assert bits(select(scores(a=[5, 5, 5]), threshold=6)) == {"a": [0, 0, 1]}
    assert bits(select(scores(a=[5, 5, 5], b=[9, 9, 9]), 0.5, minimum=1)) == {"a": [0, 0, 1], "b": [0, 1, 1]}


def test_infinite_scores_are_ranked() -> None:
    assert bits(select(scores(a=[inf, -inf, 0, 1]), 0.5)) == {"a": [1, 0, 0, 1]}


def test_scores_are_left_alone_and_other_dtypes_do() -> None:
    original = torch.tensor([3.0, 1.0, 2.0, 0.0], dtype=torch.bfloat16, requires_grad=True)
    before = original.detach().clone()
    assert bits(select({"a": original}, 0.5)) == {"a": [1, 0, 1, 0]}
    assert torch.equal(original.detach(), before)
    assert bits(select({"a": torch.tensor([3, 1, 2, 0])}, 0.5)) == {"a": [1, 0, 1, 0]}


def test_removed_fraction_counts_units() -> None:
    assert (
        removed_fraction({"a": torch.tensor([True, False, False, True]), "b": torch.ones(4, dtype=torch.bool)}) == 0.25
    )
    assert removed_fraction({}) == 0


@pytest.mark.parametrize("sparsity", [-0.1, 1.5, nan, inf, "0.5", True, None, [0.5], torch.tensor(0.5)])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_fractions_outside_zero_to_one_are_refused(sparsity: object, scope: str) -> None:
    with pytest.raises(InputError, match="sparsity"):
        select(TWO, sparsity, scope=scope)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [-0.1, 1.5, nan, "0.5", False])
def test_a_bad_fraction_in_a_mapping_is_named(fraction: object) -> None:
    with pytest.raises(InputError, match=r"sparsity\['b'\].*in \[0, 1\]"):
        select(TWO, {"b": fraction}, scope="layer")  # type: ignore[dict-item]


def test_both_or_neither_of_sparsity_and_threshold_is_refused() -> None:
    with pytest.raises(InputError, match=r"give one of sparsity .* threshold"):
        select(TWO)
    with pytest.raises(InputError, match=r"give one of sparsity .* threshold"):
        select(TWO, 0.5, threshold=1)


@pytest.mark.parametrize("threshold", [nan, "3", True])
def test_a_threshold_that_is_no_number_is_refused(threshold: object) -> None:
    with pytest.raises(InputError, match="threshold"):
        select(TWO, threshold=threshold)  # type: ignore[arg-type]


@pytest.mark.parametrize("minimum", [-1, 0.5, "1", None])
def test_a_minimum_that_is_no_count_is_refused(minimum: object) -> None:
    with pytest.raises(InputError, match="minimum"):
        select(TWO, 0.5, minimum=minimum)  # type: ignore[arg-type]


def test_an_unknown_scope_or_site_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown scope 'globl'; did you mean 'global'"):
        select(TWO, 0.5, scope="globl")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown scope 'layers'; did you mean 'layer'"):
        select(TWO, threshold=0.5, scope="layers")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown site 'conv2'; did you mean 'conv1'"):
        select(scores(conv1=[1, 2], fc=[1, 2]), {"conv2": 0.5}, scope="layer")


def test_a_mapping_needs_the_scope_layer() -> None:
    with pytest.raises(InputError, match='scope="layer"'):
        select(TWO, {"a": 0.5})


def test_no_scores_and_empty_scores_are_refused() -> None:
    with pytest.raises(InputError, match="no sites to choose from"):
        select({}, 0.5)
    with pytest.raises(InputError, match="'b' are empty"):
        select(scores(a=[1], b=[]), 0.5)


def test_nan_scores_are_refused_with_site_and_count() -> None:
    with pytest.raises(InputError, match="2 scores of 'b' are NaN"):
        select(scores(a=[1, 2], b=[nan, 1, nan]), 0.5)


def test_scores_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(InputError, match="'a'"):
        select({"a": [1.0, 2.0]}, 0.5)  # type: ignore[dict-item]


def test_more_than_the_minimum_allows_is_refused_with_what_is_possible() -> None:
    with pytest.raises(InputError, match=r"remove 8 of 8 units.*ask for 0\.75\d* or less.*minimum=0"):
        select(TWO, 1.0)
    with pytest.raises(InputError, match=r"ask for 0\.5\d* or less"):
        select(TWO, 0.75, minimum=2)


sites_ = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d"]),
    st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=8),
    min_size=1,
)
fractions = st.floats(0, 1)


def make(values: dict[str, list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(v) for name, v in values.items()}


def possible(values: dict[str, list[float]], sparsity: float, minimum: int = 1) -> bool:
    total = sum(map(len, values.values()))
    return round(sparsity * total) <= sum(max(len(v) - minimum, 0) for v in values.values())


@given(sites_, fractions)
def test_exactly_the_fraction_goes(values: dict[str, list[float]], sparsity: float) -> None:
    assume(possible(values, sparsity))
    keep = select(make(values), sparsity)
    assert sum(int((~k).sum()) for k in keep.values()) == round(sparsity * sum(map(len, values.values())))
    by_layer = select(make(values), sparsity, scope="layer", minimum=0)
    assert {n: int((~k).sum()) for n, k in by_layer.items()} == {n: round(sparsity * len(v)) for n, v in values.items()}


@given(sites_, fractions, fractions, st.sampled_from(["global", "layer"]))
def test_masks_are_nested_as_sparsity_rises(
    values: dict[str, list[float]], one: float, other: float, scope: str
) -> None:
    low, high = sorted((one, other))
    assume(possible(values, high))
    more, less = (select(make(values), s, scope=scope) for s in (low, high))  # type: ignore[arg-type]
    assert all(bool((more[name] | ~less[name]).all()) for name in values)


@given(sites_, st.floats(-4, 4), st.floats(-4, 4))
def test_masks_are_nested_as_the_threshold_rises(values: dict[str, list[float]], one: float, other: float) -> None:
    more, less = (select(make(values), threshold=t) for t in sorted((one, other)))
    assert all(bool((more[name] | ~less[name]).all()) for name in values)


@given(sites_, fractions, st.integers(0, 3), st.sampled_from(["global", "layer"]))
def test_no_site_is_left_with_less_than_the_minimum(
    values: dict[str, list[float]], sparsity: float, minimum: int, scope: str
) -> None:
    assume(scope == "layer" or possible(values, sparsity, minimum))
    keep = select(make(values), sparsity, scope=scope, minimum=minimum)  # type: ignore[arg-type]
    assert all(int(k.sum()) >= min(minimum, k.numel()) for k in keep.values())


@given(sites_, fractions)
def test_a_higher_score_never_goes_before_a_lower(values: dict[str, list[float]], sparsity: float) -> None:
    """By (score, position), within a site always; over all sites where no minimum holds one back."""
    by_layer = select(make(values), sparsity, scope="layer")
    everywhere = select(make(values), sparsity, minimum=0)
    for keep, groups in ((by_layer, [[n] for n in values]), (everywhere, [list(values)])):
        for names in groups:
            ranked = [(v, at, i) for at, n in enumerate(names) for i, v in enumerate(values[n])]
            kept = [bool(keep[names[at]][i]) for _, at, i in sorted(ranked)]
            assert kept == sorted(kept)


@given(sites_, fractions)
def test_select_agrees_with_the_plain_loop(values: dict[str, list[float]], sparsity: float) -> None:
    """Walk from the lowest (score, position) upwards, skipping what a site must keep."""
    assume(possible(values, sparsity))
    left = {name: len(v) for name, v in values.items()}
    expected = {name: [True] * len(v) for name, v in values.items()}
    budget = round(sparsity * sum(left.values()))
    ranked = sorted((v, at, i, n) for at, (n, vs) in enumerate(values.items()) for i, v in enumerate(vs))
    for _, _, i, name in ranked:
        if budget and left[name] > 1:
            expected[name][i] = False
            left[name] -= 1
            budget -= 1
    assert {n: k.tolist() for n, k in select(make(values), sparsity).items()} == expected


@given(sites_, fractions)
def test_sites_without_a_score_are_not_in_the_masks(values: dict[str, list[float]], sparsity: float) -> None:
    assume(possible(values, sparsity))
    assert list(select(make(values), sparsity)) == list(values)


def test_a_share_of_the_total_goes_lowest_first() -> None:
    scores = {"a": torch.tensor([1.0, 5.0, 2.0, 2.0])}  # sorted 1, 2, 2, 5; grown 1, 3, 5, 10
    assert select(scores, cumulative=0.0)["a"].tolist() == [True, True, True, True]
    assert select(scores, cumulative=0.1)["a"].tolist() == [False, True, True, True]
    assert select(scores, cumulative=0.3)["a"].tolist() == [False, True, False, True]
    assert select(scores, cumulative=0.49)["a"].tolist() == [False, True, False, True]
    assert select(scores, cumulative=1.0)["a"].tolist() == [False, True, False, False]
    assert select(scores, cumulative=1.0, minimum=0)["a"].tolist() == [False, False, False, False]
    with pytest.raises(InputError, match=r"cumulative.*'a'.*-1"):
        select({"a": torch.tensor([-1.0, 1.0])}, cumulative=0.1)
    with pytest.raises(InputError, match="cumulative"):
        select(scores, cumulative=1.5)


def test_each_row_loses_its_own_lowest() -> None:
    scores = {"w": torch.tensor([[1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0]])}
    kept = select(scores, 0.5, scope="row")["w"]
    assert kept.tolist() == [[False, False, True, True], [True, True, False, False]]
    with pytest.raises(InputError, match="row"):
        select({"c": torch.tensor([1.0, 2.0])}, 0.5, scope="row")


def test_two_of_four_along_the_inputs() -> None:
    kept = select({"w": torch.tensor([[4.0, 1.0, 3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 7.0, 8.0, 9.0]])}, pattern="2:4")["w"]
    # Of equals the earlier go; of a last group of three, ceil(3 · 2/4) = 2 stay.
    assert kept.int().tolist() == [[1, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1]]
    convolution = torch.arange(8.0).reshape(1, 4, 1, 2)
    assert select({"w": convolution}, pattern="1:4")["w"].flatten(2).squeeze(0).int().tolist() == [
        [0, 0],
        [0, 0],
        [0, 0],
        [1, 1],
    ]


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "2", "a:b", "2:4:8", 24])
def test_a_pattern_that_is_none_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match="pattern"):
        select({"w": torch.ones(2, 4)}, pattern=pattern)


def test_blocks_go_as_wholes() -> None:
    scores = {"w": torch.tensor([[9.0, 1.0, 1.0, 3.0, 2.0], [1.0, 1.0, 1.0, 3.0, 8.0], [0.0, 9.0, 1.0, 1.0, 0.0]])}
    # Means of the 2 × 2 blocks: 3, 2, 5 / 4.5, 1, 0.
    kept = select(scores, 0.5, block=(2, 2))["w"]
    assert kept.int().tolist() == [[1, 1, 0, 0, 1], [1, 1, 0, 0, 1], [1, 1, 0, 0, 0]]
    with pytest.raises(InputError, match="block"):
        select(scores, 0.5, block=(0, 2))


def test_only_one_way_at_a_time() -> None:
    with pytest.raises(InputError, match="sparsity and pattern"):
        select({"w": torch.ones(2, 4)}, 0.5, pattern="2:4")


@pytest.mark.parametrize(("minimum", "kept"), [(0, [0, 0]), (1, [1, 1]), (3, [3, 3]), (9, [4, 4])])
def test_a_row_keeps_its_minimum_of_weights(minimum: int, kept: list[int]) -> None:
    scores = {"fc.weight": torch.arange(8.0).view(2, 4)}
    keep = select(scores, 1.0, scope="row", minimum=minimum)["fc.weight"]
    assert keep.sum(1).tolist() == kept


def test_scores_of_another_size_are_refused() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    sites = channels(model, torch.randn(1, 6))
    with pytest.raises(
        InputError, match=r"the scores of '0' have shape \(15,\), and the site \(16,\); give one score a unit"
    ):
        select({"0": torch.rand(15)}, 0.5, sites=sites)
