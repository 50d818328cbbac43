"""How weights begin, by name: what the texts state, and the schemes that wijnja compares."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod

import torch
from torch import Tensor, nn

from secateur.checks import check_name

__all__ = ["SCHEMES", "initialise"]


def _truncated_normal(weight: Tensor, std: float = 0.1) -> Tensor:
    # TensorFlow's truncated normal draws again what falls beyond two standard deviations.
    return nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)


SCHEMES: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier-normal": nn.init.xavier_normal_,
    "xavier-uniform": nn.init.xavier_uniform_,
    "kaiming-normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming-uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "truncated-normal": _truncated_normal,
    "standard-normal": nn.init.normal_,
}

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def initialise(model: nn.Module, scheme: str) -> nn.Module:
    """Draw the weights of every linear and convolutional layer anew, in place; their biases become zero.

    Args:
        model: the model to change; it is returned.
        scheme: ``"xavier-normal"`` and ``"xavier-uniform"`` (Glorot and Bengio, 2010), ``"kaiming-normal"``
            and ``"kaiming-uniform"`` (He et al., 2015; fan in, ReLU), ``"truncated-normal"`` (standard
            deviation 0.1, nothing beyond 0.2), or ``"standard-normal"`` (1, TensorFlow's ``random_normal`` as it comes).

    Raises:
        UnknownNameError: there is no such scheme.

    >>> model = initialise(nn.Linear(50, 50), "truncated-normal")
    >>> bool(model.weight.abs().max() <= 0.2), bool((model.bias == 0).all())
    (True, True)
    """
    check_name("initialisation", scheme, SCHEMES)
    for layer in model.modules():
        if isinstance(layer, _LAYERS):
            if prod(layer.weight.shape):
                SCHEMES[scheme](layer.weight)
            if layer.bias is not None:
                with torch.no_grad():
                    layer.bias.zero_()
    return model
