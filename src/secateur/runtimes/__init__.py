"""Runtimes: where a model runs, how it gets there, and how it is timed there. One file a runtime."""

from secateur.runtimes.base import Exported, Run, Runtime, Timer
from secateur.runtimes.eager import Eager
from secateur.runtimes.executorch import ExecuTorch
from secateur.runtimes.executorch_int8 import ExecuTorchInt8
from secateur.runtimes.exporting import FileRuntime
from secateur.runtimes.int8 import Int8
from secateur.runtimes.litert import LiteRt
from secateur.runtimes.litert_int8 import LiteRtInt8
from secateur.runtimes.names import RUNTIMES, available, export, is_installed, name_of, timer
from secateur.runtimes.ncnn import Ncnn
from secateur.runtimes.onnx_int8 import OnnxInt8
from secateur.runtimes.onnx_runtime import OnnxRuntime
from secateur.runtimes.openvino import OpenVino
from secateur.runtimes.openvino_int8 import OpenVinoInt8

__all__ = [
    "RUNTIMES",
    "Eager",
    "ExecuTorch",
    "ExecuTorchInt8",
    "Exported",
    "FileRuntime",
    "Int8",
    "LiteRt",
    "LiteRtInt8",
    "Ncnn",
    "OnnxInt8",
    "OnnxRuntime",
    "OpenVino",
    "OpenVinoInt8",
    "Run",
    "Runtime",
    "Timer",
    "available",
    "export",
    "is_installed",
    "name_of",
    "timer",
]
