"""Training with rounded weights: the forward pass sees them on their grids, the gradient goes past the rounding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.copies import copied
from secateur.edits import InputGrid, Quantised, quantised
from secateur.state import restore, tensors

__all__ = ["NameIn", "train_rounded"]

NameIn = Callable[[str], str]
"""What a parameter of the model is called in the one that learns."""

Trained = TypeVar("Trained")


def train_rounded(
    model: nn.Module, edit: Quantised, train: Callable[[nn.Module, NameIn], Trained], *, feels_inputs: bool = True
) -> Trained:
    """Train a model's exact weights, in place, as they answer when they are rounded; return what `train` does.

    Args:
        model: its weights are changed; they are not rounded yet when this returns.
        edit: the grids.
        train: of the model that learns, and of what its parameters are called.
        feels_inputs: whether inputs are rounded, too; not where the model does that by itself already.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> edit = Quantised(2, {"weight": torch.tensor([0.5])}, {"weight": torch.tensor([2.0])})
    >>> train_rounded(layer, edit, lambda learner, name_in: (name_in("weight"), name_in("bias")))
    ('parametrizations.weight.original', 'bias')
    """
    # A copy learns: a module that computed with other weights for a while has its parameters in another order.
    learner = copied(model)
    edit = edit if feels_inputs else replace(edit, inputs={})
    with _rounded(learner, edit):
        outcome = train(learner, lambda name: _inner(name) if name in edit.scales else name)
    restore(model, tensors(learner))
    return outcome


def _inner(name: str) -> str:
    path, _, attribute = name.rpartition(".")
    return f"{path}.parametrizations.{attribute}.original".lstrip(".")


class _Rounded(nn.Module):
    """A weight as the forward pass sees it: on its grid, with a gradient within the grid."""

    def __init__(self, bits: int, scale: Tensor, zero: Tensor, ndim: int) -> None:
        super().__init__()
        self.bits, self.scale, self.zero = bits, scale, zero
        scale, zero = (part.reshape(-1, *[1] * (ndim - 1)) for part in (scale, zero))
        self.least, self.most = -zero * scale, ((1 << bits) - 1 - zero) * scale

    def forward(self, weight: Tensor) -> Tensor:
        within = weight.clamp(self.least, self.most)
        rounded = quantised(weight.detach(), self.bits, self.scale, self.zero)
        return rounded + (within - within.detach())


@contextmanager
def _rounded(model: nn.Module, edit: Quantised) -> Iterator[None]:
    """Let the model compute with rounded weights and inputs for a while; its parameters stay as exact as they are."""
    places = _places(model, edit.scales)
    for name, (module, attribute) in places.items():
        weight = getattr(module, attribute)
        scale, zero = (part[name].to(weight) for part in (edit.scales, edit.zeros))
        parametrize.register_parametrization(module, attribute, _Rounded(edit.bits, scale, zero, weight.ndim))
    hooks = _round_inputs(model, edit.inputs)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, attribute in places.values():
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)


def _round_inputs(model: nn.Module, inputs: Mapping[str, InputGrid]) -> list[torch.utils.hooks.RemovableHandle]:
    modules = dict(model.named_modules())
    return [modules[path].register_forward_pre_hook(grid) for path, grid in inputs.items()]


def _places(model: nn.Module, names: Iterable[str]) -> dict[str, tuple[nn.Module, str]]:
    """The module and attribute of each parameter."""
    places = {}
    for name in names:
        path, _, attribute = name.rpartition(".")
        places[name] = model.get_submodule(path), attribute
    return places
