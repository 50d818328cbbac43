"""The sizes that a model's config must say for its class to make a model of the shapes that a walk has left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from torch import nn

from secateur.state import own_tensors
from secateur.structure.rebuilding import Rebuilding

__all__ = ["fitting_sizes"]

Shapes = Mapping[str, tuple[int, ...]]


def fitting_sizes(model: nn.Module, shapes: Shapes) -> dict[str, int]:
    """Return what changes in a model's config so that its class makes a model with tensors of these shapes.

    Sizes are tried one after the other on the meta device, each scaled as some dimension was, and stay where more tensors
    have their shapes then. Nothing changes where the model has no config, its class is not made of one, or no sizes fit,
    as when blocks have lost unequally.

    >>> class Config:
    ...     width, hidden = 2, 8
    >>> class Model(nn.Module):
    ...     def __init__(self, config):
    ...         super().__init__()
    ...         self.config, self.up = config, nn.Linear(config.width, config.hidden)
    >>> fitting_sizes(Model(Config()), {"up.weight": (6, 2), "up.bias": (6,)})
    {'hidden': 6}
    """
    config = getattr(model, "config", None)
    if config is None:
        return {}
    rebuilding = Rebuilding(model)
    fixed = dict(_head_size(config))
    sizes: dict[str, int] = {}
    missing = _unlike(rebuilding, fixed, shapes)
    for name, size in _candidates(config, _ratios(model, shapes)):
        if not missing or name in {**sizes, **fixed}:
            continue
        rest = _unlike(rebuilding, {**fixed, **sizes, name: size}, shapes)
        if rest is not None and rest < missing:
            sizes[name], missing = size, rest
    return {**fixed, **sizes} if sizes and missing == 0 else {}


def _head_size(config: Any) -> Iterator[tuple[str, int]]:
    """The size of a head, where a config that does not say it would work it out of the number of heads."""
    heads = getattr(config, "num_attention_heads", 0)
    if "head_dim" in vars(config) and heads:
        yield "head_dim", config.head_dim or config.hidden_size // heads


def _ratios(model: nn.Module, shapes: Shapes) -> list[Fraction]:
    own = own_tensors(model)
    pairs = ((new, old) for n, s in shapes.items() if n in own for new, old in zip(s, own[n].shape, strict=True))
    return sorted({Fraction(new, old) for new, old in pairs if new != old})


def _candidates(config: Any, ratios: list[Fraction]) -> Iterator[tuple[str, int]]:
    for name, value in sorted({**vars(type(config)), **vars(config)}.items()):
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield from ((name, int(value * ratio)) for ratio in ratios if (value * ratio).denominator == 1)


def _unlike(rebuilding: Rebuilding, sizes: Mapping[str, int], shapes: Shapes) -> int | None:
    """How many tensors the class makes in another shape, from a config with these sizes; None where it makes none."""
    rebuilt = rebuilding.built({(name,): size for name, size in sizes.items()})
    if rebuilt is None:
        return None
    remade = own_tensors(rebuilt)
    return sum(name not in remade or tuple(remade[name].shape) != shape for name, shape in shapes.items())
