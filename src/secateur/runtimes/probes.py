"""Which numbers of units a runtime likes on this processor: learnt by timing small layers, once a process."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from secateur import state
from secateur.randomness import private_draws
from secateur.runtimes.base import Runtime
from secateur.runtimes.exporting import FileRuntime
from secateur.runtimes.names import timer
from secateur.runtimes.onnx_runtime import LIBRARIES
from secateur.runtimes.timing import Prepared, in_turns, prepared, threads_of
from secateur.types import MissingLibraryError

__all__ = ["Kind", "installed", "liked_multiple"]

CANDIDATES = (1, 4, 8, 16)
"""Multiples that are tried, below one that is taken for as good as any."""

FELT = 0.5
"""A step in width is felt if it saves this part of the time that it should."""

WORTH = 0.65
"""Half of the narrowest layer must save this part of its share of the work, or the layer fills one block and stays whole."""

DEARER = 0.5
"""If twice the width, and four times the work, takes less than this part more time, it is calls that are timed."""

MATTERS = 0.1
"""Where half of a layer's units, or 32, save less than this part of its time, no rounding does anything for it."""

WIDTHS = (16, 32, 64, 128)
"""Widths at which a kind of layer is tried: what kernels make of their last, partly filled block depends on them."""

ODD = 3
"""The odd width that stands for all is so many units below the whole: one unit less could not be told apart."""

UNMEASURED = 8
"""What is taken where a timer of the user's does not time a small layer, or a runtime has no quick way to time many."""

WORK = 4e6
"""About how many multiply-accumulates a small layer has for each sample."""

SECONDS = 0.3
"""About how long the widths of a kind are timed."""


@dataclass(frozen=True)
class Kind:
    """A kind of layer: its kernel (none for a linear one), about how wide it is, whether it has many rows, and its device."""

    kernel: tuple[int, ...]
    width: int
    many: bool = False
    device: str = "cpu"

    @classmethod
    def of(cls, kernel: tuple[int, ...], units: int, rows: int, device: str = "cpu") -> Kind:
        """Return the kind of a layer of so many units that is applied at so many places."""
        about = units if units < WIDTHS[-1] else units // 2  # what is left of wide layers is tried
        width = max((width for width in WIDTHS if width <= about), default=WIDTHS[0])
        return cls(tuple(min(size, 3) for size in kernel), width, not kernel and rows >= 16, device)

    def probe(self, width: int) -> tuple[nn.Module, Tensor]:
        """Return three layers of this kind and width in a row, and an input."""
        with private_draws(0):
            if not self.kernel:
                linear = [nn.Linear(width, width) for _ in range(3)]
                return _in_row(linear), torch.randn(64 if self.many else 1, width)
            make: Any = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(self.kernel)]
            padding = tuple(size // 2 for size in self.kernel)
            layers = [make(width, width, self.kernel, padding=padding) for _ in range(3)]
            places = WORK / (self.width**2 * torch.tensor(self.kernel).prod().item())
            side = min(max(round(places ** (1 / len(self.kernel))), 2), 32)
            return _in_row(layers), torch.randn(1, width, *[side] * len(self.kernel))


def _in_row(layers: list[Any]) -> nn.Module:
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).eval()


def installed(device: str = "cpu") -> list[str]:
    """Return the names of the runtimes that can be used here for a model on a device."""
    others = ["onnxruntime"] if device == "cpu" and all(find_spec(library) for library in LIBRARIES) else []
    return ["eager", *others]


_learnt: dict[tuple[Hashable, Kind], int] = {}


def liked_multiple(runtime: Runtime, kind: Kind) -> int:
    """Return the smallest multiple of units by which a layer of a kind can be made narrower so that it is felt.

    Kernels work on blocks of units, of which the last is as dear partly filled as full. So layers of several widths are
    timed in turns: W, of whole blocks, and W − m for the multiples m = 1, 4, 8, 16, 32 (half of W at most). The largest
    gives what a unit less should save; a smaller multiple is taken if it, and every one above it, saves half of that. Where
    half of a layer of 16 saves much less than its share of the work, as it fills one block, it is 16.

    Raises:
        MissingLibraryError: the runtime is not installed.
    """
    chosen = timer(runtime)
    key = (chosen if isinstance(chosen, Hashable) else id(chosen), kind)
    if key not in _learnt:
        if isinstance(chosen, FileRuntime) and not hasattr(chosen, "quick"):
            return UNMEASURED
        try:
            _learnt[key] = _measured(runtime, kind)
        except MissingLibraryError:
            raise
        except Exception:  # noqa: BLE001  (a timer of the user's may take no model but his own)
            _learnt[key] = UNMEASURED
    return _learnt[key]


def _measured(runtime: Runtime, kind: Kind) -> int:
    width, best = kind.width, min(32, kind.width // 2)
    removals = {multiple: max(multiple, ODD) for multiple in CANDIDATES if multiple < best}
    seconds = _seconds(runtime, kind, [width, width - best, *(width - removed for removed in removals.values())])
    saved = {other: 1 - seconds[other] for other in seconds}
    if width == WIDTHS[0] and saved[width - best] < WORTH * (1 - (1 - best / width) ** 2):
        twice = _seconds(runtime, kind, [width, 2 * width])[2 * width]
        return width if twice > 1 + DEARER else 1
    if saved[width - best] < MATTERS:
        return 1
    a_unit, good = saved[width - best] / best, best
    for multiple, removed in reversed(removals.items()):
        if saved[width - removed] < FELT * a_unit * removed:
            break
        good = multiple
    return good


def _seconds(runtime: Runtime, kind: Kind, widths: list[int]) -> dict[int, float]:
    """The time of each width, over that of the first."""
    chosen = timer(runtime)
    with state.threads(threads_of(chosen)), torch.no_grad():
        probes = {str(width): _prepared(chosen, kind, width) for width in widths}
        first = in_turns(probes, warmup=1, repeats=3)
        taken = sum(min(times) for times in first.wall.values())
        repeats = min(max(round(SECONDS / max(taken, 1e-9)), 7), 99)
        times = in_turns(probes, warmup=0, repeats=repeats)
    return {width: 1 / times.ratio(str(width)) for width in widths}


def _prepared(chosen: Any, kind: Kind, width: int) -> Prepared:
    model, example = kind.probe(width)
    return prepared(chosen, model.to(kind.device), example.to(kind.device), quick=True)
