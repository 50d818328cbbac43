"""Layers with few weights that are not zero, run over those alone, where that is faster on this processor."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from secateur import state
from secateur.calls import usual
from secateur.checks import check_number, check_whole
from secateur.copies import copied
from secateur.hints import Checked
from secateur.randomness import private_draws
from secateur.runtimes.timing import Prepared, in_turns
from secateur.state import called, check_finite, evaluating, split_inputs
from secateur.structure.difference import difference
from secateur.transforms.layers import Shapes, changeable, layers_of, seen_shapes
from secateur.types import ExampleInputs, VerificationError
from secateur.wrappers import check_module

__all__ = ["CsrLayer", "CsrModel", "CsrTiming", "as_csr"]

TOLERANCE = 1e-5
"""How far outputs may be from the dense model's, as a share of the greatest: sums in another order."""

KINDS = (nn.Linear, nn.Conv2d)

WORTH = 1.05
"""A layer stays dense unless it is so many times as fast in CSR."""


class CsrLayer(nn.Module):
    """A linear layer, or a convolution of one pixel, whose weight is a CSR matrix: ``csr @ x``, for inference.

    It multiplies explicitly: for several samples ``F.linear`` with such a weight is mostly slower than with a dense one.

    >>> dense = nn.Linear(3, 2)
    >>> x = torch.ones(4, 5, 3)
    >>> bool(torch.allclose(CsrLayer(dense)(x), dense(x)))
    True
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.dim = -1 if isinstance(layer, nn.Linear) else -3
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that CSR is young
            self.register_buffer("weight", layer.weight.detach().flatten(1).to_sparse_csr())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer does."""
        inputs = x.movedim(self.dim, 0)
        product = self.weight @ inputs.reshape(len(inputs), -1)
        if self.bias is not None:
            product += self.bias[:, None]
        return product.reshape(-1, *inputs.shape[1:]).movedim(0, self.dim)

    def extra_repr(self) -> str:
        """Say its size, and how many of its weights there are."""
        return f"{tuple(self.weight.shape)}, {self.weight.values().numel():,} weights"


@dataclass(frozen=True)
class CsrTiming:
    """How a layer did in CSR.

    Attributes:
        name, sparsity: the layer, and the fraction of its weights that is zero.
        speedup: the dense layer's time ÷ that in CSR, on this processor at the example's shape.
        replaced: whether it is in CSR now.
    """

    name: str
    sparsity: float
    speedup: float
    replaced: bool


@dataclass(frozen=True, eq=False)
class CsrModel(Checked):
    """What `as_csr` made: the model, and what it found of each layer that it tried."""

    model: nn.Module
    layers: tuple[CsrTiming, ...]

    def __str__(self) -> str:
        lines = [
            f"{layer.name}: {layer.sparsity:.1%} zeros, {layer.speedup:.2f}× as fast in CSR, "
            f"{'in CSR now' if layer.replaced else 'left dense'}"
            for layer in self.layers
        ]
        return "\n".join(lines or ["no layer has zeros enough"])


@usual
def as_csr(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    sparsity: float = 0.7,
    ignore: Iterable[str] = (),
    threads: int = 1,
    repeats: int = 15,
) -> CsrModel:
    """Return a copy of a model with its sparse layers in CSR, those alone that are faster so on this processor.

    Linear layers and convolutions of one pixel are timed dense and in CSR, in turns, at the shapes of the example, so give
    it the batch that will be run. Larger kernels, unfolded, lose at any sparsity. The copy is for inference in PyTorch, on
    the CPU: runtimes with files have no kernels for such weights.

    Args:
        model: it is left as it is.
        example_inputs: what shapes are taken from, and what the copy is compared on.
        sparsity: layers with a smaller fraction of zeros are not tried.
        ignore: names and patterns of layers to leave dense.
        threads, repeats: how they are timed.

    Raises:
        InputError, UnknownNameError: the model or an option cannot be worked with.
        VerificationError: the copy answers something else by more than 1e-5 of the greatest output.

    >>> layer = nn.Linear(512, 512)
    >>> with torch.no_grad():
    ...     _ = layer.weight.mul_(torch.rand(512, 512) < 0.01)
    >>> as_csr(nn.Sequential(layer), torch.ones(64, 512)).layers[0].replaced
    True
    """
    check_module(model, "as_csr")
    check_finite(model, "as_csr", "repair the model first")
    check_number("as_csr", "[0, 1]", sparsity=sparsity)
    check_whole("as_csr", threads=threads, repeats=repeats)
    args, kwargs = split_inputs(example_inputs)
    shapes = seen_shapes(model, layers_of(model, KINDS), example_inputs)
    names = _candidates(model, shapes, ignore, sparsity)
    copy = copied(model)
    timings = []
    for name, zeros in names.items():
        dense: Any = copy.get_submodule(name)
        sparse = CsrLayer(dense)
        speedup = _speedup(dense, sparse, shapes[name], threads, repeats)
        timings.append(CsrTiming(name, zeros, speedup, speedup >= WORTH))
        if speedup >= WORTH:
            copy = _replaced(copy, name, sparse)
    with evaluating(model), evaluating(copy):
        apart = difference(called(model, args, kwargs), called(copy, args, kwargs))
    if not apart <= TOLERANCE:
        raise VerificationError(f"as_csr: the copy answers {apart:.2g} of the greatest output apart from the model")
    return CsrModel(copy, tuple(timings))


def _candidates(model: nn.Module, shapes: Shapes, ignore: Iterable[str], sparsity: float) -> dict[str, float]:
    """The layers that are worth a try, with their fractions of zeros."""
    able, _ = changeable(model, layers_of(model, KINDS), shapes, ignore)
    zeros: dict[str, float] = {}
    for name in able:
        layer: Any = model.get_submodule(name)
        if isinstance(layer, nn.Linear) or _is_pointwise(layer):
            zeros[name] = float((layer.weight == 0).float().mean())
    return {name: share for name, share in zeros.items() if share >= sparsity}


def _is_pointwise(layer: nn.Conv2d) -> bool:
    plain = (layer.kernel_size, layer.stride, layer.padding, layer.groups)
    return plain == ((1, 1), (1, 1), (0, 0), 1)


def _speedup(
    dense: nn.Module, sparse: nn.Module, shapes: tuple[tuple[int, ...], ...], threads: int, repeats: int
) -> float:
    """The dense layer's time over that in CSR."""
    with private_draws(0):
        x = torch.randn(max(shapes, key=prod))
    with state.threads(threads), torch.no_grad():
        runs = {
            name: Prepared(partial(layer, x), 0.0, threads == 1) for name, layer in (("dense", dense), ("csr", sparse))
        }
        return in_turns(runs, warmup=3, repeats=repeats).ratio("csr")


def _replaced(model: nn.Module, name: str, layer: nn.Module) -> nn.Module:
    if not name:
        return layer
    model.set_submodule(name, layer)
    return model
