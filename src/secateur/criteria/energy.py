"""Energy: how strongly a filter answers a signal that holds every frequency (Janjić, 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi, sqrt
from typing import Literal

import torch
from torch import Tensor, nn

from secateur.checks import check_name, check_number
from secateur.criteria.base import CriterionBase
from secateur.state import evaluating
from secateur.structure.flow import Flow
from secateur.structure.makers import Maker
from secateur.types import InputError, Sites

__all__ = ["Energy", "chirp"]


@dataclass(frozen=True)
class Energy(CriterionBase):
    """Scores a filter by the energy of its answer to a chirp, as a share of its layer's (Janjić, 2018, Algorithm 3).

    The chirp is a wave that sweeps all frequencies from the centre of the image outwards; it goes through the layer at
    the layer's true input size (that of the example inputs), so no data are needed. The scores of a site add up to 1;
    prune by them with ``select(scores, cumulative=0.01)``, or ``prune(model, inputs, Energy(0.01))``.

    Where the text is silent, the defaults are the reading that gives its figures on a trained VGG-16. A linear layer is
    taken as a convolution over a single pixel, where the chirp is 1. Where several layers produce a site's units, as
    around a residual connection, each layer's shares are averaged.

    Attributes:
        threshold: the share of a layer's energy that `prune` removes when it is told nothing else; scores do not depend
            on it.
        bias: whether the layer's bias is added to its answer.
        relu: whether negative answers count as zero.
        channels: ``"same"`` sends one chirp through all input channels at once; ``"each"`` sends it through one after
            the other and adds up the energies (so without bias: the filter's norm, nearly).
        top: the highest frequency, in cycles a pixel; the lowest is one cycle a diagonal.

    >>> from secateur.structure import channels
    >>> model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 16, 1))
    >>> model[0].weight.data, model[0].bias.data = torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1), torch.zeros(2)
    >>> Energy()(model, channels(model, torch.zeros(1, 1, 4, 4)))  # amplitudes 1 and 3, so energies 1 and 9
    {'0': tensor([0.1000, 0.9000])}
    """

    threshold: float = 0.01
    bias: bool = True
    relu: bool = False
    channels: Literal["same", "each"] = "same"
    top: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "[0, 1]", "a share of the energy", threshold=self.threshold)
        check_number(self, "(0, inf]", "a frequency in cycles a pixel", top=self.top)
        check_name("channels of Energy", self.channels, ("same", "each"))

    @property
    def default_rule(self) -> Mapping[str, float]:
        """The filters at the bottom that together hold the threshold's share of the energy go."""
        return {"cumulative": self.threshold}

    def _score(self, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
        """Return each unit's share of its layer's energy; high = keep."""
        makers = Flow(model, sites).makers()
        with evaluating(model):
            return {name: self._shares(name, makers[name]) for name in sites}

    def _shares(self, name: str, makers: tuple[Maker, ...]) -> Tensor:
        if not makers:
            raise InputError(
                f"Energy: the units of site {name!r} come from no convolution or linear layer; "
                f"leave it out: channels(model, inputs, ignore=[{name!r}])"
            )
        energies = [self._energy(maker) for maker in makers]
        totals = [energy.sum() for energy in energies]
        # A layer that answers nothing at all (all its weights zero) has no filter that is better than another.
        shares = [torch.full_like(e, 1 / len(e)) if t == 0 else e / t for e, t in zip(energies, totals, strict=True)]
        return (torch.stack(shares).sum(0) / len(shares)).float()

    def _energy(self, maker: Maker) -> Tensor:
        """The mean square of each unit's answer."""
        signal = chirp(maker.shape[2:], self.top).to(maker.weight)
        if self.channels == "same":
            answer = self._answer(maker, signal.expand(1, *maker.shape[1:]))
        else:
            size = maker.shape[1]
            one_hot_channels = torch.diag_embed(signal.new_ones(1, size))[0].reshape(size, size, *[1] * signal.ndim)
            answer = torch.cat([self._answer(maker, signal * one_hot) for one_hot in one_hot_channels[:, None]])
        squares = answer.double().square()
        by_filter = squares.movedim(1, 0).flatten(1).sum(1) / signal.numel()
        return by_filter[maker.index.to(by_filter.device)].sum(1)

    def _answer(self, maker: Maker, signal: Tensor) -> Tensor:
        answer = maker.run(signal, bias=self.bias)
        return answer.relu() if self.relu else answer


def chirp(size: tuple[int, ...], top: float = 1.0) -> Tensor:
    """Return a radial linear chirp of an image's (or a signal's, or a volume's) `size`, with amplitude 1, float32.

    At the distance r from the centre it is cos 2π(f₀ r + (f₁ − f₀) r² / 2L), with L = n / 2 half the diagonal, f₀ = 1/n
    and f₁ = `top` cycles a pixel: every frequency that fits into the image, the highest in the corners (Janjić, 2018).

    >>> chirp((3,)).tolist() == chirp((3,)).flip(0).tolist(), chirp((1, 1)).item(), tuple(chirp((4, 6)).shape)
    (True, 1.0, (4, 6))
    """
    if not size:
        return torch.ones(())
    offsets = [torch.arange(length, dtype=torch.float64) - (length - 1) / 2 for length in size]
    squares = [offset.square() for offset in torch.meshgrid(*offsets, indexing="ij")]
    radius = torch.stack(squares).sum(0).sqrt()
    diagonal = sqrt(sum(length**2 for length in size))
    bottom = 1 / diagonal
    return torch.cos(2 * pi * (bottom * radius + (top - bottom) * radius.square() / diagonal)).float()
