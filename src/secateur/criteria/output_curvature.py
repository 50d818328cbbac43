"""The curvature of a sample's loss at its outputs, as vectors whose outer products add up to it: all, or random ones."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt
from typing import Any

import torch
from torch import Generator, Tensor

from secateur.criteria.second_order import roots
from secateur.losses import IGNORED, is_plain_cross_entropy
from secateur.types import InputError, Loss

__all__ = ["curvature_roots", "random_roots"]

MANY = 64
"""Outputs of a sample, above which all vectors of its curvature are too many."""


def curvature_roots(
    outputs: Tensor, targets: Any, loss: Loss, most: int, generator: Generator, doing: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield at most `most` vectors of the outputs' shape, with their signs.

    The signed outer products of a sample's vectors add up to the Hessian of its loss at its outputs: exactly where it
    has no more than `most` outputs, else on average over the draws (Hutchinson, 1989).

    Raises:
        InputError: there are more outputs, and the loss ties them in a way that is not known.

    >>> import torch.nn.functional as F
    >>> generator = torch.Generator().manual_seed(0)
    >>> draws = curvature_roots(torch.zeros(1, 3), torch.zeros(1, 3), F.mse_loss, 2, generator, "draw")
    >>> [vector.square() for vector, _ in draws]       # ⅔, half by each
    [tensor([[0.3333, 0.3333, 0.3333]]), tensor([[0.3333, 0.3333, 0.3333]])]
    """
    if outputs[0].numel() <= most:
        yield from roots(outputs, targets, loss)
    else:
        yield from _of_many(outputs, targets, loss, most, generator, doing)


def _of_many(
    outputs: Tensor, targets: Any, loss: Loss, count: int, generator: Generator, doing: str
) -> Iterator[tuple[Tensor, Tensor]]:
    if is_plain_cross_entropy(loss):
        yield from _of_classes(outputs, targets, count, generator)
    else:
        yield from _of_separate_outputs(outputs, targets, loss, count, generator, doing)


def random_roots(
    outputs: Tensor, targets: Any, loss: Loss, generator: Generator, doing: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a random vector u for each sample, with a sign: on average the signed u uᵀ add up to the Hessian at its outputs.

    Samples' vectors are drawn independently, so that on average the outer product of their sum is the sum of theirs, too.
    There are two such draws where the loss bends down somewhere.

    >>> import torch.nn.functional as F
    >>> generator = torch.Generator().manual_seed(0)
    >>> [vector.square() for vector, _ in random_roots(torch.zeros(1, 2), torch.zeros(1, 2), F.mse_loss, generator, "draw")]
    [tensor([[1., 1.]])]
    """
    if is_plain_cross_entropy(loss) or outputs[0].numel() > MANY:
        yield from _of_many(outputs, targets, loss, 1, generator, doing)
        return
    up, down = torch.zeros_like(outputs), torch.zeros_like(outputs)
    for vector, sign in roots(outputs, targets, loss):
        # One random sign for each sample and vector: E ε εᵀ = I, so mixed products vanish on average.
        signed = vector * _signs(outputs.flatten(1)[:, 0], generator).reshape(-1, *[1] * (outputs.ndim - 1))
        bends_up = sign.reshape(-1, *[1] * (outputs.ndim - 1)) > 0
        up, down = up + signed * bends_up, down + signed * ~bends_up
    for total, sign in ((up, 1.0), (down, -1.0)):
        if bool(total.any()):
            yield total, outputs.new_tensor(sign)


def _signs(outputs: Tensor, generator: Generator) -> Tensor:
    return (torch.randint(2, outputs.shape, generator=generator) * 2 - 1).to(outputs)


def _of_classes(outputs: Tensor, targets: Tensor, count: int, generator: Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws for the cross-entropy, whose Hessian is the sum over classes of p (e − p)(e − p)ᵀ at each place."""
    chances = outputs.softmax(1)
    # The loss is a mean over all places of all samples that count.
    counted = targets != IGNORED if targets.ndim < outputs.ndim else torch.ones_like(targets[:, 0], dtype=torch.bool)
    scale = counted.unsqueeze(1) * (len(outputs) / counted.sum().clamp(min=1) / count).sqrt()
    # H = B Bᵀ with columns √p_c (e_c − p), and B ε = √p ∘ ε − p Σ_c √p_c ε_c for random signs ε, of which E ε εᵀ = I.
    for _ in range(count):
        weighted_signs = chances.sqrt() * _signs(outputs, generator)
        yield scale * (weighted_signs - chances * weighted_signs.sum(1, keepdim=True)), outputs.new_ones(())


def _of_separate_outputs(
    outputs: Tensor, targets: Any, loss: Loss, count: int, generator: Generator, doing: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Draws where the Hessian is diagonal, as that of every loss that is a sum over the outputs."""
    with torch.enable_grad():
        leaf = outputs.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss(leaf, targets) * len(outputs), leaf, create_graph=True)
        diagonal = _times(slope, leaf, torch.ones_like(outputs))
        probe = _signs(outputs, generator)
        if not torch.allclose(_times(slope, leaf, probe), diagonal * probe, rtol=1e-4, atol=1e-7):
            raise InputError(
                f"{doing}: a sample has {outputs[0].numel():,} outputs, which this loss ties to one another; pass "
                f"directions={outputs[0].numel()} to take all of its curvature, or a loss that is a sum over outputs"
            )
    for part, sign in ((diagonal.clamp(min=0), 1.0), ((-diagonal).clamp(min=0), -1.0)):
        for _ in range(count if bool(part.any()) else 0):
            yield part.sqrt() * _signs(outputs, generator) / sqrt(count), outputs.new_tensor(sign)


def _times(slope: Tensor, leaf: Tensor, vector: Tensor) -> Tensor:
    """The Hessian times a vector; zeros where the slope does not depend on the outputs."""
    if not slope.requires_grad:
        return torch.zeros_like(vector)
    (product,) = torch.autograd.grad(slope, leaf, vector, retain_graph=True, allow_unused=True)
    return torch.zeros_like(vector) if product is None else product.detach()
