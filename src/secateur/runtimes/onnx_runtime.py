"""ONNX Runtime: files that run in many languages, on one CPU thread often twice to four times as fast as eager PyTorch."""

from __future__ import annotations

import inspect
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.files import require
from secateur.runtimes.base import Run
from secateur.runtimes.exporting import FileRuntime, Inputs, on_cpu, reason_of, runs, silent
from secateur.runtimes.inputs import with_batch_size
from secateur.runtimes.interface import Interface
from secateur.state import split_inputs
from secateur.types import ExampleInputs, ExportError, InputError

__all__ = ["EXTRA", "LIBRARIES", "OnnxRuntime", "Session", "feeds_of", "open_session"]

EXTRA = "onnx"
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 1
"""How many bytes one ONNX file can hold (it is a protocol buffer)."""
LARGEST_BATCH = 1024
"""Larger ones take long, and what code asks there is more often of torch's kernels."""


@dataclass(frozen=True)
class OnnxRuntime(FileRuntime):
    """Exports models to ONNX, and times them in ONNX Runtime on the CPU.

    Attributes:
        threads: of the CPU, within an op; ops run one after the other.
    """

    name: ClassVar[str] = "onnxruntime"
    extra: ClassVar[str] = EXTRA
    libraries: ClassVar[tuple[str, ...]] = LIBRARIES
    suffix: ClassVar[str] = ".onnx"

    def quick(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs a model once: written by torch's older exporter, in a tenth of the time, not compared."""
        require("onnxruntime", EXTRA)  # the others take a second to import, and are not needed
        cpu_model, (args, kwargs) = on_cpu(model, split_inputs(example_inputs))
        written: Any = io.BytesIO()
        try:
            with silent():
                torch.onnx.export(cpu_model, args, written, kwargs=kwargs, dynamo=False, verbose=False)
            session = open_session(written.getvalue(), self.threads)
            feeds = feeds_of(session, [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
            session.run(None, feeds)
        except Exception:  # noqa: BLE001  (it takes fewer models, and is to be removed from torch in one way or another)
            return self(model, example_inputs)
        return lambda: session.run(None, feeds)

    def written(self, model: nn.Module, interface: Interface, inputs: Inputs, batch: int | None) -> dict[str, bytes]:
        """Return the file; its inputs are named as the model's are."""
        return {self.suffix: _onnx(model, *inputs, batch)}

    def opened(self, parts: Mapping[str, bytes]) -> Session:
        """Open the file on the CPU."""
        return Session(open_session(parts[self.suffix], self.threads))


def _onnx(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int | None) -> bytes:
    """The bytes of the ONNX file."""
    shapes = None if batch is None else _dynamic_shapes(model, args, kwargs, batch)
    positional = (
        (*args, {}) if args and isinstance(args[-1], dict) else args
    )  # the exporter takes it for keyword arguments
    try:
        with _registry_kept():
            program: Any = torch.onnx.export(
                model, positional, kwargs=dict(kwargs), dynamo=True, verbose=False, dynamic_shapes=shapes
            )
            assert program is not None
            proto = program.model_proto
    except Exception as error:
        raise ExportError(_unexported(error, batch)) from error
    if batch is not None:
        _check_any_batch(model, (args, dict(kwargs)), program.exported_program)
    if proto.ByteSize() > LARGEST:
        raise ExportError(f"export: the model takes {proto.ByteSize():,} bytes, and one ONNX file holds 2 GiB at most")
    content: bytes = proto.SerializeToString()
    return content


def _check_any_batch(model: nn.Module, inputs: Inputs, program: Any) -> None:
    """Refuse a model that does something else for larger or smaller batches, as the exporter saw; of very large ones nothing is known.

    Raises:
        ExportError: the model runs there, and the file would be wrong.
    """
    firsts = [n.meta["val"].shape[:1] for n in program.graph.nodes if isinstance(n.meta.get("val"), Tensor)]
    batches = {size.node.expr for sizes in firsts for size in sizes if isinstance(size, torch.SymInt)}
    ranges = [sizes for symbol, sizes in program.range_constraints.items() if symbol in batches]
    outside = [size for sizes in ranges for size in (sizes.lower - 1, sizes.upper + 1) if 1 < size <= LARGEST_BATCH]
    for size in map(int, outside):
        if runs(model, split_inputs(with_batch_size(inputs[1] or inputs[0], size))):
            raise ExportError(
                f"export: with a batch of {size} the model's code does something else than with the example's, and a file "
                "goes one way alone; leave out dynamic_batch"
            )


def _unexported(error: Exception, batch: int | None) -> str:
    """What to say of a model that torch does not export: its own first reason, and what to do."""
    dynamic = "; or leave out dynamic_batch" if batch is not None else ""
    return (
        f"export: torch cannot write this model as ONNX: {reason_of(error)}. Try torch.export.export on it, whose message "
        f"names the line of the model{dynamic}"
    )


def _dynamic_shapes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int) -> Any:
    """For every tensor that has the batch as its first dimension, that it may be any."""
    size = torch.export.Dim("batch")
    named = inspect.signature(model.forward).bind(*args, **kwargs).arguments

    def shape(leaf: Any) -> dict[int, Any] | None:
        return {0: size} if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == batch else None

    return {name: pytree.tree_map(shape, value) for name, value in named.items()}


@contextmanager
def _registry_kept() -> Iterator[None]:
    """Let the exporter build its table of ops once a process: three quarters of the time of a small export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # cannot be imported without the extra

    build = ONNXRegistry.from_torchlib

    def kept(opset_version: int) -> Any:
        if opset_version not in _registries:
            _registries[opset_version] = build(opset_version)
        return _registries[opset_version]

    with patch.object(ONNXRegistry, "from_torchlib", staticmethod(kept)):
        yield


_registries: dict[int, Any] = {}


def open_session(content: bytes, threads: int) -> Any:
    """Return a session of ONNX Runtime on the CPU.

    Raises:
        ExportError: it does not take the file.
    """
    runtime = require("onnxruntime", EXTRA)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors alone
    try:
        return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(
            f"export: ONNX Runtime does not take the model: {error}. It has kernels for float32 above all; a float64 or float16 "
            "model may need model.float()"
        ) from error


def feeds_of(session: Any, tensors: list[Tensor]) -> dict[str, Any]:
    """Return tensors by the names of a session's inputs, as arrays."""
    names = [argument.name for argument in session.get_inputs()]
    return {name: tensor.contiguous().numpy() for name, tensor in zip(names, tensors, strict=True)}


@dataclass(frozen=True, eq=False)
class Session:
    """Calls a session of ONNX Runtime with tensors."""

    session: Any

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        feeds = feeds_of(self.session, tensors)
        try:
            arrays = self.session.run(None, feeds)
        except Exception as error:
            shapes = [tuple(tensor.shape) for tensor in tensors]
            reason = str(error).splitlines()[0]
            raise InputError(f"ONNX Runtime refuses inputs of shapes {shapes}: {reason}") from error
        return [torch.from_numpy(array) for array in arrays]

    def ready(self, tensors: list[Tensor]) -> Run:
        """Return what runs the session once on these tensors."""
        feeds = feeds_of(self.session, tensors)
        return lambda: self.session.run(None, feeds)
