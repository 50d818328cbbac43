"""Two models side by side in all runtimes, here and on a device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.measure import Bench, BenchRow
from secateur.measure.device_folder import SHELL_SCRIPT, calls
from secateur.measure.speed import Spread
from secateur.types import FileError, InputError

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))

# What LiteRT's benchmark_model and ExecuTorch's executor_runner print, from memory, not recorded.
LITERT = """INFO: STARTING!
INFO: Inference timings in us: Init: 5685, First inference: 1853, Warmup (avg): 1446.2, Inference (avg): {us}
INFO: Memory footprint delta from the start of the tool (MB): init=5.1 overall=9.5
"""
EXECUTORCH = "I 00:00:00.045 executorch:executor_runner.cpp:401] Model executed successfully 50 time(s) in {ms} ms."


def model(width: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)).eval()


@pytest.mark.filterwarnings("ignore")
def test_all_installed_runtimes_side_by_side() -> None:
    result = sc.measure.bench(model(2048), model(16), X, threads=[1], repeats=9)
    assert [row.runtime for row in result.rows] == sc.runtimes.available()
    assert result.macs == (8 * 2048 * 74, 8 * 16 * 74)
    for row in result.rows:
        assert not row.problem or row.runtime == "ncnn"  # which takes one sample
        if not row.problem:
            assert row.is_faster
            assert row.bytes[0] is not None
            assert row.bytes[1] is not None
            assert row.bytes[0] > 500_000 > 60_000 > row.bytes[1]
    assert not [words for words in result.verdicts if "NOT" in words]
    assert json.loads(json.dumps(result.to_dict()))["rows"][0]["faster"] is True


def test_memory_is_that_of_a_process_of_its_own() -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install 'secateur[onnx]'")
    if not Path("/proc/self/status").exists():
        pytest.skip("the system does not say how much memory a process takes")
    # 64 MB of weights before, 1 MB after.
    (row,) = sc.measure.bench(model(200_000), model(3000), X, runtimes=["onnxruntime"], threads=[1], repeats=3).rows
    assert row.memory[0] is not None
    assert row.memory[1] is not None
    assert row.memory[0] > 50e6
    assert row.memory[1] < 30e6


def test_it_says_plainly_where_a_cut_is_not_faster() -> None:
    rows = (
        BenchRow("eager", 1, (2.0, 1.0), Spread(2.0, 1.9, 2.1)),
        BenchRow("onnxruntime", 2, (1.0, 1.0), Spread(1.01, 0.9, 1.1)),
        BenchRow("openvino", 1, (1.0, 1.0), Spread(1.2, 0.9, 1.3)),  # within the noise
        BenchRow("ncnn", 1, problem="ncnn has no way to compute aten::lu"),
    )
    result = Bench((400, 100), (9, 3), rows)
    assert result.verdicts == [
        "pruning did NOT speed it up in onnxruntime at 2 threads: 1.01× as fast with 4.00 times fewer multiply–accumulates",
        "pruning did NOT speed it up in openvino at 1 thread: 1.20× as fast with 4.00 times fewer multiply–accumulates",
        "ncnn: ncnn has no way to compute aten::lu",
    ]
    lines = str(result).splitlines()
    assert lines[0] == "MACs 400 → 100 (÷ 4.00), parameters 9 → 3"
    assert lines[-3:] == result.verdicts
    assert len(lines) == 10


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(InputError, match="threads is empty"):
        sc.measure.bench(model(2), model(2), X, runtimes=["eager"], threads=[])
    with pytest.raises(InputError, match="none of the runtimes has files"):
        sc.measure.bundle(model(2), model(2), X, "nowhere", runtimes=["eager"])
    assert not Path("nowhere").exists()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'secateur[onnx]'")
    folder = tmp_path / "phone"
    return sc.measure.bundle(model(256), model(8), X, folder, runtimes=["onnxruntime"], threads=[1], repeats=5)


def _shell(folder: Path, *words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    first = [str(path)] if path else []
    environment = {
        **os.environ,
        "PATH": os.pathsep.join([*first, str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    return subprocess.run(["sh", folder / "bench.sh", *words], env=environment, capture_output=True, text=True)


def test_a_bundle_runs_without_secateur_and_is_read_back(bundle: Path) -> None:
    assert _shell(bundle).returncode == 0
    result = sc.measure.read_bench(bundle / "results.txt")
    (row,) = result.rows
    assert (row.runtime, row.threads, row.problem) == ("onnxruntime", 1, "")
    assert result.macs == (8 * 256 * 74, 8 * 8 * 74)
    assert row.bytes == tuple((bundle / f"{name}-onnxruntime.onnx").stat().st_size for name in ("before", "after"))
    assert row.difference[0] is not None
    assert row.difference[0] < 1e-5
    assert row.ratio is not None


def test_the_tools_of_a_telephone_are_called_and_read(bundle: Path) -> None:
    """Stand-ins print what the tools do, as there is no telephone here; the script that calls them is the real one."""
    bench = json.loads((bundle / "bench.json").read_text())
    entries = [
        {**bench["files"][0], "model": name, "runtime": runtime, "file": f"{name}.{suffix}", "bytes": 10}
        for runtime, suffix in (("litert", "tflite"), ("executorch", "pte"))
        for name in ("before", "after")
    ]
    (bundle / "bench.json").write_text(json.dumps({**bench, "files": entries}))
    (bundle / "bench.sh").write_text(SHELL_SCRIPT + calls({**bench, "files": entries}))
    (bundle / "bench.py").unlink()
    _tool(
        bundle / "benchmark_model",
        f"case $* in *before*) printf '{LITERT.format(us=900)}';; *) printf '{LITERT.format(us=300)}';; esac",
    )
    _tool(bundle / "executor_runner", f"case $* in *before*) echo '{EXECUTORCH.format(ms=100)}';; *) exit 1;; esac")
    assert _shell(bundle).returncode == 0
    litert, executorch = sc.measure.read_bench(bundle / "results.txt").rows
    assert litert.seconds == (0.0009, 0.0003)
    assert litert.ratio == pytest.approx(3)
    assert litert.memory == (9_500_000, 9_500_000)
    assert executorch.problem == "after: the tool failed"


def test_a_bundle_goes_to_a_telephone_and_back(bundle: Path, tmp_path: Path) -> None:
    """`adb` is a stand-in whose device is a folder; what is pushed there runs there."""
    tools, device = tmp_path / "tools", tmp_path / "device"
    tools.mkdir()
    _tool(
        tools / "adb",
        f"""dir={device}
case $1 in
  shell) shift; sh -c "$(echo "$*" | sed "s#/data/local/tmp/secateur#$dir#g")";;
  push) cp "$2" "$dir/";;
  pull) cp "$dir/results.txt" "$3";;
esac""",
    )
    done = _shell(bundle, "--adb", path=tools)
    assert done.returncode == 0, done.stderr
    assert sc.measure.read_bench(bundle / "results.txt").rows[0].runtime == "onnxruntime"
    assert (device / "before-onnxruntime.onnx").exists()


def _tool(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)


def test_damaged_results_are_refused(bundle: Path) -> None:
    results = bundle / "results.txt"
    for content, match in (("", "holds no results"), ('{"model": 3\n', "damaged line")):
        results.write_text(content)
        with pytest.raises(FileError, match=match):
            sc.measure.read_bench(results)
    (bundle / "bench.json").unlink()
    with pytest.raises(FileError, match="leave it in its bundle"):
        sc.measure.read_bench(results)
