"""The bench's folder on an Arm processor that qemu emulates: its script runs there whole, and what it writes is read back.

Debian's qemu-user-static is needed; the shell, Python and ONNX Runtime for Arm come from the sources that apt and pip have
here. `SECATEUR_ARM=FOLDER` keeps them for the next time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
from torch import nn

import secateur as sc

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of the exporter's own

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
PACKAGES = ("python3", "libstdc++6", "coreutils", "dash")
WHEELS = ("onnxruntime==1.20.1", "numpy<2.3")
"""ONNX Runtime 1.31 crashes under qemu 7.2."""

PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def fetched(command: Sequence[str], folder: Path) -> None:
    """Run what fetches something; where that is out of reach, there is nothing to test with."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last_line = (done.stderr.strip().splitlines() or ["it says no reason"])[-1]
        pytest.skip(f"what runs on Arm cannot be fetched by {Path(command[0]).name}: {last_line}")


def system(folder: Path) -> Path:
    """Lay out Debian's packages for Arm in a folder, without installing any: the root that qemu looks into."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (folder / "apt" / part).mkdir(parents=True)
    (folder / "apt" / "status").touch()
    places = {"State": "state", "State::status": "status", "Cache": "cache"}
    apt = ["apt-get", "-q", "-o", "APT::Architecture=arm64", "-o", "APT::Architectures=arm64"]
    apt += [word for key, part in places.items() for word in ("-o", f"Dir::{key}={folder / 'apt' / part}")]
    fetched([*apt, "update"], folder)
    fetched([*apt, "-y", "--download-only", "--no-install-recommends", "install", *PACKAGES], folder)
    root = folder / "root"
    for package in (folder / "apt" / "cache" / "archives").glob("*.deb"):
        subprocess.run(["dpkg", "--extract", package, root], check=True)
    for name in ("bin", "lib"):
        if not (root / name).exists():  # newer releases have all below /usr
            (root / name).symlink_to(f"usr/{name}")
    return root


def libraries(folder: Path, python: Path) -> Path:
    """Unpack ONNX Runtime and numpy for Arm."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", "wheels"]
    pip += [f"--platform={name}" for name in PLATFORMS]
    fetched([*pip, f"--python-version={python.name.removeprefix('python')}", *WHEELS], folder)
    for wheel in (folder / "wheels").glob("*.whl"):
        ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def programs(folder: Path) -> Path:
    """Write what starts the programs for Arm by their usual names, and return the folder of it."""
    root = system(folder)
    (python,) = (root / "usr" / "bin").glob("python3.*[0-9]")
    site = libraries(folder, python)
    started = folder / "programs"
    started.mkdir()
    binaries = {"python3": python, "dirname": root / "usr" / "bin" / "dirname"}
    binaries |= {name: root / "bin" / name for name in ("dash", "uname")}
    for name, binary in binaries.items():
        assert binary.exists()
        script = started / name
        script.write_text(f'#!/bin/sh\nexec "{QEMU}" -L "{root}" -E PYTHONPATH="{site}" "{binary}" "$@"\n')
        script.chmod(0o755)
    return started


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs for Arm."""
    if QEMU is None:
        pytest.skip("no qemu-aarch64 here, which emulates Arm: install Debian's qemu-user-static")
    missing = [name for name in ("apt-get", "dpkg") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)} here, which fetch Debian's programs for Arm")
    kept = os.environ.get("SECATEUR_ARM")
    folder = Path(kept).resolve() if kept else tmp_path_factory.mktemp("arm")
    return folder / "programs" if (folder / "programs" / "dirname").exists() else programs(folder)


class Net(nn.Module):
    """Two inputs; a convolution, a pool and a linear layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.head = nn.Conv2d(3, width, 3), nn.Linear(width + 4, 10)

    def forward(self, x: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.cat([torch.relu(self.convolution(x)).mean((2, 3)), more], 1))
        return y


def test_the_folder_runs_on_arm_and_is_read_back_here(arm: Path, tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(library, reason=f"{library} is not installed: pip install 'secateur[onnx]'")
    inputs = torch.randn(1, 3, 12, 12), torch.randn(1, 4)
    names = ["onnxruntime", "onnxruntime-int8"]
    folder = sc.measure.bundle(Net(64), Net(8), inputs, tmp_path / "phone", runtimes=names, threads=[1], repeats=3)
    done = subprocess.run([arm / "dash", folder / "bench.sh"], env={"PATH": str(arm)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (folder / "results.txt").read_text().splitlines()
    assert lines[0] == "## machine=aarch64"
    assert {json.loads(line)["machine"] for line in lines if line.startswith("{")} == {"aarch64"}
    result = sc.measure.read_bench(folder / "results.txt")
    assert [(row.runtime, row.problem) for row in result.rows] == [(name, "") for name in names]
    exact, rounded = result.rows
    for row in result.rows:
        assert all(seconds is not None and seconds > 0 for seconds in row.seconds)
        assert all(count is not None and count > 1000 for count in row.bytes)
    assert all(apart is not None and apart < 1e-5 for apart in exact.difference)
    assert all(apart is not None and 1e-5 < apart < 0.1 for apart in rounded.difference)
