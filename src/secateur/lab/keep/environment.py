"""What a result was computed with: versions, machine, threads, commit."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

__all__ = ["environment", "merged"]


def environment(*, executor: str | None = None, worker: str | None = None) -> dict[str, str | int | None]:
    """Return what can change a number or a time: versions, machine, threads, and the project's commit.

    The commit is that of the working directory's git project, with ``-dirty`` when files differ from it; None
    where there is no git or no project. ``machine`` is a digest that tells one machine from another and stays the
    same, so that times are compared with times of the same machine. Nothing names the user or the host.

    Args:
        executor: what runs the cells, such as ``serial`` or ``processes``; left out when None.
        worker: which of its workers, such as ``worker 2``; left out when None.

    >>> environment(executor="serial")["executor"], environment()["threads"] > 0
    ('serial', True)
    """
    import torch

    places = {"executor": executor, "worker": worker}
    return {
        "secateur": _version("secateur"),
        "torch": torch.__version__,
        "numpy": _version("numpy"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory": _memory(),
        "machine": _machine(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
        **{name: value for name, value in places.items() if value is not None},
    }


def merged(environments: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Return each key with its distinct values, in the order in which they were first seen.

    >>> merged([{"torch": "2.13.0", "threads": 1}, {"torch": "2.13.0", "threads": 2}])
    {'torch': '2.13.0', 'threads': '1, 2'}
    """
    by_name: dict[str, dict[str, None]] = {}
    for environment in environments:
        for key, value in environment.items():
            if value is not None:
                by_name.setdefault(key, {})[str(value)] = None
    return {key: ", ".join(values) for key, values in by_name.items()}


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


def _memory() -> str | None:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None
    return f"{size / 2**30:.1f} GiB"


def _machine() -> str:
    """Return eight hex digits for this machine, from which neither its name nor its id can be told."""
    try:
        identity = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        identity = ""
    # Copies of one system image may share an id; their hardware may still tell them apart.
    facts = ("secateur", identity, platform.machine(), _cpu(), os.cpu_count(), _memory())
    return hashlib.sha256(repr(facts).encode("utf-8")).hexdigest()[:8]


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
