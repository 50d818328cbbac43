"""A layer's weight as a product: what the thinner layers are, and their values.

Everything is per group. The weight of a group is a matrix of its outputs by its inputs (for a convolution, by its inputs and
the places of its kernel), or a tensor of outputs, inputs and kernel.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from secateur.edits.rebuilt import LayerSpec, rows_of

__all__ = [
    "ChannelSVD",
    "Conv",
    "Factorisation",
    "Rank",
    "SpatialSVD",
    "along",
    "build_row",
    "dtype_of",
    "group_matrices",
    "group_sizes",
    "group_tensors",
    "groups_of",
    "kernel_of",
    "own_spec",
    "pointwise",
    "row_cost",
    "tails",
]

Rank = int | tuple[int, int]
"""The rank of every group; for Tucker-2 two, of the inputs and of the outputs."""

Conv = nn.modules.conv._ConvNd


def kernel_of(layer: nn.Module) -> tuple[int, ...]:
    """Return the size of a convolution's kernel, () for a linear layer."""
    return tuple(layer.kernel_size) if isinstance(layer, Conv) else ()


def groups_of(layer: nn.Module) -> int:
    """Return how many groups a layer has; a linear one has one."""
    return layer.groups if isinstance(layer, Conv) else 1


def group_sizes(layer: nn.Module) -> tuple[int, int]:
    """Return how many inputs and outputs a group has."""
    inputs, outputs = rows_of(layer)
    return inputs // groups_of(layer), outputs // groups_of(layer)


def group_tensors(layer: nn.Module) -> Tensor:
    """Return the weight, float64 ``(groups, outputs, inputs, *kernel)``, the kernel of a transposed one turned over."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    split = torch.unflatten(weight.detach().double(), 0, (groups_of(layer), -1))
    if getattr(layer, "transposed", False):
        return split.transpose(1, 2).flip(tuple(range(3, split.ndim)))
    return split


def group_matrices(layer: nn.Module) -> Tensor:
    """Return the weight, float64 ``(groups, outputs, inputs · kernel)``, as the layer's patches are multiplied by it.

    >>> group_matrices(nn.Conv2d(4, 6, 3, groups=2)).shape
    torch.Size([2, 3, 18])
    """
    return group_tensors(layer).flatten(2)


def own_spec(layer: nn.Module, **changes: Any) -> LayerSpec:
    """Return what a layer is, with changes."""
    if isinstance(layer, nn.Linear):
        return LayerSpec(
            "Linear", {"in_features": layer.in_features, "out_features": layer.out_features, "bias": True} | changes
        )
    assert isinstance(layer, Conv)
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    options = {name: getattr(layer, name) for name in names}
    if layer.transposed:
        options["output_padding"] = layer.output_padding
    return LayerSpec(type(layer).__name__, options | {"bias": True} | changes)


def pointwise(layer: nn.Module, inputs: int, outputs: int, *, bias: bool) -> LayerSpec:
    """Return the layer that mixes channels alone, in the groups of `layer`."""
    if isinstance(layer, nn.Linear):
        return LayerSpec("Linear", {"in_features": inputs, "out_features": outputs, "bias": bias})
    space = len(kernel_of(layer))
    options = {"in_channels": inputs, "out_channels": outputs, "kernel_size": (1,) * space, "groups": groups_of(layer)}
    return LayerSpec(f"Conv{space}d", options | {"bias": bias})


class Factorisation(ABC):
    """A way to write a layer as layers in a row."""

    def why_not(self, layer: nn.Module) -> str:
        """Return why this cannot be done to a layer; empty where it can."""
        return ""

    @abstractmethod
    def full(self, layer: nn.Module) -> Rank:
        """Return the rank from which on the product is exact."""

    @abstractmethod
    def specs(self, layer: nn.Module, rank: Rank, *, bias: bool) -> list[LayerSpec]:
        """Return the layers in a row."""

    @abstractmethod
    def weights(self, layer: nn.Module, rank: Rank) -> list[Tensor]:
        """Return their weights, float64."""

    @abstractmethod
    def product(self, layer: nn.Module, weights: Sequence[Tensor]) -> Tensor:
        """Return the weight that the layers in a row amount to, as `group_tensors` gives the layer's own."""

    def lost(self, layer: nn.Module, weights: Sequence[Tensor]) -> float:
        """Return ‖W − Ŵ‖² / ‖W‖²."""
        tensor = group_tensors(layer)
        whole = float(tensor.square().sum())
        return float((tensor - self.product(layer, weights)).square().sum()) / whole if whole else 0.0

    def rank_of(self, layer: nn.Module, rank: Rank) -> Rank:
        """Return a rank in the form that this layer has it in."""
        return rank

    @abstractmethod
    def energies(self, layer: nn.Module) -> list[tuple[Rank, float]] | None:
        """Return ranks, the least first, and the share of the weight's squares that each loses; None where nobody knows."""

    def ranks(self, layer: nn.Module) -> Iterator[Rank]:
        """Yield ranks, the least first."""
        full = self.full(layer)
        assert isinstance(full, int)
        yield from range(1, full + 1)


def tails(squares: Tensor) -> list[float]:
    """Return the share of squares that lies after the first n, for n from 1 on; the greatest are first.

    >>> tails(torch.tensor([3.0, 1.0]))
    [0.25, 0.0]
    """
    total = float(squares.sum())
    if not total:
        return [0.0] * len(squares)
    # Summed from the least on, so that what is small is not lost beside what is large; nothing lies after the last.
    rest = squares.flip(0).cumsum(0).flip(0)[1:]
    return [*(rest / total).clamp(0, 1).tolist(), 0.0]


@dataclass(frozen=True)
class ChannelSVD(Factorisation):
    """W ≈ U (S V): the layer with n outputs, then one that mixes them (section 1.3.1 of calli; Zhang et al., 2015)."""

    def full(self, layer: nn.Module) -> int:
        """Return the lesser side of a group's matrix."""
        inputs, outputs = group_sizes(layer)
        return min(inputs * prod(kernel_of(layer)), outputs)

    def specs(self, layer: nn.Module, rank: Rank, *, bias: bool) -> list[LayerSpec]:
        """Return the layer itself with n outputs a group, and the one that mixes them."""
        assert isinstance(rank, int)
        middle, outputs = rank * groups_of(layer), rows_of(layer)[1]
        name = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
        return [own_spec(layer, **{name: middle}, bias=False), pointwise(layer, middle, outputs, bias=bias)]

    def weights(self, layer: nn.Module, rank: Rank) -> list[Tensor]:
        """Return S V and U, cut at n."""
        assert isinstance(rank, int)
        u, s, v = torch.linalg.svd(group_matrices(layer), full_matrices=False)
        return self.written(layer, u[..., :rank], s[..., :rank, None] * v[..., :rank, :])

    def written(self, layer: nn.Module, left: Tensor, right: Tensor) -> list[Tensor]:
        """Return the weights of the two layers for factors ``(groups, outputs, n)`` and ``(groups, n, inputs · kernel)``."""
        kernel = kernel_of(layer)
        first = right.reshape(*right.shape[:2], -1, *kernel)
        if getattr(layer, "transposed", False):
            first = first.flip(tuple(range(3, first.ndim))).transpose(1, 2)
        return [first.flatten(0, 1), left.flatten(0, 1).reshape(-1, left.shape[2], *(1 for _ in kernel))]

    def product(self, layer: nn.Module, weights: Sequence[Tensor]) -> Tensor:
        """Return U (S V)."""
        groups = groups_of(layer)
        right, left = weights
        left = left.reshape(groups, -1, left.shape[1])
        if getattr(layer, "transposed", False):
            right = torch.unflatten(right, 0, (groups, -1)).transpose(1, 2).flip(tuple(range(3, right.ndim + 1)))
        return (left @ right.reshape(groups, left.shape[2], -1)).reshape(group_tensors(layer).shape)

    def energies(self, layer: nn.Module) -> list[tuple[Rank, float]]:
        """Return the tails of the squared singular values, of all groups together."""
        squares = torch.linalg.svdvals(group_matrices(layer)).square().sum(0)
        return list(enumerate(tails(squares), 1))


@dataclass(frozen=True)
class SpatialSVD(Factorisation):
    """A K×1 and a 1×K convolution with n channels between (Jaderberg et al., 2014)."""

    def why_not(self, layer: nn.Module) -> str:
        """Return a reason where there are no two dimensions of space."""
        if getattr(layer, "transposed", False):
            return "a transposed convolution is not split in space; method='svd' takes it"
        return "" if len(kernel_of(layer)) == 2 else "splitting in space takes two dimensions; method='svd' takes it"

    def full(self, layer: nn.Module) -> int:
        """Return the lesser side of the matrix of outputs and columns by inputs and rows."""
        inputs, outputs = group_sizes(layer)
        height, width = kernel_of(layer)
        return min(inputs * height, outputs * width)

    def specs(self, layer: nn.Module, rank: Rank, *, bias: bool) -> list[LayerSpec]:
        """Return the column and the row."""
        assert isinstance(layer, Conv)
        assert isinstance(rank, int)
        middle = rank * layer.groups
        first, second = (along(layer, dim) for dim in (0, 1))
        return [
            own_spec(layer, out_channels=middle, bias=False, **first),
            own_spec(layer, in_channels=middle, bias=bias, **second),
        ]

    def weights(self, layer: nn.Module, rank: Rank) -> list[Tensor]:
        """Return the columns S V and the rows U, cut at n."""
        assert isinstance(rank, int)
        (inputs, outputs), (height, width) = group_sizes(layer), kernel_of(layer)
        u, s, v = torch.linalg.svd(self._matrices(layer), full_matrices=False)
        columns = (s[..., :rank, None] * v[..., :rank, :]).reshape(-1, inputs, height, 1)
        rows = torch.unflatten(u[..., :rank], 1, (outputs, width)).movedim(3, 2).reshape(-1, rank, 1, width)
        return [columns, rows]

    def product(self, layer: nn.Module, weights: Sequence[Tensor]) -> Tensor:
        """Return the sum over the channels between of rows and columns."""
        columns, rows = (torch.unflatten(w, 0, (groups_of(layer), -1)) for w in weights)
        return torch.einsum("gnihx,gonxw->goihw", columns, rows)

    def _matrices(self, layer: nn.Module) -> Tensor:
        # (groups, outputs, inputs, height, width) → (groups, outputs · width, inputs · height)
        return group_tensors(layer).permute(0, 1, 4, 2, 3).flatten(3).flatten(1, 2)

    def energies(self, layer: nn.Module) -> list[tuple[Rank, float]]:
        """Return the tails of the squared singular values, of all groups together."""
        squares = torch.linalg.svdvals(self._matrices(layer)).square().sum(0)
        return list(enumerate(tails(squares), 1))


def along(layer: Conv, dim: int) -> dict[str, Any]:
    """Return the options of a convolution along one dimension of space alone."""
    usual = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1}
    options: dict[str, Any] = {}
    for name, rest in usual.items():
        values = getattr(layer, name)
        options[name] = (
            values if isinstance(values, str) else tuple(v if d == dim else rest for d, v in enumerate(values))
        )
    return options


def build_row(
    specs: Sequence[LayerSpec], weights: Sequence[Tensor], bias: Tensor | None, dtype: torch.dtype
) -> list[nn.Module]:
    """Return layers in a row with these weights, and this bias in the last, in a type."""
    row = [spec.build() for spec in specs]
    for layer, weight in zip(row, weights, strict=True):
        layer.weight = nn.Parameter(weight.to(dtype).contiguous())
    if bias is not None:  # a copy, as it may be the bias of the layer that is left as it is
        row[-1].bias = nn.Parameter(bias.to(weights[-1].device, dtype, copy=True))
    return row


def dtype_of(layer: nn.Module) -> torch.dtype:
    """Return the type of a layer's weight."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.dtype


def row_cost(specs: Sequence[LayerSpec], shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Return the multiply–accumulates of layers in a row on inputs of these shapes, and their parameters.

    >>> sizes = [{"in_features": 8, "out_features": 2}, {"in_features": 2, "out_features": 6}]
    >>> row_cost([LayerSpec("Linear", size | {"bias": False}) for size in sizes], [(5, 8)])
    (140, 28)
    """
    layers = [on_meta(spec) for spec in specs]
    total = 0
    for shape in shapes:
        now = torch.empty(tuple(shape), device="meta")
        for layer in layers:
            after = layer(now)
            if isinstance(layer, nn.Linear):
                total += after.numel() * layer.in_features
            elif isinstance(layer, Conv):
                # Each entry of the input meets the kernels of a transposed convolution, of the output those of another.
                total += (now if layer.transposed else after).numel() * layer.weight[0].numel()
            now = after
    return total, sum(p.numel() for layer in layers for p in layer.parameters())


def on_meta(spec: LayerSpec) -> nn.Module:
    options = dict(spec.options) if spec.kind == "ReLU" else {**spec.options, "device": "meta"}
    layer: nn.Module = getattr(nn, spec.kind)(**options)
    return layer.eval()
