"""Runtimes by name, with options: `timer` for measuring, `export` for a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn

from secateur.calls import usual
from secateur.checks import check_name
from secateur.runtimes.base import Exported, Exporter, Runtime, Timer
from secateur.runtimes.eager import Eager
from secateur.runtimes.executorch import ExecuTorch
from secateur.runtimes.executorch_int8 import ExecuTorchInt8
from secateur.runtimes.exporting import FileRuntime
from secateur.runtimes.int8 import Int8
from secateur.runtimes.litert import LiteRt
from secateur.runtimes.litert_int8 import LiteRtInt8
from secateur.runtimes.ncnn import Ncnn
from secateur.runtimes.onnx_int8 import OnnxInt8
from secateur.runtimes.onnx_runtime import OnnxRuntime
from secateur.runtimes.openvino import OpenVino
from secateur.runtimes.openvino_int8 import OpenVinoInt8
from secateur.state import check_finite, split_inputs
from secateur.types import ExampleInputs, InputError
from secateur.wrappers import check_module

__all__ = ["RUNTIMES", "available", "export", "is_installed", "name_of", "timer"]

RUNTIMES: Mapping[str, type[Eager | FileRuntime]] = {
    "eager": Eager,
    "onnxruntime": OnnxRuntime,
    "onnxruntime-int8": OnnxInt8,
    "openvino": OpenVino,
    "openvino-int8": OpenVinoInt8,
    "executorch": ExecuTorch,
    "executorch-int8": ExecuTorchInt8,
    "litert": LiteRt,
    "litert-int8": LiteRtInt8,
    "ncnn": Ncnn,
}
"""The runtimes by name: each is a dataclass of its options, and a timer."""


def available() -> list[str]:
    """Return the names of the runtimes whose libraries are installed, in float32.

    >>> available()[0]
    'eager'
    """
    kinds = {n: kind for n, kind in RUNTIMES.items() if issubclass(kind, FileRuntime) and not issubclass(kind, Int8)}
    return ["eager", *filter(is_installed, kinds)]


def is_installed(name: str) -> bool:
    """Return whether the libraries of a runtime of this name are installed.

    Raises:
        UnknownNameError: there is no such runtime.

    >>> is_installed("eager")
    True
    """
    check_name("runtime", name, RUNTIMES)
    kind = RUNTIMES[name]
    return not issubclass(kind, FileRuntime) or all(map(_is_there, kind.libraries))


def _is_there(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except ImportError:  # a package above it is missing
        return False


def timer(runtime: Runtime) -> Timer:
    """Return the timer of a runtime: of a name, with options after a colon, or the function that was given.

    Raises:
        UnknownNameError, InputError: no such runtime, or no such option of it.

    >>> timer("eager:threads=2")
    Eager(threads=2)
    >>> timer("onnx-runtime")
    Traceback (most recent call last):
    ...
    secateur.types.UnknownNameError: unknown runtime 'onnx-runtime'; did you mean 'onnxruntime'? Known: eager, executorch, executorch-int8, litert, litert-int8, ncnn, onnxruntime, onnxruntime-int8, openvino, openvino-int8
    """
    if isinstance(runtime, str):
        name, _, options = runtime.partition(":")
        check_name("runtime", name, RUNTIMES)
        return _with_options(RUNTIMES[name](), runtime, options)
    if isinstance(runtime, type) or not callable(runtime):
        raise InputError(
            f"runtime is {runtime!r}; give the name of one ({', '.join(RUNTIMES)}), with options as in "
            "'onnxruntime:threads=2', or a function of (model, example inputs) that returns what runs the model once, or seconds"
        )
    return runtime


def name_of(runtime: Runtime) -> str:
    """Return what a report calls a runtime: its name, or that of the function.

    >>> name_of("eager:threads=2"), name_of(Eager()), name_of(len)
    ('eager:threads=2', 'Eager(threads=1)', 'len')
    """
    return runtime if isinstance(runtime, str) else getattr(runtime, "__name__", repr(runtime))


def _with_options(default: Eager | FileRuntime, runtime: str, options: str) -> Timer:
    names = [option.name for option in fields(default) if option.type == "int"]
    changes: dict[str, Any] = {}
    for option in filter(None, options.split(",")):
        name, _, value = option.partition("=")
        check_name(f"option of runtime {runtime.partition(':')[0]}", name, names)
        if not value.isdecimal() or int(value) < 1:
            raise InputError(f"runtime {runtime!r}: {name} must be a whole number, 1 or more, as in '{name}=2'")
        changes[name] = int(value)
    return replace(default, **changes)


@usual
def export(
    model: nn.Module,
    example_inputs: ExampleInputs,
    runtime: Runtime,
    file: str | os.PathLike[str] | None = None,
    *,
    dynamic_batch: bool = False,
) -> Exported:
    """Return a model in the form of a runtime, run and compared with torch before, and write it to a file.

    It is exported in evaluation mode, on the CPU, for the shapes of the example; the model itself is left as it is.

    Args:
        model: any module; those that `prune`, `cut` and the others return too.
        example_inputs: a tensor, a tuple of positional inputs, or a dict of keyword inputs. They may be nested, and so may
            the outputs.
        runtime: ``"onnxruntime"`` (an ``.onnx`` file), ``"openvino"`` (``.xml`` and ``.bin``), ``"executorch"`` (``.pte``),
            ``"litert"`` (``.tflite``), ``"ncnn"`` (``.param`` and ``.bin``), or one of these with 8-bit weights
            (``"onnxruntime-int8"`` and so on; with data, such as `secateur.runtimes.OnnxInt8`, everything in 8 bits); threads,
            if given, are those of `Exported.run`.
        file: where to write it, wholly or not at all; None keeps it in memory (`Exported.save` writes it later).
        dynamic_batch: whether the first dimension, of all inputs in which it is as long as the first input's, may be any.

    Raises:
        MissingLibraryError: the runtime's extra is not installed.
        ExportError: torch cannot export the model, or the runtime computes something else; the message says how far.
        FileError: the file cannot be written.
        UnknownNameError, InputError: no such runtime, or one that has no files.
    """
    check_module(model, "export")
    check_finite(model, "export", "train or load it again")
    split_inputs(example_inputs)
    chosen: object = timer(runtime)
    if not isinstance(chosen, Exporter):
        able = ", ".join(name for name, kind in RUNTIMES.items() if issubclass(kind, Exporter))
        raise InputError(f"export: runtime {runtime!r} has no files of its own; give one that has: {able}")
    exported = chosen.export(model, example_inputs, dynamic_batch=dynamic_batch)
    return exported if file is None else replace(exported, file=exported.save(Path(file)))
