"""ncnn: a small runtime for telephones and boards, for networks of plain layers, one sample at a time."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.files import require
from secateur.runtimes.base import Callee, Run
from secateur.runtimes.exporting import FileRuntime, Inputs, check_fixed, check_float32, reason_of, unsupported
from secateur.runtimes.interface import Interface
from secateur.structure.jit_traces import sizes_written
from secateur.types import ExampleInputs, ExportError, InputError

__all__ = ["Ncnn"]

WORDS = "ncnn"
SHORT_NUMBERS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed")
"""What ncnn does in fewer bits where the processor can, unless it is told not to."""


@dataclass(frozen=True)
class Ncnn(FileRuntime):
    """Exports models to ncnn's files (``.param``, and ``.bin`` beside it), and times them on the CPU.

    Tensors have no batch there: the example is one sample.

    Attributes:
        threads: of the CPU.
    """

    name: ClassVar[str] = "ncnn"
    extra: ClassVar[str] = "ncnn"
    libraries: ClassVar[tuple[str, ...]] = ("ncnn", "pnnx")
    suffix: ClassVar[str] = ".param"

    def quick(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs a model once; there is no shorter way than the whole one, which is quick."""
        return self(model, example_inputs)

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the graph and the weights, as pnnx translates them from TorchScript."""
        check_fixed(WORDS, batch)
        check_float32(WORDS, model)
        tensors = interface.flat(*inputs)
        _check_one_sample(tensors)
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "model.pt"
            try:
                trace: Any = torch.jit.trace
                with sizes_written():
                    trace(interface.flattened(model), tuple(tensors), check_trace=False).save(script)
            except Exception as error:
                raise ExportError(f"export: torch cannot trace this model: {reason_of(error)}") from error
            log = _translated(script, tensors)
            parts = [script.with_name(f"model.ncnn{suffix}") for suffix in (".param", ".bin")]
            if not all(part.exists() for part in parts):
                raise unsupported(WORDS, log)
            files = {part.suffix: part.read_bytes() for part in parts}
        _check_layers(files[".param"])
        return files

    def opened(self, parts: Mapping[str, bytes]) -> Callee:
        """Open the files on the CPU, in float32."""
        library = require("ncnn", self.extra)
        net = library.Net()
        net.opt.num_threads = self.threads
        for option in SHORT_NUMBERS:
            setattr(net.opt, option, False)
        with tempfile.TemporaryDirectory() as folder:
            for suffix, content in parts.items():
                (Path(folder) / f"model{suffix}").write_bytes(content)
            failed = net.load_param(f"{folder}/model.param") or net.load_model(f"{folder}/model.bin")
        if failed:
            raise ExportError("export: ncnn does not take the model: it cannot read what pnnx wrote of it")
        return _Net(net)


def _check_one_sample(tensors: list[Tensor]) -> None:
    for tensor in tensors:
        if tensor.ndim < 2 or len(tensor) != 1 or tensor.dtype is not torch.float32:
            raise InputError(
                f"export: ncnn takes one sample of float32 at a time; an input is {tuple(tensor.shape)} of "
                f"{str(tensor.dtype).removeprefix('torch.')}. Give an example with a first dimension of 1"
            )


def _translated(script: Path, tensors: list[Tensor]) -> str:
    """Have pnnx write its files beside a script, and return what it says."""
    shapes = ",".join(str([*tensor.shape]).replace(" ", "") + "f32" for tensor in tensors)
    command = [require("pnnx", Ncnn.extra).EXEC_PATH, script.name, f"inputshape={shapes}", "fp16=0"]
    done = subprocess.run(command, cwd=script.parent, capture_output=True, text=True, errors="replace")
    return done.stderr + done.stdout


def _check_layers(param: bytes) -> None:
    """Refuse a graph with what ncnn has no layer for: pnnx leaves torch's name of it there.

    >>> _check_layers(b"7767517\\n2 2\\nInput in0 0 1 in0\\ntorch.linalg.inv inv_0 1 1 in0 out0\\n")
    Traceback (most recent call last):
    ...
    secateur.types.ExportError: export: ncnn has no way to compute torch.linalg.inv; change the model, or export to 'onnxruntime'
    """
    kinds = [line.split()[0] for line in param.decode().splitlines()[2:] if line.strip()]
    foreign = list(dict.fromkeys(kind for kind in kinds if "." in kind or "::" in kind))
    if foreign:
        raise ExportError(
            f"export: ncnn has no way to compute {', '.join(foreign)}; change the model, or export to 'onnxruntime'"
        )


@dataclass(frozen=True, eq=False)
class _Net:
    """Calls a network of ncnn with tensors of one sample."""

    net: Any

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        _check_one_sample(tensors)
        extracted = self._extracted(self._mats(tensors))
        # A Mat of ncnn is a view of memory that the network takes back.
        return [torch.tensor(mat.numpy()) for mat in extracted]

    def ready(self, tensors: list[Tensor]) -> Run:
        mats = self._mats(tensors)
        return lambda: self._extracted(mats)

    def _mats(self, tensors: list[Tensor]) -> list[Any]:
        library = require("ncnn", Ncnn.extra)
        return [library.Mat(tensor[0].contiguous().numpy()).clone() for tensor in tensors]

    def _extracted(self, mats: list[Any]) -> list[Any]:
        extractor = self.net.create_extractor()
        for place, mat in enumerate(mats):
            extractor.input(f"in{place}", mat)
        results = [extractor.extract(f"out{place}") for place in range(len(self.net.output_names()))]
        if any(code for code, _ in results):
            raise InputError("ncnn cannot run the model on these inputs; give them in the shapes of the example")
        return [mat for _, mat in results]
