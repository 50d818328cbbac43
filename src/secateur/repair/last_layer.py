"""The last layer of a classifier, fitted anew to the probabilities that the unpruned model gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from secateur.repair.beside import Beside
from secateur.state import own_tensors
from secateur.structure.consumers import Consumer
from secateur.types import InputError

__all__ = ["fit_last", "last_layer", "nearest_probabilities", "no_last_layer"]

STEPS = 100
"""The most steps of L-BFGS."""


def last_layer(beside: Beside) -> Consumer | None:
    """Return the linear layer that gives the model's one output, scores of two classes or more; None where none does."""
    layer = None if beside.numbers else beside.last
    if layer is None or layer.matrix(beside.student).ndim != 2 or len(layer.matrix(beside.student)) < 2:
        return None
    return layer


def no_last_layer(doing: str) -> InputError:
    """Return the error for a model that has no such layer."""
    return InputError(
        f"{doing}: the model's one output is not what a linear layer of two classes or more makes of units that can be "
        "removed, or the targets are numbers, so there are no probabilities to fit; leave out 'kl', or the targets"
    )


def fit_last(beside: Beside, consumer: Consumer) -> None:
    """Give the student's last layer the weights and bias whose probabilities are nearest to the teacher's.

    Its inputs on all samples are held at a time.
    """
    weight = consumer.matrix(beside.student)
    input_mask = consumer.kept(beside.keep).to(weight.device)
    read = [
        (x.reshape(-1, x.shape[-1])[:, input_mask], aims.reshape(-1, len(weight)))
        for x, aims in beside.at(consumer.weight)
    ]
    inputs, logits = (torch.cat(parts).double() for parts in zip(*read, strict=True))
    bias = own_tensors(beside.student)[consumer.bias] if consumer.bias else None
    start = weight.detach()[:, input_mask].mT.double()
    if bias is not None:
        inputs = torch.cat([inputs, inputs.new_ones(len(inputs), 1)], 1)
        start = torch.cat([start, bias.detach().double().unsqueeze(0)])
    best = nearest_probabilities(inputs, logits.softmax(1), start)
    with torch.no_grad():
        weight[:, input_mask] = best[: int(input_mask.sum())].mT.to(weight)
        if bias is not None:
            bias.copy_(best[-1])


def nearest_probabilities(
    inputs: Tensor, wanted: Tensor, start: Tensor, loads: Sequence[float] = (1.0, 1e-1, 1e-2, 1e-3)
) -> Tensor:
    """Return W for which the mean KL divergence of softmax(X W) from given probabilities is least, yet near to a start.

    The objective, KL + load / 2 · mean square of the change of X W, is convex. Of the loads, and no change at all, the one
    is taken whose fit to four of every five rows diverges least on the fifth.

    Args:
        inputs: X, ``(rows, inputs)``, float64.
        wanted: ``(rows, classes)``, each row adding up to 1.
        start: the W to begin with, ``(inputs, classes)``.
        loads: from the greatest to the least.

    >>> inputs = torch.ones(100, 1, dtype=torch.float64)
    >>> wanted = torch.tensor([[0.8, 0.2]], dtype=torch.float64).expand(100, 2)
    >>> best = nearest_probabilities(inputs, wanted, torch.zeros(1, 2, dtype=torch.float64), loads=(1e-6,))
    >>> best.softmax(1)
    tensor([[0.8000, 0.2000]], dtype=torch.float64)
    """
    held_out = torch.arange(len(inputs), device=inputs.device) % 5 == 4
    if not bool(held_out.any()):
        return start
    white, back = _whitened(inputs)
    before = inputs @ start
    change, best_load = torch.zeros_like(start), torch.inf
    least = float(cross_entropy(before[held_out], wanted[held_out]))
    for load in loads:
        change = _least(white[~held_out], wanted[~held_out], before[~held_out], change, load)
        divergence = float(cross_entropy((before + white @ change)[held_out], wanted[held_out]))
        if divergence < least:
            least, best_load = divergence, load
    if best_load == torch.inf:
        return start
    return start + back @ _least(white, wanted, before, torch.zeros_like(start), best_load)


def _whitened(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs of which the curvature is alike in all directions, so that few steps are enough, and the way back."""
    gram = inputs.mT @ inputs / len(inputs)
    # What is added is too small to matter, and enough where inputs are equal.
    load = 1e-6 * gram.diagonal().mean().clamp(min=1e-12)
    lower = torch.linalg.cholesky(gram + load * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    back = torch.linalg.solve_triangular(lower.mT, torch.eye(len(gram)).to(gram), upper=True)
    return inputs @ back, back


def _least(white: Tensor, wanted: Tensor, before: Tensor, start: Tensor, load: float) -> Tensor:
    """The change of the weights of whitened inputs with the least objective."""
    change = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([change], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-7)

    def objective() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            value: Tensor = cross_entropy(before + white @ change, wanted) + 0.5 * load * change.square().sum()
            value.backward()  # type: ignore[no-untyped-call]
        return value.detach()

    optimizer.step(objective)  # type: ignore[no-untyped-call]
    return change.detach()
