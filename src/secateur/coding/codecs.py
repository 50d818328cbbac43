"""How a tensor of few values is stored: each value once, and for every entry which of them it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from secateur.checks import is_whole
from secateur.coding.coders import decode_symbols, encode_symbols
from secateur.coding.packing import WIDEST
from secateur.types import FileError

__all__ = ["CODECS", "Codebook", "Codec", "Grid", "as_integers", "decode_tensor", "from_grid", "to_grid"]

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Types of the same width, to tell values apart to the bit: 0.0 from -0.0."""


def as_integers(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor's entries, as whole numbers.

    >>> as_integers(torch.tensor([0.0, -0.0])).tolist()
    [0, -2147483648]
    """
    return tensor.detach().cpu().contiguous().view(INTEGERS[tensor.element_size()])


class Codec(ABC):
    """A way to store a tensor in less room than its entries take, without loss.

    Attributes:
        kind: its name in a file.
    """

    kind: ClassVar[str]

    @abstractmethod
    def encode(self, tensor: Tensor) -> dict[str, Any] | None:
        """Return a tensor as mappings, lists, plain values and tensors; None where this codec cannot store it."""

    @classmethod
    @abstractmethod
    def decode(cls, record: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        """Return the tensor that `encode` was given, of a shape that is known to be right.

        Raises:
            FileError, LookupError, TypeError, ValueError: `record` is no such description.
        """


@dataclass(frozen=True)
class Codebook(Codec):
    """The values that a tensor holds, and the index of one for each entry.

    Attributes:
        coder: of the indices: see `secateur.coding.encode_symbols`.

    >>> weight = torch.tensor([[0.5, 0.0], [0.0, -1.0]])
    >>> record = Codebook("packed").encode(weight)
    >>> record["values"].tolist(), record["stream"].numel()
    ([-1.0, 0.0, 0.5], 1)
    >>> torch.equal(decode_tensor(record), weight)
    True
    """

    kind: ClassVar[str] = "codebook"
    coder: str = "auto"

    def encode(self, tensor: Tensor) -> dict[str, Any] | None:
        """Return the values and the coded indices; None where there are more than 65,536 values."""
        values, indices = torch.unique(as_integers(tensor), return_inverse=True)
        if not 0 < len(values) <= 1 << WIDEST:
            return None
        symbols = encode_symbols(indices.flatten().numpy().astype(np.uint16), len(values), self.coder)
        return _record(self, tensor, {"values": values.view(tensor.dtype), **symbols})

    @classmethod
    def decode(cls, record: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        """Look every index up."""
        values = record["values"]
        if not isinstance(values, Tensor) or values.ndim != 1 or len(values) != record["alphabet"]:
            raise FileError(f"a codebook of {record['alphabet']} values holds another number of them")
        symbols = decode_symbols(record, prod(shape))
        return values[torch.from_numpy(symbols.astype(np.int32))].reshape(shape)


@dataclass(frozen=True, eq=False)
class Grid(Codec):
    """Whole numbers q of n bits for scale · (q − zero), a scale and a zero for the tensor or for each of its channels.

    Attributes:
        bits: 2 to 8.
        scale, zero: of shape ``(1,)``, or ``(channels,)`` along the first dimension.
        coder: of the numbers: see `secateur.coding.encode_symbols`.

    >>> weight = torch.tensor([[-0.5, 0.25], [0.0, 0.75]])
    >>> grid = Grid(3, torch.tensor([0.25]), torch.tensor([4.0]), "packed")
    >>> record = grid.encode(weight)
    >>> record["stream"].numel(), torch.equal(decode_tensor(record), weight)
    (2, True)
    """

    kind: ClassVar[str] = "grid"
    bits: int
    scale: Tensor
    zero: Tensor
    coder: str = "auto"

    def encode(self, tensor: Tensor) -> dict[str, Any] | None:
        """Return the grid and the coded numbers; a tensor with other values, or another number of channels, as a codebook."""
        tensor = tensor.detach().cpu()
        numbers = self._numbers(tensor)
        if numbers is None:
            return Codebook(self.coder).encode(tensor)
        symbols = encode_symbols(
            numbers.flatten().to(torch.int32).numpy().astype(np.uint16), 1 << self.bits, self.coder
        )
        return _record(self, tensor, {"scale": self.scale, "zero": self.zero, **symbols})

    def _numbers(self, tensor: Tensor) -> Tensor | None:
        """The whole number of every entry; None where the tensor does not lie on the grid."""
        if len(self.scale) not in (1, len(tensor)) or self.scale.dtype != tensor.dtype:
            return None
        scale, zero = self.scale.cpu(), self.zero.cpu()
        numbers = to_grid(tensor, self.bits, scale, zero)
        is_same = torch.equal(as_integers(from_grid(numbers, scale, zero)), as_integers(tensor))
        return numbers if is_same else None

    @classmethod
    def decode(cls, record: Mapping[str, Any], shape: tuple[int, ...]) -> Tensor:
        """Compute the values again."""
        scale, zero = record["scale"], record["zero"]
        for part in (scale, zero):
            if not isinstance(part, Tensor) or part.ndim != 1 or len(part) not in (1, shape[0]):
                raise FileError("the scales or zeros of a grid do not fit its tensor")
        symbols = decode_symbols(record, prod(shape))
        return from_grid(torch.from_numpy(symbols.astype(np.int32)).reshape(shape), scale, zero)


def to_grid(tensor: Tensor, bits: int, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the nearest numbers q, from 0 to 2^bits − 1, of scale · (q − zero): floating-point whole numbers.

    >>> to_grid(torch.tensor([-9.0, 0.3, 9.0]), 2, torch.tensor([0.5]), torch.tensor([2.0]))
    tensor([0., 3., 3.])
    """
    scale, zero = (_along_first(part, tensor) for part in (scale, zero))
    return (torch.round(tensor / scale) + zero).clamp(0, (1 << bits) - 1)


def from_grid(numbers: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Return scale · (q − zero).

    >>> from_grid(torch.tensor([0, 2, 3]), torch.tensor([0.5]), torch.tensor([2.0]))
    tensor([-1.0000,  0.0000,  0.5000])
    """
    return (numbers.to(scale.dtype) - _along_first(zero, numbers)) * _along_first(scale, numbers)


def _along_first(part: Tensor, tensor: Tensor) -> Tensor:
    return part.reshape(-1, *[1] * (tensor.ndim - 1)) if tensor.ndim else part.reshape(())


def _record(codec: Codec, tensor: Tensor, content: dict[str, Any]) -> dict[str, Any]:
    return {"codec": codec.kind, "shape": list(tensor.shape), **content}


CODECS: Mapping[str, type[Codec]] = {codec.kind: codec for codec in (Codebook, Grid)}
"""The codecs by the name that a file gives them."""


def decode_tensor(record: Mapping[str, Any]) -> Tensor:
    """Return the tensor that a codec encoded.

    Raises:
        FileError: the record is damaged, or of a codec that is not known.
        MissingLibraryError: the library that its coder needs is not installed.
    """
    try:
        kind, shape = record["codec"], record["shape"]
        if kind not in CODECS:
            raise FileError(f"stored by the codec {kind!r}, which this version does not know ({', '.join(CODECS)})")
        if not isinstance(shape, list) or not all(is_whole(size, 1) for size in shape):
            raise FileError(f"a shape of {shape!r} is none")
        return CODECS[kind].decode(record, tuple(shape))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(f"is no tensor as a codec stores it ({type(error).__name__}: {error})") from error
