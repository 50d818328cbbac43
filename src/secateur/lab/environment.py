"""What a result was computed with: versions, machine, threads, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

__all__ = ["environment", "merged"]


def environment() -> dict[str, str | int | None]:
    """Return what can change a number or a time: versions, machine, threads, and the project's commit.

    The commit is that of the working directory's git project, with ``-dirty`` when files differ from it; None
    where there is no git or no project. Nothing names the user or the host.

    >>> environment()["threads"] > 0
    True
    """
    import torch

    return {
        "secateur": _version("secateur"),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def merged(environments: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return each key with its distinct values, in the order in which they were first seen.

    >>> merged([{"torch": "2.13.0", "threads": 1}, {"torch": "2.13.0", "threads": 2}])
    {'torch': '2.13.0', 'threads': '1, 2'}
    """
    seen: dict[str, dict[str, None]] = {}
    for one in environments:
        for key, value in one.items():
            if value is not None:
                seen.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(values) for key, values in seen.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or None


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
