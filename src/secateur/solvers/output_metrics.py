"""What errors in a layer's outputs cost a classifier: the second moments of the gradients there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn.functional import cross_entropy

from secateur.labelled import logits_of
from secateur.repair.beside import Beside, See
from secateur.structure.consumers import Consumer

__all__ = ["SAMPLES", "Probed", "output_metrics"]

SAMPLES = 1000
"""So many samples are enough, in whole batches."""

SHRUNK = 0.3
"""How much of a metric is replaced by its mean over all outputs, as it is estimated from few samples."""


@dataclass(frozen=True, eq=False)
class Probed:
    """A pass over a batch whose gradients at layers' outputs can be asked for.

    Attributes:
        samples: how many there are in the batch.
        scores: the logits, ``(rows, classes)``.
        inputs: what each layer read, by the name of its weight.
        probes: what was added to what each layer made: zeros.
        layers: the layers.
    """

    samples: int
    scores: Tensor
    inputs: Mapping[str, Tensor]
    probes: Mapping[str, Tensor]
    layers: Mapping[str, Consumer]

    @classmethod
    def of(cls, run: Callable[[See], Any], layers: Mapping[str, Consumer]) -> Probed:
        """Run a pass, of some of `Beside`'s, with probes at these layers."""
        by_node = {layer.node: weight for weight, layer in layers.items()}
        sources = {layer.product.source for layer in layers.values()}
        values: dict[Node, Tensor] = {}
        probes: dict[str, Tensor] = {}

        def probe(node: Node, output: Any) -> Any:
            if node in by_node:
                probes[by_node[node]] = torch.zeros_like(output, requires_grad=True)
                output = output + probes[by_node[node]]
            if node in sources:
                values[node] = output.detach()
            return output

        with torch.enable_grad():
            outputs = logits_of(run(probe))
            scores = outputs.reshape(-1, outputs.shape[-1])
        inputs = {weight: values[layer.product.source] for weight, layer in layers.items()}
        return cls(len(outputs), scores, inputs, probes, layers)

    def drawn(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the gradients for labels drawn from the probabilities, by layer, a row for each place of each sample."""
        chances = self.scores.detach().softmax(1).cpu()
        labels = torch.multinomial(chances, 1, generator=generator).squeeze(1).to(self.scores.device)
        with torch.enable_grad():
            loss = cross_entropy(self.scores, labels, reduction="sum")
        gradients = torch.autograd.grad(loss, list(self.probes.values()), materialize_grads=True)
        return {weight: self._rows(weight, g) for weight, g in zip(self.probes, gradients, strict=True)}

    def _rows(self, weight: str, gradient: Tensor) -> Tensor:
        # The outputs of a linear layer lie last, channels of a convolution before its space.
        product = self.layers[weight].product
        dim = 1 - product.node.meta["val"].ndim if product.convolution else -1
        return gradient.movedim(dim, -1).flatten(0, -2).double()


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
        layers = {weight: layer for weight, layer in beside.layers(number).items() if layer.reads}
        probed = Probed.of(lambda see, number=number: beside.unpruned(number, see), layers)  # type: ignore[misc]
        count += probed.samples
        for weight, rows in probed.drawn(generator).items():
            sums[weight] = sums.get(weight, 0) + rows.mT @ rows
    return {weight: _root(total / count) for weight, total in sums.items()}


def _root(metric: Tensor) -> Tensor:
    mean = metric.diagonal().mean().clamp(min=1e-30)
    shrunk = (1 - SHRUNK) * metric + SHRUNK * mean * torch.eye(len(metric), dtype=metric.dtype, device=metric.device)
    values, vectors = torch.linalg.eigh(shrunk)
    root: Tensor = vectors * values.clamp(min=0).sqrt()
    return root
