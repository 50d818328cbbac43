"""What runtimes with files share: the model is exported, opened in the runtime, compared with torch, and run."""

from __future__ import annotations

import logging
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from secateur.checks import check_whole
from secateur.copies import copied
from secateur.files import require
from secateur.hints import Checked
from secateur.runtimes.base import Callee, Exported, Run
from secateur.runtimes.inputs import batch_size_of, with_batch_size
from secateur.runtimes.interface import Interface
from secateur.runtimes.verify import check_runnable, compare, noisy
from secateur.state import called, device_of, evaluating, split_inputs
from secateur.trees import changed
from secateur.types import ExampleInputs, ExportError, InputError, SecateurError

__all__ = [
    "FileRuntime",
    "Inputs",
    "check_fixed",
    "check_float32",
    "exported_program",
    "on_cpu",
    "reason_of",
    "refusing",
    "runs",
    "silent",
    "unsupported",
]

Inputs = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""

OP = re.compile(r"\b(?:aten|torchvision|quantized)(?:::|\.)\w+|\bprim::\w+")
"""How runtimes write the ops of torch in their messages."""


@dataclass(frozen=True)
class FileRuntime(Checked, ABC):
    """A runtime that has a file format. A new one says how it writes files and opens them.

    Attributes:
        threads: of the CPU, within an op.
    """

    threads: int = 1

    name: ClassVar[str]
    extra: ClassVar[str]
    libraries: ClassVar[tuple[str, ...]]
    suffix: ClassVar[str]

    def __post_init__(self) -> None:
        check_whole(self, threads=self.threads)

    def __call__(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs the exported model once, on the example; it was compared with torch before.

        Raises:
            MissingLibraryError, ExportError, InputError: see `secateur.export`.
        """
        exported = self.export(model, example_inputs)
        return exported.call.ready(exported.interface.flat(*split_inputs(example_inputs)))

    def export(self, model: nn.Module, example_inputs: ExampleInputs, *, dynamic_batch: bool = False) -> Exported:
        """Return the model in the runtime's form, once it was run and compared with torch; see `secateur.export`."""
        for library in self.libraries:
            require(library, self.extra)
        example = _one_more(example_inputs) if dynamic_batch else example_inputs
        cpu_model, (args, kwargs) = on_cpu(model, split_inputs(example))
        with evaluating(cpu_model):
            expected = called(cpu_model, args, kwargs)
            interface = Interface.of(args, kwargs, expected)
            check_runnable(interface.flat(args, kwargs), expected)
            batch = batch_size_of(example) if dynamic_batch else None
            with silent():
                content, *beside = self.written(cpu_model, interface, (args, kwargs), batch).items()
            exported = Exported(
                self.name,
                content[1],
                0.0,
                interface,
                self.opened(dict([content, *beside])),
                suffix=content[0],
                beside=dict(beside),
            )
            return replace(exported, difference=self.compared(cpu_model, exported, example_inputs, example))

    def compared(
        self, model: nn.Module, exported: Exported, example_inputs: ExampleInputs, example: ExampleInputs
    ) -> float:
        """Return how far an exported model's outputs are from torch's.

        Args:
            model: in evaluation mode, on the CPU.
            exported: the same in the runtime.
            example_inputs, example: what the user gave, and what it was exported for.

        Raises:
            ExportError: too far; the message says how far.
        """
        samples = [example, noisy(example)]
        apart = [compare(model, exported, split_inputs(s)) for s in samples if s is not None]
        if example is not example_inputs:  # any number of samples
            size = batch_size_of(example)
            for other in dict.fromkeys((size - 1, 1, 2 * size)):
                inputs = split_inputs(with_batch_size(example_inputs, other))
                if runs(model, inputs):
                    apart.append(compare(model, exported, inputs, other))
        return max(apart)

    def on_one_thread(self, model: nn.Module) -> bool:
        """Whether all of the work is done by one thread of this process, so that its processor time is the time."""
        return self.threads == 1

    @abstractmethod
    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the contents of the model's files by their suffixes, the main one first.

        Args:
            model: in evaluation mode, on the CPU.
            interface: that of the model.
            inputs: what it is exported for.
            batch: the length of the first dimensions that may be any; None where all shapes are fixed.

        Raises:
            ExportError: the model cannot be written; the message names the op or the reason.
        """

    @abstractmethod
    def opened(self, parts: Mapping[str, bytes]) -> Callee:
        """Open files in the runtime.

        Raises:
            ExportError: the runtime does not take them.
        """


def runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model runs on inputs."""
    try:
        called(model, *inputs)
    except Exception:  # noqa: BLE001  (code may raise anything on sizes that it is not made for)
        return False
    return True


def _one_more(example_inputs: ExampleInputs) -> ExampleInputs:
    """One sample more than the example has: torch takes a size of 1 for a constant."""
    return with_batch_size(example_inputs, batch_size_of(example_inputs) + 1)


def on_cpu(model: nn.Module, inputs: Inputs) -> tuple[nn.Module, Inputs]:
    """Return a model on the CPU, the same one where it is there, and copies of its inputs, into which it may write."""
    inputs = changed(inputs, lambda tensor: tensor.detach().clone().cpu())
    return (model if device_of(model).type == "cpu" else copied(model).cpu()), inputs


def exported_program(
    runtime: str, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None = None
) -> Any:
    """Return torch's exported program of a model, which takes flat tensors and returns a tuple of them.

    Raises:
        ExportError: torch cannot export the model, or its numbers are not float32.
    """
    check_float32(runtime, model)
    tensors = interface.flat(*inputs)
    size = torch.export.Dim("batch")
    shapes = [{0: size} if batch is not None and leaf.ndim and len(leaf) == batch else None for leaf in tensors]
    try:
        return torch.export.export(
            interface.flattened(model), tuple(tensors), dynamic_shapes=None if batch is None else (tuple(shapes),)
        )
    except Exception as error:
        dynamic = "; or leave out dynamic_batch" if batch is not None else ""
        raise ExportError(
            f"export: torch cannot export this model: {reason_of(error)}. Try torch.export.export on it, whose message "
            f"names the line of the model{dynamic}"
        ) from error


def check_fixed(runtime: str, batch: int | None) -> None:
    """Refuse a batch of any size in a runtime whose files have fixed shapes.

    Raises:
        InputError: it was asked for.
    """
    if batch is not None:
        raise InputError(
            f"export: files for {runtime} are of fixed shapes here; leave out dynamic_batch, or export to 'onnxruntime'"
        )


def check_float32(runtime: str, model: nn.Module) -> None:
    """Refuse a model of other floating numbers than float32.

    Raises:
        ExportError: it has such a tensor.
    """
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dtype is not torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ExportError(
                f"export: {name} of the model is {kind}, and {runtime} computes in float32; export model.float()"
            )


def reason_of(error: BaseException) -> str:
    """Return the first line of an error's first cause.

    >>> reason_of(ValueError("no such thing\\nin full"))
    'no such thing'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def unsupported(runtime: str, error: BaseException | str) -> ExportError:
    """Return the error of a runtime that does not take a model: it names the ops where the runtime's message does.

    >>> str(unsupported("OpenVINO", "No conversion rule found for operations: aten::lu (1)"))
    "export: OpenVINO has no way to compute aten::lu; change the model, or export to 'onnxruntime'"
    """
    text = error if isinstance(error, str) else f"{error}\n{error.__cause__ or ''}"
    ops = list(dict.fromkeys(OP.findall(text)))
    if ops:
        return ExportError(
            f"export: {runtime} has no way to compute {', '.join(ops)}; change the model, or export to 'onnxruntime'"
        )
    reason = text.strip().partition("\n")[0] if isinstance(error, str) else reason_of(error)
    return ExportError(f"export: {runtime} does not take the model: {reason}")


@contextmanager
def refusing(runtime: str) -> Iterator[None]:
    """Turn what a runtime's library raises into the error that the runtime does not take the model; ours pass.

    >>> with refusing("OpenVINO"):
    ...     raise ValueError("no such layer")
    Traceback (most recent call last):
    secateur.types.ExportError: export: OpenVINO does not take the model: no such layer
    """
    try:
        yield
    except SecateurError:
        raise
    except Exception as error:
        raise unsupported(runtime, error) from error


@contextmanager
def silent() -> Iterator[None]:
    """Keep what exporters say of their own workings to themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
