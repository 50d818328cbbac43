"""What the weights of a model are multiplied by, summed up over data."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from secateur.criteria.batches import moved
from secateur.labelled import Samples
from secateur.state import check_finite, device_of
from secateur.structure.flow import Flow
from secateur.structure.layers import Layer, layers, other_uses
from secateur.structure.nodes import where
from secateur.structure.sites import REPAIR
from secateur.types import ExampleInputs, Sites

__all__ = ["Inputs", "LayerInputs"]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What one layer's weight was multiplied by.

    Attributes:
        layer: the layer.
        total: what was summed up over all positions of all samples.
        count: over how many positions.
    """

    layer: Layer
    total: Tensor
    count: int


class LayerInputs:
    """The inputs of a model's layers over the same data, as the model is when they are asked for.

    Args:
        model: it may change its numbers between two sums, not its shapes.
        data: samples; the targets are not used.
        batch_size: samples a pass, where the data are in memory.
        doing: who asks, for the errors.

    >>> model = nn.Linear(2, 1)
    >>> found = LayerInputs(model, (torch.tensor([[3.0, 1.0], [4.0, 0.0]]), torch.zeros(2)), 2, "sum up")
    >>> found.squares(["weight"])["weight"][0].total.tolist()
    [[25.0, 1.0]]
    """

    def __init__(self, model: nn.Module, data: Samples, batch_size: int, doing: str) -> None:
        check_finite(model, doing, REPAIR)
        self.flow, self.data, self.batch_size, self.doing = Flow(model, Sites({})), data, batch_size, doing
        self._layers: dict[int, tuple[Layer, ...]] = {}

    def order(self) -> list[str]:
        """Return the names of all parameters that something is multiplied by, in the order of their first product."""
        return list(dict.fromkeys(layer.parameter for layer in self._of(self._first())))

    def other_uses(self) -> dict[str, str]:
        """Return the parameters that another op than a product reads as well, each with where the first such op is."""
        structure, _ = self.flow.at(self._first())
        return {name: where(node) for name, node in other_uses(structure).items()}

    def squares(self, names: Container[str]) -> dict[str, list[Inputs]]:
        """Return for each product with the parameters named the sums of its squared inputs, ``(groups, in)``."""
        return self._sum(names, lambda x: x.double().square().sum(2))

    def second_moments(self, names: Container[str]) -> dict[str, list[Inputs]]:
        """Return for each product with the parameters named the sums of x xᵀ over its inputs, ``(groups, in, in)``."""
        # Summed up in single precision, inputs that depend on each other would look independent to a small damping.
        return self._sum(names, lambda x: x.double() @ x.double().mT)

    def _sum(self, names: Container[str], of: Callable[[Tensor], Tensor]) -> dict[str, list[Inputs]]:
        inputs_by_layer: dict[tuple[str, int], Inputs] = {}

        def add(layer: Layer, x: Tensor) -> None:
            key = layer.parameter, layer.number
            for columns in layer.columns(x):
                new = Inputs(layer, of(columns), columns.shape[2])
                old = inputs_by_layer.get(key)
                inputs_by_layer[key] = (
                    new if old is None else Inputs(layer, old.total + new.total, old.count + new.count)
                )

        for batch in moved(self.data, self.batch_size, self.doing, device_of(self.flow.model)):
            by_source: dict[Node, list[Layer]] = {}
            for layer in self._of(batch.inputs):
                if layer.parameter in names:
                    by_source.setdefault(layer.source, []).append(layer)

            def see(node: Node, output: Any, by_source: dict[Node, list[Layer]] = by_source) -> Any:
                for layer in by_source.get(node, []):
                    add(layer, output)
                return output

            with torch.no_grad():
                self.flow(batch.inputs, see=see)
        listed: dict[str, list[Inputs]] = {}
        for (name, _), layer_inputs in inputs_by_layer.items():
            listed.setdefault(name, []).append(layer_inputs)
        return listed

    def _first(self) -> ExampleInputs:
        batch = next(moved(self.data, self.batch_size, self.doing, device_of(self.flow.model)))
        inputs: ExampleInputs = batch.inputs
        return inputs

    def _of(self, inputs: ExampleInputs) -> tuple[Layer, ...]:
        structure, _ = self.flow.at(inputs)
        if id(structure) not in self._layers:  # the flow keeps the structures
            self._layers[id(structure)] = layers(structure)
        return self._layers[id(structure)]
