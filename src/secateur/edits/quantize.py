"""Weights of n bits, and inputs of layers rounded to n bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from secateur.checks import check_whole, is_whole, within
from secateur.coding import Codec, Grid, from_grid, to_grid
from secateur.copies import copied
from secateur.edits.base import Edit
from secateur.edits.tensors import floating_tensor
from secateur.types import FileError, InputError

__all__ = ["InputGrid", "Quantised", "quantised"]

WIDEST = 8


def quantised(tensor: Tensor, bits: int, scale: Tensor, zero: Tensor) -> Tensor:
    """Return the nearest values on a grid: scale · (q − zero), q from 0 to 2^bits − 1.

    Args:
        tensor: of any shape.
        bits: 2 to 8.
        scale, zero: of shape ``(1,)``, or ``(channels,)`` along the first dimension.

    >>> quantised(torch.tensor([-9.0, 0.3, 9.0]), 2, torch.tensor([0.5]), torch.tensor([2.0]))
    tensor([-1.0000,  0.5000,  0.5000])
    """
    return from_grid(to_grid(tensor, bits, scale, zero), scale, zero)


@dataclass(frozen=True)
class InputGrid:
    """Rounds what a layer is given to the values scale · (q − zero): a forward pre-hook.

    Rounding has no slope, so gradients pass it as they are where the input lies within the grid, and not at all beyond
    it (the straight-through estimator: Bengio, Léonard and Courville, 2013).

    Attributes:
        bits: 2 to 8.
        scale, zero: of the grid.

    >>> layer = nn.Identity()
    >>> _ = layer.register_forward_pre_hook(InputGrid(2, 0.5, 0.0))
    >>> layer(torch.tensor([0.2, 0.4, 7.0]))
    tensor([0.0000, 0.5000, 1.5000])
    """

    bits: int
    scale: float
    zero: float

    def __call__(self, layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs, the first one rounded."""
        x = inputs[0]
        least, most = -self.zero * self.scale, ((1 << self.bits) - 1 - self.zero) * self.scale
        within = x.clamp(least, most)
        rounded = torch.round(within.detach() / self.scale) * self.scale
        return rounded + (within - within.detach()), *inputs[1:]


@dataclass(frozen=True, eq=False)
class Quantised(Edit):
    """Parameters rounded to the values of a grid each, and inputs of layers that are rounded as they come.

    Attributes:
        bits: of the numbers.
        scales, zeros: by the parameter's name, of shape ``(1,)`` or ``(channels,)``: the values are scale · (q − zero).
        inputs: the grid of what a layer is given, by its module path.
        coder: of the numbers on disk: see `secateur.coding.encode_symbols`.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[0.4, -0.9]])
    >>> edit = Quantised(2, {"weight": torch.tensor([0.5])}, {"weight": torch.tensor([2.0])})
    >>> edit.apply(model).weight.tolist()
    [[0.5, -1.0]]
    """

    kind: ClassVar[str] = "quantised"
    bits: int
    scales: Mapping[str, Tensor]
    zeros: Mapping[str, Tensor]
    inputs: Mapping[str, InputGrid] = field(default_factory=dict)
    coder: str = "auto"

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of `model` with the parameters rounded, and with layers that round what they are given."""
        result = copied(model)
        for name in self.scales:
            tensor = floating_tensor(result, name)
            scale, zero = (_grid_part(part, name, tensor) for part in (self.scales[name], self.zeros[name]))
            with torch.no_grad():
                tensor.copy_(quantised(tensor, self.bits, scale, zero))
        modules = dict(result.named_modules())
        for path, grid in self.inputs.items():
            if path not in modules:
                raise FileError(f"{path!r} is no layer of it")
            modules[path].register_forward_pre_hook(grid)
        return result

    def codecs(self) -> Mapping[str, Codec]:
        """Return the codec of the grid for each parameter."""
        return {name: Grid(self.bits, self.scales[name], self.zeros[name], self.coder) for name in self.scales}

    def to_dict(self) -> dict[str, Any]:
        """Return the grids."""
        inputs = {path: asdict(grid) for path, grid in self.inputs.items()}
        grids = {"scales": dict(self.scales), "zeros": dict(self.zeros), "inputs": inputs}
        return {"bits": self.bits, **grids, "coder": self.coder}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """Return the edit that `to_dict` described."""
        try:
            check_whole("a quantised model", 1, most=WIDEST, bits=record["bits"])
        except InputError as error:
            raise FileError(str(error)) from error
        inputs = {path: _input_grid(grid) for path, grid in record["inputs"].items()}
        return cls(record["bits"], dict(record["scales"]), dict(record["zeros"]), inputs, record["coder"])


def _grid_part(part: object, name: str, tensor: Tensor) -> Tensor:
    if not isinstance(part, Tensor) or part.ndim != 1 or len(part) not in (1, len(tensor)):
        raise FileError(f"the grid of {name!r} does not fit its shape {tuple(tensor.shape)}")
    return part.to(tensor.device, tensor.dtype)


def _input_grid(record: Mapping[str, Any]) -> InputGrid:
    grid = InputGrid(**record)
    is_whole_bits = is_whole(grid.bits, 1) and grid.bits <= WIDEST
    if not is_whole_bits or not within(grid.scale, "(0, inf)") or not within(grid.zero, "(-inf, inf)"):
        raise FileError(f"{dict(record)!r} is no grid of a layer's inputs")
    return grid
