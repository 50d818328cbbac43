"""Least squares: the linear map that makes aims of inputs as nearly as can be, for any linear layer or convolution.

A layer's output is its weight times its inputs as rows (a convolution has one for each place). So what the squared error
of any weight depends on are two small matrices of moments, whatever the number of samples, and one solver is enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.calls import looking, usual
from secateur.checks import check_number
from secateur.structure.moments import LayerMoments
from secateur.structure.patches import Patches
from secateur.types import InputError

__all__ = [
    "LayerEquations",
    "Moments",
    "least_squares",
    "patches",
    "ridge_load",
    "solved",
]


def solved(gram: Tensor, cross: Tensor, load: Tensor | float) -> Tensor:
    """Return W that minimises ⟨W G, W⟩ − 2 ⟨W, C⟩ + ⟨W L, W⟩, so W = C (G + L)⁻¹, ``(outputs, inputs)``, float64.

    Args:
        gram: G, the sum of x xᵀ over the inputs, ``(inputs, inputs)``.
        cross: C, the sum of t xᵀ over the aims and inputs, ``(outputs, inputs)``.
        load: L, what the square of each input's weight costs: a number or ``(inputs,)``. Where there is none the best W
            may be one of many; then it is the smallest.

    >>> solved(torch.tensor([[2.0, 2.0], [2.0, 2.0]]), torch.tensor([[2.0, 2.0]]), 0.0)
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    gram, cross = gram.double(), cross.double()
    loads = torch.as_tensor(load, dtype=torch.float64, device=gram.device).expand(len(gram))
    # The derivative by W is zero: W (G + L) = C. Where G is singular, C G⁺ is the solution of least norm (Penrose, 1956).
    if not bool(loads.any()):
        smallest: Tensor = cross @ torch.linalg.pinv(gram, hermitian=True, rtol=1e-12)
        return smallest
    whole = gram + torch.diag(loads)
    lower, failed = torch.linalg.cholesky_ex(whole)
    if int(failed):
        best: Tensor = torch.linalg.solve(whole, cross, left=False)
        return best
    return torch.cholesky_solve(cross.mT, lower).mT


def ridge_load(gram: Tensor, ridge: float, *, free: int = 0) -> Tensor:
    """Return what the square of each input's weight costs: a fraction `ridge` of the inputs' mean square.

    λ = ridge · tr G / inputs, so that the fraction means the same at any scale of the inputs (ridge regression: Hoerl and
    Kennard, 1970).

    Args:
        gram: the sum (or mean) of x xᵀ over the inputs, ``(inputs, inputs)``.
        ridge: the fraction, 0 or more.
        free: how many of the last inputs cost nothing, as the column of ones of a bias.

    >>> ridge_load(torch.diag(torch.tensor([1.0, 3.0, 9.0])), 0.5, free=1)
    tensor([1., 1., 0.])
    """
    check_number("least_squares", "[0, inf)", ridge=ridge)
    load, costly = torch.zeros_like(gram.diagonal()), len(gram) - free
    if costly:
        load[:costly] = ridge * gram.diagonal()[:costly].mean()
    return load


@dataclass(frozen=True, eq=False)
class Moments:
    """What the squared error of a corrected layer depends on: all of its data, in two matrices.

    Attributes:
        gram: ``(inputs left, inputs left)``, YᵀY / rows of the inputs after the cut.
        cross: ``(outputs, inputs left)``, W XᵀY / rows.
        power: the mean square of the outputs before, added up over outputs.
        rows: how many there are.
    """

    gram: Tensor
    cross: Tensor
    power: float
    rows: int

    @classmethod
    def of(cls, before: Tensor, after: Tensor, weight: Tensor) -> Moments:
        """Take the moments; the arguments are those of `least_squares`."""
        if before.ndim != 2 or after.ndim != 2 or len(before) != len(after) or len(before) == 0:
            raise InputError(
                f"least_squares: inputs before {tuple(before.shape)} and after {tuple(after.shape)} must be matrices with "
                "one row for each sample, the same for both; use patches(...) for a convolution"
            )
        if weight.ndim != 2 or weight.shape[1] != before.shape[1]:
            raise InputError(
                f"least_squares: the weight is {tuple(weight.shape)} and reads {before.shape[1]} inputs; "
                "give (outputs, inputs)"
            )
        x, y, w = before.double(), after.double(), weight.detach().double()
        if not bool(torch.isfinite(x.sum() + y.sum() + w.sum())):
            raise InputError(
                "least_squares: inputs or weight hold NaN or infinite values; repair the data or the model"
            )
        aims = x @ w.mT
        rows = len(x)
        return cls(y.mT @ y / rows, aims.mT @ y / rows, float(aims.square().sum() / rows), rows)

    @classmethod
    def pooled(cls, parts: Sequence[Moments]) -> Moments:
        """Return the moments of all parts of the data together.

        >>> x = torch.tensor([[1.0], [2.0], [3.0]])
        >>> weight = torch.tensor([[2.0]])
        >>> parts = [Moments.of(some, some, weight) for some in (x[:1], x[1:])]
        >>> round(float(Moments.pooled(parts).gram), 3), round(float(Moments.of(x, x, weight).gram), 3)
        (4.667, 4.667)
        """
        # A mean over all rows is that of the parts' means, weighed by their rows.
        rows = sum(part.rows for part in parts)
        gram = sum((part.rows / rows * part.gram for part in parts), torch.zeros(()))
        cross = sum((part.rows / rows * part.cross for part in parts), torch.zeros(()))
        return cls(gram, cross, sum(part.rows / rows * part.power for part in parts), rows)

    def error(self, weights: Tensor) -> Tensor:
        """Return the mean squared error of each candidate ``(candidates, outputs, inputs left)``, added up over outputs.

        ‖X Wᵀ − Y Vᵀ‖² / rows = power − 2 ⟨V, C⟩ + ⟨V G, V⟩ for a candidate V, W the weight before.
        """
        w = weights.double()
        return self.power - 2 * (w * self.cross).sum((-1, -2)) + ((w @ self.gram) * w).sum((-1, -2))

    def best(self, ridge: float) -> Tensor:
        """Return the weight of the least error, ``(outputs, inputs left)``; see `ridge_load`."""
        return solved(self.gram, self.cross, ridge_load(self.gram, ridge))


@usual
def least_squares(before: Tensor, after: Tensor, weight: Tensor, *, ridge: float = 1e-6) -> Tensor:
    """Return the weight that makes of the inputs after a cut what `weight` made of those before, as nearly as can be.

    The closed form that layer-wise reconstruction uses (He et al., 2017): W Xᵀ Y (Yᵀ Y + λ I)⁻¹ in double precision.
    Add a column of ones to both inputs, and the bias to the weight, to correct a bias as well.

    Args:
        before: ``(rows, inputs)``, what the layer read (see `patches` for convolutions).
        after: ``(rows, inputs left)``, what it reads after the cut.
        weight: ``(outputs, inputs)``.
        ridge: λ, as a fraction of the mean square of an input after.

    Returns:
        ``(outputs, inputs left)``.

    Raises:
        InputError: shapes do not fit, or values are not finite.

    >>> x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    >>> least_squares(x, x[:, :1], torch.tensor([[1.0, 4.0]]))
    tensor([[5.0000]])
    """
    return Moments.of(before, after, weight).best(ridge).to(weight)


@looking
def patches(
    inputs: Tensor,
    kernel: Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    """Return what a convolution sees, as rows: ``(samples · places, channels · kernel)``; a linear layer's inputs are rows.

    Args:
        inputs: ``(samples, channels, *space)``, of any number of dimensions of space.
        kernel, stride, padding, dilation: of the convolution, as torch takes them.

    >>> patches(torch.arange(9.0).view(1, 1, 3, 3), (2, 2))[0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    return torch.cat([part[0].mT for part in Patches.of(options, kernel).columns(inputs, groups=1)])


COLUMNS = 4096
"""How many columns a group's equations may have; where kernels make more, weights change within fewer directions."""

SHARED = 16
"""Places beside each other see nearly the same of a kernel that is longer: one in a sixteenth of its length is looked at."""


class LayerEquations:
    """The least-squares problem of a linear layer or a convolution: one for each group, over data taken in part by part.

    Each input has a column for each place of the kernel. Where that makes more than `COLUMNS`, each input's kernels may
    change only within their first principal directions, so many that there are no more (one at least); its columns are
    the coordinates there.

    Args:
        weight: the layer's, its outputs first: ``(outputs, inputs in a group, *kernel)``.
        options: a convolution's stride, padding, dilation and groups; nothing for a linear layer.
        inputs: which inputs of each group may have weights, int64, by group.
        bias: whether a bias is solved for as well.
        exact: whether products are taken in double precision. Without a ridge they must be: what rounding adds to the
            moments of inputs that are nearly alike would be taken for a difference.
        places: of a linear layer, how many features that follow each other are one input, as the pixels of a map are;
            `inputs` are then those.
    """

    def __init__(
        self,
        weight: Tensor,
        options: Mapping[str, Any],
        inputs: Sequence[Tensor],
        *,
        bias: bool,
        exact: bool = True,
        places: int = 1,
    ) -> None:
        self.shape, self.options, self.inputs, self.bias = weight.shape, options, inputs, bias
        # A linear layer on maps is a convolution that has one place.
        self.weight = torch.unflatten(weight.detach(), 1, (-1, places)) if places > 1 else weight.detach()
        patches = Patches.of(options, self.weight.shape[2:]) if self.weight.ndim > 2 else None
        self.basis = _basis(self.weight, len(inputs), COLUMNS // max(*map(len, inputs), 1))
        if self.basis is not None:
            patches = Patches.of({}, [1] * (self.weight.ndim - 2))
        # Groups that keep as many inputs are taken in together.
        self._even = len({len(group_inputs) for group_inputs in inputs}) == 1
        parts = [len(inputs)] if self._even else [1] * len(inputs)
        self._moments = [LayerMoments(patches, groups, exact=exact) for groups in parts]
        self._sums: list[tuple[Tensor, Tensor]] = []

    @property
    def each(self) -> int:
        """How many columns an input has."""
        return self.weight[0, 0].numel() if self.basis is None else self.basis.shape[2]

    def add(self, x: Tensor, aims: Tensor) -> None:
        """Take in what the layer reads, and what is wanted of it in the shape of its outputs."""
        if self.weight.shape != self.shape:
            x, aims = x.reshape(-1, *self.weight.shape[1:]), aims.reshape(-1, self.shape[0], 1)
        dim = -1 if self.weight.ndim == 2 else 1 - self.weight.ndim
        groups, width = len(self.inputs), x.shape[dim] // len(self.inputs)
        picked = [
            self._coordinates(x, dim, group_inputs + group * width) for group, group_inputs in enumerate(self.inputs)
        ]
        if self.basis is not None:
            # With a basis, neighbouring places share no products.
            some: tuple[Any, ...] = (
                ...,
                *(slice(None, None, max(size // SHARED, 1)) for size in self.weight.shape[2:]),
            )
            picked, aims = [part[some] for part in picked], aims[some]
        if self._even:
            self._moments[0].add(torch.cat(picked, dim) if groups > 1 else picked[0], aims)
        else:
            for moments, group_inputs, group_aims in zip(self._moments, picked, aims.chunk(groups, dim), strict=True):
                moments.add(group_inputs, group_aims)

    def _coordinates(self, x: Tensor, dim: int, inputs: Tensor) -> Tensor:
        """Some of the inputs; where there is a basis, what its kernels make of each."""
        picked = x.index_select(dim, inputs)
        if self.basis is None:
            return picked
        kernels = self.basis[inputs].mT.reshape(-1, 1, *self.weight.shape[2:]).to(x)
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.weight.ndim - 3]
        options: Any = {name: self.options[name] for name in ("stride", "padding", "dilation") if name in self.options}
        return convolve(picked, kernels, groups=len(inputs), **options)

    def sums(self) -> list[tuple[Tensor, Tensor]]:
        """Return the sums of x xᵀ and of t xᵀ by group, a 1 as the last input where there is a bias; float64.

        Raises:
            InputError: no data were taken in.
        """
        if not self._sums:
            if not self._moments[0].count:
                raise InputError("least_squares: there are no data; add some first")
            last = None if self.bias else -1
            for moments in self._moments:
                grams, crosses = moments.gram()[:, :last, :last], moments.cross()[:, :last]
                self._sums += [(gram, cross.mT) for gram, cross in zip(grams, crosses, strict=True)]
        return self._sums

    def columns(self) -> list[Tensor]:
        """Return the layer's own weights of the columns of each group, ``(outputs, columns)``, float64."""
        groups = len(self.inputs)
        flat = self.weight.double().reshape(groups, len(self.weight) // groups, -1, self.weight[0, 0].numel())
        if self.basis is not None:
            flat = torch.einsum("goik,gikr->goir", flat, torch.unflatten(self.basis, 0, (groups, -1)))
        return [group_weight[:, inputs].flatten(1) for group_weight, inputs in zip(flat, self.inputs, strict=True)]

    def restricted(self, inputs: Sequence[Tensor]) -> LayerEquations:
        """Return the equations of fewer inputs, whose aims are less what the weight makes of those that are left out.

        The aims were what is missing of what the layer's weight makes of its inputs.

        Args:
            inputs: the inputs of each group, of those that this one has.
        """
        fewer = copy(self)
        fewer.inputs, fewer._sums = inputs, []
        for (gram, cross), before, after, weight in zip(self.sums(), self.inputs, inputs, self.columns(), strict=True):
            stays = torch.isin(before, after).repeat_interleave(self.each)
            lost = weight[:, ~stays]
            stays = torch.cat([stays, stays.new_ones(int(self.bias))])
            fewer._sums.append((gram[stays][:, stays], cross[:, stays] + lost @ gram[~stays][:, stays]))
        return fewer

    def aimed(self, weight: Tensor, bias: Tensor | None) -> LayerEquations:
        """Return the equations of the same inputs whose sum of t xᵀ is another one.

        Args:
            weight: that sum for each entry of the layer's weight, in its shape, as a gradient is.
            bias: that for each entry of the bias, the sum of t; None where no bias is solved for.
        """
        other, places = copy(self), copy(self)
        places.weight = weight.reshape(self.weight.shape)
        crosses = places.columns()
        if bias is not None:
            crosses = [
                torch.cat(pair, 1) for pair in zip(crosses, bias.double().reshape(len(crosses), -1, 1), strict=True)
            ]
        other._sums = [(gram, cross) for (gram, _), cross in zip(self.sums(), crosses, strict=True)]
        return other

    def changes(self, ridge: float) -> list[tuple[Tensor, Tensor]]:
        """Return by group what is added to the columns' weights (and bias, last), and the moments with the ridge; float64.

        Args:
            ridge: what a squared weight costs, as a fraction of the mean square of the inputs; a bias costs nothing.

        Raises:
            InputError: `ridge` is below 0, or no data were taken in.
        """
        best = []
        for gram, cross in self.sums():
            load = ridge_load(gram, ridge, free=int(self.bias))
            best.append((solved(gram, cross, load), gram + torch.diag(load)))
        return best

    def solve(self, ridge: float) -> tuple[Tensor, Tensor | None]:
        """Return the weight of the least squared error, zero for other inputs than `inputs`, and the bias, float64.

        The arguments and errors are those of `changes`.
        """
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        shape = (len(self.weight) // len(self.inputs), self.weight.shape[1], self.each)
        for group, (group_inputs, (best, _)) in enumerate(zip(self.inputs, self.changes(ridge), strict=True)):
            kernels = torch.unflatten(best[:, : len(group_inputs) * self.each], 1, (len(group_inputs), self.each))
            whole: Tensor = best.new_zeros(shape).index_copy(1, group_inputs, kernels)
            if self.basis is not None:
                whole = torch.einsum(
                    "oir,ikr->oik", whole, torch.unflatten(self.basis, 0, (len(self.inputs), -1))[group]
                )
            weights.append(whole)
            biases.append(best[:, len(group_inputs) * self.each :].sum(1))
        weight = torch.cat(weights).reshape(self.shape)
        bias: Tensor | None = torch.cat(biases) if self.bias else None
        return weight, bias


def _basis(weight: Tensor, groups: int, limit: int) -> Tensor | None:
    """The first principal directions of each input's kernels, ``(inputs, places, directions)``; None where all may be.

    There are no more than outputs, as no kernel has a part in others.
    """
    places = weight[0, 0].numel()
    if places <= max(limit, 1):
        return None
    kernels = weight.double().reshape(groups, len(weight) // groups, -1, places).movedim(1, 2).flatten(0, 1)
    _, directions = torch.linalg.eigh(kernels.mT @ kernels)
    basis: Tensor = directions[:, :, -max(min(limit, len(weight) // groups), 1) :].contiguous()
    return basis
