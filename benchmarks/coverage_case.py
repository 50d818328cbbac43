"""What every corpus of the coverage benchmark is made of: one model, and how it is made with its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Case", "Made", "image"]

Made = tuple[nn.Module, Any]
"""A model, and its example inputs: a tuple of positional or a mapping of keyword ones."""


@dataclass(frozen=True)
class Case:
    """One model: where it belongs, and what makes it with the inputs that it takes."""

    suite: str
    family: str
    name: str
    make: Callable[[], Made]


def image(size: int, batch: int = 1, channels: int = 3) -> Tensor:
    """Return a batch of random images ``(batch, channels, size, size)``."""
    return torch.randn(batch, channels, size, size)
