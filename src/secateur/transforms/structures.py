"""Convolutions replaced by cheaper structures, which are trained to do what the convolutions did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, prod
from typing import ClassVar

import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_options, check_whole, is_whole, within
from secateur.copies import copied
from secateur.criteria.batches import check_batches
from secateur.edits import Replaced
from secateur.edits.rebuilt import LayerSpec, replace_layer, rows_of
from secateur.labelled import Samples
from secateur.randomness import private_draws
from secateur.result import LayerReport
from secateur.state import own_tensors
from secateur.train import TrainOptions, fit
from secateur.transforms.base import Transform, Transformed
from secateur.transforms.calibration import Calibration
from secateur.transforms.factors import (
    Conv,
    SpatialSVD,
    along,
    dtype_of,
    group_tensors,
    kernel_of,
    own_spec,
    pointwise,
    row_cost,
)
from secateur.transforms.layers import changeable, layers_of, seen_shapes
from secateur.types import ExampleInputs, InputError

__all__ = ["STRUCTURES", "Replace"]

IMITATION = TrainOptions(epochs=5, lr=2e-3, optimizer="adam", schedule="cosine", loss="mse", batch_size=64)
"""How a structure is trained on what the layer read and made; its outputs have a mean square of 1 meanwhile."""


def _separable(layer: Conv, filters: int, middle: int, norms: bool) -> list[LayerSpec]:
    inputs, outputs = rows_of(layer)
    depthwise = own_spec(layer, out_channels=inputs * filters, groups=inputs, bias=False)
    return [depthwise, *_between(layer, inputs * filters, norms), _mixing(layer, inputs * filters, outputs, bias=True)]


def _composed(layer: Conv, filters: int, middle: int, norms: bool) -> list[LayerSpec]:
    row = own_spec(layer, out_channels=middle, bias=not norms, **along(layer, 1))
    column = own_spec(layer, in_channels=middle, **along(layer, 0))
    return [row, *_between(layer, middle, norms), LayerSpec("ReLU", {}), column]


def _one_dimensional(layer: Conv, filters: int, middle: int, norms: bool) -> list[LayerSpec]:
    column = own_spec(layer, out_channels=middle, bias=False, **along(layer, 0))
    return [column, *_between(layer, middle, norms), own_spec(layer, in_channels=middle, **along(layer, 1))]


def _bottleneck(layer: Conv, filters: int, middle: int, norms: bool) -> list[LayerSpec]:
    inputs, outputs = rows_of(layer)
    relu = LayerSpec("ReLU", {})
    return [
        _mixing(layer, inputs, middle, bias=not norms),
        *(*_between(layer, middle, norms), relu),
        own_spec(layer, in_channels=middle, out_channels=middle, bias=not norms),
        *(*_between(layer, middle, norms), relu),
        _mixing(layer, middle, outputs, bias=True),
    ]


def _mixing(layer: Conv, inputs: int, outputs: int, *, bias: bool) -> LayerSpec:
    return pointwise(layer, inputs, outputs, bias=bias)


def _between(layer: Conv, channels: int, norms: bool) -> list[LayerSpec]:
    return [LayerSpec(f"BatchNorm{len(kernel_of(layer))}d", {"num_features": channels})] if norms else []


STRUCTURES: Mapping[str, Callable[[Conv, int, int, bool], list[LayerSpec]]] = {
    "separable": _separable,
    "composed": _composed,
    "one-dimensional": _one_dimensional,
    "bottleneck": _bottleneck,
}
"""What a convolution can be replaced by, by name: of the layer, the filters a channel, the channels between, and norms."""


@dataclass(frozen=True)
class Replace(Transform):
    """Replaces convolutions by a cheaper structure (calli, E. Çallı, 2017, sections 1.4, 1.7.2 and 2.3.1).

    - ``"separable"``: K×K depthwise with some filters for each channel, then 1×1 (section 1.4.2).
    - ``"composed"``: 1×K, a ReLU, K×1 (section 1.4.1; Alvarez and Petersson, 2016).
    - ``"one-dimensional"``: K×1, then 1×K, with nothing between (section 2.3.1, a heading without words).
    - ``"bottleneck"``: 1×1 to fewer channels, K×K, 1×1, with ReLUs between (section 1.7.2; He et al., 2015).

    With `data` each is trained, in the order of the layers, to make what the layer made in the unchanged model of what
    the changed one before it gives, and its last convolution is fitted to that by least squares. Separable and
    one-dimensional ones begin with the convolutions nearest to the layer's weight; without data they stay so, and the
    others are fresh. The rest of the model stays as it is: train the whole afterwards, with `secateur.distill`.

    What is grouped, transposed or 1×1 stays whole, and so does what the structure would not make cheaper. The formulas
    of what each takes are in `secateur.measure`: `separable_macs`, `composed_macs`, `bottleneck_macs`.

    Attributes:
        structure: which, by name.
        data: samples of any kind that `fit` takes, a few hundred; targets are not looked at.
        filters: how many for each channel (separable).
        middle: how many channels between: a number, or a share of the inputs (bottleneck) or outputs (the others). None:
            half of the inputs for a bottleneck, as the text says; as many as outputs for one-dimensional ones; for
            composed ones so many that they take half of the layer's multiply–accumulates.
        norms: whether a batch norm follows each convolution but the last.
        train: the training; None fits the last convolution alone.
        ignore: names and patterns of layers to leave whole.
        batch_size: samples a pass, where the data are in memory.
        seed: of what is drawn.

    Raises:
        InputError: options out of range, or no layer that can be replaced.
        UnknownNameError: a structure or a layer that is not there.

    >>> result = Replace("separable")(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1)), torch.zeros(1, 8, 5, 5))
    >>> result.model[0]
    Sequential(
      (0): Conv2d(8, 8, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), groups=8, bias=False)
      (1): Conv2d(8, 16, kernel_size=(1, 1), stride=(1, 1))
    )
    >>> result.report.macs       # 25 places of 9 · 8 · 16, and of 8 · (9 + 16)
    (28800, 5000)
    """

    kind: ClassVar[str] = "structure"

    structure: str
    data: Samples | None = field(default=None, repr=False)
    filters: int = 1
    middle: int | float | None = None
    norms: bool = False
    train: TrainOptions | None = IMITATION
    ignore: Sequence[str] = ()
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("structure", self.structure, STRUCTURES)
        check_whole(self, filters=self.filters, batch_size=self.batch_size)
        check_options(self, TrainOptions, or_none=True, train=self.train)
        if self.middle is not None and not (is_whole(self.middle, 1) or _is_share(self.middle)):
            raise InputError(f"Replace: middle={self.middle!r} must be a whole number, 1 or more, or a share above 0")
        if self.data is not None:
            check_batches("Replace", self.data, self.batch_size)

    def _transform(self, model: nn.Module, example_inputs: ExampleInputs) -> Transformed:
        layers = layers_of(model, (Conv,))
        shapes = seen_shapes(model, layers, example_inputs)
        names, left = changeable(model, layers, shapes, self.ignore)
        calibration = None
        if self.data is not None:
            calibration = Calibration(model, self.data, self.batch_size, 1e-6, "Replace")
        student, specs = copied(model), {}
        for number, name in enumerate(names):
            layer = layers[name]
            assert isinstance(layer, Conv)
            row_specs = [] if (reason := self._why_not(layer)) else self._specs(layer)
            if reason or row_cost(row_specs, shapes[name])[0] >= row_cost([own_spec(layer)], shapes[name])[0]:
                left[name] = reason or f"{self.structure}, it would take no fewer multiply-accumulates"
                continue
            row = self._row(layer, row_specs, number)
            if calibration is not None:
                self._imitate(calibration, student, name, row)
            specs[name] = row_specs
            student = replace_layer(student, name, row)
        reports = self._reports(layers, specs, calibration.errors(student, list(specs)) if calibration else {})
        return Transformed(student, (Replaced(specs),) if specs else (), reports, left)

    def _why_not(self, layer: Conv) -> str:
        if layer.transposed or layer.groups > 1:
            return "a grouped or transposed convolution is replaced by none of the structures"
        if prod(kernel_of(layer)) == 1:
            return "a 1×1 convolution has no kernel to take apart"
        flat = self.structure in ("composed", "one-dimensional") and len(kernel_of(layer)) != 2
        return "taking a kernel apart takes two dimensions of space" if flat else ""

    def _specs(self, layer: Conv) -> list[LayerSpec]:
        # The last has a bias whatever the layer has: fitted to data, it keeps the mean of the outputs.
        return STRUCTURES[self.structure](layer, self.filters, self._middle(layer), self.norms)

    def _middle(self, layer: Conv) -> int:
        inputs, outputs = rows_of(layer)
        if is_whole(self.middle):
            return self.middle
        side = inputs if self.structure == "bottleneck" else outputs
        if self.middle is not None:
            return max(round(self.middle * side), 1)
        if self.structure == "composed":
            # n (K₂ m₁ + K₁ m₂) = K₁ K₂ m₁ m₂ / 2
            height, width = (*kernel_of(layer), 1)[:2]
            return max(height * width * inputs * outputs // (2 * (width * inputs + height * outputs)), 1)
        return ceil(side / 2) if self.structure == "bottleneck" else side

    def _row(self, layer: Conv, specs: Sequence[LayerSpec], number: int) -> list[nn.Module]:
        """The layers as they begin."""
        row = [spec.build() for spec in specs]
        with private_draws(self.seed + number):
            for part in row:
                if isinstance(part, Conv):
                    nn.init.kaiming_normal_(part.weight, nonlinearity="relu" if len(row) > 2 else "linear")
                    if part.bias is not None:
                        nn.init.zeros_(part.bias)
        convolutions = [part for part in row if isinstance(part, Conv)]
        weights = self._nearest(layer, convolutions)
        for part, weight in zip(convolutions, weights, strict=False):
            part.weight = nn.Parameter(weight.reshape(part.weight.shape).float().contiguous())
        last = convolutions[-1].bias
        if weights and last is not None and layer.bias is not None:
            last.data.copy_(layer.bias.detach())
        return [part.to(layer.weight.device, dtype_of(layer)) for part in row]

    def _nearest(self, layer: Conv, row: Sequence[Conv]) -> list[Tensor]:
        """The weights whose product is nearest to the layer's; none where something stands between that is no product."""
        if self.structure == "one-dimensional":
            rank = row[0].out_channels
            svd = SpatialSVD()
            if rank <= svd.full(layer):
                return svd.weights(layer, rank)
        return _separated(layer, self.filters) if self.structure == "separable" else []

    def _imitate(self, calibration: Calibration, student: nn.Module, name: str, row: list[nn.Module]) -> None:
        """Train the row to make what the layer makes in the teacher of what it reads in the student."""
        whole = nn.Sequential(*row)
        whole.eval()
        if self.norms:
            _take_norms(whole, calibration.beside(student, name))
        calibration.refit_last(student, name, row)
        if self.train is None:
            return
        pairs = list(calibration.beside(student, name))
        x, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        before = _error(whole, x, y), {key: value.clone() for key, value in whole.state_dict().items()}
        scale = float(y.double().square().mean().sqrt()) or 1.0
        _scale_last(row[-1], 1 / scale)
        fit(whole, (x, y / scale), options=replace(self.train, loss="mse", seed=self.seed))
        _scale_last(row[-1], scale)
        whole.eval()
        calibration.refit_last(student, name, row)
        if not _error(whole, x, y) <= before[0]:
            whole.load_state_dict(before[1])

    def _reports(
        self, layers: Mapping[str, nn.Module], specs: Mapping[str, list[LayerSpec]], errors: Mapping[str, float]
    ) -> tuple[LayerReport, ...]:
        reports = []
        for name, row_specs in specs.items():
            counts = [sum(p.numel() for p in part.parameters()) for part in (layers[name], *_built(row_specs))]
            reports.append(LayerReport(name, self._form(layers[name]), (counts[0], sum(counts[1:])), errors.get(name)))
        return tuple(reports)

    def _form(self, layer: nn.Module) -> str:
        assert isinstance(layer, Conv)
        if self.structure == "separable":
            return f"separable, {self.filters} filter{'s' if self.filters > 1 else ''} a channel"
        return f"{self.structure}, {self._middle(layer)} channels between"


def _is_share(value: object) -> bool:
    return isinstance(value, float) and within(value, "(0, inf)")


def _built(specs: Sequence[LayerSpec]) -> list[nn.Module]:
    return [spec.build() for spec in specs]


def _separated(layer: Conv, filters: int) -> list[Tensor]:
    """The depthwise and the pointwise weight nearest to a convolution's: for each input an SVD of its kernels."""
    kernels = group_tensors(layer)[0].flatten(2).movedim(1, 0)  # inputs, outputs, places
    u, s, v = torch.linalg.svd(kernels, full_matrices=False)
    scaled = u[..., :filters] * s[:, None, :filters]
    return [v[:, :filters].flatten(0, 1), scaled.movedim(1, 0).flatten(1)]


def _error(row: nn.Module, x: Tensor, y: Tensor) -> float:
    """The squared error, in evaluation mode."""
    with torch.no_grad():
        parts = zip(torch.split(x, 64), torch.split(y, 64), strict=True)
        return sum(float((row(part).double() - aims).square().sum()) for part, aims in parts)


def _take_norms(row: nn.Sequential, pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Let batch norms have the statistics of what they read."""
    norms = [part for part in row if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum, norm.training = None, True  # None: the mean over all batches
    with torch.no_grad():
        for x, _ in pairs:
            row(x)
    for norm in norms:
        norm.momentum, norm.training = 0.1, False


def _scale_last(layer: nn.Module, factor: float) -> None:
    with torch.no_grad():
        for tensor in own_tensors(layer).values():
            tensor *= factor
