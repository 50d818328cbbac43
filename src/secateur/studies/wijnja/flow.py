"""Why tickets train as they do: how far weights move, how many change their sign, and what gradient they begin with."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from secateur.data import Split
from secateur.structure import weights
from secateur.types import Keep

__all__ = ["movement"]


def movement(start: nn.Module, end: nn.Module, keep: Keep, images: Split) -> dict[str, Any]:
    """Return what became of the weights that are left, between the start of a training and its end.

    Args:
        start, end: the network before and after.
        keep: its masks by parameter; whole ones may be left out.
        images: what the gradient at the start is that of the mean loss of.

    Returns:
        ``moved``, the distance beside the length of the start; ``flipped``, the share that changed its sign; ``gradient``,
        its norm; ``std_start``, ``std_end``, ``kurtosis_start``, ``kurtosis_end`` (excess), of each layer's weights brought
        to one scale by the square root of their fan in; ``layer_densities``.
    """
    names = list(weights(start))
    before, after = dict(start.named_parameters()), dict(end.named_parameters())
    masks = {name: keep.get(name, torch.ones_like(before[name], dtype=torch.bool)) for name in names}
    first = torch.cat([before[name].detach()[masks[name]] for name in names])
    last = torch.cat([after[name].detach()[masks[name]] for name in names])
    scales = torch.cat([torch.full((int(masks[n].sum()),), before[n][0].numel() ** 0.5) for n in names])
    return {
        "moved": float((last - first).norm() / first.norm()),
        "flipped": float((last.sign() != first.sign()).double().mean()),
        "gradient": _gradient(start, masks, images),
        **_spread(first * scales, "start"),
        **_spread(last * scales, "end"),
        "layer_densities": [float(masks[name].double().mean()) for name in names],
    }


def _gradient(network: nn.Module, masks: Keep, images: Split) -> float:
    """The norm of the gradient of the mean loss, over the weights that are left."""
    parameters = dict(network.named_parameters())
    loss = cross_entropy(network(images.images), images.labels)
    gradients = torch.autograd.grad(loss, [parameters[name] for name in masks])
    squares = [(gradient[mask].double() ** 2).sum() for gradient, mask in zip(gradients, masks.values(), strict=True)]
    return float(torch.stack(squares).sum().sqrt())


def _spread(values: Tensor, when: str) -> dict[str, float]:
    z = values.double() - values.double().mean()
    variance = (z**2).mean()
    return {f"std_{when}": float(variance.sqrt()), f"kurtosis_{when}": float((z**4).mean() / variance**2 - 3)}
