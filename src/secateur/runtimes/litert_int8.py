"""LiteRT with whole numbers of 8 bits, by Google's quantiser of its files."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import nn

from secateur.files import require
from secateur.runtimes.exporting import FileRuntime, Inputs, refusing
from secateur.runtimes.int8 import Int8, nothing_to_quantise
from secateur.runtimes.interface import Interface
from secateur.runtimes.litert import WORDS, LiteRt

__all__ = ["LiteRtInt8"]

PACKAGE = "ai_edge_quantizer"
QUANTIZER = f"{PACKAGE}.quantizer"
EVERYWHERE = ".*"


@dataclass(frozen=True)
class LiteRtInt8(Int8):
    """Exports models to LiteRT with weights of 8 bits, and times them on the CPU.

    Weights are s8 with a scale for each channel; with `data` all that LiteRT has such kernels for is in 8 bits (static);
    without, layers find the ranges of their inputs as they run (dynamic). It is compared as `Int8` says.

    Attributes:
        threads, data, samples, points: see `secateur.runtimes.int8.Int8`.
    """

    name: ClassVar[str] = "litert-int8"
    extra: ClassVar[str] = LiteRt.extra
    libraries: ClassVar[tuple[str, ...]] = (*LiteRt.libraries, QUANTIZER)
    suffix: ClassVar[str] = LiteRt.suffix
    exact: ClassVar[type[FileRuntime]] = LiteRt

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the file."""
        content = LiteRt().written(model, interface, inputs, batch)[self.suffix]
        quiet = redirect_stdout(StringIO()), redirect_stderr(StringIO())
        with refusing(WORDS), tempfile.TemporaryDirectory() as folder, quiet[0], quiet[1]:
            content = self._quantised(content, Path(folder) / "model.tflite", interface, inputs)
        _check_some(content)
        return {self.suffix: content}

    def _quantised(self, content: bytes, file: Path, interface: Interface, inputs: Inputs) -> bytes:
        file.write_bytes(content)
        quantizer = require(QUANTIZER, self.extra).Quantizer(str(file))
        ranges: Any = None
        if self.data is None:
            quantizer.add_dynamic_config(EVERYWHERE, "*", num_bits=8)
        else:
            quantizer.add_static_config(EVERYWHERE, "*", activation_num_bits=8, weight_num_bits=8)
            for end in ("INPUT", "OUTPUT"):  # what goes in and comes out stays float32
                quantizer.update_quantization_recipe(EVERYWHERE, end, algorithm_key="no_quantize")
            ranges = self._ranges(content, quantizer.get_quantization_recipe(), interface, inputs)
        return bytes(quantizer.quantize(ranges, enable_progress_report=False).quantized_model)

    def _ranges(self, content: bytes, recipe: Any, interface: Interface, inputs: Inputs) -> Any:
        """The least and greatest numbers of every tensor over all samples.

        Left to itself the quantiser takes moving averages of them, which cut off the farthest, largest outputs included.
        """
        manager = require(f"{PACKAGE}.recipe_manager", self.extra).RecipeManager()
        manager.load_quantization_recipe(recipe)
        widened = require(f"{PACKAGE}.utils.qsv_utils", self.extra).min_max_update
        library = require(f"{PACKAGE}.calibrator", self.extra)
        calibrator = library.Calibrator(content, num_threads=self.threads, qsv_update_func=widened)
        feeds = [
            {f"args_{place}": tensor.contiguous().numpy() for place, tensor in enumerate(tensors)}
            for tensors in self.calibration(interface, inputs)
        ]
        calibrator.calibrate({"serving_default": feeds}, manager)
        return calibrator.get_model_qsvs()


def _check_some(content: bytes) -> None:
    """Refuse a file without whole numbers of 8 bits."""
    interpreter = require("ai_edge_litert.interpreter", LiteRt.extra).Interpreter(model_content=content)
    if not any(tensor["dtype"] is np.int8 for tensor in interpreter.get_tensor_details()):
        kinds = {op["op_name"] for op in interpreter._get_ops_details()}  # the public list has none of the ops
        raise nothing_to_quantise(WORDS, LiteRt.name, kinds - {"DELEGATE"})
