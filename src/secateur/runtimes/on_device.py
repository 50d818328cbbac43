"""Runs exported files where they are to run. It needs numpy and the runtime alone, neither torch nor secateur.

A copy of this file is in every bundle of `secateur bench --bundle`, to be started there: ``python3 bench.py``. It reads
``bench.json`` beside it and prints a line of JSON for each file and number of threads.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

Outputs = Callable[[], Any]


def _onnxruntime(file: Path, inputs: list[Any], threads: int) -> Outputs:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    feeds = {argument.name: array for argument, array in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, feeds)


def _openvino(file: Path, inputs: list[Any], threads: int) -> Outputs:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(file, "CPU", options).create_infer_request()
    return lambda: list(request.infer(inputs).values())


def _executorch(file: Path, inputs: list[Any], threads: int) -> Outputs:
    import torch
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(threads)
    content = file.read_bytes()  # which the program reads as it runs
    program = portable_lib._load_for_executorch_from_buffer(content)
    tensors = tuple(torch.from_numpy(array) for array in inputs)

    def run(_: bytes = content) -> Any:
        return [output.numpy() for output in program.forward(tensors)]

    return run


def _litert(file: Path, inputs: list[Any], threads: int) -> Outputs:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(file), num_threads=threads)
    interpreter.allocate_tensors()
    (signature,) = interpreter._get_full_signature_list().values()
    for place, array in enumerate(inputs):
        interpreter.set_tensor(signature["inputs"][f"args_{place}"], array)
    outputs = [signature["outputs"][f"output_{place}"] for place in range(len(signature["outputs"]))]

    def run() -> Any:
        interpreter.invoke()
        return [interpreter.get_tensor(place) for place in outputs]

    return run


def _ncnn(file: Path, inputs: list[Any], threads: int) -> Outputs:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage", "use_bf16_packed"):
        setattr(net.opt, option, False)
    net.load_param(str(file))
    net.load_model(str(file.with_suffix(".bin")))
    mats = [ncnn.Mat(array[0]).clone() for array in inputs]
    names = [f"out{place}" for place in range(len(net.output_names()))]

    def run() -> Any:
        extractor = net.create_extractor()
        for place, mat in enumerate(mats):
            extractor.input(f"in{place}", mat)
        return [extractor.extract(name)[1].numpy() for name in names]

    return run


OPEN = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "executorch": _executorch,
    "litert": _litert,
    "ncnn": _ncnn,
}
LIBRARIES = {"executorch": "executorch.extension.pybindings.portable_lib", "litert": "ai_edge_litert.interpreter"}


def _memory(key: str) -> int | None:
    """A figure of this process's memory in bytes, VmRSS or VmHWM; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(key)), None)


def _forget_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _apart(outputs: list[Any], expected: list[Any]) -> float:
    """The greatest difference over the greatest output."""
    # Flat, as runtimes may leave out dimensions of 1.
    pairs = [
        (np.ravel(a).astype(np.float64), np.ravel(b).astype(np.float64)) for a, b in zip(outputs, expected, strict=True)
    ]
    largest = max((float(np.abs(b).max()) for _, b in pairs), default=0.0)
    return max((float(np.abs(a - b).max()) for a, b in pairs), default=0.0) / (largest or 1.0)


def measured(folder: Path, entry: dict[str, Any], threads: int, repeats: int) -> dict[str, Any]:
    """Run one file, and return its times in seconds, the bytes that it took, and how far it is from torch."""
    with np.load(folder / entry["example"]) as archive:
        inputs = [archive[f"input_{place}"] for place in range(entry["inputs"])]
        expected = [archive[f"output_{place}"] for place in range(entry["outputs"])]
    exact = entry["runtime"].removesuffix("-int8")  # files with whole numbers are opened as the others are
    __import__(LIBRARIES.get(exact, exact))  # what the library itself takes is not the model's
    _forget_peak()
    before = _memory("VmRSS")
    run = OPEN[exact](folder / entry["file"], inputs, threads)
    outputs = [np.array(output) for output in run()]
    peak = _memory("VmHWM")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return {
        **{key: entry[key] for key in ("model", "runtime", "file")},
        "threads": threads,
        "seconds": sorted(seconds),
        "memory": None if peak is None or before is None else max(peak - before, 0),
        "difference": _apart(outputs, expected),
        "machine": platform.machine(),
    }


def main(folder: Path) -> None:
    """Run all files of a bundle, each as long as its library can be imported."""
    bench = json.loads((folder / "bench.json").read_text())
    for entry in bench["files"]:
        for threads in bench["threads"]:
            try:
                line = measured(folder, entry, threads, bench["repeats"])
            except Exception as error:  # noqa: BLE001  (what one runtime lacks says nothing of the others)
                line = {
                    **{key: entry[key] for key in ("model", "runtime", "file")},
                    "threads": threads,
                    "error": str(error),
                }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
