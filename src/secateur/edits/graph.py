"""Units cut out of a model's traced graph, for models whose code holds sizes as literals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils import _pytree as pytree

from secateur.edits.base import Edit
from secateur.edits.inputs import describe, restore
from secateur.state import device_of
from secateur.structure.accepted import Shapes, require_inputs
from secateur.structure.both_modes import trace_both
from secateur.structure.circumstances import Circumstances
from secateur.structure.graph import graph_form, graph_structure
from secateur.structure.infer import Structure
from secateur.structure.modes import train_mode
from secateur.structure.plan import apply_plan, make_plan
from secateur.types import ExampleInputs, FileError, Keep

__all__ = ["GraphCut"]


@dataclass(frozen=True, eq=False)
class GraphCut(Edit):
    """The masks over a model's sites, and what it takes to trace the model again.

    Attributes:
        keep: one bool tensor a site, True = keep.
        inputs: the example inputs.
        shapes: the shapes of the inputs that the graph takes: None for a size that may be any, two numbers for one from and
            to; others are refused.
        conditions: what must be true of those sizes besides, and of the circumstances of a call, in words.
        eval_only: why it runs in eval mode alone; empty where it runs in train mode, too.
        refused: the circumstances of a call that it refuses (`structure.circumstances`).
    """

    kind: ClassVar[str] = "graph"
    keep: Keep
    inputs: ExampleInputs | Mapping[str, Any] = field(repr=False)
    shapes: Shapes = ()
    conditions: tuple[str, ...] = ()
    eval_only: str = ""
    refused: tuple[str, ...] = ()

    def apply(self, model: nn.Module) -> GraphModule:
        """Return the graph of `model`, cut by the masks; its weights are those of `model`."""
        inputs = pytree.tree_map_only(Tensor, lambda x: x.to(device_of(model)), self.inputs)
        free = any(not isinstance(size, int) for shape in self.shapes for size in shape)
        structure = graph_structure(model, trace_both(model, inputs), free)
        for name, keep_mask in self.keep.items():
            _check_mask(structure, name, keep_mask)
        gone = structure.gone(self.keep)
        small = apply_plan(model, make_plan(model, structure, gone))
        graph = graph_form(small, structure, gone, train_mode(model, structure.graph))
        if self.shapes:
            require_inputs(graph, self.shapes, structure.graph.free, Circumstances(self.refused))
            graph.meta["conditions"] = self.conditions
        return graph

    def to_dict(self) -> dict[str, Any]:
        """Return the masks, and a description of the inputs.

        Raises:
            FileError: the inputs hold something else than tensors and plain values.
        """
        masks = {name: keep_mask.detach().cpu().contiguous() for name, keep_mask in self.keep.items()}
        plain = {name: getattr(self, name) for name in ("shapes", "conditions", "eval_only", "refused")}
        return {"keep": masks, "inputs": describe(self.inputs), **plain}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described, with ones in the place of inputs that do not matter."""
        inputs = restore(record["inputs"], torch.device("cpu"))
        shapes = tuple(tuple(tuple(s) if isinstance(s, list) else s for s in shape) for shape in record["shapes"])
        conditions = tuple(record.get("conditions", ()))
        refused = tuple(map(str, record.get("refused", ())))
        return cls(dict(record["keep"]), inputs, shapes, conditions, str(record.get("eval_only", "")), refused)


def _check_mask(structure: Structure, name: str, keep_mask: object) -> None:
    site = structure.sites.get(name)
    if not isinstance(keep_mask, Tensor) or keep_mask.dtype is not torch.bool:
        raise FileError(f"the mask of {name!r} is no bool tensor")
    if site is None or tuple(keep_mask.shape) != site.shape or not bool(keep_mask.any()):
        units = "no such site" if site is None else f"{site.size} units"
        raise FileError(f"the mask of {name!r} {tuple(keep_mask.shape)} does not fit: the model has {units}")
