"""Runtimes: where a model runs, how it gets there, and how it is timed there. One file a runtime."""

from secateur.runtimes.base import Exported, Run, Runtime, Timer
from secateur.runtimes.eager import Eager
from secateur.runtimes.names import RUNTIMES, export, name_of, timer
from secateur.runtimes.onnx_int8 import OnnxInt8
from secateur.runtimes.onnx_runtime import OnnxRuntime

__all__ = [
    "RUNTIMES",
    "Eager",
    "Exported",
    "OnnxInt8",
    "OnnxRuntime",
    "Run",
    "Runtime",
    "Timer",
    "export",
    "name_of",
    "timer",
]
