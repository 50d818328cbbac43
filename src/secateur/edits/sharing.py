"""Weights that share few values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from secateur.coding import Codebook, Codec
from secateur.copies import copied
from secateur.edits.base import Edit
from secateur.edits.tensors import floating_tensor
from secateur.types import FileError

__all__ = ["Shared", "nearest"]


@dataclass(frozen=True, eq=False)
class Shared(Edit):
    """The values that the entries of each parameter have: one codebook a parameter, or one for several.

    Attributes:
        codebooks: the values, ascending, 1-D.
        of: the number of its codebook, by the parameter's name.
        coder: of the indices on disk: see `secateur.coding.encode_symbols`.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[0.4, -0.9]])
    >>> Shared((torch.tensor([-1.0, 0.5]),), {"weight": 0}).apply(model).weight.tolist()
    [[0.5, -1.0]]
    """

    kind: ClassVar[str] = "shared"
    codebooks: tuple[Tensor, ...]
    of: Mapping[str, int]
    coder: str = "auto"

    def codebook(self, name: str) -> Tensor:
        """Return the values of a parameter."""
        return self.codebooks[self.of[name]]

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` in which every entry is the nearest of its parameter's values."""
        result = copied(model)
        for name in self.of:
            values = self.codebook(name)
            if not isinstance(values, Tensor) or values.ndim != 1 or not values.numel():
                raise FileError(f"the values of {name!r} are no list of numbers")
            tensor = floating_tensor(result, name)
            with torch.no_grad():
                values = values.to(tensor.device, tensor.dtype)
                tensor.copy_(values[nearest(tensor, values)])
        return result

    def codecs(self) -> Mapping[str, Codec]:
        """Return the codec of values and indices for each parameter."""
        return dict.fromkeys(self.of, Codebook(self.coder))

    def to_dict(self) -> dict[str, Any]:
        """Return the codebooks, and which parameter has which."""
        return {"codebooks": list(self.codebooks), "of": dict(self.of), "coder": self.coder}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described."""
        return cls(tuple(record["codebooks"]), dict(record["of"]), record["coder"])


def nearest(tensor: Tensor, values: Tensor) -> Tensor:
    """Return the index of the nearest value for every entry, the lower one of two that are as near.

    Args:
        tensor: of any shape.
        values: ascending, 1-D.

    >>> nearest(torch.tensor([[0.2, 0.9], [0.5, -3.0]]), torch.tensor([0.0, 1.0])).tolist()
    [[0, 1], [0, 0]]
    """
    return torch.bucketize(tensor.detach(), (values[1:] + values[:-1]) / 2)
