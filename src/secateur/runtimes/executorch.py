"""ExecuTorch: PyTorch's own runtime for telephones, with the kernels of XNNPACK."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from secateur.files import require
from secateur.runtimes.base import Callee, Run
from secateur.runtimes.exporting import FileRuntime, Inputs, check_fixed, exported_program, refusing
from secateur.runtimes.interface import Interface
from secateur.types import InputError

__all__ = ["ExecuTorch"]

WORDS = "ExecuTorch"
BINDINGS = "executorch.extension.pybindings.portable_lib"


@dataclass(frozen=True)
class ExecuTorch(FileRuntime):
    """Exports models to ExecuTorch's files (``.pte``), and times them on the CPU.

    What XNNPACK has a kernel for runs there, the rest in ExecuTorch's portable, slower ones.

    Attributes:
        threads: of the CPU.
    """

    name: ClassVar[str] = "executorch"
    extra: ClassVar[str] = "executorch"
    libraries: ClassVar[tuple[str, ...]] = ("executorch.exir", BINDINGS)
    suffix: ClassVar[str] = ".pte"

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the program."""
        check_fixed(WORDS, batch)
        program = exported_program(WORDS, model, interface, inputs)
        return {self.suffix: lowered(program)}

    def opened(self, parts: Mapping[str, bytes]) -> Callee:
        """Open the program on the CPU."""
        return _Program(parts[self.suffix], self.threads)


def lowered(program: Any) -> bytes:
    """Return the file of an exported program, with all that XNNPACK has kernels for in XNNPACK.

    Raises:
        ExportError: ExecuTorch has no kernel for an op.
    """
    exir = require("executorch.exir", ExecuTorch.extra)
    xnnpack = require("executorch.backends.xnnpack.partition.xnnpack_partitioner", ExecuTorch.extra)
    with refusing(WORDS):
        edge = exir.to_edge_transform_and_lower(program, partitioner=[xnnpack.XnnpackPartitioner()])
        return bytes(edge.to_executorch().buffer)


@dataclass(eq=False)
class _Program:
    """Calls a program of ExecuTorch with tensors.

    There is one pool of threads for all programs of a process, and each holds on to that which it was opened with. So a
    program is opened anew where the pool was changed since.
    """

    content: bytes = field(repr=False)
    threads: int
    module: Any = field(default=None, repr=False)
    pool: int = -1

    def __post_init__(self) -> None:
        with refusing(WORDS):
            self._open()

    def _open(self) -> Any:
        bindings = require(BINDINGS, ExecuTorch.extra)
        pool = _pool_of(bindings, self.threads)
        if self.pool != pool:
            self.module, self.pool = bindings._load_for_executorch_from_buffer(self.content), pool
        return self.module

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        inputs = tuple(tensor.contiguous() for tensor in tensors)
        try:
            outputs = self._open().forward(inputs)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            raise InputError(f"ExecuTorch refuses inputs of shapes {shapes}: {str(error).splitlines()[0]}") from error
        return [output.clone() for output in outputs]

    def ready(self, tensors: list[Tensor]) -> Run:
        inputs = tuple(tensor.contiguous() for tensor in tensors)
        return lambda: self._open().forward(inputs)


_pools: list[int] = []
"""The numbers of threads of the pools that there were, the present one last."""


def _pool_of(bindings: Any, threads: int) -> int:
    """Let there be a pool of so many threads, and return which one it is."""
    if not _pools or _pools[-1] != threads:
        bindings._unsafe_reset_threadpool(threads)
        _pools.append(threads)
    return len(_pools) - 1
