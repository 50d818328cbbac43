"""LiteRT: the runtime of Android, once TensorFlow Lite."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.files import require
from secateur.runtimes.base import Callee, Run
from secateur.runtimes.exporting import FileRuntime, Inputs, check_fixed, check_float32, refusing
from secateur.runtimes.interface import Interface
from secateur.types import InputError

__all__ = ["LiteRt"]

WORDS = "LiteRT"


@dataclass(frozen=True)
class LiteRt(FileRuntime):
    """Exports models to LiteRT's files (``.tflite``), and times them on the CPU.

    Attributes:
        threads: of the CPU.
    """

    name: ClassVar[str] = "litert"
    extra: ClassVar[str] = "litert"
    libraries: ClassVar[tuple[str, ...]] = ("litert_torch", "ai_edge_litert.interpreter")
    suffix: ClassVar[str] = ".tflite"

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the file."""
        check_fixed(WORDS, batch)
        check_float32(WORDS, model)
        library = require("litert_torch", self.extra)
        with refusing(WORDS), redirect_stdout(StringIO()):  # it tells every step of its own
            converted = library.convert(interface.flattened(model), tuple(interface.flat(*inputs)))
        with tempfile.TemporaryDirectory() as folder:
            with redirect_stdout(StringIO()):
                converted.export(f"{folder}/model.tflite")
            return {self.suffix: (Path(folder) / "model.tflite").read_bytes()}

    def opened(self, parts: Mapping[str, bytes]) -> Callee:
        """Open the file on the CPU, with the kernels of XNNPACK."""
        library = require("ai_edge_litert.interpreter", self.extra)
        with refusing(WORDS):
            interpreter = library.Interpreter(model_content=parts[self.suffix], num_threads=self.threads)
            interpreter.allocate_tensors()
        return _Interpreter.of(interpreter, parts[self.suffix])


@dataclass(frozen=True, eq=False)
class _Interpreter:
    """Calls an interpreter of LiteRT with tensors.

    Attributes:
        interpreter: it.
        inputs, outputs: the places of its tensors, in the order of the model's.
        content: the bytes of the file, which the interpreter reads as it runs.
    """

    interpreter: Any
    inputs: list[int]
    outputs: list[int]
    content: bytes

    @classmethod
    def of(cls, interpreter: Any, content: bytes) -> _Interpreter:
        (signature,) = interpreter._get_full_signature_list().values()  # the public list has the names alone
        inputs = [signature["inputs"][f"args_{place}"] for place in range(len(signature["inputs"]))]
        outputs = [signature["outputs"][f"output_{place}"] for place in range(len(signature["outputs"]))]
        return cls(interpreter, inputs, outputs, content)

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        self._set(tensors)
        self.interpreter.invoke()
        return [torch.from_numpy(self.interpreter.get_tensor(place).copy()) for place in self.outputs]

    def ready(self, tensors: list[Tensor]) -> Run:
        """Return what runs it once. The inputs stay where they were put, as a model reads its own and does not write there."""
        self._set(tensors)
        return self.interpreter.invoke  # type: ignore[no-any-return]

    def _set(self, tensors: list[Tensor]) -> None:
        for place, tensor in zip(self.inputs, tensors, strict=True):
            try:
                self.interpreter.set_tensor(place, tensor.contiguous().numpy())
            except ValueError as error:
                shapes = [tuple(other.shape) for other in tensors]
                raise InputError(f"LiteRT refuses inputs of shapes {shapes}: {str(error).splitlines()[0]}") from error
