"""n-bit weights, and inputs of layers: rounded after the training, or trained so (quantisation-aware)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_options, check_whole
from secateur.coding import check_coder
from secateur.copies import copied
from secateur.edits import InputGrid, Quantised, quantised
from secateur.labelled import Samples, batches, check_data
from secateur.rate.trying import try_model
from secateur.result import LayerReport
from secateur.state import device_of, evaluating, own_tensors
from secateur.structure import weights
from secateur.train import History, HoldZeros, TrainOptions, fit
from secateur.transforms.base import Transform, Transformed
from secateur.transforms.history import TransformTraining
from secateur.transforms.rounding import train_rounded
from secateur.types import ExampleInputs, InputError

__all__ = ["Quantize"]

LEAST_BITS, MOST_BITS = 2, 8
CALIBRATION = 512
"""How many samples the ranges of the layers' inputs are taken from."""

SHRUNK = tuple(1 - step / 100 for step in range(81))
"""The shares of the whole range that are tried for the least squared error."""

Grid = tuple[Tensor, Tensor]
"""Scale and zero of each channel: the values are scale · (q − zero)."""


@dataclass(frozen=True)
class Quantize(Transform):
    """Weights of n bits: scale · (q − zero), with whole numbers q from 0 to 2^n − 1.

    The module computes with the rounded weights in floating point, so it tells the accuracy, not the speed (for that, see
    `secateur.runtimes.OnnxInt8`); on disk they take n bits, or less where they are entropy coded. Zero is a value of every
    grid, so that pruned weights stay pruned. Rounded are parameters of two dimensions or more.

    With `train` the model learns with rounded weights and inputs: the forward pass sees them rounded, the gradient goes
    past the rounding (straight-through: Bengio, Léonard and Courville, 2013; Jacob et al., 2018), and not to what lies
    beyond the grid.

    Attributes:
        bits: of a weight, 2 to 8.
        symmetric: whether zero lies in the middle of the grid; else the grid spans the least to the greatest weight.
        per: a scale for each ``"channel"`` of a weight's first dimension, or for the ``"tensor"``.
        spread: ``"mse"``: the grid of the least squared error, which may cut off the farthest weights; ``"max"``: none.
        input_bits: round what each such layer is given to so many bits, too, on a grid that spans what `data` led to;
            None does not.
        data, validation: for the ranges of inputs, and to train with.
        train: the training: see `secateur.fit`; None trains nothing.
        coder: of the numbers on disk: see `secateur.coding.encode_symbols`.
        ignore: parameters to leave as they are, by name or pattern.

    >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    >>> result = Quantize(bits=4, coder="packed")(model, torch.ones(1, 64))
    >>> result.model[0].weight[0].unique().numel() <= 16, result.report.bytes[0] / result.report.bytes[1] > 4
    (True, True)
    """

    kind: ClassVar[str] = "quantize"
    bits: int = 8
    symmetric: bool = True
    per: Literal["channel", "tensor"] = "channel"
    spread: Literal["mse", "max"] = "mse"
    input_bits: int | None = None
    data: Samples | None = field(default=None, repr=False)
    validation: Samples | None = field(default=None, repr=False)
    train: TrainOptions | None = field(default=None, repr=False)
    coder: str = "auto"
    ignore: Iterable[str] = ()

    def __post_init__(self) -> None:
        check_whole(self, LEAST_BITS, most=MOST_BITS, bits=self.bits)
        check_whole(self, LEAST_BITS, most=MOST_BITS, or_none=True, input_bits=self.input_bits)
        check_name("per", self.per, ["channel", "tensor"])
        check_name("spread", self.spread, ["mse", "max"])
        check_options("Quantize", TrainOptions, or_none=True, train=self.train)
        check_coder("Quantize", self.coder)
        check_data(self)
        for name in ("input_bits", "train"):
            if getattr(self, name) is not None and self.data is None:
                raise InputError(f"Quantize: {name}= needs data=, in the form that secateur.fit takes")

    def _transform(self, model: nn.Module, example_inputs: ExampleInputs) -> Transformed:
        """Choose the grids, train on them where asked, and round."""
        result = copied(model)
        named = own_tensors(result)
        grids = {name: self._grid(named[name].detach()) for name in weights(model, self.ignore)}
        inputs = {} if self.input_bits is None else self._input_grids(result, grids)
        scales, zeros = ({name: grid[part] for name, grid in grids.items()} for part in (0, 1))
        edit = Quantised(self.bits, scales, zeros, inputs, self.coder)
        history = None
        if self.train is not None:
            history = TransformTraining(self._trained(result, edit))
        rounded = edit.apply(result)
        after, before = own_tensors(rounded), own_tensors(model)
        layers = tuple(self._layer(name, before[name].detach(), after[name].detach()) for name in grids)
        return Transformed(rounded, (edit,), layers, history=history)

    def _trained(self, model: nn.Module, edit: Quantised) -> History:
        """Train the model's exact weights, in place, as they answer when they are rounded; zeros stay zeros."""
        data, named = self.data, own_tensors(model)
        assert data is not None
        pruned = {name: named[name] != 0 for name in edit.scales if not bool((named[name] != 0).all())}
        return train_rounded(
            model,
            edit,
            lambda learner, name_in: fit(
                learner,
                data,
                self.validation,
                self.train,
                callbacks=[HoldZeros({name_in(name): mask for name, mask in pruned.items()})],
            ),
        )

    def _grid(self, weight: Tensor) -> Grid:
        """The grid of each channel, or of the tensor."""
        rows = weight.flatten(1) if self.per == "channel" else weight.reshape(1, -1)
        least, most = rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0)
        whole = self._spanning(least, most)
        if self.spread == "max":
            return whole
        grids = [self._spanning(share * least, share * most) for share in SHRUNK]
        errors = torch.stack([(quantised(rows, self.bits, *grid) - rows).square().sum(1) for grid in grids])
        best = errors.argmin(0)
        scale, zero = (torch.stack([grid[part] for grid in grids]) for part in (0, 1))
        channel = torch.arange(len(best), device=best.device)
        return scale[best, channel], zero[0] if self.symmetric else zero[best, channel]

    def _spanning(self, least: Tensor, most: Tensor) -> Grid:
        """The grid from the least to the greatest value, or around zero to the farthest of them."""
        if self.symmetric:
            middle = 1 << (self.bits - 1)
            scale = torch.maximum(-least, most) / (middle - 1)
            return _positive(scale), torch.full_like(scale[:1], middle)
        scale = _positive((most - least) / ((1 << self.bits) - 1))
        return scale, torch.round(-least / scale)

    def _input_grids(self, model: nn.Module, grids: Mapping[str, Grid]) -> dict[str, InputGrid]:
        """The grid of what each layer with rounded weights is given on data; a layer that is not called has none."""
        assert self.data is not None
        assert self.input_bits is not None
        spans = _spans(model, {name.rpartition(".")[0] for name in grids}, self.data)
        inputs = {}
        for path, (least, most) in spans.items():
            scale = (most - least) / ((1 << self.input_bits) - 1) or 1.0
            inputs[path] = InputGrid(self.input_bits, scale, float(round(-least / scale)))
        return inputs

    def _layer(self, name: str, before: Tensor, after: Tensor) -> LayerReport:
        error = float((after - before).double().square().sum() / before.double().square().sum().clamp(min=1e-300))
        form = f"{self.bits} bits, a scale per {self.per}"
        return LayerReport(name, form, (before.numel(), after.numel()), error)


def _positive(scale: Tensor) -> Tensor:
    """Channels that are all zero get a scale all the same."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _spans(model: nn.Module, paths: set[str], data: Samples) -> dict[str, tuple[float, float]]:
    """The least and the greatest number, and zero, that each layer is given on the first samples."""
    spans: dict[str, tuple[float, float]] = {}

    def look(path: str, inputs: tuple[Any, ...]) -> None:
        x = inputs[0] if inputs else None
        if isinstance(x, Tensor) and x.is_floating_point() and x.numel():
            least, most = spans.get(path, (0.0, 0.0))
            spans[path] = min(least, float(x.min())), max(most, float(x.max()))

    hooks = [
        module.register_forward_pre_hook(lambda _, inputs, path=path: look(path, inputs))
        for path, module in model.named_modules()
        if path in paths
    ]
    try:
        with torch.no_grad(), evaluating(model):
            batch = next(iter(batches(data, CALIBRATION, "calibration data"))).to(device_of(model))
            try_model(model, batch, "calibration data")
    finally:
        for hook in hooks:
            hook.remove()
    return spans
