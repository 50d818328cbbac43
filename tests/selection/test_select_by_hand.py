"""Masks by their definitions: rounded counts, blocks of any weight, groups of M, and what a rule may return."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from secateur.selection import select
from secateur.selection.choose import _rounded
from secateur.selection.nested import nearest_multiple, nested_counts
from secateur.selection.thresholds import checked_masks
from secateur.types import InputError


@pytest.mark.parametrize("shape", [(4, 6), (5, 7), (3, 4, 2), (4, 2, 3, 3), (1, 9)])
@pytest.mark.parametrize("block", [(1, 1), (2, 3), (4, 1), (1, 16)])
def test_blocks_go_by_their_mean_whatever_the_shape_of_the_weight(
    shape: tuple[int, ...], block: tuple[int, int]
) -> None:
    score = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    keep = select({"w": score}, 0.5, block=block)["w"]
    assert keep.shape == shape
    matrix, mask = score.flatten(1).double(), keep.flatten(1)
    means: list[tuple[float, bool]] = []
    for row in range(0, matrix.shape[0], block[0]):
        for column in range(0, matrix.shape[1], block[1]):
            part = slice(row, row + block[0]), slice(column, column + block[1])
            assert len(mask[part].unique()) == 1
            means.append((float(matrix[part].mean()), bool(mask[part].flatten()[0])))
    kept = [mean for mean, stays in means if stays]
    gone = [mean for mean, stays in means if not stays]
    assert len(gone) == round(0.5 * len(means)) or (len(means) == 1 and not gone)
    assert not gone or max(gone) <= min(kept)


@pytest.mark.parametrize("block", [(0, 1), (1, 0), (1,), (1, 2, 3), (True, 2), (1.0, 2), [2, 2], 4])
def test_what_is_no_block_is_told(block: Any) -> None:
    with pytest.raises(InputError, match="give rows and columns"):
        select({"w": torch.rand(4, 4)}, 0.5, block=block)


@pytest.mark.parametrize("size", [4, 5, 6, 7, 8])
def test_of_each_group_the_best_stay_and_of_a_rest_its_share(size: int) -> None:
    score = torch.rand(3, size, 2, generator=torch.Generator().manual_seed(0))
    keep = select({"w": score}, pattern="2:4")["w"]
    for row in range(3):
        for place in range(2):
            for start in range(0, size, 4):
                part, mask = score[row, start : start + 4, place], keep[row, start : start + 4, place]
                count = 2 if len(part) == 4 else -(-len(part) // 2)
                assert int(mask.sum()) == count
                assert torch.equal(part[mask].sort().values, part.sort().values[-count:])


@pytest.mark.parametrize(
    ("kept", "multiple", "minimum", "rounded"),
    [
        (5, 1, 1, 5),
        (5, 4, 1, 4),
        (6, 4, 1, 8),
        (1, 4, 1, 4),
        (0, 4, 0, 0),
        (5, 4, 4, 4),
        (5, 4, 5, 8),
        (9, 4, 9, 10),
        (10, 4, 1, 10),
    ],
)
def test_counts_are_rounded_to_multiples_and_never_below_the_least(
    kept: int, multiple: int, minimum: int, rounded: int
) -> None:
    score = torch.randperm(10, generator=torch.Generator().manual_seed(0)).float()
    keep = _rounded(score >= 10 - kept, score, multiple, minimum)
    assert int(keep.sum()) == rounded
    assert torch.equal(keep, score >= 10 - rounded)  # the best


@pytest.mark.parametrize("multiple", [1, 2, 3, 8])
def test_the_nearest_multiple_is_one_at_least_and_no_more_than_there_are(multiple: int) -> None:
    for size in range(1, 20):
        for count in range(1, size + 1):
            nearest = nearest_multiple(count, size, multiple)
            assert nearest == size or (
                nearest % multiple == 0 and abs(nearest - count) <= max(multiple // 2, multiple - count)
            )


@pytest.mark.parametrize("multiple", [1, 2, 4])
def test_sites_in_one_axis_keep_enough_in_multiples(multiple: int) -> None:
    for sizes in ({"a": 4, "b": 16}, {"a": 8, "b": 8}, {"a": 2, "b": 8, "c": 32}):
        for sparsity in (0.0, 0.2, 0.5, 0.8):
            counts = nested_counts(sizes, [tuple(sizes)], sparsity, round_to=multiple)
            share = 1.0
            for name, count in counts.items():
                assert count % multiple == 0 or count == sizes[name]
                share *= count / sizes[name]
            last = max(sizes, key=lambda name: (sizes[name], name))
            step = multiple / sizes[last] * share / (counts[last] / sizes[last])
            assert abs(share - (1 - sparsity)) <= step * (0.5 if multiple == 1 else 1) + 1e-9 or counts[last] in (
                multiple,
                sizes[last],
            )


SCORES = {"a": torch.rand(3), "b": torch.rand(2, 2)}
GOOD = {"a": torch.ones(3, dtype=torch.bool), "b": torch.ones(2, 2, dtype=torch.bool)}


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ([1, 2], r"returns \[1, 2\]"),
        ({"a": GOOD["a"]}, "no mask for 'b'"),
        ({**GOOD, "b": [True]}, "for 'b'"),
        ({**GOOD, "b": torch.ones(2, 2)}, r"a mask of float32 and of shape \(2, 2\) for 'b'"),
        ({**GOOD, "b": GOOD["a"]}, r"a mask of bool and of shape \(3,\) for 'b'"),
        ({**GOOD, "c": GOOD["a"]}, "a mask for 'c', which has no scores"),
    ],
)
def test_a_rule_that_returns_no_masks_is_told(masks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_masks(lambda scores: masks, SCORES, "Cycles")
    good: dict[str, Tensor] = checked_masks(lambda scores: GOOD, SCORES, "Cycles")
    assert all(torch.equal(good[name], GOOD[name]) for name in SCORES)
