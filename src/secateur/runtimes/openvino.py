"""OpenVINO: Intel's runtime, which reads torch's exported programs, on x86 and Arm processors."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.files import require
from secateur.runtimes.base import Call, Run
from secateur.runtimes.exporting import FileRuntime, Inputs, exported_program, unsupported
from secateur.runtimes.interface import Interface
from secateur.types import InputError

__all__ = ["OpenVino"]

WORDS = "OpenVINO"


@dataclass(frozen=True)
class OpenVino(FileRuntime):
    """Exports models to OpenVINO's files (``.xml``, and ``.bin`` beside it), and times them on the CPU.

    Attributes:
        threads: of the CPU.
    """

    name: ClassVar[str] = "openvino"
    extra: ClassVar[str] = "openvino"
    libraries: ClassVar[tuple[str, ...]] = ("openvino",)
    suffix: ClassVar[str] = ".xml"

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the graph and the weights."""
        library = require("openvino", self.extra)
        program = exported_program(WORDS, model, interface, inputs, batch)
        try:
            converted = library.convert_model(program)
            if batch is None:  # the converter forgets the sizes, and with them the program is faster
                converted.reshape(dict(enumerate([*tensor.shape] for tensor in interface.flat(*inputs))))
        except Exception as error:
            raise unsupported(WORDS, error) from error
        with tempfile.TemporaryDirectory() as folder:
            library.save_model(converted, Path(folder) / "model.xml", compress_to_fp16=False)
            return {suffix: (Path(folder) / f"model{suffix}").read_bytes() for suffix in (".xml", ".bin")}

    def opened(self, parts: Mapping[str, bytes]) -> Call:
        """Open the files on the CPU, in float32 even where the processor has shorter numbers."""
        library = require("openvino", self.extra)
        options = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            core = library.Core()
            model = core.read_model(parts[".xml"], parts[".bin"])
            return _Session(core.compile_model(model, "CPU", options).create_infer_request())
        except Exception as error:
            raise unsupported(WORDS, error) from error


@dataclass(frozen=True, eq=False)
class _Session:
    """Calls a request of OpenVINO with tensors."""

    request: Any

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        arrays = [tensor.contiguous().numpy() for tensor in tensors]
        try:
            results = self.request.infer(arrays)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise InputError(f"OpenVINO refuses inputs of shapes {shapes}: {str(error).splitlines()[-1]}") from error
        return [torch.from_numpy(results[place].copy()) for place in range(len(results))]

    def ready(self, tensors: list[Tensor]) -> Run:
        arrays = [tensor.contiguous().numpy() for tensor in tensors]
        return lambda: self.request.infer(arrays, share_inputs=True, share_outputs=True)
