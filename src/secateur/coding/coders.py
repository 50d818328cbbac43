"""Symbols as few bytes: packed, by an entropy coder, or by a general compressor of the standard library."""

from __future__ import annotations

import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.checks import check_name, is_whole
from secateur.coding.packing import WIDEST, bits_for, pack, unpack
from secateur.files import require
from secateur.types import FileError

__all__ = ["CODERS", "Coder", "check_coder", "decode_symbols", "encode_symbols"]

EXTRA = "coding"
EXPANSION = 4096
"""The most symbols that one byte may stand for: a file cannot ask for memory out of all proportion to its size."""

Symbols = NDArray[np.uint16]


class Coder(ABC):
    """A way to write symbols, each below the size of the alphabet, as bytes, and to read them again."""

    @abstractmethod
    def encode(self, symbols: Symbols, alphabet: int) -> bytes:
        """Return symbols as bytes."""

    @abstractmethod
    def decode(self, data: bytes, alphabet: int, count: int) -> Symbols:
        """Return `count` symbols again.

        Raises:
            FileError: the bytes hold others.
        """


class Packed(Coder):
    """As many bits for each symbol as the alphabet needs."""

    def encode(self, symbols: Symbols, alphabet: int) -> bytes:
        """Pack them."""
        return pack(symbols, bits_for(alphabet)).tobytes()

    def decode(self, data: bytes, alphabet: int, count: int) -> Symbols:
        """Unpack them."""
        return unpack(np.frombuffer(data, np.uint8), bits_for(alphabet), count)


class Ans(Coder):
    """Asymmetric numeral systems (Duda, 2013) by `constriction`, by how often each symbol stands: to the entropy.

    The counts come first, four bytes each, then the coder's 32-bit words.
    """

    def encode(self, symbols: Symbols, alphabet: int) -> bytes:
        """Count the symbols, and code them."""
        stream = require("constriction", EXTRA).stream
        counts = np.bincount(symbols, minlength=alphabet)
        coder = stream.stack.AnsCoder()
        coder.encode_reverse(symbols.astype(np.int32), _frequencies(stream, counts))
        words: bytes = coder.get_compressed().astype("<u4").tobytes()
        return counts.astype("<u4").tobytes() + words

    def decode(self, data: bytes, alphabet: int, count: int) -> Symbols:
        """Decode by the counts, which the symbols must have."""
        stream = require("constriction", EXTRA).stream
        if len(data) % 4 or len(data) < 4 * alphabet:
            raise FileError(f"{len(data):,} bytes are no counts of {alphabet:,} symbols with words after them")
        counts, words = np.split(np.frombuffer(data, "<u4"), [alphabet])
        if int(counts.sum(dtype=np.int64)) != count:
            raise FileError(f"the counts of the symbols add up to {int(counts.sum(dtype=np.int64)):,}, not {count:,}")
        try:
            coder = stream.stack.AnsCoder(words.astype(np.uint32))
        except ValueError as error:
            raise FileError(f"the coded words are damaged ({error})") from error
        symbols: NDArray[np.int32] = coder.decode(_frequencies(stream, counts.astype(np.int64)), count)
        if not coder.is_empty() or not np.array_equal(np.bincount(symbols, minlength=alphabet), counts):
            raise FileError("the coded words hold other symbols than were counted")
        return symbols.astype(np.uint16)


def _frequencies(stream: Any, counts: NDArray[np.int64]) -> Any:
    return stream.model.Categorical(counts / counts.sum(), perfect=False)


class _Compressor(Coder):
    """A general compressor over symbols of one byte, or two where the alphabet needs them."""

    def encode(self, symbols: Symbols, alphabet: int) -> bytes:
        """Compress them."""
        return self._compress(symbols.astype(_width(alphabet)).tobytes())

    def decode(self, data: bytes, alphabet: int, count: int) -> Symbols:
        """Decompress them, and no more of them than there should be."""
        width = _width(alphabet)
        try:
            decompressor = self._decompressor()
            content = decompressor.decompress(data, count * width.itemsize + 1)
        except (zlib.error, lzma.LZMAError, EOFError) as error:
            raise FileError(f"the compressed symbols are damaged ({error})") from error
        if len(content) != count * width.itemsize or not decompressor.eof or decompressor.unused_data:
            raise FileError(f"the compressed symbols are not {count:,}, or do not end where they should")
        return np.frombuffer(content, width).astype(np.uint16)

    @abstractmethod
    def _compress(self, content: bytes) -> bytes: ...

    @abstractmethod
    def _decompressor(self) -> Any: ...


def _width(alphabet: int) -> np.dtype[Any]:
    return np.dtype("u1" if alphabet <= 256 else "<u2")


class Zlib(_Compressor):
    """Deflate, at its hardest."""

    def _compress(self, content: bytes) -> bytes:
        return zlib.compress(content, 9)

    def _decompressor(self) -> Any:
        return zlib.decompressobj()


# Written without a container, whose headers would weigh in small layers; the window bounds what decoding takes.
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 23, "lc": 0, "pb": 0}]


class Lzma(_Compressor):
    """LZMA2, at its hardest."""

    def _compress(self, content: bytes) -> bytes:
        return lzma.compress(content, lzma.FORMAT_RAW, filters=FILTERS)

    def _decompressor(self) -> Any:
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=FILTERS)


CODERS: Mapping[str, Coder] = {"packed": Packed(), "constriction": Ans(), "lzma": Lzma(), "zlib": Zlib()}
"""The coders by the name that a file gives them."""


def check_coder(doing: str, coder: object) -> None:
    """Refuse a name of no coder, and one whose library is not installed.

    Raises:
        UnknownNameError: it is neither a coder's nor ``"auto"``.
        MissingLibraryError: see `secateur.files.require`.
    """
    check_name(f"coder of {doing}", coder, [*CODERS, "auto"])
    if coder == "constriction":
        require("constriction", EXTRA)


def encode_symbols(symbols: Symbols, alphabet: int, coder: str = "auto") -> dict[str, Any]:
    """Return symbols as plain data and one tensor of bytes, which say by which coder.

    Args:
        symbols: 1-D, each below `alphabet`.
        alphabet: how many symbols there are, 1 to 65,536.
        coder: a name of `CODERS`; ``"auto"`` takes ``constriction`` where it is installed, else ``lzma`` or ``zlib``, and
            ``packed`` where that is shorter. Where a byte would stand for more than 4,096 symbols, they are packed.

    >>> record = encode_symbols(np.array([0, 1, 0, 3], np.uint16), 4, "packed")
    >>> record["coder"], record["stream"].tolist()
    ('packed', [196])
    """
    names = _installed() if coder == "auto" else [coder]
    streams = {name: CODERS[name].encode(symbols, alphabet) for name in names if alphabet > 1}
    streams = {name: stream for name, stream in streams.items() if symbols.size <= EXPANSION * len(stream)}
    if coder == "auto" or not streams:
        streams["packed"] = CODERS["packed"].encode(symbols, alphabet)
    name = min(streams, key=lambda name: len(streams[name]))
    stream = torch.frombuffer(bytearray(streams[name]), dtype=torch.uint8)
    return {"coder": name, "alphabet": alphabet, "crc32": _checksum(symbols), "stream": stream}


def _installed() -> list[str]:
    """The entropy coder where there is one, else what the standard library has."""
    return ["constriction"] if find_spec("constriction") is not None else ["lzma", "zlib"]


def _checksum(symbols: Symbols) -> int:
    return zlib.crc32(symbols.astype("<u2").tobytes())


def decode_symbols(record: Mapping[str, Any], count: int) -> Symbols:
    """Return the symbols that `encode_symbols` was given; sizes are checked before anything is allocated for them.

    Args:
        record: what it returned.
        count: how many symbols there are.

    Raises:
        FileError: the record is damaged, or of no form that is known here.
        MissingLibraryError: the library that wrote it is not installed.

    >>> record = encode_symbols(np.array([0, 1, 0, 3], np.uint16), 4, "lzma")
    >>> decode_symbols(record, 4).tolist()
    [0, 1, 0, 3]
    """
    name, alphabet, stream = record["coder"], record["alphabet"], record["stream"]
    if name not in CODERS:
        raise FileError(f"written by the coder {name!r}, which this version does not know ({', '.join(CODERS)})")
    if not is_whole(alphabet, 1) or alphabet > 1 << WIDEST:
        raise FileError(f"an alphabet of {alphabet!r} symbols is none")
    if not isinstance(stream, Tensor) or stream.dtype is not torch.uint8 or stream.ndim != 1:
        raise FileError("the coded symbols are no bytes")
    if count > EXPANSION * stream.numel():
        raise FileError(f"{count:,} symbols are too many for {stream.numel():,} bytes")
    symbols = CODERS[name].decode(stream.numpy().tobytes(), alphabet, count)
    if (symbols.size and int(symbols.max()) >= alphabet) or _checksum(symbols) != record["crc32"]:
        raise FileError("the coded symbols are damaged (their checksum differs)")
    return symbols
