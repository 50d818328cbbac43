"""Whole blocks left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from torch import nn

from secateur.edits.base import Edit
from secateur.structure.depth import Shapes, Skip
from secateur.structure.shallower import without_blocks
from secateur.structure.skippable import skipping
from secateur.types import FileError

__all__ = ["Depth", "Shallower"]


@dataclass(frozen=True)
class Depth(Edit):
    """The blocks that are left out, with a `Skip` in the place of each.

    Attributes:
        blocks: the module path of each block, and whether it returns its output in a tuple.
        added: the paths of those whose outputs the model adds to something, so that zeros stand for them.
        shapes: of those, the shapes of outputs that are others than one of the input's shape (see `Skip`).
    """

    kind: ClassVar[str] = "depth"
    blocks: Mapping[str, bool]
    added: tuple[str, ...] = ()
    shapes: Mapping[str, Shapes] = field(default_factory=dict)

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` without the blocks."""
        modules = dict(model.named_modules())
        for path, wrapped in self.blocks.items():
            if not path or path not in modules or not isinstance(wrapped, bool):
                raise FileError(f"{path!r} is no block of it")
        skips = {
            path: Skip(wrapped, path in self.added, self.shapes.get(path, ())) for path, wrapped in self.blocks.items()
        }
        return skipping(model, skips)

    def to_dict(self) -> dict[str, Any]:
        """Return the blocks by path."""
        added: dict[str, Any] = {"added": list(self.added)} if self.added else {}
        shapes = {path: [list(shape) for shape in shapes] for path, shapes in self.shapes.items()}
        return {"blocks": dict(self.blocks), **added, **({"shapes": shapes} if shapes else {})}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described."""
        shapes = {
            str(path): tuple(tuple(None if size is None else int(size) for size in shape) for shape in block_shapes)
            for path, block_shapes in record.get("shapes", {}).items()
        }
        return cls(dict(record["blocks"]), tuple(map(str, record.get("added", ()))), shapes)


@dataclass(frozen=True)
class Shallower(Edit):
    """Blocks that are gone from their container; the others are numbered anew, and a config says the new depth.

    Attributes:
        container: its path.
        removed: the blocks' names within it, before.
    """

    kind: ClassVar[str] = "shallower"
    container: str
    removed: tuple[str, ...]

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` without the blocks."""
        holder = dict(model.named_modules()).get(self.container)
        names = (
            [name for name, _ in holder.named_children()] if isinstance(holder, nn.ModuleList | nn.Sequential) else []
        )
        if not set(self.removed) < set(names):
            raise FileError(
                f"{self.container!r} does not hold the blocks {', '.join(map(repr, self.removed))} and others"
            )
        return without_blocks(model, self.container, self.removed)

    def to_dict(self) -> dict[str, Any]:
        """Return the container and the names."""
        return {"container": self.container, "removed": list(self.removed)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described."""
        return cls(str(record["container"]), tuple(map(str, record["removed"])))
