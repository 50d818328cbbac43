"""Convolutions as products of tensors: Tucker-2 by torch's own linear algebra, CP by tensorly; and all ways by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
from torch import Tensor, nn

from secateur.checks import check_name, is_whole
from secateur.edits.rebuilt import LayerSpec, rows_of
from secateur.files import require
from secateur.transforms.factors import (
    ChannelSVD,
    Conv,
    Factorisation,
    Rank,
    SpatialSVD,
    along,
    build_row,
    group_sizes,
    group_tensors,
    groups_of,
    kernel_of,
    own_spec,
    pointwise,
    tails,
)
from secateur.types import InputError

__all__ = ["FACTORISATIONS", "CanonicalPolyadic", "Tucker2", "by_layer", "check_rank", "factor_layer"]

SWEEPS = 10
"""How often HOOI goes over both sides; its error falls little after the first few."""


@dataclass(frozen=True)
class Tucker2(Factorisation):
    """1×1 to r₁ channels, K×K to r₂, 1×1 to the outputs (Tucker-2, Kim et al., 2016).

    Begun with the singular vectors of each side alone (HOSVD) and improved by turns (HOOI; De Lathauwer et al., 2000).
    """

    def why_not(self, layer: nn.Module) -> str:
        """Return a reason for transposed convolutions."""
        return "Tucker-2 takes no transposed convolution; method='svd' does" if getattr(layer, "transposed", 0) else ""

    def full(self, layer: nn.Module) -> tuple[int, int]:
        """Return the inputs and outputs of a group, where a side is not bounded by the rest."""
        inputs, outputs = group_sizes(layer)
        places = prod(kernel_of(layer))
        return min(inputs, outputs * places), min(outputs, inputs * places)

    def specs(self, layer: nn.Module, rank: Rank, *, bias: bool) -> list[LayerSpec]:
        """Return the three."""
        assert isinstance(layer, Conv)
        first, second = (side * layer.groups for side in self.rank_of(layer, rank))
        inputs, outputs = rows_of(layer)
        return [
            pointwise(layer, inputs, first, bias=False),
            own_spec(layer, in_channels=first, out_channels=second, bias=False),
            pointwise(layer, second, outputs, bias=bias),
        ]

    def rank_of(self, layer: nn.Module, rank: Rank) -> tuple[int, int]:
        """Return both ranks; a single one is that of both sides, as far as they go."""
        full = self.full(layer)
        return rank if isinstance(rank, tuple) else (min(rank, full[0]), min(rank, full[1]))

    def weights(self, layer: nn.Module, rank: Rank) -> list[Tensor]:
        """Return the bases of both sides and the core between."""
        inner, outer = self.rank_of(layer, rank)
        w = group_tensors(layer).flatten(3)  # g, o, i, k
        u_in, u_out = _leading(w.transpose(1, 2).flatten(2), inner), _leading(w.flatten(2), outer)
        for _ in range(SWEEPS):
            u_in = _leading(torch.einsum("goik,gor->girk", w, u_out).flatten(2), inner)
            u_out = _leading(torch.einsum("goik,gis->gosk", w, u_in).flatten(2), outer)
        core = torch.einsum("goik,gor,gis->grsk", w, u_out, u_in)
        ones = [1] * len(kernel_of(layer))
        return [
            u_in.mT.reshape(-1, u_in.shape[1], *ones),
            core.reshape(-1, inner, *kernel_of(layer)),
            u_out.reshape(-1, outer, *ones),
        ]

    def product(self, layer: nn.Module, weights: Sequence[Tensor]) -> Tensor:
        """Return the core between both bases."""
        u_in, core, u_out = (torch.unflatten(w.flatten(2), 0, (groups_of(layer), -1)) for w in weights)
        whole = torch.einsum("gsix,grsk,gory->goik", u_in, core, u_out)
        return whole.reshape(*whole.shape[:3], *kernel_of(layer))

    def ranks(self, layer: nn.Module) -> Iterator[Rank]:
        """Yield pairs that keep the same share of both sides."""
        inner, outer = self.full(layer)
        steps = max(inner, outer)
        yield from dict.fromkeys((ceil(inner * n / steps), ceil(outer * n / steps)) for n in range(1, steps + 1))

    def energies(self, layer: nn.Module) -> list[tuple[Rank, float]]:
        """Return the tails of both sides added up, a bound of what HOSVD loses (De Lathauwer et al., 2000)."""
        w = group_tensors(layer).flatten(3)
        lost_in, lost_out = (
            tails(torch.linalg.svdvals(side.flatten(2)).square().sum(0)) for side in (w.transpose(1, 2), w)
        )
        pairs = [pair for pair in self.ranks(layer) if isinstance(pair, tuple)]
        return [(pair, min(lost_in[pair[0] - 1] + lost_out[pair[1] - 1], 1.0)) for pair in pairs]


def _leading(matrices: Tensor, rank: int) -> Tensor:
    """The first left singular vectors, ``(groups, rows, rank)``."""
    # Of M Mᵀ, which is small; that its values are squared costs no digits that float32 weights have.
    _, vectors = torch.linalg.eigh(matrices @ matrices.mT)
    leading: Tensor = vectors.flip(2)[..., :rank]
    return leading


@dataclass(frozen=True)
class CanonicalPolyadic(Factorisation):
    """1×1 to n channels, one depthwise convolution along each dimension of space, 1×1 to the outputs (Lebedev et al., 2015).

    By tensorly's alternating least squares: the extra ``tensor``.
    """

    def why_not(self, layer: nn.Module) -> str:
        """Return a reason for transposed and grouped convolutions."""
        if getattr(layer, "transposed", False) or groups_of(layer) > 1:
            return "CP takes no grouped or transposed convolution; method='svd' does"
        return ""

    def full(self, layer: nn.Module) -> int:
        """Return the product of all sides but the greatest, which bounds the rank."""
        sides = [*group_sizes(layer), *kernel_of(layer)]
        return prod(sides) // max(sides)

    def specs(self, layer: nn.Module, rank: Rank, *, bias: bool) -> list[LayerSpec]:
        """Return the layers in a row."""
        assert isinstance(layer, Conv)
        assert isinstance(rank, int)
        depthwise = {"in_channels": rank, "out_channels": rank, "groups": rank, "bias": False}
        inputs, outputs = rows_of(layer)
        return [
            pointwise(layer, inputs, rank, bias=False),
            *(own_spec(layer, **depthwise, **along(layer, dim)) for dim in range(len(kernel_of(layer)))),
            pointwise(layer, rank, outputs, bias=bias),
        ]

    def weights(self, layer: nn.Module, rank: Rank) -> list[Tensor]:
        """Return the factors that tensorly finds."""
        assert isinstance(rank, int)
        tensorly = require("tensorly", "tensor")
        parafac = require("tensorly.decomposition", "tensor").parafac
        whole = tensorly.tensor(group_tensors(layer)[0].cpu().numpy())
        start = "svd" if rank <= min(whole.shape) else "random"
        scales, factors = parafac(whole, rank, init=start, random_state=0, n_iter_max=200)
        out, into, *space = [torch.as_tensor(factor, dtype=torch.float64) for factor in factors]
        out = out * torch.as_tensor(scales, dtype=torch.float64)
        lines = [factor.mT.reshape(rank, 1, *_only(dim, len(space))) for dim, factor in enumerate(space)]
        ones = [1] * len(space)
        return [into.mT.reshape(rank, -1, *ones), *lines, out.reshape(-1, rank, *ones)]

    def product(self, layer: nn.Module, weights: Sequence[Tensor]) -> Tensor:
        """Return the sum over the channels between of the products of all factors."""
        into, *lines, out = weights
        whole = into.flatten(1)  # n, i, and a dimension of space more each time
        for line in lines:
            taps = line.flatten(1)
            whole = whole.unsqueeze(-1) * taps.reshape(len(taps), *(1 for _ in whole.shape[1:]), -1)
        return torch.einsum("on,n...->o...", out.flatten(1), whole).unsqueeze(0)

    def energies(self, layer: nn.Module) -> None:
        """Return nothing: what a rank loses is known once it was fitted."""
        return


def _only(dim: int, space: int) -> list[int]:
    return [-1 if d == dim else 1 for d in range(space)]


FACTORISATIONS: Mapping[str, Factorisation] = {
    "svd": ChannelSVD(),
    "spatial": SpatialSVD(),
    "tucker": Tucker2(),
    "cp": CanonicalPolyadic(),
}
"""The ways to write a convolution as a product, by name."""


def by_layer(method: str, layer: nn.Module) -> Factorisation:
    """Return how a layer is split: what is no kernel, or one of one place, by SVD whatever the method."""
    return FACTORISATIONS["svd" if prod(kernel_of(layer)) == 1 else method]


def factor_layer(layer: nn.Module, rank: Rank, method: str = "svd", *, bias: bool = False) -> nn.Sequential:
    """Return a linear layer or a convolution as plain layers in a row, of any rank, cheaper or not.

    Args:
        layer: it is left as it is.
        rank: of every group.
        method: a name of `FACTORISATIONS`.
        bias: whether the last has a bias where the layer has none; it is 0 then.

    Raises:
        InputError: the layer cannot be split so, or the rank is above the full one.
        UnknownNameError: there is no such method.

    >>> layer = nn.Linear(6, 4)
    >>> x = torch.randn(3, 6)
    >>> torch.allclose(factor_layer(layer, 4)(x), layer(x), atol=1e-6)
    True
    """
    check_name("factorisation", method, FACTORISATIONS)
    factorisation = by_layer(method, layer)
    if reason := factorisation.why_not(layer):
        raise InputError(f"factor_layer: {reason}")
    rank = factorisation.rank_of(layer, rank)
    check_rank(rank, factorisation.full(layer), "factor_layer")
    layer_bias, weight = layer.bias, layer.weight
    assert isinstance(weight, Tensor)
    values = (
        layer_bias.detach() if isinstance(layer_bias, Tensor) else weight.new_zeros(rows_of(layer)[1]) if bias else None
    )
    specs = factorisation.specs(layer, rank, bias=values is not None)
    row = build_row(specs, factorisation.weights(layer, rank), values, weight.dtype)
    return nn.Sequential(*row)


def check_rank(rank: Rank, full: Rank, doing: str) -> None:
    """Refuse a rank that is no whole number from 1 to the full one.

    >>> check_rank(70, 64, "LowRank")
    Traceback (most recent call last):
    ...
    secateur.types.InputError: LowRank: rank=70 must be from 1 to 64, the full rank
    """
    pairs = zip(*(r if isinstance(r, tuple) else (r,) for r in (rank, full)), strict=True)
    if not all(is_whole(part, 1) and part <= most for part, most in pairs):
        raise InputError(f"{doing}: rank={rank!r} must be from 1 to {full}, the full rank")
