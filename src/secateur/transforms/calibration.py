"""Factors that make little difference to a layer's outputs on data, rather than to its weight.

Of all Ŵ of rank n and all biases, ‖(W x + b) − (Ŵ x + b̂)‖² is least over data for Ŵ = U Uᵀ W and b̂ = U Uᵀ b + (1 − U Uᵀ) ȳ,
where the columns of U are the n first eigenvectors of the covariance of the outputs y = W x + b (Zhang et al., 2015): that is
the SVD of W weighed by the second moments of its inputs, and its error is the sum of the eigenvalues that are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.equations import COLUMNS, LayerEquations, ridge_load, solved
from secateur.labelled import Samples
from secateur.state import own_tensors
from secateur.structure.moments import LayerMoments
from secateur.structure.patches import Patches
from secateur.transforms.factors import (
    ChannelSVD,
    Conv,
    Rank,
    build_row,
    dtype_of,
    group_matrices,
    group_sizes,
    groups_of,
    kernel_of,
    tails,
)
from secateur.transforms.layers import passes

__all__ = ["Calibration", "OutputSpectrum"]


@dataclass(frozen=True, eq=False)
class OutputSpectrum:
    """How a layer's outputs vary on data, by group.

    Attributes:
        mean: ``(groups, outputs)``.
        values: the eigenvalues of their covariance, ``(groups, outputs)``, the greatest first.
        vectors: their eigenvectors, ``(groups, outputs, outputs)``, one a column.
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor

    @classmethod
    def of(cls, count: int, sums: Tensor, products: Tensor) -> OutputSpectrum:
        """Take sums over `count` rows of y and y yᵀ, float64."""
        mean = sums / count
        covariance = products / count - mean.unsqueeze(2) * mean.unsqueeze(1)
        values, vectors = torch.linalg.eigh(covariance)
        return cls(mean, values.flip(1).clamp(min=0), vectors.flip(2))

    def energies(self) -> list[tuple[Rank, float]]:
        """Return ranks, the least first, and the share of the outputs' variance that each loses."""
        return list(enumerate(tails(self.values.sum(0)), 1))

    def row(self, layer: nn.Module, rank: int) -> list[nn.Module]:
        """Return the two layers of rank n that change the layer's outputs least."""
        basis = self.vectors[..., :rank]
        right = basis.mT @ group_matrices(layer)
        zeros = torch.zeros_like(self.mean)
        bias = layer.bias.detach().double().reshape(zeros.shape) if isinstance(layer.bias, Tensor) else zeros
        # ȳ where the basis does not reach, the layer's own bias where it does.
        shift = self.mean + projected(basis, bias - self.mean)
        svd = ChannelSVD()
        return build_row(
            svd.specs(layer, rank, bias=True), svd.written(layer, basis, right), shift.flatten(), dtype_of(layer)
        )


def projected(basis: Tensor, vectors: Tensor) -> Tensor:
    """Return U Uᵀ v by group, of vectors ``(groups, outputs)``."""
    result: Tensor = (basis @ (basis.mT @ vectors.unsqueeze(2))).squeeze(2)
    return result


class _OutputSums:
    """Sums of y and y yᵀ of a layer's outputs, by group."""

    def __init__(self, layer: nn.Module) -> None:
        self.groups, self.linear, self.count = groups_of(layer), not kernel_of(layer), 0
        self.space = len(kernel_of(layer))
        size = group_sizes(layer)[1]
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self.sums = torch.zeros(self.groups, size, dtype=torch.float64, device=weight.device)
        self.products = torch.zeros(self.groups, size, size, dtype=torch.float64, device=weight.device)

    def add(self, y: Tensor) -> None:
        rows = channel_rows(y, self.space).double()
        grouped = torch.unflatten(rows, 1, (self.groups, -1)).movedim(1, 0)
        self.sums += grouped.sum(1)
        self.products += grouped.mT @ grouped
        self.count += len(rows)


def channel_rows(y: Tensor, space: int) -> Tensor:
    """Return outputs with a row for each sample and place: ``(rows, channels)``."""
    return y.reshape(-1, y.shape[-1]) if not space else y.movedim(-1 - space, -1).reshape(-1, y.shape[-1 - space])


@dataclass(frozen=True, eq=False)
class Calibration:
    """The model as it was on data, beside the one that is made of it.

    Attributes:
        teacher: the model as it was.
        data: samples; targets are not looked at.
        batch_size: samples a pass.
        ridge: what a change of a weight costs where weights are solved for, relative to the mean square of the inputs.
        doing: who asks, for the errors.
    """

    teacher: nn.Module
    data: Samples
    batch_size: int
    ridge: float
    doing: str

    def spectra(self, names: Sequence[str]) -> dict[str, OutputSpectrum]:
        """Return how the outputs of layers vary, in one pass."""
        layers = {name: self.teacher.get_submodule(name) for name in names}
        sums = {name: _OutputSums(layer) for name, layer in layers.items()}
        for pairs in passes(self.teacher, layers, self.data, self.batch_size, self.doing):
            for name, calls in pairs.items():
                for _, y in calls:
                    sums[name].add(y)
        return {name: OutputSpectrum.of(s.count, s.sums, s.products) for name, s in sums.items()}

    def beside(self, student: nn.Module, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what a layer reads in the student, and what it makes in the teacher, call by call."""
        for ours, theirs in zip(self._calls(student, name), self._calls(self.teacher, name), strict=True):
            for (x, _), (_, y) in zip(ours, theirs, strict=True):
                yield x, y

    def _calls(self, model: nn.Module, name: str) -> Iterator[list[tuple[Tensor, Tensor]]]:
        layers = {name: model.get_submodule(name)}
        for pairs in passes(model, layers, self.data, self.batch_size, self.doing):
            yield pairs[name]

    def refit_last(self, student: nn.Module, name: str, row: list[nn.Module]) -> None:
        """Set the last layer's weight and bias by least squares, so that the row makes what the layer made."""
        last = row[-1]
        weight, bias = own_tensors(last)["weight"], own_tensors(last)["bias"]
        options = {} if not kernel_of(last) else _options(last)
        groups = groups_of(last)
        inputs = [torch.arange(weight.shape[1], device=weight.device)] * groups
        equations = LayerEquations(weight, options, inputs, bias=True)
        with torch.no_grad():
            for x, y in self.beside(student, name):
                z = x
                for layer in row[:-1]:
                    z = layer(z)
                equations.add(_padded(last, z), y - last(z))
            change, shift = equations.solve(self.ridge)
            weight += change.to(weight)
            assert shift is not None
            bias += shift.to(bias)

    def regressed(self, student: nn.Module, name: str, rank: int, spectrum: OutputSpectrum) -> list[nn.Module]:
        """Return the two layers of rank n that make the teacher's outputs of what the student's layer reads.

        Reduced-rank regression (Izenman, 1975; Zhang et al., 2015, call it asymmetric): least squares of full rank, then the
        projection on the first eigenvectors of the covariance of what that makes. A layer of more than `COLUMNS` inputs has
        its second factor refitted alone.
        """
        layer = self.teacher.get_submodule(name)
        matrices = group_matrices(layer)
        if matrices.shape[2] > COLUMNS:
            row = spectrum.row(layer, rank)
            self.refit_last(student, name, row)
            return row
        gram, cross, count = self._moments(student, name)
        fitted = torch.stack([self._least_squares(*group) for group in zip(gram, cross, matrices, strict=True)])
        mean_x, mean_y = gram[:, -1, :-1] / count, cross[:, -1] / count
        centred = gram[:, :-1, :-1] / count - mean_x.unsqueeze(2) * mean_x.unsqueeze(1)
        _, vectors = torch.linalg.eigh(fitted @ centred @ fitted.mT)
        basis = vectors.flip(2)[..., :rank]
        shift = mean_y - projected(basis, (fitted @ mean_x.unsqueeze(2)).squeeze(2))
        svd = ChannelSVD()
        weights = svd.written(layer, basis, basis.mT @ fitted)
        return build_row(svd.specs(layer, rank, bias=True), weights, shift.flatten(), dtype_of(layer))

    def _moments(self, student: nn.Module, name: str) -> tuple[Tensor, Tensor, int]:
        """Sums of x xᵀ and x yᵀ, a 1 as the last input."""
        layer = self.teacher.get_submodule(name)
        kernel, groups = kernel_of(layer), groups_of(layer)
        transposed = bool(getattr(layer, "transposed", False))
        patches = Patches.of(_options(layer), kernel, transposed=transposed) if kernel else None
        moments = LayerMoments(patches, groups, exact=True)
        for x, y in self.beside(student, name):
            moments.add(_padded(layer, x), y)
        return moments.gram(), moments.cross(), moments.count

    def _least_squares(self, gram: Tensor, cross: Tensor, weight: Tensor) -> Tensor:
        """The weight of least squared error; what it changes of the layer's own costs a little."""
        # The aims less what the layer's own weight makes: y − W x.
        missing = cross.mT - torch.cat([weight @ gram[:-1, :-1], weight @ gram[:-1, -1:]], 1)
        change = solved(gram, missing, ridge_load(gram, self.ridge, free=1))
        return weight + change[:, :-1]

    def errors(self, student: nn.Module, names: Sequence[str]) -> dict[str, float]:
        """Return by layer ‖the student's outputs − the teacher's‖² / ‖the teacher's about their mean‖²."""
        total: dict[str, list[float]] = {name: [0.0, 0.0] for name in names}
        ways = [
            passes(m, {n: m.get_submodule(n) for n in names}, self.data, self.batch_size, self.doing)
            for m in (self.teacher, student)
        ]
        for theirs, ours in zip(*ways, strict=True):
            for name in names:
                space = len(kernel_of(self.teacher.get_submodule(name)))
                for (_, before), (_, after) in zip(theirs[name], ours[name], strict=True):
                    y = channel_rows(before, space).double()
                    total[name][0] += float((channel_rows(after, space).double() - y).square().sum())
                    total[name][1] += float((y - y.mean(0)).square().sum())
        return {name: lost / spread if spread else 0.0 for name, (lost, spread) in total.items()}


def _options(layer: nn.Module) -> Mapping[str, object]:
    """A convolution's options, as `Patches` takes them, for inputs that `_padded` has padded."""
    assert isinstance(layer, Conv)
    options: dict[str, object] = {
        "stride": layer.stride,
        "padding": layer.padding if layer.padding_mode == "zeros" else 0,
        "dilation": layer.dilation,
    }
    return options | ({"output_padding": layer.output_padding} if layer.transposed else {})


def _padded(layer: nn.Module, x: Tensor) -> Tensor:
    """The input with a padding of another kind than zeros around it."""
    if not isinstance(layer, Conv) or layer.padding_mode == "zeros":
        return x
    return nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
