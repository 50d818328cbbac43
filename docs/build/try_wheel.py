"""Look into the wheel, install it into an environment of its own, and prune a model there: `python docs/build/try_wheel.py dist`.

The environment borrows the libraries of the Python that runs this, so that nothing is downloaded, but not this working copy.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

TRIAL = """
import secateur, torch
from torch import nn
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
small = secateur.prune(model, torch.zeros(1, 8), criterion="l2", sparsity=0.5, latency=False).model
assert small[0].out_features == 8
print(secateur.__version__, secateur.__file__)
"""
BESIDES = ("secateur/", "secateur-")


def check_content(wheel: Path) -> None:
    """Refuse a wheel with anything but the package and what describes it, without its data, or without its types."""
    names = zipfile.ZipFile(wheel).namelist()
    strangers = [name for name in names if not name.startswith(BESIDES) or "/tests/" in name or "zoo" in name]
    if strangers:
        raise SystemExit(f"{wheel.name} holds what does not belong there: {', '.join(strangers[:5])}")
    for needed in ("secateur/py.typed", "secateur/lab/show/templates/report.js"):
        if needed not in names:
            raise SystemExit(f"{wheel.name} lacks {needed}")
    print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size:,} bytes")


def install_and_try(wheel: Path, folder: Path) -> None:
    """Install the wheel alone, and prune a model and ask for the version with it."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    borrowed = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    question = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.check_output(question, text=True).strip()
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join([own, *borrowed])}
    printed = subprocess.check_output([python, "-W", "error", "-c", TRIAL], env=surroundings, cwd=folder, text=True)
    if str(folder) not in printed:
        raise SystemExit(f"another secateur than that of the wheel was tried: {printed}")
    subprocess.run([folder / "bin" / "secateur", "--version"], env=surroundings, cwd=folder, check=True)


def main(dist: Path) -> None:
    """Try the newest wheel of a folder."""
    wheel = max(dist.glob("*.whl"), key=lambda file: file.stat().st_mtime).resolve()
    check_content(wheel)
    with tempfile.TemporaryDirectory() as folder:
        install_and_try(wheel, Path(folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
