"""Chains of dense layers of several networks at once: activations in one stack, each network's weights where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn

from secateur.labelled import Samples, together
from secateur.losses import check_slope
from secateur.randomness import private_draws
from secateur.rate.chain.gemm import product
from secateur.rate.chain.parse import ChainLayer, ChainOp, read_chain
from secateur.state import device_of, modes_kept
from secateur.structure import channels
from secateur.structure.ops import POINTWISE
from secateur.types import SecateurError
from secateur.untouched import untouched

__all__ = ["DenseChain", "Reading", "is_dense_as", "read_dense"]

CHECKED = 16
"""How many samples a chain must answer as the model does."""

LARGE = 8192
"""From how many weights on a product of one network takes longer than it takes to call it."""


@dataclass(frozen=True)
class DenseLayer:
    """A linear layer of the chain.

    Attributes:
        shape: of its weight, ``(out, in)``.
        names: of its weight and bias in the model; None for a bias that it does not have.
        post: the pointwise ops that follow it.
    """

    shape: tuple[int, ...]
    names: tuple[str, str | None]
    post: Sequence[ChainOp]

    def tensors(self, parameters: Sequence[Mapping[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the weights and the biases of the networks; no biases where it has none."""
        weight, bias = self.names
        return [t[weight] for t in parameters], [] if bias is None else [t[bias] for t in parameters]

    def after(self, y: Tensor) -> Tensor:
        """Run what follows the layer."""
        for op in self.post:
            y = op(y)
        return y


@dataclass(frozen=True)
class DenseChain:
    """What networks of one architecture do, if that is linear layers with pointwise ops between them.

    Letters of the shapes: K networks, B samples of each, I inputs and O outputs of a layer.

    Attributes:
        before: what is done to the samples before the first layer, such as flattening.
        layers: the layers.
    """

    before: Sequence[ChainOp]
    layers: Sequence[DenseLayer]

    def enter(self, inputs: Tensor) -> Tensor:
        """Return samples as the first layer reads them, ``(samples, I)``; once for a whole training."""
        for op in self.before:
            inputs = op(inputs)
        return inputs

    def __call__(self, x_KBI: Tensor, parameters: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """Return what each network answers on its own samples, ``(K, B, O)``, without gradients."""
        for layer in self.layers:
            x_KBI = layer.after(_products(x_KBI, *layer.tensors(parameters)))
        return x_KBI

    def gradients(
        self, x_KBI: Tensor, parameters: Sequence[Mapping[str, Tensor]], losses: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Put the gradients of each network's own loss into its parameters, by hand but for pointwise ops and the loss.

        Args:
            x_KBI: what the first layer reads.
            parameters: of each network, by name.
            losses: from the outputs ``(K, B, O)`` to each network's loss ``(K,)``.

        Returns:
            The outputs and the losses.
        """
        steps = []
        for layer in self.layers:
            weights, biases = layer.tensors(parameters)
            z_KBO = _products(x_KBI, weights, biases).requires_grad_()
            with torch.enable_grad():
                y_KBO = layer.after(z_KBO)
            steps.append((x_KBI, z_KBO, y_KBO, weights, biases))
            x_KBI = y_KBO.detach()
        outputs = x_KBI.requires_grad_()
        with torch.enable_grad():
            losses_K = losses(outputs)
            total = losses_K.sum()
        check_slope(total)
        (grad,) = torch.autograd.grad(total, outputs)
        for number, (x, z, y, weights, biases) in reversed(list(enumerate(steps))):
            grad = grad if y is z else torch.autograd.grad(y, z, grad)[0]
            # y = W x + b: ∂W = ∂y xᵀ summed over the samples, ∂b = ∂y summed, ∂x = Wᵀ ∂y.
            _put(weights, _weight_gradients(grad, x, weights[0]))
            _put(biases, grad.sum(1).unbind())
            if number:
                grad = _products(grad, [weight.t() for weight in weights])
        return outputs.detach(), losses_K.detach()


@dataclass(frozen=True)
class Reading:
    """A chain, or the reason why a model is none."""

    chain: DenseChain | None
    reason: str = ""


def read_dense(model: nn.Module, data: Samples) -> Reading:
    """Return the model as a chain of dense layers, verified on the first samples in training mode, or why it is none.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> [layer.shape for layer in read_dense(model, torch.randn(8, 4)).chain.layers]
    [(3, 4), (2, 3)]
    >>> read_dense(nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten()), torch.randn(8, 1, 4)).reason
    'it has parameters with more than two dimensions, as of convolutions, which do not gain'
    """
    whole = together(data)
    if whole is None or not isinstance(whole.inputs, Tensor) or not isinstance(whole.targets, Tensor | None):
        return Reading(None, "the data are not one tensor of inputs and one of targets in memory")
    if any(parameter.ndim > 2 for parameter in model.parameters()):
        return Reading(None, "it has parameters with more than two dimensions, as of convolutions, which do not gain")
    example = whole.inputs[:CHECKED].to(device_of(model))
    chain = _read(model, example[:2])
    if chain is None:
        return Reading(None, "it is not a chain of linear layers with pointwise ops between them")
    if not _agrees(model, chain, example):
        return Reading(None, "while it trains it does something else than in evaluation, such as dropout")
    return Reading(chain)


def is_dense_as(first: nn.Module, model: nn.Module, chain: DenseChain, data: Samples) -> bool:
    """Return whether a model is the chain that `first` is; one that looks like it is tried, not traced once more."""
    whole = together(data)
    assert whole is not None
    if type(model) is not type(first) or repr(model) != repr(first):
        return read_dense(model, data).chain == chain
    return _names(model) == _names(first) and _agrees(model, chain, whole.inputs[:CHECKED].to(device_of(model)))


def _names(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}


def _read(model: nn.Module, example: Tensor) -> DenseChain | None:
    try:
        chain = read_chain(model, channels(model, example))
    except SecateurError:
        return None
    if chain is None or not all(_is_dense(layer) for layer in chain[1]):
        return None
    layers = tuple(DenseLayer(tuple(layer.weight.shape), layer.names, tuple(layer.post)) for layer in chain[1])
    names = {name for layer in layers for name in layer.names if name is not None}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return DenseChain(tuple(chain[0]), layers) if trained <= names else None


def _is_dense(layer: ChainLayer) -> bool:
    return layer.linear and all(op.name in POINTWISE for op in layer.post)


def _agrees(model: nn.Module, chain: DenseChain, example: Tensor) -> bool:
    """Whether the chain answers as the model does in training mode."""
    with untouched(model), modes_kept(model), private_draws(0), torch.no_grad():
        model.train()
        expected = model(example)
        outputs = chain(chain.enter(example)[None], [dict(model.named_parameters(remove_duplicate=False))])[0]
    scale = float(expected.abs().max()) or 1.0
    return outputs.shape == expected.shape and float((outputs - expected).abs().max()) <= 1e-4 * scale


def _put(parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=False):
        if parameter.requires_grad:
            parameter.grad = gradient


def _products(x_KBI: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor] = ()) -> Tensor:
    """Return the networks' products ``(K, B, O)``: one after the other where each fills a core, else at once."""
    if _fills_a_core(weights[0]):
        rows = zip_longest(x_KBI, weights, biases)
        return torch.stack([_product(x, weight, bias) for x, weight, bias in rows])
    stacked = torch.stack(list(weights)).mT
    return torch.baddbmm(torch.stack(list(biases))[:, None], x_KBI, stacked) if biases else torch.bmm(x_KBI, stacked)


def _weight_gradients(grad_KBO: Tensor, x_KBI: Tensor, weight: Tensor) -> Sequence[Tensor]:
    if _fills_a_core(weight):
        return [_product(grad.t(), x.t()) for grad, x in zip(grad_KBO, x_KBI, strict=True)]
    return torch.bmm(grad_KBO.mT, x_KBI).unbind()


def _fills_a_core(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.numel() >= LARGE


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    # The fast kernel is one of float32.
    return product(x, weight, bias) if x.dtype is torch.float32 else nn.functional.linear(x, weight, bias)
