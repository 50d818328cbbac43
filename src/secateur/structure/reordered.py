"""Whether a model answers the same where the units of each site change places: so it does where the ties between them hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from secateur.state import own_tensors
from secateur.structure.axes import is_fixed, positions
from secateur.structure.cost import Cost
from secateur.structure.difference import compared_tensors, difference
from secateur.structure.draws import Draw
from secateur.structure.frames import Inputs
from secateur.structure.infer import Structure
from secateur.structure.stand_in import run_substituted
from secateur.structure.train_code import in_mode
from secateur.trees import changed

__all__ = ["Reordered"]

SAME, SAME_IN_SINGLE = 1e-9, 1e-3
"""The greatest relative difference that rounding leaves in float64, and in float32."""
CHEAP = 10**8
"""Multiply-accumulates up to which it runs in float64."""


@dataclass(eq=False)
class Reordered:
    """A model beside one whose sites have their units in another order, on weights drawn anew.

    Attributes:
        model: the model; it is left as it is.
        structure: what is tied in it, as it was found on some inputs.
    """

    model: nn.Module
    structure: Structure

    def answers_alike(self, inputs: Inputs, *, training: bool = False) -> bool:
        """Return whether both answer the same, whatever the order of what they return.

        Raises:
            Exception: whatever the model raises on these inputs.

        >>> from secateur.structure.trace import trace
        >>> from secateur.structure.infer import infer
        >>> model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 2))
        >>> reordered = Reordered(model, infer(trace(model, torch.ones(1, 4))))
        >>> reordered.answers_alike(((torch.ones(1, 4),), {}))
        True
        """
        expected = self._answers(inputs, training, moved=False)
        try:
            deviation = difference(expected, self._answers(inputs, training, moved=True))
            return deviation <= (SAME if self._double else SAME_IN_SINGLE)
        except Exception:  # noqa: BLE001  (what runs in one order alone hangs on it)
            return False

    def _answers(self, inputs: Inputs, training: bool, moved: bool) -> list[Tensor]:
        draw = Draw(self._tensors, self._buffers)

        def fetch(name: str) -> Tensor:
            tensor = draw(name).clone()
            for dim, index in self._moves.get(id(self._tensors[name]), ()) if moved else ():
                tensor = tensor.index_select(dim, index.to(tensor.device))
            return tensor

        def run(module: nn.Module, doubled: Inputs) -> list[Tensor]:
            with in_mode(module, training):
                returned = compared_tensors(module(*doubled[0], **doubled[1]))
            return [torch.view_as_real(x) if x.is_complex() else x for x in returned]

        args, kwargs = changed(inputs, lambda x: x.double() if self._double and x.is_floating_point() else x)
        returned: list[Tensor] = run_substituted(self.model, fetch, (args, kwargs), run, double=self._double)
        return [x.flatten().sort().values for x in returned]

    @cached_property
    def _double(self) -> bool:
        types = {tensor.dtype for tensor in self._tensors.values() if tensor.is_floating_point()}
        return types != {torch.float32} or Cost(self.structure).macs({}) <= CHEAP

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        return own_tensors(self.model)

    @cached_property
    def _buffers(self) -> frozenset[int]:
        axes = self.structure.tensors
        free = (name for name, value in axes.items() if not all(map(is_fixed, value.axes)))
        return frozenset(id(self._tensors[name]) for name in free if name in self._tensors)

    @cached_property
    def _moves(self) -> Mapping[int, Sequence[tuple[int, Tensor]]]:
        """For each tensor in which units lie, the rows in their new order along each dimension."""
        moves: dict[int, list[tuple[int, Tensor]]] = {}
        orders = {
            unit: torch.randperm(unit.size, generator=torch.Generator().manual_seed(number))
            for number, unit in enumerate(self.structure.units.values())
        }
        for name, value in self.structure.tensors.items():
            for dim, axis in enumerate(value.axes):
                for unit, order in orders.items():
                    places = positions(axis, unit)
                    if name in self._tensors and places is not None:
                        index = torch.arange(axis.size)
                        index[places.flatten()] = places[order].flatten()
                        moves.setdefault(id(self._tensors[name]), []).append((dim, index))
        return moves
