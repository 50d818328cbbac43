"""OpenVINO with whole numbers of 8 bits: a quarter of the bytes, and convolutions and products in whole numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from secateur.files import require
from secateur.runtimes.exporting import FileRuntime, Inputs
from secateur.runtimes.int8 import Int8, nothing_to_quantise
from secateur.runtimes.interface import Interface
from secateur.runtimes.openvino import WORDS, OpenVino, converted, saved

__all__ = ["OpenVinoInt8"]

OPSET = "openvino.opset13"
LAYERS = ("Convolution", "GroupConvolution", "MatMul")
"""What has weights that are put into 8 bits."""

Port = tuple[str, int]
"""An op's name, and which of its outputs."""

Range = tuple[float, float]
"""The least and the greatest number."""


@dataclass(frozen=True)
class OpenVinoInt8(Int8):
    """Exports models to OpenVINO with weights of 8 bits, and times them on the CPU.

    Weights are s8 with a scale for each channel; with `data` inputs of layers are u8, and OpenVINO computes in whole numbers;
    without, it computes as it does in floating point, with weights of 8 bits. It is compared as `Int8` says.

    Attributes:
        threads, data, samples, points: see `secateur.runtimes.int8.Int8`.
    """

    name: ClassVar[str] = "openvino-int8"
    extra: ClassVar[str] = OpenVino.extra
    libraries: ClassVar[tuple[str, ...]] = OpenVino.libraries
    suffix: ClassVar[str] = OpenVino.suffix
    exact: ClassVar[type[FileRuntime]] = OpenVino

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the graph and the weights, most of them in 8 bits."""
        graph = converted(model, interface, inputs, batch)
        layers = [op for op in graph.get_ordered_ops() if _has_weights(op)]
        if not layers:
            raise nothing_to_quantise(WORDS, "openvino", {op.get_type_name() for op in graph.get_ordered_ops()})
        if self.data is not None:
            _round_inputs(layers, _ranges(graph, layers, self.calibration(interface, inputs)))
        for layer in layers:
            _round_weights(layer)
        return saved(graph)


def _has_weights(op: Any) -> bool:
    if op.get_type_name() not in LAYERS:
        return False
    weight = op.input_value(1).get_node()
    return bool(weight.get_type_name() == "Constant" and weight.get_output_element_type(0).get_type_name() == "f32")


def _input_of(layer: Any) -> Port:
    source = layer.input_value(0)
    return source.get_node().get_name(), source.get_index()


def _ranges(graph: Any, layers: Iterable[Any], samples: Iterable[list[Tensor]]) -> dict[Port, Range]:
    """The range of what each layer is given on samples, zero among it."""
    library, opset = require("openvino", OpenVino.extra), require(OPSET, OpenVino.extra)
    sources = {_input_of(layer): layer.input_value(0) for layer in layers}
    results = [opset.result(source) for source in sources.values()]
    looking = library.Model(results, graph.get_parameters(), "ranges")
    request = library.Core().compile_model(looking, "CPU").create_infer_request()
    ranges = dict.fromkeys(sources, (0.0, 0.0))
    for tensors in samples:
        outputs = request.infer([tensor.contiguous().numpy() for tensor in tensors])
        for place, (port, (least, most)) in enumerate(ranges.items()):
            ranges[port] = min(least, float(outputs[place].min())), max(most, float(outputs[place].max()))
    return ranges


def _round_inputs(layers: Iterable[Any], ranges: Mapping[Port, Range]) -> None:
    """Round what layers are given to 256 values of a range, once for all that read it."""
    opset, rounded = require(OPSET, OpenVino.extra), {}
    ends = {port: _with_zero(*span) for port, span in ranges.items()}
    for layer in layers:
        port = _input_of(layer)
        if port not in rounded:
            low, high = (np.float32(end) for end in ends[port])
            rounded[port] = opset.fake_quantize(layer.input_value(0), low, high, low, high, 256)
        layer.input(0).replace_source_output(rounded[port].output(0))


def _with_zero(least: float, most: float) -> Range:
    """The ends of 256 evenly spaced values, one of which is zero.

    >>> _with_zero(0.0, 25.5), [round(end, 6) for end in _with_zero(-1.0, 25.4)]
    ((0.0, 25.5), [-1.035294, 25.364706])
    """
    step = (most - least) / 255 or 1.0
    below = round(-least / step)
    return -below * step, (255 - below) * step


def _round_weights(layer: Any) -> None:
    """Store a layer's weights as whole numbers from -127 to 127, and a scale for each channel."""
    opset = require(OPSET, OpenVino.extra)
    weight = layer.input_value(1).get_node().get_data()
    farthest = np.abs(weight).max(axis=_within_channels(layer, weight.ndim), keepdims=True)
    scale = np.where(farthest > 0, farthest / 127, 1).astype(np.float32)
    whole = opset.constant(np.round(weight / scale).astype(np.int8))
    product = opset.multiply(opset.convert(whole, "f32"), opset.constant(scale))
    layer.input(1).replace_source_output(product.output(0))


def _within_channels(layer: Any, dimensions: int) -> tuple[int, ...]:
    """The dimensions of a weight that lie within an output channel."""
    kind = layer.get_type_name()
    if kind == "MatMul":
        # Rows are multiplied where it is turned round (as linear layers are), else columns.
        return (dimensions - 1,) if layer.get_attributes()["transpose_b"] else (dimensions - 2,)
    return tuple(range(2 if kind == "GroupConvolution" else 1, dimensions))
