"""Runtimes: where a model runs, how it gets there, and how it is timed there. One file a runtime."""

from secateur.runtimes.base import Exported, Run, Runtime, Timer
from secateur.runtimes.eager import Eager
from secateur.runtimes.executorch import ExecuTorch
from secateur.runtimes.exporting import FileRuntime
from secateur.runtimes.litert import LiteRt
from secateur.runtimes.names import RUNTIMES, available, export, name_of, timer
from secateur.runtimes.ncnn import Ncnn
from secateur.runtimes.onnx_int8 import OnnxInt8
from secateur.runtimes.onnx_runtime import OnnxRuntime
from secateur.runtimes.openvino import OpenVino

__all__ = [
    "RUNTIMES",
    "Eager",
    "ExecuTorch",
    "Exported",
    "FileRuntime",
    "LiteRt",
    "Ncnn",
    "OnnxInt8",
    "OnnxRuntime",
    "OpenVino",
    "Run",
    "Runtime",
    "Timer",
    "available",
    "export",
    "name_of",
    "timer",
]
