"""Whole blocks left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import nn

from secateur.edits.base import Edit
from secateur.structure.depth import skipping
from secateur.types import FileError

__all__ = ["Depth"]


@dataclass(frozen=True)
class Depth(Edit):
    """The blocks that are left out, with a `Skip` in the place of each.

    Attributes:
        blocks: the module path of each block, and whether it returns its output in a tuple.
    """

    kind: ClassVar[str] = "depth"
    blocks: Mapping[str, bool]

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` without the blocks."""
        modules = dict(model.named_modules())
        for path, wrapped in self.blocks.items():
            if not path or path not in modules or not isinstance(wrapped, bool):
                raise FileError(f"{path!r} is no block of it")
        return skipping(model, self.blocks)

    def to_dict(self) -> dict[str, Any]:
        """Return the blocks by path."""
        return {"blocks": dict(self.blocks)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described."""
        return cls(dict(record["blocks"]))
