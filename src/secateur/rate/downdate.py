"""The first layer after a unit, from what it computed with it: y − w_u ∗ x_u instead of a full product."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.rate.program import Step
from secateur.structure.flow import Read

__all__ = ["Downdate", "downdate"]

Values = Mapping[Node, Any]
PRODUCTS = {"aten::linear": (0, 1, True), "aten::addmm": (1, 2, False), "aten::mm": (0, 1, False)}
"""Positions of the input and of the weight among an op's arguments, and whether the weight is (out, in)."""


@dataclass(frozen=True, eq=False)
class Downdate:
    """How one layer's result follows from its old one when units of its input are gone.

    Attributes:
        needs: the nodes whose values it takes, the input and the weight.
        make: from the old result, the input, the weight and the positions ``(units, positions)``, the new results,
            units along a first dimension.
        index: the positions of every unit.
    """

    needs: tuple[Node, Node]
    make: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    index: Tensor

    def __call__(self, old: Tensor, values: Values, units: Tensor) -> Tensor:
        """Return the results without each of the units, ``(units, *old.shape)``."""
        x, weight = (values[node] for node in self.needs)
        return self.make(old, x, weight, self.index[units].to(x.device))


def downdate(step: Step, source: Node, read: Read) -> Downdate | None:
    """Return how a layer's result is brought up to date; None for one that has to be run again."""
    schema: Any = getattr(step.target, "_schema", None)
    name = str(schema.name) if schema is not None else ""
    if name in PRODUCTS:
        at, weight, out_first = PRODUCTS[name]
        x, w = step.args[at], step.args[weight]
        plain = not step.kwargs and x is source and isinstance(w, Node) and w is not x
        if plain and read.dim == source.meta["val"].ndim - 1:
            return Downdate((x, w), _product if out_first else _transposed, read.index)
    elif name.startswith("aten::conv") and schema.overload_name in ("", "default"):
        return _of_convolution(step, source, read)
    return None


def _product(old: Tensor, x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    return _transposed(old, x, weight.T, index)


def _transposed(old: Tensor, x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """``old − x[…, i] @ weight[i]`` for the positions i of each unit."""
    rows = x.reshape(-1, x.shape[-1]).T[index].transpose(1, 2)  # (units, rows, positions)
    flat = old.reshape(1, -1, old.shape[-1]).expand(len(index), -1, -1)
    return torch.baddbmm(flat, rows, weight[index], alpha=-1).view(len(index), *old.shape)


def _of_convolution(step: Step, source: Node, read: Read) -> Downdate | None:
    schema = step.target._schema  # type: ignore[attr-defined]
    names = [a.name for a in schema.arguments]
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= {**dict(zip(names, step.args, strict=False)), **step.kwargs}
    x, w = given["input"], given["weight"]
    batched = source.meta["val"].ndim == w.meta["val"].ndim if isinstance(w, Node) else False
    if x is not source or w is x or not batched or read.dim != 1 or given["groups"] != 1 or given.get("transposed"):
        return None
    options = [list(given[name]) for name in ("stride", "padding", "dilation")]

    def make(old: Tensor, x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """One group of a grouped convolution for each unit."""
        units = len(index)
        picked = weight[:, index].transpose(0, 1).flatten(0, 1)  # (units · out, positions, …)
        stride, padding, dilation = options
        gone: Tensor = torch.convolution(
            x[:, index.flatten()], picked, None, stride, padding, dilation, False, [0] * len(stride), units
        )
        return old - gone.view(len(old), units, *old.shape[1:]).transpose(0, 1)

    return Downdate((x, w), make, read.index)
