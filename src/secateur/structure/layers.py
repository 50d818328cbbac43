"""Where the weights of a model are multiplied: every linear layer and convolution of its graph, as one matrix product.

A convolution is a product of its weight with the patches of its input, a transposed one the same over an input that is
spread out with zeros. So what holds for the rows and columns of a matrix holds for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.functional import pad

from secateur.structure.infer import Structure, bind
from secateur.structure.makers import CONVOLVING, MULTIPLYING
from secateur.structure.rules import op_name
from secateur.structure.rules.contractions import TRANSPOSED

__all__ = ["Layer", "layers"]

MOVES = [
    "alias",
    "chunk",
    "clone",
    "contiguous",
    "detach",
    "flatten",
    "getitem",
    "numpy_T",
    "permute",
    "reshape",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "_unsafe_view",
]
"""Ops that put the entries of a weight in other places, and change none."""

PART = 2**23  # as many patch entries at a time: 32 MB


@dataclass(frozen=True, eq=False)
class Layer:
    """An op that multiplies what it is given by a weight.

    Attributes:
        parameter: the weight's name.
        number: which of the products with this parameter it is, in their order.
        node: the op.
        source: the tensor that it multiplies.
        entries: the weight as matrices: where in the flattened parameter each entry is, int64 ``(groups, out, in)``.
    """

    parameter: str
    number: int
    node: Node
    source: Node
    entries: Tensor
    _conv: _Convolution | None = field(default=None, repr=False)

    @property
    def places(self) -> int:
        """How many columns each input has, one after the other: the places of a kernel, or 1."""
        return 1 if self._conv is None else prod(self._conv.kernel)

    def columns(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what the weight's columns are multiplied by, a part of the samples at a time: ``(groups, in, positions)``."""
        if self._conv is None:
            for part in torch.split(x.reshape(-1, x.shape[-1]), max(1, PART // x.shape[-1])):
                yield part.T.unsqueeze(0)
        else:
            yield from self._conv.columns(x, len(self.entries))


@dataclass(frozen=True)
class _Convolution:
    """What a convolution does with its input before it multiplies."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    spread: tuple[int, ...] | None

    def columns(self, x: Tensor, groups: int) -> Iterator[Tensor]:
        space = len(self.kernel)
        x = x if x.ndim == space + 2 else x.unsqueeze(0)
        samples = max(1, PART // (x[0].numel() * prod(self.kernel)))
        for part in torch.split(x, samples):
            patches = self._patches(part)
            # (samples, channels, *out, *kernel) → (groups, channels in the group · kernel, samples · out)
            whole = patches.flatten(2, 1 + space).flatten(3)
            split = torch.unflatten(whole, 1, (groups, -1)).permute(1, 2, 4, 0, 3)
            yield split.flatten(3).flatten(1, 2)

    def _patches(self, x: Tensor) -> Tensor:
        x = _spread_out(x, self.spread) if self.spread is not None else x
        x = pad(x, [n for pair in reversed(list(zip(self.before, self.after, strict=True))) for n in pair])
        for at, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            x = x.unfold(2 + at, (size - 1) * gap + 1, step)[..., ::gap]
        return x


def _spread_out(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    shape = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *shape)
    places: list[slice] = [slice(None), slice(None), *(slice(None, None, step) for step in stride)]
    wide[tuple(places)] = x
    return wide


def layers(structure: Structure) -> tuple[Layer, ...]:
    """Return every product with a weight, in the order in which they happen.

    A weight counts if its entries are the model's own, moved about at most, as in a transposed or chunked weight. What
    is computed from parameters is not a weight whose entries could be chosen.

    >>> from torch import nn
    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(4, 3))
    >>> found = layers(channels(model, torch.zeros(1, 2, 3, 3)).structure)
    >>> [(layer.parameter, tuple(layer.entries.shape)) for layer in found]
    [('0.weight', (2, 2, 9)), ('2.weight', (1, 3, 4))]
    """
    found: list[Layer] = []
    moved = _Moved(structure)
    for node in structure.graph.nodes:
        kind = op_name(node) if node.op == "call_function" else ""
        if kind not in MULTIPLYING and kind not in CONVOLVING:
            continue
        operands = bind(node, {n: n for n in node.all_input_nodes})
        source, weight = (operands[name] for name in (CONVOLVING | MULTIPLYING)[kind])
        place, own = moved[weight], moved[source]
        if place is None or own is not None:
            continue
        name, entries = place
        number = sum(layer.parameter == name for layer in found)
        if kind in CONVOLVING:
            transposed = kind in TRANSPOSED.split() or bool(operands.get("transposed"))
            conv = _convolution(operands, tuple(entries.shape[2:]), transposed)
            found.append(Layer(name, number, node, source, _matrices(entries, operands["groups"], transposed), conv))
        elif entries.ndim == 2:
            found.append(Layer(name, number, node, source, (entries if kind == "linear" else entries.T).unsqueeze(0)))
    return tuple(found)


class _Moved(dict[Any, tuple[str, Tensor] | None]):
    """For each tensor made by moving a parameter's entries, the parameter and where each entry is in it."""

    def __init__(self, structure: Structure) -> None:
        super().__init__()
        self.graph = structure.graph

    def __missing__(self, node: Any) -> tuple[str, Any] | None:
        self[node] = found = self._find(node) if isinstance(node, Node) else None
        return found

    def _find(self, node: Node) -> tuple[str, Any] | None:
        if node in self.graph.tensors:
            name = self.graph.tensors[node]
            shape = self.graph.state[name].shape
            return name, torch.arange(prod(shape)).reshape(shape)
        if node.op != "call_function" or op_name(node) not in MOVES or len(node.all_input_nodes) != 1:
            return None
        before = self[node.all_input_nodes[0]]
        if before is None:
            return None
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), lambda _: before[1])
        return before[0], node.target(*args, **kwargs)  # type: ignore[operator]


def _matrices(entries: Tensor, groups: int, transposed: bool) -> Tensor:
    """A convolution's weight as one matrix a group."""
    if not transposed:
        return entries.reshape(groups, entries.shape[0] // groups, -1)
    flipped = entries.flip(tuple(range(2, entries.ndim)))
    return torch.unflatten(flipped, 0, (groups, -1)).transpose(1, 2).flatten(2)


def _convolution(operands: Mapping[str, Any], kernel: tuple[int, ...], transposed: bool) -> _Convolution:
    def each(name: str) -> tuple[int, ...]:
        given = operands.get(name, 0)
        given = (given,) if isinstance(given, int) else tuple(given)
        return given * len(kernel) if len(given) == 1 else given

    stride, dilation, reach = each("stride"), each("dilation"), operands["padding"]
    span = tuple((size - 1) * gap for size, gap in zip(kernel, dilation, strict=True))
    if isinstance(reach, str):
        before = tuple(n // 2 if reach == "same" else 0 for n in span)
        return _Convolution(
            kernel, stride, dilation, before, tuple(n - n // 2 if reach == "same" else 0 for n in span), None
        )
    padding = each("padding")
    if not transposed:
        return _Convolution(kernel, stride, dilation, padding, padding, None)
    before = tuple(n - p for n, p in zip(span, padding, strict=True))
    after = tuple(n + more for n, more in zip(before, each("output_padding"), strict=True))
    return _Convolution(kernel, (1,) * len(kernel), dilation, before, after, stride)
