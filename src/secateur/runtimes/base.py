"""What every runtime shares: how a model is timed in it, and what an export returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from secateur import files
from secateur.runtimes.interface import Interface
from secateur.types import ExampleInputs

__all__ = ["Callee", "Exported", "Exporter", "Run", "Runtime", "Timer"]

Run = Callable[[], object]
"""Runs a model once; what it returns is not looked at."""

Timer = Callable[[nn.Module, ExampleInputs], Run | float]
"""Called with a model in evaluation mode and its example inputs: returns what runs it once, or the seconds that it takes.

Models for which there is something to run are timed in turns; seconds are taken as they are.
"""

Runtime = str | Timer
"""The name of a runtime, with its options after a colon (``"onnxruntime:threads=2"``), or a timer of one's own."""


class Callee(Protocol):
    """A model that is open in a runtime."""

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        """Return the outputs, in memory of their own."""
        ...

    def ready(self, tensors: list[Tensor]) -> Run:
        """Return what runs the model once on these tensors, with as little around it as there can be."""
        ...


@dataclass(frozen=True, eq=False)
class Exported:
    """A model in the form of a runtime, which computed what torch does when it was made.

    Attributes:
        runtime: its name.
        content: the bytes of the file.
        beside: those of the files that belong to it, by suffix: they are written beside it, with the same stem.
        difference: how far the outputs were from torch's on the example: the greatest difference over the greatest output.
        file: where it was written; None if it was not.
        suffix: what the names of such files end in.
        interface: the nesting of its inputs and outputs.
    """

    runtime: str
    content: bytes = field(repr=False)
    difference: float
    interface: Interface = field(repr=False)
    call: Callee = field(repr=False)
    file: Path | None = None
    suffix: str = ""
    beside: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def parts(self) -> dict[str, bytes]:
        """The contents of all its files by suffix, the main one first."""
        return {self.suffix: self.content, **self.beside}

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return len(self.content) + sum(len(part) for part in self.beside.values())

    def run(self, *inputs: Any, **named: Any) -> Any:
        """Return what the runtime computes: tensors on the CPU, nested as the model's outputs are.

        Args:
            inputs, named: what the model would be called with, nested as the example was and of its shapes.

        Raises:
            InputError: other inputs than those of the example.
        """
        return self.interface.outputs(self.call(self.interface.flat(inputs, named)))

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Write the file, wholly or not at all, and those that belong to it before, and return its path.

        Raises:
            FileError: it cannot be written.
        """
        path = Path(file)
        for suffix, part in self.beside.items():
            files.write_bytes(path.with_suffix(suffix), part)
        files.write_bytes(path, self.content)
        return path


@runtime_checkable
class Exporter(Protocol):
    """A runtime that has a file format."""

    def export(self, model: nn.Module, example_inputs: ExampleInputs, *, dynamic_batch: bool = False) -> Exported:
        """Return the model in the runtime's form, once it was compared with torch."""
        ...
