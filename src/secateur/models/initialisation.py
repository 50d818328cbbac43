"""How weights begin, by name: what the texts state, the schemes that wijnja compares, and our own for networks to be pruned."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod, sqrt

import torch
from torch import Tensor, nn

from secateur.checks import check_name
from secateur.labelled import SampleBatch, Samples, batches, check_samples, together
from secateur.state import device_of, evaluating
from secateur.types import InputError

__all__ = ["LAYER_SCHEMES", "SCHEMES", "draw_weight", "initialise", "schemes"]


def _truncated_normal(weight: Tensor, std: float = 0.1) -> Tensor:
    # TensorFlow's truncated normal draws again what falls beyond two standard deviations.
    return nn.init.trunc_normal_(weight, 0.0, std, -2 * std, 2 * std)


def _kaiming_std(weight: Tensor) -> float:
    """√(2 / fan in): He et al. (2015), for ReLU."""
    return sqrt(2 / weight[0].numel())


@torch.no_grad()
def _student_t(weight: Tensor, freedom: int = 5) -> Tensor:
    # t = z / √(χ² / ν), of variance ν / (ν − 2).
    chi_square = torch.zeros_like(weight)
    for _ in range(freedom):
        chi_square += torch.randn_like(weight).square_()
    scale = _kaiming_std(weight) * sqrt((freedom - 2) / freedom)
    return weight.copy_(torch.randn_like(weight).mul_(scale).div_((chi_square / freedom).sqrt_()))


@torch.no_grad()
def _sparse(weight: Tensor, density: float = 0.5) -> Tensor:
    fan = weight[0].numel()
    count = max(1, round(density * fan))
    values = torch.randn_like(weight).flatten(1).mul_(_kaiming_std(weight) * sqrt(fan / count))
    absent = torch.rand_like(values).argsort(1)[:, count:]
    return weight.copy_(values.scatter_(1, absent, 0.0).view_as(weight))


@torch.no_grad()
def _sign_balanced(weight: Tensor) -> Tensor:
    values = torch.randn_like(weight).flatten(1).mul_(_kaiming_std(weight))
    half = values.shape[1] // 2
    values[:, half : 2 * half] = -values[:, :half]
    return weight.copy_(values.gather(1, torch.rand_like(values).argsort(1)).view_as(weight))


@torch.no_grad()
def _small_normal(weight: Tensor, gain: float = 0.5) -> Tensor:
    return weight.copy_(torch.randn_like(weight).mul_(gain * _kaiming_std(weight)))


LAYER_SCHEMES: dict[str, Callable[[Tensor], Tensor]] = {
    "xavier-normal": nn.init.xavier_normal_,
    "xavier-uniform": nn.init.xavier_uniform_,
    "kaiming-normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "kaiming-uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "orthogonal": partial(nn.init.orthogonal_, gain=sqrt(2)),
    "truncated-normal": _truncated_normal,
    "standard-normal": nn.init.normal_,
    "student-t": _student_t,
    "sparse": _sparse,
    "sign-balanced": _sign_balanced,
    "small-normal": _small_normal,
}
"""Schemes that draw the weight of each layer by itself, its outputs in the first dimension: see `draw_weight`."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


def schemes() -> list[str]:
    """Return the names of all initialisation schemes, as `initialise` and `build` take them.

    >>> "kaiming-normal" in schemes(), len(schemes())
    (True, 13)
    """
    return list(SCHEMES)


def initialise(model: nn.Module, scheme: str, data: Samples | None = None) -> nn.Module:
    """Draw the weights of every linear and convolutional layer anew, in place; their biases become zero.

    Fan in and fan out are the numbers of a layer's inputs and outputs, each times the kernel's size; of a layer in groups, an
    output's inputs are those of its group. A unit is an output, of a transposed convolution too.

    Args:
        model: the model to change; it is returned.
        scheme: which distribution.

            - ``"xavier-normal"`` and ``"xavier-uniform"`` (Glorot and Bengio, 2010): variance 2 / (fan in + fan out).
            - ``"kaiming-normal"`` and ``"kaiming-uniform"`` (He et al., 2015): variance 2 / fan in, the gain √2 for ReLU.
            - ``"orthogonal"`` (Saxe et al., 2014): orthonormal rows or columns, times √2.
            - ``"truncated-normal"``: standard deviation 0.1, nothing beyond 0.2.
            - ``"standard-normal"``: variance 1, TensorFlow's ``random_normal`` as it comes.
            - ``"lsuv"`` (Mishkin and Matas, 2016): orthonormal, then scaled layer by layer until each answers with unit
              variance on the data.

            Our own, for networks that are to be pruned by magnitude; all but the small ones have Kaiming's variance.

            - ``"student-t"``: Student's t with 5 degrees of freedom. A few large weights hold more of a unit's norm, so that
              the small ones cost less when they go.
            - ``"sparse"``: half of each unit's weights are zero, the others √2 times as large (after Martens, 2010). What
              starts at zero and is not called for stays smallest.
            - ``"sign-balanced"``: each unit's weights are pairs w and −w in random places, so that they add up to zero
              (signs, not sizes, are what makes a ticket: Zhou et al., 2019); of an odd fan in, one weight is without a
              partner and is what they add up to.
            - ``"small-normal"``: half of Kaiming's standard deviation. What is learnt outweighs what was drawn, so that
              magnitude says what was learnt (Chizat et al., 2019).
            - ``"small-output"``: Kaiming normal, the last layer at a tenth of it, for the same reason where it is read out.
        data: for ``"lsuv"``: samples, of which the first 256, or the first batch, are looked at.

    Raises:
        UnknownNameError: there is no such scheme.
        InputError: ``"lsuv"`` without data, or on data to which a layer answers with a constant.

    >>> model = initialise(nn.Linear(50, 50), "truncated-normal")
    >>> bool(model.weight.abs().max() <= 0.2), bool((model.bias == 0).all())
    (True, True)
    >>> x = torch.randn(64, 50)
    >>> round(initialise(model, "lsuv", x)(x).var().item(), 1)
    1.0
    """
    check_name("initialisation", scheme, SCHEMES)
    if scheme in LAYER_SCHEMES:
        _draw(model, LAYER_SCHEMES[scheme])
    else:
        _MODEL_SCHEMES[scheme](model, data)
    return model


def _layers(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, _LAYERS) and layer.get_parameter("weight").numel()]


def _draw(model: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
    for layer in model.modules():
        if isinstance(layer, _LAYERS):
            if prod(layer.weight.shape):
                draw_weight(layer, layer.weight, draw)
            if layer.bias is not None:
                with torch.no_grad():
                    layer.bias.zero_()


@torch.no_grad()
def draw_weight(layer: nn.Module, weight: Tensor, draw: Callable[[Tensor], object]) -> None:
    """Draw a layer's weight in place, or a tensor of its shape, by a function that takes the outputs' dimension as the first.

    Transposed convolutions hold theirs as (groups · inputs, outputs, …), each number a group's; all others as (groups ·
    outputs, inputs, …).
    """
    if not isinstance(layer, _TRANSPOSED):
        draw(weight)
        return
    inputs, outputs = weight.shape[0] // layer.groups, weight.shape[1]
    values = weight.new_empty(layer.groups * outputs, inputs, *weight.shape[2:])
    draw(values)
    grouped = values.view(layer.groups, outputs, inputs, *weight.shape[2:])
    weight.copy_(grouped.transpose(1, 2).reshape(weight.shape))


def _small_output(model: nn.Module, data: Samples | None) -> None:
    _draw(model, LAYER_SCHEMES["kaiming-normal"])
    with torch.no_grad():
        for layer in _layers(model)[-1:]:
            layer.get_parameter("weight").mul_(0.1)


LSUV_TOLERANCE, LSUV_STEPS, LSUV_SAMPLES = 0.01, 10, 256


def _lsuv(model: nn.Module, data: Samples | None) -> None:
    if data is None:
        raise InputError(
            "initialisation 'lsuv' looks at data: build the model without it, then give them, as in "
            "initialise(model, 'lsuv', data)"
        )
    check_samples(data, "initialise")
    batch = together(data) or next(batches(data, 256, "initialise"))
    batch = batch.rows(slice(LSUV_SAMPLES)).to(device_of(model))
    _draw(model, nn.init.orthogonal_)
    answered: list[tuple[nn.Module, float]] = []

    def look(layer: nn.Module, _: object, output: Tensor) -> None:
        answered.append((layer, float(output.var())))

    hooks = [layer.register_forward_hook(look) for layer in _layers(model)]
    try:
        _run(model, batch, answered)
        for layer in dict.fromkeys(layer for layer, _ in answered):  # in the order in which they run
            for _ in range(LSUV_STEPS):
                variance = next(v for ran, v in answered if ran is layer)
                if abs(variance - 1) < LSUV_TOLERANCE:
                    break
                _scale(layer, variance)
                _run(model, batch, answered)
    finally:
        for hook in hooks:
            hook.remove()


def _run(model: nn.Module, batch: SampleBatch, answered: list[tuple[nn.Module, float]]) -> None:
    answered.clear()
    with evaluating(model):
        batch.run(model)


@torch.no_grad()
def _scale(layer: nn.Module, variance: float) -> None:
    if not 0 < variance < float("inf"):
        raise InputError(
            f"initialisation 'lsuv': a {type(layer).__name__} answers with variance {variance}; give other data"
        )
    layer.get_parameter("weight").div_(sqrt(variance))


_MODEL_SCHEMES: dict[str, Callable[[nn.Module, Samples | None], None]] = {"small-output": _small_output, "lsuv": _lsuv}

SCHEMES = (*LAYER_SCHEMES, *_MODEL_SCHEMES)
"""The names of all schemes."""
