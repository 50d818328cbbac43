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
from secateur.runtimes.base import Callee, Run
from secateur.runtimes.exporting import FileRuntime, Inputs, exported_program, on_cpu, refusing, silent
from secateur.runtimes.interface import Interface
from secateur.state import called, evaluating, split_inputs
from secateur.structure.jit_traces import sizes_written
from secateur.types import ExampleInputs, InputError

__all__ = ["OpenVino", "converted", "saved"]

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

    def quick(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs a model once: read from its trace, in a tenth of the time, not compared."""
        library = require("openvino", self.extra)
        cpu_model, (args, kwargs) = on_cpu(model, split_inputs(example_inputs))
        trace: Any = torch.jit.trace
        try:
            with evaluating(cpu_model), silent(), sizes_written():
                interface = Interface.of(args, kwargs, called(cpu_model, args, kwargs))
                tensors = interface.flat(args, kwargs)
                traced = trace(interface.flattened(cpu_model), tuple(tensors), check_trace=False)
                graph = library.convert_model(traced, example_input=tuple(tensors))
                graph.reshape(dict(enumerate([*tensor.shape] for tensor in tensors)))
            return self._compiled(library.Core(), graph).ready(tensors)
        except Exception:  # noqa: BLE001  (tracing takes other models than exporting)
            return self(model, example_inputs)

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the graph and the weights."""
        return saved(converted(model, interface, inputs, batch))

    def opened(self, parts: Mapping[str, bytes]) -> Callee:
        """Open the files on the CPU, in float32 even where the processor has shorter numbers."""
        core = require("openvino", self.extra).Core()
        with refusing(WORDS):
            return self._compiled(core, core.read_model(parts[".xml"], parts[".bin"]))

    def _compiled(self, core: Any, model: Any) -> _Session:
        options = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        return _Session(core.compile_model(model, "CPU", options).create_infer_request())


def converted(model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> Any:
    """Return a model in OpenVINO's form, with norms folded into convolutions.

    Raises:
        ExportError: torch or OpenVINO does not take it; the message names the op or the reason.
    """
    library = require("openvino", OpenVino.extra)
    program = exported_program(WORDS, model, interface, inputs, batch)
    with refusing(WORDS):
        graph = library.convert_model(program)
        if batch is None:  # the converter forgets the sizes, and with them the program is faster
            graph.reshape(dict(enumerate([*tensor.shape] for tensor in interface.flat(*inputs))))
    return graph


def saved(graph: Any) -> dict[str, bytes]:
    """Return the files of a model in OpenVINO's form by their suffixes."""
    library = require("openvino", OpenVino.extra)
    with tempfile.TemporaryDirectory() as folder:
        library.save_model(graph, Path(folder) / "model.xml", compress_to_fp16=False)
        return {suffix: (Path(folder) / f"model{suffix}").read_bytes() for suffix in (".xml", ".bin")}


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
