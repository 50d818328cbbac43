"""Whole numbers of n bits, one after another without gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_whole
from secateur.types import FileError, InputError

__all__ = ["WIDEST", "bits_for", "pack", "packed_size", "unpack"]

WIDEST = 16
"""The most bits that a number can take."""

CHUNK = 1 << 20
"""How many numbers are spread into bits at a time: a multiple of 8, so that every chunk ends with a byte."""


def bits_for(alphabet: int) -> int:
    """Return how many bits tell so many symbols apart, one at least.

    >>> bits_for(1), bits_for(32), bits_for(33)
    (1, 5, 6)
    """
    return max(1, (alphabet - 1).bit_length())


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that `count` numbers of so many bits take.

    >>> packed_size(3, 5)
    2
    """
    return -(-count * bits // 8)


def pack(numbers: NDArray[np.uint16], bits: int) -> NDArray[np.uint8]:
    """Return numbers as a string of bits, the lowest bit of each first, filled with zeros to a whole byte.

    Args:
        numbers: 1-D, each below 2^bits.
        bits: of each, 1 to 16.

    Raises:
        InputError: a number takes more bits.

    >>> pack(np.array([1, 2, 3], np.uint16), 2).tolist()
    [57]
    """
    check_whole("pack", 1, most=WIDEST, bits=bits)
    if numbers.size and int(numbers.max()) >> bits:
        raise InputError(f"pack: {int(numbers.max())} takes more than {bits} bits; give a number below {1 << bits}")
    chunks = [
        np.packbits(_spread(numbers[start : start + CHUNK])[:, :bits], bitorder="little")
        for start in range(0, numbers.size, CHUNK)
    ]
    return np.concatenate(chunks) if chunks else np.empty(0, np.uint8)


def _spread(numbers: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The 16 bits of each number: (numbers, 16)."""
    octets = numbers.astype("<u2").view(np.uint8)
    return np.unpackbits(octets, bitorder="little").reshape(-1, WIDEST)


def unpack(octets: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint16]:
    """Return the numbers that `pack` was given.

    Raises:
        FileError: so many numbers take another number of bytes, or the bits after the last are no zeros.

    >>> unpack(np.array([57], np.uint8), 2, 3).tolist()
    [1, 2, 3]
    """
    check_whole("unpack", 1, most=WIDEST, bits=bits)
    # Before anything is allocated for them.
    if octets.size != packed_size(count, bits):
        raise FileError(
            f"{count:,} numbers of {bits} bits take {packed_size(count, bits):,} bytes, not {octets.size:,}"
        )
    spare = 8 * octets.size - count * bits
    if spare and int(octets[-1]) >> (8 - spare):
        raise FileError(f"the bits after the last of {count:,} numbers of {bits} bits are no zeros")
    numbers = np.empty(count, np.uint16)
    step = CHUNK * bits // 8
    for start in range(0, count, CHUNK):
        stop = min(count, start + CHUNK)
        string = octets[start * bits // 8 :][:step]
        rows = np.unpackbits(string, count=(stop - start) * bits, bitorder="little").reshape(-1, bits)
        numbers[start:stop] = rows.astype(np.uint16) @ (1 << np.arange(bits, dtype=np.uint16))
    return numbers
