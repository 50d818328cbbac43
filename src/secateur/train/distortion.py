"""Distortion: random values disturb the weights between two trainings, so that units stop sharing their work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor, nn

from secateur.checks import check_listed, check_name, check_number, check_whole
from secateur.hints import Checked
from secateur.train.penalties import matching
from secateur.types import InputError

__all__ = ["Distortion"]

How = Literal["multiply", "add"]


@dataclass(frozen=True)
class Distortion(Checked):
    """Multiplies weights by random values, or adds these (Çallı, 2017, section 2.2.1, distorted pruning).

    The text says ``rand(weights.shape) * (1 - var(weights))``, with random values between −1 and 1, and not what is done
    with it. Both readings are here, for each parameter w with r uniform in [low, high):

    - ``"multiply"``: w ← (1 − s) · w + s · r · (1 − var(w)) · w
    - ``"add"``: w ← w + s · r · (1 − var(w))

    where s = strength · decay^(cycle − 1).

    Attributes:
        how: which of them.
        strength: 0 leaves the weights as they are; 1 is the text's formula.
        decay: by what the strength is multiplied from one cycle to the next.
        until: the last cycle that is distorted; None for no end.
        parameters: names of parameters, or patterns of them; empty for all weights of two dimensions or more.
        low, high: the range of the random values.
        clamp: take 1 − var(w) for 0 where it is negative; the text does not.
        seed: of the random values; each cycle has its own.

    Raises:
        InputError, UnknownNameError: an option is out of range, or the model has no such parameter.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> model.weight.data = torch.tensor([[1.0, 3.0]])     # the variance is 1: multiplied by r · 0
    >>> Distortion(strength=0.5)(model, cycle=1)
    >>> model.weight
    Parameter containing:
    tensor([[0.5000, 1.5000]], requires_grad=True)
    """

    how: How = "multiply"
    strength: float = 1.0
    decay: float = 1.0
    until: int | None = None
    parameters: Sequence[str] = ()
    low: float = -1.0
    high: float = 1.0
    clamp: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_name("way of distorting", self.how, get_args(How))
        check_number(self, "[0, inf)", strength=self.strength, decay=self.decay)
        check_listed(self, parameters=self.parameters)
        check_number(self, "(-inf, inf)", low=self.low, high=self.high)
        check_whole(self, 0, or_none=True, until=self.until)
        check_whole(self, 0, most=2**31, seed=self.seed)
        if self.low > self.high:
            raise InputError(f"Distortion: low={self.low} is above high={self.high}; give a range")

    def strength_at(self, cycle: int) -> float:
        """Return the strength before the training of a cycle.

        >>> [Distortion(decay=0.5, until=2).strength_at(cycle) for cycle in (1, 2, 3)]
        [1.0, 0.5, 0.0]
        """
        over = self.until is not None and cycle > self.until
        return 0.0 if over else self.strength * float(self.decay ** (cycle - 1))

    def __call__(self, model: nn.Module, cycle: int) -> None:
        """Disturb the weights of `model`, in place."""
        strength = self.strength_at(cycle)
        parameters = dict(model.named_parameters())
        names = matching(list(parameters), self.parameters, "parameter")
        names = names or [name for name, parameter in parameters.items() if parameter.ndim > 1]
        random = Generator().manual_seed(self.seed * 1_000_003 + cycle)
        with torch.no_grad():
            for name in names:
                self._disturb(parameters[name], strength, random)

    def _disturb(self, weight: Tensor, strength: float, random: Generator) -> None:
        uniform = torch.rand(weight.shape, generator=random).to(weight)
        factor = 1 - float(weight.var(correction=0))
        values = (self.low + (self.high - self.low) * uniform) * (max(factor, 0.0) if self.clamp else factor)
        if self.how == "add":
            weight.add_(strength * values)
        else:
            weight.mul_(1 - strength + strength * values)
