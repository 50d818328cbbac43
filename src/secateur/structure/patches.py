"""What a convolution sees: the patches of its input, as the rows or columns that its weight is multiplied by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["PART", "Patches"]

PART = 2**23
"""How many entries of patches are made at a time: 32 MB."""


@dataclass(frozen=True)
class Patches:
    """Cuts the input of a convolution into patches, one for each place of its output.

    Attributes:
        kernel, stride, dilation: of the convolution, one number for each dimension of space.
        before, after: how many zeros stand around its input.
        spread: for a transposed convolution, how far its input is spread out with zeros before; None for another.

    >>> patches = Patches.of({"stride": [1], "padding": [0], "dilation": [1]}, (2,))
    >>> [columns[0].T.tolist() for columns in patches.columns(torch.arange(4.0).view(1, 1, 4), groups=1)]
    [[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]]
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    spread: tuple[int, ...] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], kernel: Sequence[int], *, transposed: bool = False) -> Patches:
        """Return the patches of a convolution with these options, as torch's convolutions take them.

        Args:
            options: ``stride``, ``padding`` (also ``"same"`` or ``"valid"``) and ``dilation``, numbers or one for each
                dimension; a transposed convolution's ``output_padding``.
            kernel: the size of the kernel.
            transposed: whether the convolution is transposed; its kernel is to be turned over then.
        """

        def each(name: str, usual: int) -> tuple[int, ...]:
            value = options.get(name, usual)
            values = (value,) if isinstance(value, int) else tuple(value)
            return values * len(size) if len(values) == 1 else values

        size = tuple(kernel)
        stride, dilation, padding = each("stride", 1), each("dilation", 1), options.get("padding", 0)
        span = tuple((width - 1) * gap for width, gap in zip(size, dilation, strict=True))
        if isinstance(padding, str):
            before = tuple(n // 2 if padding == "same" else 0 for n in span)
            after = tuple(n - n // 2 if padding == "same" else 0 for n in span)
            return cls(size, stride, dilation, before, after)
        if not transposed:
            return cls(size, stride, dilation, each("padding", 0), each("padding", 0))
        before = tuple(n - p for n, p in zip(span, each("padding", 0), strict=True))
        after = tuple(n + more for n, more in zip(before, each("output_padding", 0), strict=True))
        return cls(size, (1,) * len(size), dilation, before, after, stride)

    def columns(self, x: Tensor, groups: int) -> Iterator[Tensor]:
        """Yield the patches of a part of the samples at a time: ``(groups, channels in a group · kernel, positions)``."""
        space = len(self.kernel)
        x = x if x.ndim == space + 2 else x.unsqueeze(0)
        samples = max(1, PART // (x[0].numel() * prod(self.kernel)))
        for part in torch.split(x, samples):
            # (samples, channels, *out, *kernel) → (groups, channels in the group · kernel, samples · out)
            whole = self.windows(part).flatten(2, 1 + space).flatten(3)
            split = torch.unflatten(whole, 1, (groups, -1)).permute(1, 2, 4, 0, 3)
            yield split.flatten(3).flatten(1, 2)

    def windows(self, x: Tensor, whole: int | None = None) -> Tensor:
        """Return the patches at all places of the output: ``(samples, channels, *out, *kernel)``.

        Along the dimension of space `whole` nothing is cut into patches: all of it stands there, its zeros too, in the
        place of the output, and the kernel has no such dimension.
        """
        x = _spread_out(x, self.spread) if self.spread is not None else x
        x = pad(x, [n for pair in reversed(list(zip(self.before, self.after, strict=True))) for n in pair])
        for at, (size, step, gap) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            if at != whole:
                x = x.unfold(2 + at, (size - 1) * gap + 1, step)[..., ::gap]
        return x


def _spread_out(x: Tensor, stride: tuple[int, ...]) -> Tensor:
    shape = [(n - 1) * step + 1 for n, step in zip(x.shape[2:], stride, strict=True)]
    wide = x.new_zeros(*x.shape[:2], *shape)
    places: list[slice] = [slice(None), slice(None), *(slice(None, None, step) for step in stride)]
    wide[tuple(places)] = x
    return wide
