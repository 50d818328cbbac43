"""A folder to carry to a telephone or a board: files, what runs them there, and what is read back."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.checks import in_one_line
from secateur.files import MALFORMED, from_json, read_text, write_bytes, write_text
from secateur.runtimes import on_device
from secateur.runtimes.base import Exported
from secateur.runtimes.exporting import on_cpu
from secateur.state import evaluating, split_inputs
from secateur.types import ExampleInputs, FileError

__all__ = ["FILE", "SCRIPT", "SHELL_SCRIPT", "calls", "read_results", "write_bundle"]

FILE, SCRIPT, SHELL, RESULTS = "bench.json", "bench.py", "bench.sh", "results.txt"

TOOLS = {"litert": "benchmark_model", "executorch": "executor_runner"}
"""The program that times a runtime's files on a device without Python."""

HEADER = re.compile(r"^## model=(\S+) runtime=(\S+) file=(\S+) threads=(\d{1,9})$")
NUMBER = r"\d{1,15}(?:\.\d{1,15})?(?:e[+-]?\d{1,2})?(?![\d.e])"
LITERT_TIMES = re.compile(rf"Inference timings in us:.*Inference \(avg\): ({NUMBER})")
LITERT_MEMORY = re.compile(rf"Memory footprint delta from the start of the tool \(MB\):.*overall=({NUMBER})")
EXECUTORCH_TIMES = re.compile(rf"Model executed successfully (\d{{1,9}}) time\(s\) in ({NUMBER}) ms")

SHELL_SCRIPT = """#!/bin/sh
# Times the files of this folder and writes results.txt, which `secateur bench --read results.txt` shows.
#   ./bench.sh            here: with python3 if it is there, and with the tools that lie in this folder
#   ./bench.sh --adb      on the Android device that adb finds; put the tools for it into this folder before
# Tools: benchmark_model (LiteRT), executor_runner (ExecuTorch), for the device's processor.
set -u
cd "$(dirname "$0")" || exit 1
device=/data/local/tmp/secateur
if [ "${1:-}" = "--adb" ]; then
  adb shell mkdir -p "$device" || exit 1
  for file in *; do [ "$file" = results.txt ] || adb push "$file" "$device/" >/dev/null || exit 1; done
  adb shell "cd $device && chmod +x bench.sh && for tool in benchmark_model executor_runner; do [ -f \\$tool ] && chmod +x \\$tool; done; sh bench.sh"
  adb pull "$device/results.txt" results.txt
  exit
fi
: > results.txt
echo "## machine=$(uname -m)" >> results.txt
if command -v python3 >/dev/null 2>&1; then python3 bench.py >> results.txt 2>/dev/null; fi
run() { # model runtime file threads tool arguments...
  model=$1 runtime=$2 file=$3 threads=$4 tool=$5; shift 5
  [ -x "./$tool" ] || return 0
  echo "## model=$model runtime=$runtime file=$file threads=$threads" >> results.txt
  "./$tool" "$@" >> results.txt 2>&1 || echo "## failed" >> results.txt
}
"""

COMMANDS = {
    "litert": "--graph={file} --num_threads={threads} --num_runs={repeats}",
    "executorch": "--model_path={file} --cpu_threads={threads} --num_executions={repeats}",
}


def write_bundle(
    folder: Path,
    models: Mapping[str, nn.Module],
    exported: Mapping[str, Sequence[Exported]],
    example_inputs: ExampleInputs,
    *,
    threads: Sequence[int],
    repeats: int,
    notes: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder that measures exported models on another machine, and return it.

    It holds the files, the example with what torch answers to it, and two scripts: ``bench.py`` for a machine with Python
    and the runtime, ``bench.sh`` for one with the runtimes' own tools, over ``adb`` if need be.

    Args:
        folder: where; files of the same names are written anew.
        models: by name, such as before and after.
        exported: their files, by the same names.
        example_inputs: what they take.
        threads, repeats: how they are to be timed there.
        notes: what is to be known when the results are read.

    Raises:
        FileError: it cannot be written.
    """
    entries = []
    for name, model in models.items():
        for export in exported[name]:
            file = f"{name}-{export.runtime}{export.suffix}"
            export.save(folder / file)
            example = f"{name}.npz"
            inputs, outputs = _write_example(folder / example, model, export, example_inputs)
            counts = {"example": example, "inputs": inputs, "outputs": outputs, "bytes": export.size}
            entries.append({"model": name, "runtime": export.runtime, "file": file, **counts})
    bench = {"files": entries, "threads": list(threads), "repeats": repeats, "notes": dict(notes or {})}
    write_text(folder / FILE, json.dumps(bench, indent=1))
    write_text(folder / SHELL, SHELL_SCRIPT + calls(bench))
    (folder / SHELL).chmod(0o755)
    shutil.copyfile(on_device.__file__, folder / SCRIPT)
    return folder


def _write_example(file: Path, model: nn.Module, exported: Exported, example_inputs: ExampleInputs) -> tuple[int, int]:
    """Write what a model takes and answers, and return how many tensors each is."""
    cpu_model, (args, kwargs) = on_cpu(model, split_inputs(example_inputs))
    inputs = exported.interface.flat(args, kwargs)
    with evaluating(cpu_model), torch.no_grad():
        outputs = [leaf for leaf in pytree.tree_leaves(cpu_model(*args, **kwargs)) if isinstance(leaf, Tensor)]
    arrays: dict[str, Any] = {f"input_{place}": tensor.numpy() for place, tensor in enumerate(inputs)}
    arrays |= {f"output_{place}": tensor.detach().numpy() for place, tensor in enumerate(outputs)}
    written = io.BytesIO()
    np.savez(written, **arrays)
    write_bytes(file, written.getvalue())
    return len(inputs), len(outputs)


def calls(bench: Mapping[str, Any]) -> str:
    """Return the lines of the shell script that run the runtimes' own tools."""
    lines = []
    for entry in bench["files"]:
        exact = entry["runtime"].removesuffix("-int8")
        if exact not in TOOLS:
            continue
        for threads in bench["threads"]:
            options = COMMANDS[exact].format(file=entry["file"], threads=threads, repeats=bench["repeats"])
            words = [entry["model"], entry["runtime"], entry["file"], threads, TOOLS[exact], options]
            lines.append(" ".join(["run", *map(str, words)]))
    return "\n".join([*lines, ""])


def read_results(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return a bundle's notes, and what ``bench.sh`` or ``bench.py`` wrote on a device.

    That is a mapping for each file and number of threads: model, runtime, file, threads, bytes, and seconds (the median, or
    the mean that a tool says), memory and difference, or an error.

    Raises:
        FileError: it cannot be read, or there is nothing in it.
    """
    try:
        lines = read_text(file, errors="replace").splitlines()
        bench = from_json(read_text(file.with_name(FILE)))
        notes, sizes = dict(bench["notes"]), {entry["file"]: entry["bytes"] for entry in bench["files"]}
    except (OSError, *MALFORMED) as error:
        raise FileError(
            f"cannot read {file} with the {FILE} beside it: {in_one_line(error)}; leave it in its bundle"
        ) from error
    results: list[dict[str, Any]] = []
    for line in lines:
        if line.startswith("{"):
            results.append(_from_python(line, file))
        elif header := HEADER.match(line):
            model, runtime, name, threads = header.groups()
            results.append({"model": model, "runtime": runtime, "file": name, "threads": int(threads)})
        elif results:
            results[-1] |= _from_tool(line)
    if not results:
        raise FileError(f"{file} holds no results; give the results.txt that bench.sh wrote, or what bench.py printed")
    for result in results:
        if "seconds" not in result:
            result.setdefault("error", "the tool said no time")
    return notes, [{"bytes": sizes.get(result["file"]), **result} for result in results]


def _from_python(line: str, file: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = from_json(line)
        if result.get("seconds"):
            result["seconds"] = median(result["seconds"])
        return {**result, "model": str(result["model"]), "file": str(result["file"])}
    except MALFORMED as error:
        raise FileError(f"{file} has a damaged line: {in_one_line(error)}; run bench.sh again") from error


def _from_tool(line: str) -> dict[str, Any]:
    """What a line of a runtime's own tool says.

    >>> _from_tool("Inference timings in us: Init: 5685, First inference: 185, Warmup (avg): 144.3, Inference (avg): 145.5")
    {'seconds': 0.0001455}
    >>> _from_tool("Model executed successfully 10 time(s) in 45.000000 ms.")
    {'seconds': 0.0045}
    """
    if match := LITERT_TIMES.search(line):
        return {"seconds": round(1e-6 * float(match[1]), 12)}
    if match := LITERT_MEMORY.search(line):
        return {"memory": int(1e6 * float(match[1]))}
    if match := EXECUTORCH_TIMES.search(line):
        return {"seconds": float(match[2]) / 1e3 / max(int(match[1]), 1)}
    return {"error": "the tool failed"} if line == "## failed" else {}
