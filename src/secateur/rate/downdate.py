"""The first layer after a unit, from what it computed with it: y − w_u ∗ x_u instead of a full product.

A linear layer or a convolution is a sum over its inputs, y = b + Σ_u w_u ∗ x_u, so that is exact but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.rate.program import Instruction
from secateur.structure.flow import Read
from secateur.structure.ops import Product, product_of

__all__ = ["Downdate", "downdate"]

Values = Mapping[Node, Any]


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


def downdate(step: Instruction, source: Node, read: Read) -> Downdate | None:
    """Return how a layer's result is brought up to date; None for one that has to be run again."""
    product = product_of(step.node)
    if product is None or not product.plain or not isinstance(product.weight, Node):
        return None
    weight = step.current[product.weight]
    if step.current.get(product.source) is not source or weight is source or product.kind == "matmul":
        return None
    if product.convolution:
        return _of_convolution(product, source, weight, read)
    if read.dim != source.meta["val"].ndim - 1:
        return None
    return Downdate((source, weight), _product if product.out_first else _transposed, read.index)


def _product(old: Tensor, x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    return _transposed(old, x, weight.T, index)


def _transposed(old: Tensor, x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
    """``old − x[…, i] @ weight[i]`` for the positions i of each unit."""
    rows = x.reshape(-1, x.shape[-1]).T[index].transpose(1, 2)  # (units, rows, positions)
    flat = old.reshape(1, -1, old.shape[-1]).expand(len(index), -1, -1)
    return torch.baddbmm(flat, rows, weight[index], alpha=-1).view(len(index), *old.shape)


def _of_convolution(product: Product, source: Node, weight: Node, read: Read) -> Downdate | None:
    space = weight.meta["val"].ndim - 2
    options = [product.arguments[name] for name in ("stride", "padding", "dilation")]
    batched = source.meta["val"].ndim == space + 2
    if not batched or read.dim != 1 or product.groups != 1 or any(isinstance(option, str) for option in options):
        return None
    stride, padding, dilation = (list(option) for option in options)

    def make(old: Tensor, x: Tensor, weight: Tensor, index: Tensor) -> Tensor:
        """y − w_u ∗ x_u for all units at once: w_u ∗ x_u is group u of one grouped convolution."""
        units = len(index)
        weights_by_unit = weight[:, index].transpose(0, 1).flatten(0, 1)  # (units · out, positions, …)
        removed: Tensor = torch.convolution(
            x[:, index.flatten()], weights_by_unit, None, stride, padding, dilation, False, [0] * len(stride), units
        )
        return old - removed.view(len(old), units, *old.shape[1:]).transpose(0, 1)

    return Downdate((source, weight), make, read.index)
