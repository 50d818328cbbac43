"""The binary forms of the data sets, parsed from bytes whose every claim is checked before it is believed."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from secateur.types import DataError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["parse_cifar", "parse_idx"]

_UNSIGNED_BYTE = 0x08


def parse_idx(content: bytes, name: str = "content") -> npt.NDArray[np.uint8]:
    """Return the array that an idx file of unsigned bytes holds; the form of MNIST (LeCun et al., 1998).

    The header is two zero bytes, the type, the number of dimensions, and the dimensions (4 bytes each, big
    endian).
    The array is a view of `content`, so a header that claims more than there is costs nothing.

    Args:
        content: the whole file, not compressed.
        name: what to call it in an error.

    Raises:
        DataError: it is not an idx file of unsigned bytes, or it is shorter or longer than its header says.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    array([7, 8, 9], dtype=uint8)
    """
    import numpy as np

    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE or content[3] == 0:
        raise DataError(f"{name}: not an idx file of unsigned bytes (it begins with {content[:4].hex() or 'nothing'})")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise DataError(f"{name}: truncated in its header, at byte {len(content)} of {start}; fetch it again")
    shape = tuple(int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4))
    if prod(shape) != len(content) - start:
        raise DataError(
            f"{name}: its header says {' × '.join(map(str, shape))} bytes, "
            f"but {len(content) - start} follow; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def parse_cifar(
    content: bytes, shape: tuple[int, int, int], name: str = "content"
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return the images ``(N, C, H, W)`` and the labels ``(N,)`` of a file in CIFAR-10's binary form.

    Each record is one byte of label and then C·H·W bytes of image, channel by channel (Krizhevsky, 2009).

    Raises:
        DataError: the file is empty or does not end with a whole record.

    >>> images, labels = parse_cifar(bytes([5, 1, 2, 3, 4]), (1, 2, 2))
    >>> images.tolist(), labels.tolist()
    ([[[[1, 2], [3, 4]]]], [5])
    """
    import numpy as np

    record = 1 + prod(shape)
    if not content or len(content) % record:
        raise DataError(f"{name}: {len(content)} bytes are not whole records of {record}; fetch it again")
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
    return rows[:, 1:].reshape(-1, *shape), rows[:, 0]
