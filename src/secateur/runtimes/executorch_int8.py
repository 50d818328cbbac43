"""ExecuTorch with whole numbers of 8 bits, by the kernels of XNNPACK."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from secateur.files import require
from secateur.runtimes.executorch import WORDS, ExecuTorch, lowered
from secateur.runtimes.exporting import FileRuntime, Inputs, check_fixed, exported_program, refusing
from secateur.runtimes.int8 import Int8, nothing_to_quantise
from secateur.runtimes.interface import Interface

__all__ = ["ExecuTorchInt8"]

QUANTIZER = "executorch.backends.xnnpack.quantizer.xnnpack_quantizer"
PT2E = "torchao.quantization.pt2e.quantize_pt2e"


@dataclass(frozen=True)
class ExecuTorchInt8(Int8):
    """Exports models to ExecuTorch with weights of 8 bits, and times them on the CPU.

    Weights are s8 with a scale for each channel; with `data` all that XNNPACK has such kernels for is in 8 bits (static);
    without, linear layers find the ranges of their inputs as they run (dynamic). It is compared as `Int8` says.

    Attributes:
        threads, data, samples, points: see `secateur.runtimes.int8.Int8`.
    """

    name: ClassVar[str] = "executorch-int8"
    extra: ClassVar[str] = ExecuTorch.extra
    libraries: ClassVar[tuple[str, ...]] = (*ExecuTorch.libraries, PT2E)
    suffix: ClassVar[str] = ExecuTorch.suffix
    exact: ClassVar[type[FileRuntime]] = ExecuTorch

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the program."""
        check_fixed(WORDS, batch)
        program = exported_program(WORDS, model, interface, inputs)
        with refusing(WORDS):
            rounded = self._quantised(program, interface, inputs)
            again = torch.export.export(rounded, tuple(interface.flat(*inputs)))
        return {self.suffix: lowered(again)}

    def _quantised(self, program: Any, interface: Interface, inputs: Inputs) -> Any:
        """The graph module with ops that round, at the ranges that the data led to."""
        library, pt2e = require(QUANTIZER, self.extra), require(PT2E, self.extra)
        dynamic = self.data is None
        config = library.get_symmetric_quantization_config(is_per_channel=True, is_dynamic=dynamic)
        quantizer = library.XNNPACKQuantizer()
        if dynamic:
            quantizer.set_operator_type(torch.ops.aten.linear.default, config)
        else:
            quantizer.set_global(config)
        prepared = pt2e.prepare_pt2e(program.module(), quantizer)
        samples = [interface.flat(*inputs)] if dynamic else self.calibration(interface, inputs)
        with torch.no_grad():
            for tensors in samples:
                prepared(*tensors)
        rounded = pt2e.convert_pt2e(prepared)
        kinds = {str(node.target) for node in rounded.graph.nodes if node.op == "call_function"}
        if not any("quantize" in kind for kind in kinds):
            raise nothing_to_quantise(WORDS, ExecuTorch.name, kinds)
        return rounded
