"""How much memory the measuring may take, and what fits into it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Budget", "free_memory"]

SHARE = 4
"""The part of the free memory that is taken, as one in so many."""

UNKNOWN = 2 * 2**30
"""Bytes that are taken to be free where the machine does not tell."""

NEAR = 32 * 2**20
"""Bytes of a block of units on a CPU: larger ones leave the caches, and are slower."""


KEPT = 2**30
"""Bytes of activations that are kept between calls unless it is said otherwise."""

CHAIN = 2**31
"""Bytes that a chain of layers takes at most: more is not faster."""

POPULATION = 2**29
"""Bytes that candidates take at a time unless it is said otherwise."""

WIDE = 2**24
"""Bytes of outputs that are made at a time where many masks share a matrix product; more falls out of the cache."""


@dataclass(frozen=True)
class Budget:
    """Memory to work in: one half for what is kept of the whole model, the other for a block of units.

    Attributes:
        total: bytes.
        block: bytes of a block of units, at most.
    """

    total: int
    block: int

    @classmethod
    def of(cls, device: torch.device, max_memory: int | None = None) -> Budget:
        """Return the budget on a device: what is given, or a quarter of what is free.

        >>> Budget.of(torch.device("cpu"), max_memory=1000)
        Budget(total=1000, block=500)
        """
        total = max_memory or max(free_memory(device) // SHARE, 1)
        return cls(total, total // 2 if device.type != "cpu" else min(total // 2, NEAR))

    def samples(self, sample_bytes: float, unit_bytes: float, count: int) -> int:
        """Return how many of `count` samples to take at one time.

        Args:
            sample_bytes: bytes that are kept for each sample.
            unit_bytes: bytes that one unit takes for each sample.
            count: samples at hand.

        >>> Budget(total=1000, block=500).samples(sample_bytes=100, unit_bytes=10, count=60)
        5
        """
        return max(1, min(count, int(self.total / 2 / max(sample_bytes, unit_bytes, 1))))

    def units(self, unit_bytes: float) -> int:
        """Return how many units of so many bytes to take at one time.

        >>> Budget(total=1000, block=500).units(unit_bytes=100)
        5
        """
        return max(1, int(self.block / max(unit_bytes, 1)))


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device, within the limits that the process is held to."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(_available(Path("/proc/meminfo")), _within_limit(Path("/sys/fs/cgroup")))


def _available(meminfo: Path) -> int:
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return UNKNOWN


def _within_limit(group: Path) -> int:
    """What a container's limit leaves; much where there is none."""
    try:
        limit, used = ((group / f"memory.{name}").read_text().strip() for name in ("max", "current"))
        return max(int(limit) - int(used), 0)
    except (OSError, ValueError):
        return sys.maxsize
