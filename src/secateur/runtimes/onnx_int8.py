"""ONNX Runtime with whole numbers of 8 bits: a quarter of the bytes, and faster where the processor has instructions."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from secateur.files import require
from secateur.runtimes.exporting import FileRuntime, Inputs
from secateur.runtimes.int8 import Int8, nothing_to_quantise
from secateur.runtimes.interface import Interface
from secateur.runtimes.onnx_runtime import EXTRA, LIBRARIES, OnnxRuntime, feeds_of, open_session
from secateur.types import ExportError, SecateurError

__all__ = ["OnnxInt8"]

DYNAMIC = ("MatMul", "Gather", "LSTM", "Attention", "EmbedLayerNormalization")
"""What a dynamic file has in 8 bits: convolutions would be many times slower so."""


@dataclass(frozen=True)
class OnnxInt8(Int8):
    """Exports models to ONNX with weights of 8 bits, and times them in ONNX Runtime on the CPU.

    With `data` inputs of layers are u8 and weights s8, with a scale for each channel (static); without, each linear layer
    finds the range of its input as it runs (dynamic). It is compared as `Int8` says.

    Attributes:
        threads, data, samples, points: see `secateur.runtimes.int8.Int8`.
        reduce_range: weights of 7 bits, for x86 processors without VNNI instructions, on which sums of 8 may overflow.
    """

    reduce_range: bool = False

    name: ClassVar[str] = "onnxruntime-int8"
    extra: ClassVar[str] = EXTRA
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES
    suffix: ClassVar[str] = OnnxRuntime.suffix
    exact: ClassVar[type[FileRuntime]] = OnnxRuntime

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the file with 8-bit weights."""
        content = OnnxRuntime().written(model, interface, inputs, batch)[self.suffix]
        library = require("onnxruntime.quantization", EXTRA)
        with tempfile.TemporaryDirectory() as folder:
            proto, target = _prepared(content, Path(folder)), Path(folder) / "int8.onnx"
            weights = {"weight_type": library.QuantType.QInt8, "per_channel": True, "reduce_range": self.reduce_range}
            try:
                if self.data is None:
                    library.quantize_dynamic(proto, target, list(DYNAMIC), **weights)
                else:
                    reader = _CalibrationReader(self._feeds(content, interface, inputs))
                    library.quantize_static(proto, target, reader, activation_type=library.QuantType.QUInt8, **weights)
            except SecateurError:
                raise
            except Exception as error:
                raise ExportError(f"export: ONNX Runtime cannot quantise this model: {error}") from error
            content = target.read_bytes()
        _check_some(require("onnx", EXTRA).load_from_string(content))
        return {self.suffix: content}

    def _feeds(self, content: bytes, interface: Interface, inputs: Inputs) -> Iterator[dict[str, Any]]:
        """What the file is called with, for the samples that give the ranges."""
        session = open_session(content, self.threads)
        for tensors in self.calibration(interface, inputs):
            yield feeds_of(session, tensors)


def _prepared(content: bytes, folder: Path) -> Any:
    """The file with norms folded into convolutions, and with the shapes that the quantiser needs."""
    onnx, shapes = require("onnx", EXTRA), require("onnxruntime.quantization.shape_inference", EXTRA)
    proto = onnx.load_from_string(content)
    # The exporter notes the shapes of weights, too, which those that a quantiser turns round do not have.
    del proto.graph.value_info[:]
    # By file: of a model in memory it loses the weights.
    source, target = folder / "exact.onnx", folder / "prepared.onnx"
    source.write_bytes(proto.SerializeToString())
    try:
        shapes.quant_pre_process(source, target, skip_symbolic_shape=True)
        prepared = onnx.load(target)
        onnx.checker.check_model(prepared)
    except Exception as error:
        raise ExportError(f"export: ONNX Runtime cannot prepare this model for whole numbers: {error}") from error
    return prepared


def _check_some(proto: Any) -> None:
    kinds = {node.op_type for node in proto.graph.node}
    if not any("Quantize" in kind or "Integer" in kind for kind in kinds):
        raise nothing_to_quantise("ONNX Runtime", "onnxruntime", kinds)


@dataclass(frozen=True, eq=False)
class _CalibrationReader:
    """Hands samples to ONNX Runtime's quantiser, one batch after another."""

    feeds: Iterator[dict[str, Any]]

    def get_next(self) -> dict[str, Any] | None:
        return next(self.feeds, None)
