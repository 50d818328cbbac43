"""LiteRT with whole numbers of 8 bits, by Google's quantiser of its files."""

from __future__ import annotations

import tempfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from secateur.files import require
from secateur.runtimes.exporting import FileRuntime, Inputs, unsupported
from secateur.runtimes.int8 import Int8, nothing_to_quantise
from secateur.runtimes.interface import Interface
from secateur.runtimes.litert import WORDS, LiteRt
from secateur.types import SecateurError

__all__ = ["LiteRtInt8"]

QUANTIZER, RECIPE = "ai_edge_quantizer.quantizer", "ai_edge_quantizer.recipe"


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
        try:
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
                return {self.suffix: self._quantised(content, Path(folder) / "model.tflite", interface, inputs)}
        except SecateurError:
            raise
        except Exception as error:
            raise unsupported(WORDS, error) from error

    def _quantised(self, content: bytes, file: Path, interface: Interface, inputs: Inputs) -> bytes:
        recipes = require(RECIPE, self.extra)
        file.write_bytes(content)
        recipe = recipes.dynamic_wi8_afp32() if self.data is None else recipes.static_wi8_ai8()
        quantizer = require(QUANTIZER, self.extra).Quantizer(str(file), recipe)
        ranges: Any = None
        if self.data is not None:
            feeds = [
                {f"args_{place}": tensor.contiguous().numpy() for place, tensor in enumerate(tensors)}
                for tensors in self.calibration(interface, inputs)
            ]
            ranges = quantizer.calibrate({"serving_default": feeds}, num_threads=self.threads)
        return bytes(quantizer.quantize(ranges).quantized_model)
