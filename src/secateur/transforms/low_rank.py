"""Low rank: linear layers and convolutions written as products of thinner ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from secateur.checks import check_name, check_number, check_whole, is_whole
from secateur.copies import copied
from secateur.criteria.batches import check_batches
from secateur.edits import Factored
from secateur.edits.rebuilt import LayerSpec, replace_layer
from secateur.labelled import Samples
from secateur.measure import macs, parameters
from secateur.result import LayerReport
from secateur.state import own_tensors
from secateur.transforms.base import Transform, Transformed
from secateur.transforms.calibration import Calibration, OutputSpectrum
from secateur.transforms.factors import ChannelSVD, Conv, Rank, own_spec
from secateur.transforms.layers import changeable, layers_of, seen_shapes
from secateur.transforms.ranks import (
    Candidate,
    LayerCandidates,
    above_energy,
    below_bound,
    for_budget,
    rank_words,
)
from secateur.transforms.tensor_factors import FACTORISATIONS, by_layer, check_rank, factor_layer
from secateur.types import ExampleInputs, InputError, unknown_name

__all__ = ["LowRank"]

HALF = 0.5
"""The share of the multiply–accumulates that is left where nothing was asked for."""

Ranks = Rank | Literal["bound"] | Mapping[str, Rank]


@dataclass(frozen=True)
class LowRank(Transform):
    """Writes linear layers and convolutions as products of thinner ones (calli, E. Çallı, 2017, section 1.3).

    A layer becomes an `nn.Sequential` of two to five plain layers under its old name. It is left alone where they would
    take no fewer multiply–accumulates than it does: for a matrix, from rank m₁ m₂ / (m₁ + m₂) on. With `data` the factors
    are those that change its outputs on data least, in the place of its weight: the answer to the text's note on what to
    do where the product is not exact. For `method="svd"` they are the best that there are (Zhang et al., 2015); for
    the others the last factor is fitted to the outputs by least squares.

    Give one of `rank`, `energy`, `macs` and `parameters`; without any, half of the multiply–accumulates are left.

    Attributes:
        rank: that of every layer (of every group, where it has some); ``"bound"``, the greatest that makes the layer
            cheaper; or one by layer, the others staying whole. For ``"tucker"`` two may be given: of the inputs, of the outputs.
        energy: the least rank that keeps this share of the squared singular values (with data: of the variance of the
            layer's outputs), in (0, 1].
        macs, parameters: the share of the model's that is left, in (0, 1): ranks by dynamic programming, so that the
            product of the shares of energy that the layers keep is greatest.
        method: how convolutions are split: ``"svd"``, the convolution with n outputs and a 1×1 one; ``"spatial"``,
            K×1 and 1×K; ``"tucker"``, 1×1, K×K and 1×1; ``"cp"``, 1×1, a depthwise one along each dimension and 1×1 (needs
            the extra ``tensor``, and a rank). Linear layers and 1×1 convolutions are split by SVD whatever it is.
        data: samples of any kind that `fit` takes, a few hundred; targets are not looked at. None looks at weights alone.
        refit: whether layers are taken in their order, each fitted by least squares to give the unchanged model's outputs
            of what the changed layers before it leave. Takes `data`.
        ridge: what a change of weights costs where they are solved for, relative to the mean square of the inputs.
        ignore: names and patterns of layers to leave whole.
        batch_size: samples a pass, where the data are in memory.

    Raises:
        InputError: options that do not fit together or are out of range; a rank above the full one; a budget that rank 1
            does not reach.
        UnknownNameError: a layer or a method that is not there.
        MissingLibraryError: ``"cp"`` without tensorly.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    >>> result = LowRank(rank=6)(model, torch.zeros(1, 64))
    >>> result.model[0]
    Sequential(
      (0): Linear(in_features=64, out_features=6, bias=False)
      (1): Linear(in_features=6, out_features=48, bias=True)
    )
    >>> result.report.macs            # 64 · 48 + 48 · 10, and 6 · (64 + 48) + 6 · (48 + 10)
    (3552, 1020)
    """

    kind: ClassVar[str] = "low-rank"

    rank: Ranks | None = None
    energy: float | None = None
    macs: float | None = None
    parameters: float | None = None
    method: str = "svd"
    data: Samples | None = field(default=None, repr=False)
    refit: bool = False
    ridge: float = 1e-4
    ignore: Sequence[str] = ()
    batch_size: int = 256

    def __post_init__(self) -> None:
        asked = [n for n in ("rank", "energy", "macs", "parameters") if getattr(self, n) is not None]
        if len(asked) > 1:
            raise InputError(f"LowRank: {' and '.join(asked)} are given; give one of rank, energy, macs and parameters")
        check_name("factorisation", self.method, FACTORISATIONS)
        check_number(self, "(0, 1]", "the share that is kept", or_none=True, energy=self.energy)
        check_number(self, "(0, 1)", "the share that is left", or_none=True, macs=self.macs, parameters=self.parameters)
        check_number(self, "[0, inf)", ridge=self.ridge)
        check_whole(self, batch_size=self.batch_size)
        for rank in self.rank.values() if isinstance(self.rank, Mapping) else [self.rank]:
            self._check_rank(rank)
        if self.method == "cp" and self.rank is None:
            raise InputError("LowRank: what CP loses is known once it is fitted: give a rank, as a number or 'bound'")
        if self.data is not None:
            check_batches("LowRank", self.data, self.batch_size)
        elif self.refit:
            raise InputError("LowRank: refit=True fits layers to data; give data=, a few hundred samples")

    def _check_rank(self, rank: object) -> None:
        if rank is None or (rank == "bound" and not isinstance(self.rank, Mapping)):
            return
        pair = isinstance(rank, tuple) and len(rank) == 2 and self.method == "tucker"
        if not all(is_whole(side, 1) for side in (rank if isinstance(rank, tuple) and pair else (rank,))):
            two = ", or two of them" if self.method == "tucker" else ""
            raise InputError(f"LowRank: rank={rank!r} must be a whole number, 1 or more{two}, 'bound', or one by layer")

    def _transform(self, model: nn.Module, example_inputs: ExampleInputs) -> Transformed:
        layers = layers_of(model, (nn.Linear, Conv))
        shapes = seen_shapes(model, layers, example_inputs)
        names, left = changeable(model, layers, shapes, self.ignore)
        self._check_names(layers, left)
        for name in list(names):
            if reason := by_layer(self.method, layers[name]).why_not(layers[name]):
                names.remove(name)
                left[name] = reason
        calibration = None
        if self.data is not None:
            calibration = Calibration(model, self.data, self.batch_size, self.ridge, "LowRank")
        spectra = calibration.spectra(self._by_svd(layers, names)) if calibration else {}
        table = {name: self._candidates(layers[name], shapes[name], spectra.get(name)) for name in names}
        ranks, whole = self._ranks(model, example_inputs, table)
        small, specs = self._built(model, ranks, spectra, calibration)
        if calibration is None:
            errors = {name: _weight_error(table[name], small.get_submodule(name)) for name in specs}
        else:
            errors = calibration.errors(small, list(specs))
        reports = tuple(_report(name, table[name], candidate, errors[name]) for name, candidate in ranks.items())
        return Transformed(small, (Factored(specs),) if specs else (), reports, {**left, **whole})

    def _check_names(self, layers: Mapping[str, nn.Module], left: Mapping[str, str]) -> None:
        """Refuse ranks of layers that are not there or cannot be split, and ranks above the full one."""
        named = self.rank if isinstance(self.rank, Mapping) else {}
        for name, rank in named.items():
            if name not in layers:
                raise unknown_name("linear layer or convolution", name, layers)
            if name in left:
                raise InputError(f"LowRank: {name!r} cannot be split: {left[name]}")
            factorisation = by_layer(self.method, layers[name])
            rank = factorisation.rank_of(layers[name], rank)
            check_rank(rank, factorisation.full(layers[name]), f"LowRank: {name}")
        fulls = [by_layer(self.method, layer).full(layer) for name, layer in layers.items() if name not in left]
        if isinstance(self.rank, (int, tuple)) and fulls and not any(_fits(self.rank, full) for full in fulls):
            largest = max(fulls, key=lambda full: full if isinstance(full, int) else min(full))
            raise InputError(
                f"LowRank: rank={self.rank} must be from 1 to {largest}, the full rank of the largest layer"
            )

    def _by_svd(self, layers: Mapping[str, nn.Module], names: Sequence[str]) -> list[str]:
        return [name for name in names if isinstance(by_layer(self.method, layers[name]), ChannelSVD)]

    def _candidates(
        self, layer: nn.Module, shapes: Sequence[Sequence[int]], spectrum: OutputSpectrum | None
    ) -> LayerCandidates:
        factorisation = by_layer(self.method, layer)
        energies = factorisation.energies(layer) if spectrum is None else spectrum.energies()
        return LayerCandidates(layer, factorisation, shapes, self._has_bias(layer), energies)

    def _has_bias(self, layer: nn.Module) -> bool:
        # Fitted to data, the mean of the outputs is kept: that takes a bias.
        return isinstance(layer.bias, Tensor) or self.data is not None

    def _ranks(
        self, model: nn.Module, example_inputs: ExampleInputs, table: Mapping[str, LayerCandidates]
    ) -> tuple[dict[str, Candidate], dict[str, str]]:
        """The rank of every layer that is split, and why others stay whole."""
        if self.rank is None and self.energy is None:
            return self._within_budget(model, example_inputs, table), {}
        choices: dict[str, Candidate] = {}
        whole: dict[str, str] = {}
        for name, layer in table.items():
            candidate = self._candidate(name, layer)
            if candidate is not None:
                choices[name] = candidate
            elif not isinstance(self.rank, Mapping) or name in self.rank:
                whole[name] = "it would take no fewer multiply-accumulates" + _below(layer)
            else:
                whole[name] = "no rank was given for it"
        return choices, whole

    def _candidate(self, name: str, layer: LayerCandidates) -> Candidate | None:
        if self.energy is not None:
            return above_energy(layer, self.energy)
        if self.rank == "bound":
            return below_bound(layer)
        rank = self.rank.get(name) if isinstance(self.rank, Mapping) else self.rank
        return layer.at(rank) if isinstance(rank, (int, tuple)) and _fits(rank, layer.full) else None

    def _within_budget(
        self, model: nn.Module, example_inputs: ExampleInputs, table: Mapping[str, LayerCandidates]
    ) -> dict[str, Candidate]:
        if self.parameters is not None:
            return for_budget(table, "parameters", (1 - self.parameters) * parameters(model).total, "LowRank")
        share = HALF if self.macs is None else self.macs
        return for_budget(table, "macs", (1 - share) * macs(model, example_inputs), "LowRank")

    def _built(
        self,
        model: nn.Module,
        ranks: Mapping[str, Candidate],
        spectra: Mapping[str, OutputSpectrum],
        calibration: Calibration | None,
    ) -> tuple[nn.Module, dict[str, list[LayerSpec]]]:
        """The model with its layers split, in their order, and what each is now."""
        student, specs = copied(model), {}
        for name, candidate in ranks.items():
            layer = model.get_submodule(name)
            row = self._row(student, name, layer, candidate.rank, spectra.get(name), calibration)
            specs[name] = [own_spec(part, bias=isinstance(part.bias, Tensor)) for part in row]
            student = replace_layer(student, name, row)
        return student, specs

    def _row(
        self,
        student: nn.Module,
        name: str,
        layer: nn.Module,
        rank: Rank,
        spectrum: OutputSpectrum | None,
        calibration: Calibration | None,
    ) -> list[nn.Module]:
        if calibration is not None and spectrum is not None:
            assert isinstance(rank, int)
            return calibration.regressed(student, name, rank, spectrum) if self.refit else spectrum.row(layer, rank)
        row = list(factor_layer(layer, rank, self.method, bias=self._has_bias(layer)))
        if calibration is not None:
            calibration.refit_last(student if self.refit else calibration.teacher, name, row)
        return row


def _fits(rank: Rank, full: Rank) -> bool:
    """Whether a rank is at most the full one; a single one where there are two sides, on one of them."""
    if isinstance(full, int):
        return isinstance(rank, int) and rank <= full
    return rank <= max(full) if isinstance(rank, int) else all(r <= f for r, f in zip(rank, full, strict=True))


def _below(layer: LayerCandidates) -> str:
    most = below_bound(layer)
    return " at any rank" if most is None else f"; it does up to {rank_words(most.rank, layer.full)}"


def _weight_error(layer: LayerCandidates, row: nn.Module) -> float:
    weights = [own_tensors(part)["weight"].detach().double() for part in row.children()]
    return layer.factorisation.lost(layer.layer, weights)


def _report(name: str, layer: LayerCandidates, candidate: Candidate, error: float) -> LayerReport:
    return LayerReport(name, rank_words(candidate.rank, layer.full), (layer.parameters, candidate.parameters), error)
