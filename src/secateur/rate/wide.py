"""One layer's weights for a whole population as one wide product, the population folded into the batch after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.rate.last import wide_product
from secateur.rate.program import Instruction
from secateur.rate.suffix import Suffix, Values
from secateur.structure.makers import weight_nodes
from secateur.structure.ops import POINTWISE, Product, by_sample, product_of
from secateur.structure.rules import op_name
from secateur.structure.rules.registry import shape_of

__all__ = ["Wide", "wide"]

VIEWS = {"view", "_unsafe_view", "reshape"}


@dataclass(frozen=True, eq=False)
class Wide:
    """How to run a suffix for many weights of one layer at once.

    Attributes:
        product: the layer: a linear one, or a convolution in one group.
        layer, source, bias: the nodes that hold what it makes, its input, and its bias if it has one.
        rest: the steps after it.
    """

    product: Product
    layer: Node
    source: Node
    bias: Node | None
    rest: tuple[Instruction, ...]

    @property
    def last(self) -> bool:
        """Whether a linear layer's outputs are the model's."""
        return not self.rest and not self.product.convolution

    @property
    def head(self) -> tuple[Instruction, ...]:
        """The steps right after the layer that act on each number by itself."""
        return tuple(
            takewhile(lambda step: op_name(step.node) in POINTWISE and len(step.operands) == 1, self.rest),
        )

    def classes_first(self, values: Values, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits of the last layer, ``(classes, candidates, samples)``.

        Args:
            values: what is known of the nodes.
            weights: ``(classes, candidates, inputs)``, masked.
            bias: ``(candidates, classes)`` or ``(1, classes)``.
        """
        logits = wide_product(weights, values[self.source])
        return logits if bias is None else logits.add_(bias.mT.unsqueeze(-1))

    def outputs(self, values: Values, weights: Tensor, bias: Tensor | None) -> Tensor:
        """Return the logits ``(classes, candidates, samples)``.

        Args:
            values: what is known of the nodes.
            weights: ``(candidates, *weight shape)``, masked.
            bias: ``(candidates, outputs)`` or ``(1, outputs)``.
        """
        source, count = values[self.source], len(weights)
        wide = self._layer(source, weights.flatten(0, 1))
        wide = wide.view(len(wide), count, -1, *wide.shape[2:])
        if bias is not None:
            wide.add_(bias.reshape(1, *bias.shape, *([1] * (wide.ndim - 3))))
        logits = self.finish(values, wide.flatten(0, 1), self.layer, self.rest)
        return logits.view(len(source), count, -1).permute(2, 1, 0)

    def finish(self, values: Values, result: Tensor, after: Node, steps: Sequence[Instruction]) -> Tensor:
        """Run `steps` on what `after` makes, candidates within samples along the first dimension; return the last result."""
        run = {**values, after: result}
        for step in steps:
            if op_name(step.node) in VIEWS:
                # The size that the graph has for the samples is that of one candidate's.
                run[step.node] = result.reshape(len(result), *step.args[1][1:])
            else:
                run[step.node] = step(run, {})
            result = run[step.node]
        return result

    def from_rows(self, values: Values, rows: Tensor, after: Node, steps: Sequence[Instruction]) -> Tensor:
        """Run `steps` as `finish` does, on what `after` makes given with samples along the last dimension.

        A linear layer takes it as it lies: turned over, few outputs of many rows take several times as long.
        """
        product = product_of(steps[0].node) if steps else None
        if product is None or product.convolution:
            return self.finish(values, rows.mT, after, steps)
        operands = steps[0].current
        weight = values[operands[product.weight]]
        across = weight if product.out_first else weight.mT
        if product.bias is None:
            result = torch.mm(across, rows)
        else:
            result = torch.addmm(values[operands[product.bias]].unsqueeze(-1), across, rows)
        return self.finish(values, result.mT, steps[0].node, steps[1:])

    def _layer(self, source: Tensor, weights: Tensor) -> Tensor:
        if not self.product.convolution:
            return source @ weights.mT
        arguments = {**self.product.arguments, "input": source, "weight": weights, "bias": None}
        result: Tensor = self.product.node.target(**arguments)  # type: ignore[operator]
        return result


def wide(suffix: Suffix, changing: Mapping[str, Node], weight: str, bias: str | None, samples: int) -> Wide | None:
    """Return the fast way through a suffix where one weight changes, and perhaps its layer's bias; None if there is none.

    Args:
        suffix: what follows the parameters that change.
        changing: those, by name, with what stands for them.
        weight, bias: the names of the layer's.
        samples: how many the model was traced on.
    """
    steps = suffix.line.steps
    if set(changing) != {weight, *([bias] if bias else [])}:
        return None
    layer, passed = _layer_of(steps, changing[weight])
    product = None if layer is None else product_of(layer.node)
    if layer is None or product is None or not product.plain or product.groups != 1 or product.kind == "matmul":
        return None
    source, shift = layer.current.get(product.source), layer.current.get(product.bias)
    batched = len(shape_of(source)) == (len(shape_of(layer.node)) if product.convolution else 2) if source else False
    if source is None or source not in suffix.boundary or not batched:
        return None
    ours = bias is None or (shift is changing[bias] and sum(shift in step.operands for step in steps) == 1)
    rest = tuple(step for step in steps if step is not layer and step not in passed)
    if not ours or not _by_sample(rest, layer.node, samples, weight_nodes(suffix.program.structure)):
        return None
    return Wide(product, layer.node, source, shift, rest)


def _layer_of(steps: Sequence[Instruction], weight: Node) -> tuple[Instruction | None, tuple[Instruction, ...]]:
    """The one step that multiplies by a weight, and the transposition on the way to it."""
    users = [step for step in steps if weight in step.operands]
    passed: tuple[Instruction, ...] = ()
    if len(users) == 1 and op_name(users[0].node) == "t":
        passed, weight = (users[0],), users[0].node
        users = [step for step in steps if weight in step.operands]
    product = product_of(users[0].node) if len(users) == 1 else None
    fits = product is not None and users[0].current.get(product.weight) is weight and product.out_first != bool(passed)
    return (users[0] if fits else None), passed


def _by_sample(rest: Sequence[Instruction], layer: Node, samples: int, tensor_nodes: set[Node]) -> bool:
    """Whether all steps treat samples one by one and take nothing else but the model's own tensors."""
    late = {layer}
    for step in rest:
        moving = step.operands & late
        late.add(step.node)
        if len(moving) != 1 or not step.operands - late <= tensor_nodes | moving or _input(step) not in moving:
            return False
        if op_name(step.node) in VIEWS:
            (before,) = moving
            if shape_of(before)[0] != samples or step.args[1][0] != samples:
                return False
        elif not by_sample(step.node):
            return False
    return True


def _input(step: Instruction) -> Any:
    """What a step is about: the activations of a product, the first operand of any other op."""
    product = product_of(step.node)
    return step.args[0] if product is None else step.current.get(product.source)
