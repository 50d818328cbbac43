"""What errors in a layer's outputs cost a classifier: the second moments of the gradients there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.functional import cross_entropy

from secateur.labelled import logits_of
from secateur.repair.beside import Beside

__all__ = ["output_metrics"]

SAMPLES = 1000
"""So many samples are enough, in whole batches."""

SHRUNK = 0.3
"""How much of a metric is replaced by its mean over all outputs, as it is estimated from few samples."""


def output_metrics(beside: Beside) -> dict[str, Tensor]:
    """Return for each layer the root R of what its errors δ cost: δᵀ R Rᵀ δ is twice the KL divergence that they add.

    That is the Fisher matrix of the layer's outputs in the unpruned model, the mean of g gᵀ for gradients g of the loss on
    labels drawn from its own probabilities (Martens & Grosse, 2015), as if errors at different places were independent.
    A part is the mean over outputs, as for plain squares.

    Args:
        beside: of a model whose only output are scores, classes last.

    Returns:
        by the weight's name, ``(outputs, outputs)``, float64.
    """
    generator, count = torch.Generator().manual_seed(0), 0
    sums: dict[str, Tensor] = {}
    for number in range(beside.count):
        if count >= SAMPLES:
            break
        samples, gradients = _gradients(beside, number, generator)
        count += samples
        for weight, rows in gradients.items():
            sums[weight] = sums.get(weight, 0) + rows.mT @ rows
    return {weight: _root(total / max(count, 1)) for weight, total in sums.items()}


def _gradients(beside: Beside, number: int, generator: torch.Generator) -> tuple[int, dict[str, Tensor]]:
    """How many samples a batch has, and the gradients at the outputs of each layer, one row for each place of each."""
    flow, inputs, consumers = beside.unpruned(number)
    by_node = {consumer.node: weight for weight, consumer in consumers.items()}
    probes: dict[str, Tensor] = {}

    def probe(node: Node, made: Any) -> Any:
        if node not in by_node:
            return made
        probes[by_node[node]] = torch.zeros_like(made, requires_grad=True)
        return made + probes[by_node[node]]

    with torch.enable_grad():
        scores = logits_of(flow(inputs, see=probe))
        samples = len(scores)
        scores = scores.reshape(-1, scores.shape[-1])
        chances = scores.detach().softmax(1).cpu()
        labels = torch.multinomial(chances, 1, generator=generator).squeeze(1).to(scores.device)
        gradients = torch.autograd.grad(cross_entropy(scores, labels, reduction="sum"), list(probes.values()))
    # The outputs of a linear layer lie last, channels of a convolution before its space.
    dims = {
        w: 1 - consumers[w].product.node.meta["val"].ndim if consumers[w].product.convolution else -1 for w in probes
    }
    return samples, {
        weight: gradient.movedim(dims[weight], -1).flatten(0, -2).double()
        for weight, gradient in zip(probes, gradients, strict=True)
    }


def _root(metric: Tensor) -> Tensor:
    mean = metric.diagonal().mean().clamp(min=1e-30)
    shrunk = (1 - SHRUNK) * metric + SHRUNK * mean * torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
    values, vectors = torch.linalg.eigh(shrunk)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
