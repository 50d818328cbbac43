"""Second moments of what a layer's weight is multiplied by, and of that with aims, without the matrix of all patches.

Patches of neighbouring places hold the same numbers. Along one dimension of space, with places t, a stride s and taps i, j
a dilation d apart, the moment of two taps is

    B(i, j) = Σ x[t·s + i·d] x[t·s + j·d]  over 0 ≤ t < T,

and, where π taps are as far as τ places (π·d = τ·s), B(i + π, j + π) is the same sum over τ ≤ t < T + τ. So

    B(i + π, j + π) = B(i, j) + Σ over T ≤ t < T + τ − Σ over 0 ≤ t < τ,

and long sums are taken for the first π taps alone: for a kernel of 64 in a 64th of the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd, prod

import torch
from torch import Tensor

from secateur.structure.patches import PART, Patches

__all__ = ["LayerMoments"]

POINT = Patches((1,), (1,), (1,), (0,), (0,))
"""What a linear layer sees, as a convolution: one place."""

FEW = 2**28
"""How many products of pairs of inputs are cheap in double precision: a tenth of a second."""


@dataclass(frozen=True)
class _Line:
    """The dimension of space along which moments follow from each other.

    Attributes:
        dim: its number.
        taps, stride, gap: the size of the kernel along it, its stride and dilation.
        period: π, the taps whose moments are summed up; all where that is no dearer.
    """

    dim: int
    taps: int
    stride: int
    gap: int
    period: int

    @property
    def shift(self) -> int:
        """τ, how many places a period is."""
        return self.period * self.gap // self.stride

    @classmethod
    def of(cls, patches: Patches, places: Sequence[int]) -> _Line:
        """The dimension that saves most, for so many places of the output along each."""
        lines = []
        for dim, (taps, stride, gap, count) in enumerate(
            zip(patches.kernel, patches.stride, patches.dilation, places, strict=True)
        ):
            period = stride // gcd(stride, gap)
            line = cls(dim, taps, stride, gap, min(period, taps))
            # Products that are summed up, a pair of taps and a place of the line each.
            cost = line.period * taps * count + 2 * line.shift * max(taps - period, 0) ** 2
            whole = taps * taps * count
            lines.append((cost / whole, line) if cost < whole else (1.0, cls(dim, taps, stride, gap, taps)))
        return min(lines, key=lambda item: item[0])[1]


class LayerMoments:
    """Sums over positions and samples of x xᵀ and x tᵀ, x being the inputs of a group as its weight has them, and a 1.

    Args:
        patches: what the convolution sees; None for a linear layer, whose inputs lie along the last dimension.
        groups: of a convolution.
        exact: whether all products are taken in double precision; sums of them are always, and so are the products of
            batches of which there are few.

    >>> moments = LayerMoments(None)
    >>> moments.add(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0], [1.0]]))
    >>> moments.gram().tolist(), moments.cross().tolist()            # the last input is the 1
    ([[[10.0, 14.0, 4.0], [14.0, 20.0, 6.0], [4.0, 6.0, 2.0]]], [[[4.0], [6.0], [2.0]]])
    """

    def __init__(self, patches: Patches | None, groups: int = 1, *, exact: bool = False) -> None:
        self.patches, self.linear, self.groups, self.exact = patches or POINT, patches is None, groups, exact
        self.count = 0
        self._line: _Line | None = None

    def add(self, x: Tensor, aims: Tensor | None = None) -> None:
        """Take in a batch: what the layer reads, and what is wanted of it, in the shape of its outputs."""
        width = x.shape[-1] if self.linear else x.shape[-1 - len(self.patches.kernel)]
        few = x.numel() * width // self.groups * prod(self.patches.kernel) <= FEW
        kind = torch.float64 if self.exact or few else torch.promote_types(x.dtype, torch.float32)
        x, aims = self._maps(x).to(kind), None if aims is None else self._maps(aims).to(kind)
        part = max(1, PART // max(x[0].numel() * prod(self.patches.kernel) // max(self.patches.kernel), 1))
        for start in range(0, len(x), part):
            self._add(x[start : start + part], None if aims is None else aims[start : start + part])

    def _maps(self, x: Tensor) -> Tensor:
        """As a convolution has it, ``(samples, channels, *space)``."""
        if self.linear:
            x = x.reshape(prod(x.shape[:-1]), x.shape[-1], 1)
        return x if x.ndim == len(self.patches.kernel) + 2 else x.unsqueeze(0)

    def _add(self, x: Tensor, aims: Tensor | None) -> None:
        if self._line is None:
            self._begin(x)
        line = self._line
        assert line is not None
        rows = self._rows(x, line)
        places = (rows.shape[1] - (line.taps - 1) * line.gap - 1) // line.stride + 1
        taps = _Taps(rows, line, places)
        self.count += places * rows.shape[2]
        for first in range(line.period):
            inputs = taps[first].mT
            for other in range(first, line.taps):
                self._base[:, first, other] += inputs @ taps[other]
        if line.period < line.taps:
            self._ends += taps.ends()
        for tap in range(line.taps):
            self._sums[:, tap] += taps[tap].sum(1)
        if aims is not None:
            self._take(aims, taps, line)

    def _begin(self, x: Tensor) -> None:
        places = self.patches.windows(x[:1]).shape[2 : 2 + len(self.patches.kernel)]
        self._line = line = _Line.of(self.patches, places)
        inputs = x.shape[1] // self.groups * prod(self.patches.kernel) // line.taps
        double = torch.zeros((), dtype=torch.float64, device=x.device)
        rest = line.taps - line.period
        self._base = double.new_zeros(self.groups, line.period, line.taps, inputs, inputs)
        self._ends = double.new_zeros(self.groups, rest * inputs, rest * inputs)
        self._sums = double.new_zeros(self.groups, line.taps, inputs)
        self._cross: Tensor | None = None

    def _rows(self, x: Tensor, line: _Line) -> Tensor:
        """Patches over all dimensions but the line's: ``(groups, line, samples and other places, inputs)``."""
        space = len(self.patches.kernel)
        windows = torch.unflatten(self.patches.windows(x, line.dim), 1, (self.groups, x.shape[1] // self.groups))
        # (samples, groups, channels, *places, *kernel) → (groups, line, samples, *other places, channels, *kernel)
        others = [3 + dim for dim in range(space) if dim != line.dim]
        kernel = list(range(3 + space, windows.ndim))
        ordered = windows.permute(1, 3 + line.dim, 0, *others, 2, *kernel)
        return ordered.flatten(2, 2 + len(others)).flatten(3).contiguous()

    def _take(self, aims: Tensor, taps: _Taps, line: _Line) -> None:
        space = len(self.patches.kernel)
        split = torch.unflatten(aims, 1, (self.groups, aims.shape[1] // self.groups))
        others = [3 + dim for dim in range(space) if dim != line.dim]
        wanted = split.permute(1, 3 + line.dim, 0, *others, 2).flatten(1, -2)
        if self._cross is None:
            self._cross = self._sums.new_zeros(*self._sums.shape, wanted.shape[2])
            self._aims = self._sums.new_zeros(self.groups, 1, wanted.shape[2])
        for tap in range(line.taps):
            self._cross[:, tap] += taps[tap].mT @ wanted
        self._aims += wanted.sum(1, keepdim=True)

    def gram(self) -> Tensor:
        """Return the sums of x xᵀ, the 1 last: ``(groups, inputs + 1, inputs + 1)``, float64."""
        line = self._line
        assert line is not None
        groups, period, taps, inputs, _ = self._base.shape
        pairs = self._base.new_zeros(groups, taps, taps, inputs, inputs)
        for tap in range(period):
            pairs[:, tap, tap:] = self._base[:, tap, tap:]
        rest = taps - period
        ends = self._ends.view(groups, rest, inputs, rest, inputs).transpose(2, 3)
        for tap in range(period, taps):
            pairs[:, tap, tap:] = pairs[:, tap - period, tap - period : rest] + ends[:, tap - period, tap - period :]
        for tap in range(taps):
            pairs[:, tap + 1 :, tap] = pairs[:, tap, tap + 1 :].mT
        whole = self._ordered(pairs.transpose(2, 3).reshape(groups, taps * inputs, taps * inputs))
        whole = self._ordered(whole.mT)
        sums = self._ordered(self._sums.reshape(groups, -1, 1))
        top = torch.cat([whole, sums], 2)
        last = torch.cat([sums.mT, sums.new_full((groups, 1, 1), self.count)], 2)
        return torch.cat([top, last], 1)

    def cross(self) -> Tensor:
        """Return the sums of x tᵀ, the 1 last: ``(groups, inputs + 1, outputs of a group)``, float64."""
        assert self._cross is not None
        return torch.cat([self._ordered(self._cross.flatten(1, 2)), self._aims], 1)

    def _ordered(self, rows: Tensor) -> Tensor:
        """Rows by tap, channel and the rest of the kernel, put in the order of the weight."""
        line = self._line
        assert line is not None
        others = [size for dim, size in enumerate(self.patches.kernel) if dim != line.dim]
        channels = rows.shape[1] // prod(self.patches.kernel)
        split = rows.reshape(self.groups, line.taps, channels, *others, rows.shape[2])
        return split.movedim(1, 2 + line.dim).flatten(1, -2)


class _Taps:
    """What each tap meets at the places of the line, by tap: ``(groups, places · rows, inputs)``, views."""

    def __init__(self, rows: Tensor, line: _Line, places: int) -> None:
        self.line, self.places, self.width = line, places, rows.shape[2]
        missing = -rows.shape[1] % line.stride
        rows = torch.nn.functional.pad(rows, (0, 0, 0, 0, 0, missing)) if missing else rows
        # Every stride-th place in a row, so that what a tap meets lies without gaps.
        self.phases = [rows[:, phase :: line.stride].flatten(1, 2) for phase in range(line.stride)]

    def __getitem__(self, tap: int) -> Tensor:
        return self.at(tap, 0, self.places)

    def at(self, tap: int, start: int, stop: int) -> Tensor:
        """What a tap meets from one place to another."""
        offset, phase = divmod(tap * self.line.gap, self.line.stride)
        return self.phases[phase][:, (offset + start) * self.width : (offset + stop) * self.width]

    def ends(self) -> Tensor:
        """What the moments gain after the last place and lose at the first ones, by tap and input."""
        line = self.line
        gained, lost = (
            torch.cat([self.at(tap, start, start + line.shift) for tap in range(line.taps - line.period)], 2)
            for start in (self.places, 0)
        )
        return gained.mT @ gained - lost.mT @ lost
