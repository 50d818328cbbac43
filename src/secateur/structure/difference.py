"""How far two models' outputs are apart."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.trees import tensors_within

__all__ = ["compared_tensors", "difference", "is_usable"]


def difference(reference: Any, outputs: Any) -> float:
    """Return the greatest absolute difference over the greatest absolute reference value, over all output tensors.

    >>> difference([torch.tensor([1.0, -4.0])], [torch.tensor([1.0, -3.0])])
    0.25
    """
    expected, answers = compared_tensors(reference), compared_tensors(outputs)
    if [t.shape for t in expected] != [t.shape for t in answers]:
        return float("inf")
    return max((_difference(a, b) for a, b in zip(expected, answers, strict=True) if a.numel()), default=0.0)


MARKER = 1e6
"""From this size on, and so many times the others' greatest, a number stands for "masked": the rest is measured by itself."""


def _difference(expected: Tensor, answer: Tensor) -> float:
    same = expected == answer  # infinities included
    if bool(same.all()):
        return 0.0
    expected, answer = _wide(expected), _wide(answer)
    size, others = expected.abs(), float(expected[~same].abs().max())
    scale = float(size.max())
    if scale > MARKER * max(others, 1.0):
        scale = float(size[size * MARKER < scale].max())
    return float((expected - answer)[~same].abs().max()) / max(scale, torch.finfo(torch.float32).tiny)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.complex128) if x.is_complex() else x.double()


def compared_tensors(outputs: Any) -> list[Tensor]:
    """Return the numbers in a model's outputs, whatever holds them, each tensor once.

    A list that a module returns twice is two lists of the same tensors in what its graph returns.

    >>> features = [torch.ones(1)]
    >>> compared_tensors((features, list(features)))
    [tensor([1.])]
    """
    once = {id(tensor): tensor for tensor in tensors_within(outputs)}
    whole = [part for tensor in once.values() for part in (tensor.unbind() if tensor.is_nested else (tensor,))]
    return [tensor for tensor in whole if tensor.dtype is not torch.bool]


def is_usable(outputs: Any) -> bool:
    """Whether outputs hold no NaN, and numbers in every tensor: others prove nothing."""
    return all(
        bool(torch.isfinite(t).any()) and not bool(torch.isnan(t).any()) for t in compared_tensors(outputs) if t.numel()
    )
