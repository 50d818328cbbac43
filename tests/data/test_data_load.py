"""Loading by name: the bundled sets, validation splits, options, and bad input."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
import torch

from secateur import data
from secateur.data import bundled
from secateur.data.source import in_turn, of_bytes
from secateur.types import DataError, InputError, MissingLibraryError, UnknownNameError


@pytest.mark.parametrize(("name", "shape"), [("digits", (1, 8, 8)), ("mnist-5k", (1, 28, 28))])
def test_bundled_sets_are_what_the_registry_says(name: str, shape: tuple[int, ...]) -> None:
    entry = data.info(name)
    train, test = data.load(name), data.load(name, "test")
    assert (len(train), len(test)) == (entry.counts["train"], entry.counts["test"])
    assert train.images.shape[1:] == shape == entry.shape
    assert train.images.dtype == torch.float32
    assert train.labels.dtype == torch.int64
    assert train.images.mean().abs() < 0.01
    assert (train.images.std() - 1).abs() < 0.01
    assert train.classes == entry.classes == tuple("0123456789")
    assert (train.name, train.split, test.split) == (name, "train", "test")


def test_digits_are_scikit_learns_in_its_order() -> None:
    from sklearn.datasets import load_digits

    original = load_digits()
    train, test = data.load("digits", normalise=False), data.load("digits", "test", normalise=False)
    images = torch.cat([train.images, test.images])
    assert torch.equal(images[:, 0], torch.tensor(original.images / 16, dtype=torch.float32))
    assert torch.cat([train.labels, test.labels]).tolist() == original.target.tolist()


def test_mnist_5k_is_stratified_and_the_classes_take_turns() -> None:
    train, test = data.load("mnist-5k"), data.load("mnist-5k", "test")
    assert train.labels.bincount().tolist() == [400] * 10
    assert test.labels.bincount().tolist() == [100] * 10
    assert test.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]


def test_normalised_images_can_be_taken_back() -> None:
    plain = data.load("digits", limit=20, normalise=False)
    usual = data.load("digits", limit=20)
    assert (plain.mean, plain.std) == ((0.0,), (1.0,))
    assert 0 <= plain.images.min() < plain.images.max() <= 1
    torch.testing.assert_close(usual.images * usual.std[0] + usual.mean[0], plain.images)


def test_loading_twice_gives_new_equal_tensors() -> None:
    first, second = data.load("digits", limit=5), data.load("digits", limit=5)
    kept = second.images.clone()
    first.images.zero_()
    first.labels.zero_()
    assert torch.equal(second.images, kept)
    assert data.load("digits", limit=5).labels.tolist() == [0, 1, 2, 3, 4]


def keys(split: data.Split) -> set[bytes]:
    return {image.numpy().tobytes() for image in split.images}


@pytest.mark.parametrize(("validation", "count"), [(300, 300), (0.2, 300), (1, 1), (1499, 1499)])
def test_validation_is_disjoint_and_complete(validation: float, count: int) -> None:
    rest = data.load("digits", validation=validation)
    held = data.load("digits", "validation", validation=validation)
    assert (len(held), len(rest)) == (count, 1500 - count)
    assert held.split == "validation"
    assert keys(rest) | keys(held) == keys(data.load("digits"))
    assert not keys(rest) & keys(held)


def test_validation_follows_the_seed_and_nothing_else() -> None:
    state = torch.random.get_rng_state()
    first = data.load("digits", "validation", validation=0.1, seed=3)
    torch.manual_seed(99)
    again = data.load("digits", "validation", validation=0.1, seed=3)
    other = data.load("digits", "validation", validation=0.1, seed=4)
    assert torch.equal(first.images, again.images)
    assert not torch.equal(first.images, other.images)
    torch.random.set_rng_state(state)
    data.load("digits", validation=0.1, seed=3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_validation_without_seed_is_the_last_images() -> None:
    whole = data.load("digits")
    assert torch.equal(data.load("digits", "validation", validation=10, seed=None).images, whole.images[-10:])
    assert torch.equal(data.load("digits", validation=10, seed=None).images, whole.images[:-10])


def test_validation_leaves_the_test_split_alone() -> None:
    assert torch.equal(data.load("digits", "test", validation=0.5).images, data.load("digits", "test").images)


def test_limit_takes_the_first_images() -> None:
    assert data.load("digits", limit=7).labels.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert len(data.load("digits", "test", limit=10_000)) == 297


def test_size_resizes() -> None:
    larger = data.load("digits", limit=2, size=16, normalise=False)
    assert larger.images.shape == (2, 1, 16, 16)
    assert 0 <= larger.images.min() < larger.images.max() <= 1
    assert torch.equal(data.load("digits", limit=2, size=8).images, data.load("digits", limit=2).images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1500}, "validation is 1500; give a count from 0 to 1499"),
        ({"validation": -1}, "validation is -1"),
        ({"validation": 1.5}, "validation is 1.5"),
        ({"validation": float("nan")}, "validation is nan"),
        ({"validation": True}, "validation is True"),
        ({"validation": "half"}, "validation is 'half'"),
        ({"validation": 0.9999}, "leaves nothing of the 1500"),
        ({"split": "validation"}, "the validation split is empty"),
        ({"split": "validation", "validation": 1e-9}, "the validation split is empty"),
        ({"limit": 0}, "limit=0 must be"),
        ({"limit": 2.0}, "limit=2.0 must be"),
        ({"size": -3}, "size=-3 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"seed": 1.0}, "seed=1.0 must be"),
    ],
)
def test_options_out_of_range_get_one_clear_error(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load("digits", **options)


def test_unknown_names_say_what_is_known() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown data set 'mnits'; did you mean 'mnist'\? Known: cifar-10"):
        data.load("mnits")
    with pytest.raises(UnknownNameError, match="unknown data set"):
        data.info(["digits"])  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown split 'valid'; did you mean 'validation'"):
        data.load("digits", "valid")


def test_a_root_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        data.load("mnist", root=tmp_path / "none")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "sklearn":
            raise ImportError("No module named 'sklearn'")
        return real(name, *args, **kwargs)

    def import_module(name: str) -> Any:
        return without(name)

    monkeypatch.setattr("secateur.files.import_module", import_module)
    bundled._digits.cache_clear()
    with pytest.raises(MissingLibraryError, match=r"needs sklearn.*pip install 'secateur\[data\]'"):
        data.load("digits")


def test_a_bundled_copy_that_changed_is_refused() -> None:
    with pytest.raises(DataError, match="the copy inside scikit-learn is not the known one"):
        bundled._checked("digits", torch.zeros(1, 1, 8, 8), torch.zeros(1))


def test_in_turn_keeps_the_order_within_a_class() -> None:
    assert in_turn(torch.tensor([2, 2, 0, 1, 0])).tolist() == [2, 3, 0, 4, 1]
    assert in_turn(torch.tensor([], dtype=torch.int64)).tolist() == []


def test_labels_without_class_and_counts_that_differ_are_refused() -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(DataError, match="a label is 2, but there are 2 classes"):
        of_bytes(images, torch.tensor([0, 2], dtype=torch.uint8), ("a", "b"))
    with pytest.raises(DataError, match="2 images but 1 labels"):
        of_bytes(images, torch.tensor([0], dtype=torch.uint8), ("a",))


@pytest.mark.parametrize("name", data.names())
def test_every_entry_is_complete(name: str) -> None:
    entry = data.info(name)
    assert entry.name == name
    assert len(entry.mean) == len(entry.std) == entry.shape[0]
    assert entry.source
    assert entry.licence
    assert entry.split_rule
    held = {file for download in entry.downloads for file in download.holds}
    assert held == {file.name for file in entry.files}
    assert all(len(file.sha256) == 64 for file in entry.files)
    assert all(download.checksum.startswith(("md5:", "sha256:")) for download in entry.downloads)
