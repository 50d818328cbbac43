"""What a loaded data set is: tensors, batches without copies, subsets."""

from __future__ import annotations

import pytest
import torch

from secateur.data import Split
from secateur.types import InputError


@pytest.fixture
def split() -> Split:
    return Split(torch.arange(20.0).reshape(5, 1, 2, 2), torch.tensor([0, 1, 0, 1, 0]), ("a", "b"), "toy", "train")


def test_unpacks_into_images_and_labels(split: Split) -> None:
    images, labels = split
    assert images is split.images
    assert labels is split.labels
    assert len(split) == 5


def test_batches_are_views_in_order_and_repeat(split: Split) -> None:
    batches = split.batches(2)
    for _ in range(2):
        assert [labels.tolist() for _, labels in batches] == [[0, 1], [0, 1], [0]]
    assert len(batches) == 3
    assert batches[1][0].data_ptr() == split.images[2].data_ptr()
    assert batches[-1][0].tolist() == [[[[16.0, 17.0], [18.0, 19.0]]]]
    with pytest.raises(IndexError):
        batches[3]


def test_batches_of_everything_is_one(split: Split) -> None:
    assert [len(labels) for _, labels in split.batches()] == [5]


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "2"])
def test_batches_refuse_a_wrong_size(split: Split, size: object) -> None:
    with pytest.raises(InputError, match=r"batch_size=.* must be"):
        split.batches(size)  # type: ignore[arg-type]


def test_subset_by_positions_and_by_mask(split: Split) -> None:
    assert split.subset([4, 1]).images[:, 0, 0, 0].tolist() == [16.0, 4.0]
    assert split.subset(torch.tensor([True, False, False, True, False])).labels.tolist() == [0, 1]
    assert len(split.subset([])) == 0
    assert split.subset(range(2)).name == "toy"


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([5], "index 5 is out of range"),
        ([-1], "index -1 is out of range"),
        ([0.5], "whole numbers"),
        (torch.tensor([True]), "mask has shape"),
        ([[0]], "whole numbers"),
    ],
)
def test_subset_refuses_wrong_positions(split: Split, indices: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split.subset(indices)  # type: ignore[arg-type]


def test_images_and_labels_must_agree() -> None:
    with pytest.raises(InputError, match=r"images must be \(N, C, H, W\)"):
        Split(torch.zeros(2, 1, 2, 2), torch.zeros(3, dtype=torch.int64), ("a",), "toy", "train")
