"""The binary forms, from bytes that are written out here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from secateur.data.formats import parse_cifar, parse_idx
from secateur.types import DataError


def idx(*shape: int, body: bytes = b"", kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape) + body


def test_idx_images() -> None:
    array = parse_idx(idx(2, 1, 3, body=bytes([1, 2, 3, 4, 5, 6])))
    assert array.tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with nothing"),
        (b"\x1f\x8b\x08\x00", "not an idx file"),
        (idx(1, body=b"\0", kind=0x0D), "not an idx file"),
        (bytes([0, 0, 8, 0]), "not an idx file"),
        (idx(1, 1)[:9], "truncated in its header, at byte 9 of 12"),
        (bytes([0, 0, 8, 255]), "truncated in its header"),
        (idx(2, 2, body=b"abc"), "2 × 2 bytes, but 3 follow"),
        (idx(2, body=b"abc"), "but 3 follow"),
        (idx(2**32 - 1, 2**32 - 1, 2**32 - 1), "but 0 follow"),
    ],
)
def test_idx_that_lies_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_idx(content, "here")


@given(st.binary(max_size=40))
def test_idx_gives_an_array_or_one_clear_error(content: bytes) -> None:
    message, size = "", 0
    try:
        size = parse_idx(content).nbytes
    except DataError as error:
        message = str(error)
    assert message.startswith("content: ") or 0 <= size <= len(content) - 8


def test_cifar_records_are_label_then_channels() -> None:
    red, green, blue = [1] * 4, [2] * 4, [3] * 4
    images, labels = parse_cifar(bytes([7, *red, *green, *blue]) * 2, (3, 2, 2))
    assert labels.tolist() == [7, 7]
    assert images.shape == (2, 3, 2, 2)
    assert images[1, 1].tolist() == [[2, 2], [2, 2]]


@pytest.mark.parametrize("content", [b"", bytes(12), bytes(14)])
def test_cifar_that_ends_within_a_record_is_refused(content: bytes) -> None:
    with pytest.raises(DataError, match="not whole records of 13"):
        parse_cifar(content, (3, 2, 2), "batch.bin")
