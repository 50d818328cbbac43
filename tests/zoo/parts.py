"""What the zoo's models share: their registry entry, their example inputs, and weights that hide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

__all__ = ["ZooToy", "conv_bn", "image", "randomise", "sequence", "tokens", "toy"]


class ZooToy(NamedTuple):
    """How to make a toy model and the inputs that it takes."""

    make: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]


def toy(
    table: dict[str, ZooToy], name: str, inputs: Callable[[], tuple[Tensor, ...]]
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Register the decorated class in `table`; it is made without arguments."""

    def register(model_class: type[nn.Module]) -> type[nn.Module]:
        assert name not in table, f"two toys named {name}"
        table[name] = ZooToy(model_class, inputs)
        return model_class

    return register


def image(channels: int = 3, size: int = 16) -> Callable[[], tuple[Tensor, ...]]:
    """Return what makes a batch of two images ``(2, channels, size, size)``."""
    return lambda: (torch.randn(2, channels, size, size),)


def sequence(length: int = 6, features: int = 8) -> Callable[[], tuple[Tensor, ...]]:
    """Return what makes a batch of two sequences ``(2, length, features)``."""
    return lambda: (torch.randn(2, length, features),)


def tokens(length: int = 6, vocabulary: int = 11) -> Callable[[], tuple[Tensor, ...]]:
    """Return what makes a batch of two token sequences ``(2, length)``, int64."""
    return lambda: (torch.randint(0, vocabulary, (2, length)),)


def conv_bn(into: int, out: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    """Return convolution, batch normalisation, ReLU; the image keeps its size."""
    conv = nn.Conv2d(into, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU())


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Move every parameter that is constant, and the statistics of norms, to random values, in place.

    Fresh models hold scales of one, shifts and position tables of zero, running means of zero and variances of one,
    under which many a wrong cut would go unseen. Scales become uniform in [0.5, 1.5], zeros normal with standard
    deviation 0.2, running means normal with 0.2, running variances uniform in [0.5, 1.5].

    >>> norm = nn.BatchNorm2d(4)
    >>> randomise(norm)
    >>> bool((norm.weight != 1).all() and (norm.bias != 0).all() and (norm.running_mean != 0).all())
    True
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if _is_constant(parameter):
                parameter.copy_(_moved(parameter, generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.2 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))


def _is_constant(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and parameter.numel() > 0 and bool((parameter == parameter.flatten()[0]).all())


def _moved(parameter: Tensor, generator: torch.Generator) -> Tensor:
    zero = bool(parameter.flatten()[0] == 0)
    if zero:
        return 0.2 * torch.randn(parameter.shape, generator=generator)
    return 0.5 + torch.rand(parameter.shape, generator=generator)
