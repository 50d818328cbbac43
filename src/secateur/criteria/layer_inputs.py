"""What the weights of a model are multiplied by, summed up over data."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.criteria.batches import checked
from secateur.criteria.gates import REPAIR
from secateur.state import check_finite, device_of
from secateur.structure.flow import Flow
from secateur.structure.layers import Layer, layers
from secateur.types import Batches, Sites

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

    @property
    def mean(self) -> Tensor:
        """The mean over the positions."""
        return self.total / self.count


class LayerInputs:
    """The inputs of a model's layers over the same batches, as the model is when they are asked for.

    Args:
        model: it may change its numbers between two sums, not its shapes.
        batches: pairs (inputs, targets); the targets are not used.
        doing: who asks, for the errors.
    """

    def __init__(self, model: nn.Module, batches: Batches, doing: str) -> None:
        check_finite(model, doing, REPAIR)
        self.flow, self.batches, self.doing = Flow(model, Sites({})), batches, doing
        self._layers: dict[int, tuple[Layer, ...]] = {}

    def squares(self, names: Container[str]) -> dict[str, list[Inputs]]:
        """Return for each product with the parameters named the sums of its squared inputs, ``(groups, in)``."""
        return self._sum(names, lambda x: x.double().square().sum(2))

    def second_moments(self, names: Container[str]) -> dict[str, list[Inputs]]:
        """Return for each product with the parameters named the sums of x xᵀ over its inputs, ``(groups, in, in)``."""
        return self._sum(names, lambda x: (x @ x.mT).double())

    def _sum(self, names: Container[str], of: Callable[[Tensor], Tensor]) -> dict[str, list[Inputs]]:
        found: dict[str, dict[int, Inputs]] = {}

        def see(layer: Layer, x: Tensor) -> None:
            for columns in layer.columns(x):
                own = found.setdefault(layer.parameter, {})
                before = own.get(layer.number)
                total, count = of(columns), columns.shape[2]
                if before is not None:
                    total, count = total + before.total, count + before.count
                own[layer.number] = Inputs(layer, total, count)

        with torch.no_grad():
            for inputs, chosen in self._watched(names):
                self.flow.watch(inputs, chosen, see)
        return {name: list(own.values()) for name, own in found.items()}

    def _watched(self, names: Container[str]) -> Iterator[tuple[Tensor, list[Layer]]]:
        for inputs, _ in checked(self.batches, self.doing, device_of(self.flow.model)):
            structure, _ = self.flow.at(inputs)
            if id(structure) not in self._layers:  # the flow keeps the structures
                self._layers[id(structure)] = layers(structure)
            yield inputs, [layer for layer in self._layers[id(structure)] if layer.parameter in names]
