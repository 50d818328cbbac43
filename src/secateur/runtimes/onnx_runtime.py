"""ONNX Runtime: files that run in many languages, on one CPU thread often twice to four times as fast as eager PyTorch."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.files import require
from secateur.runtimes.base import Exported, Run
from secateur.runtimes.inputs import batch_size_of, with_batch_size
from secateur.runtimes.interface import Interface
from secateur.runtimes.verify import check_runnable, compare, noisy
from secateur.state import device_of, evaluating, split_inputs
from secateur.types import ExampleInputs, ExportError, InputError
from secateur.untouched import copied

__all__ = ["EXTRA", "OnnxRuntime", "Session", "feeds_of", "open_session", "silent"]

EXTRA = "onnx"
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")
LARGEST = 2**31 - 1
"""How many bytes one ONNX file can hold (it is a protocol buffer)."""

Call = Callable[[list[Tensor]], list[Tensor]]


@dataclass(frozen=True)
class OnnxRuntime:
    """Exports models to ONNX, and times them in ONNX Runtime on the CPU.

    Attributes:
        threads: of the CPU, within an op; ops run one after the other.
    """

    threads: int = 1

    def __call__(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs the exported model once, on the example; it was compared with torch before.

        Raises:
            MissingLibraryError, ExportError, InputError: see `secateur.export`.
        """
        exported = self.export(model, example_inputs)
        tensors = exported.interface.flat(*split_inputs(example_inputs))
        session = exported.call.session  # type: ignore[attr-defined]
        feeds = feeds_of(session, tensors)
        return lambda: session.run(None, feeds)

    def quick(self, model: nn.Module, example_inputs: ExampleInputs) -> Run:
        """Return what runs a model once: written by torch's older exporter, in a tenth of the time, not compared."""
        require("onnxruntime", EXTRA)  # the others take a second to import, and are not needed
        on_cpu, (args, kwargs) = _on_cpu(model, split_inputs(example_inputs))
        written: Any = io.BytesIO()
        try:
            with silent():
                torch.onnx.export(on_cpu, args, written, kwargs=kwargs, dynamo=False, verbose=False)
            session = open_session(written.getvalue(), self.threads)
            feeds = feeds_of(session, [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])
            session.run(None, feeds)
        except Exception:  # noqa: BLE001  (it takes fewer models, and is to be removed from torch in one way or another)
            return self(model, example_inputs)
        return lambda: session.run(None, feeds)

    def export(self, model: nn.Module, example_inputs: ExampleInputs, *, dynamic_batch: bool = False) -> Exported:
        """Return the model in ONNX, once it was run and compared with torch; see `secateur.export`."""
        for library in LIBRARIES:
            require(library, EXTRA)
        example = _twice(example_inputs) if dynamic_batch else example_inputs
        on_cpu, (args, kwargs) = _on_cpu(model, split_inputs(example))
        with evaluating(on_cpu):
            expected = on_cpu(*args, **kwargs)
            interface = Interface.of(args, kwargs, expected)
            check_runnable(interface.flat(args, kwargs), expected)
            content = _onnx(on_cpu, args, kwargs, batch_size_of(example) if dynamic_batch else None)
            exported = Exported("onnxruntime", content, 0.0, interface, Session(open_session(content, self.threads)))
            samples = [example_inputs, example, noisy(example_inputs)]
            difference = max(compare(on_cpu, exported, split_inputs(s)) for s in samples if s is not None)
        return replace(exported, difference=difference, suffix=".onnx")

    def on_one_thread(self, model: nn.Module) -> bool:
        """Whether all of the work is done by one thread of this process, so that its processor time is the time."""
        return self.threads == 1


def _twice(example_inputs: ExampleInputs) -> ExampleInputs:
    """One sample more than the example has: torch takes a size of 1 for a constant."""
    return with_batch_size(example_inputs, batch_size_of(example_inputs) + 1)


def _on_cpu(
    model: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
    inputs = pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().cpu(), inputs)
    return (model if device_of(model).type == "cpu" else copied(model).cpu()), inputs


def _onnx(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int | None) -> bytes:
    """The bytes of the ONNX file."""
    shapes = None if batch is None else _dynamic_shapes(model, args, kwargs, batch)
    try:
        with silent(), _registry_kept():
            program: Any = torch.onnx.export(
                model, args, kwargs=dict(kwargs), dynamo=True, verbose=False, dynamic_shapes=shapes
            )
            assert program is not None
            proto = program.model_proto
    except Exception as error:
        raise ExportError(_unexported(error, batch)) from error
    if proto.ByteSize() > LARGEST:
        raise ExportError(f"export: the model takes {proto.ByteSize():,} bytes, and one ONNX file holds 2 GiB at most")
    content: bytes = proto.SerializeToString()
    return content


def _unexported(error: Exception, batch: int | None) -> str:
    """What to say of a model that torch does not export: its own first reason, and what to do."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = next((line.strip() for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    dynamic = "; or leave out dynamic_batch" if batch is not None else ""
    return (
        f"export: torch cannot write this model as ONNX: {reason}. Try torch.export.export on it, whose message names "
        f"the line of the model{dynamic}"
    )


def _dynamic_shapes(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], batch: int) -> Any:
    """For every tensor that has the batch as its first dimension, that it may be any."""
    size = torch.export.Dim("batch")
    named = inspect.signature(model.forward).bind(*args, **kwargs).arguments

    def shape(leaf: Any) -> dict[int, Any] | None:
        return {0: size} if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == batch else None

    return {name: pytree.tree_map(shape, value) for name, value in named.items()}


@contextmanager
def silent() -> Iterator[None]:
    """Keep what torch's exporter says of its own workings to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
