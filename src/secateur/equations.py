"""Least squares: the linear map that makes aims of inputs as nearly as can be, for any linear layer or convolution.

A layer's output is its weight times its inputs as rows (a convolution has one for each place). So what the squared error
of any weight depends on are two small matrices of moments, whatever the number of samples, and one solver is enough.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.checks import check_number
from secateur.state import usual
from secateur.structure.patches import PART, Patches
from secateur.types import InputError

__all__ = [
    "LayerEquations",
    "Moments",
    "input_columns",
    "least_squares",
    "output_columns",
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
    best: Tensor = torch.linalg.solve(gram + torch.diag(loads), cross, left=False)
    return best


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


def input_columns(x: Tensor, weight: Tensor, options: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield what a layer multiplies by its weight, some positions at a time: ``(groups, inputs in a group, positions)``.

    Args:
        x: what the layer reads.
        weight: of a linear layer ``(outputs, inputs)``, or of a convolution, its outputs first.
        options: a convolution's stride, padding, dilation and groups.
    """
    if weight.ndim == 2:
        for rows in torch.split(x.reshape(-1, weight.shape[1]), max(1, PART // max(weight.shape[1], 1))):
            yield rows.mT.unsqueeze(0)
    else:
        yield from Patches.of(options, weight.shape[2:]).columns(x, int(options["groups"]))


def output_columns(y: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Return a layer's outputs as ``(groups, outputs in a group, positions)``, these as in `input_columns`."""
    last = y if weight.ndim == 2 else y.movedim(1, -1)
    return last.reshape(-1, groups, weight.shape[0] // groups).permute(1, 2, 0)


class LayerEquations:
    """The least-squares problem of a linear layer or a convolution: one for each group, over data taken in part by part.

    Args:
        weight: the layer's, its outputs first: ``(outputs, inputs in a group, *kernel)``.
        options: a convolution's stride, padding, dilation and groups; nothing for a linear layer.
        columns: which columns of each group's input matrix may have weights, int64, by group.
        bias: whether a bias is solved for as well.
    """

    def __init__(self, weight: Tensor, options: Mapping[str, Any], columns: Sequence[Tensor], *, bias: bool) -> None:
        self.weight, self.options, self.columns, self.bias = weight, options, columns, bias
        # The sums of x xᵀ and t xᵀ, by group.
        self.gram: list[Tensor | float] = [0.0] * len(columns)
        self.cross: list[Tensor | float] = [0.0] * len(columns)

    def add(self, x: Tensor, aims: Tensor) -> None:
        """Take in what the layer reads, and what is wanted of it in the shape of its outputs."""
        targets = output_columns(aims, self.weight, len(self.columns)).double()
        start = 0
        for part in input_columns(x, self.weight, self.options):
            stop = start + part.shape[2]
            for group, columns in enumerate(self.columns):
                inputs = part[group, columns].double()
                if self.bias:  # W x + b = [W b] [x; 1]
                    inputs = torch.cat([inputs, inputs.new_ones(1, inputs.shape[1])])
                self.gram[group] = self.gram[group] + inputs @ inputs.mT
                self.cross[group] = self.cross[group] + targets[group, :, start:stop] @ inputs.mT
            start = stop

    def solve(self, ridge: float) -> tuple[Tensor, Tensor | None]:
        """Return the weight of the least squared error, zero outside of `columns`, and the bias, float64.

        Args:
            ridge: what a squared weight costs, as a fraction of the mean square of the inputs; a bias costs nothing.

        Raises:
            InputError: `ridge` is below 0, or no data were taken in.
        """
        weights, biases = [], []
        for columns, gram, cross in zip(self.columns, self.gram, self.cross, strict=True):
            if not isinstance(gram, Tensor) or not isinstance(cross, Tensor):
                raise InputError("least_squares: there are no data; add some first")
            best = solved(gram, cross, ridge_load(gram, ridge, free=int(self.bias)))
            flat = best.new_zeros(len(best), self.weight[0].numel())
            weights.append(flat.index_copy(1, columns, best[:, : len(columns)]))
            biases.append(best[:, len(columns) :].sum(1))
        return torch.cat(weights).view(self.weight.shape), torch.cat(biases) if self.bias else None
