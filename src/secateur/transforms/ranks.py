"""Which rank each layer gets: a number, an energy, the bound below which it shrinks, or what a budget allows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, nan

from torch import nn

from secateur.allocate import Choices, Portions
from secateur.edits.rebuilt import rows_of
from secateur.transforms.factors import Factorisation, Rank, own_spec, row_cost
from secateur.types import InputError

__all__ = ["Candidate", "LayerCandidates", "above_energy", "below_bound", "for_budget", "rank_words"]


LEAST = 1e-300
"""In the place of nothing, where a logarithm is taken of the share that is kept."""


@dataclass(frozen=True)
class Candidate:
    """A rank that makes a layer cheaper.

    Attributes:
        rank: it.
        macs, parameters: of the layers in a row; the first on the example inputs.
        lost: the share of the weight's squares, or of its outputs' variance on data, that it loses; nan where unknown.
    """

    rank: Rank
    macs: int
    parameters: int
    lost: float


@dataclass(frozen=True, eq=False)
class LayerCandidates:
    """A layer, how it is split, and the ranks at which it takes fewer multiply–accumulates.

    Attributes:
        layer: the layer.
        factorisation: how it is split.
        shapes: of what it reads on the example inputs.
        bias: whether the last of the layers has a bias.
        lost: what ranks lose, the least rank first; None where nobody knows.
    """

    layer: nn.Module
    factorisation: Factorisation
    shapes: Sequence[Sequence[int]]
    bias: bool
    lost: Sequence[tuple[Rank, float]] | None

    @cached_property
    def macs(self) -> int:
        """What the layer takes whole."""
        return row_cost([own_spec(self.layer, bias=False)], self.shapes)[0]

    @property
    def parameters(self) -> int:
        """How many it has whole."""
        return sum(p.numel() for p in self.layer.parameters())

    @property
    def full(self) -> Rank:
        """The rank at which the product is exact."""
        return self.factorisation.full(self.layer)

    def at(self, rank: Rank) -> Candidate | None:
        """Return a rank with what it takes; None where that is no less."""
        rank = self.factorisation.rank_of(self.layer, rank)
        macs, parameters = self._cost(rank)
        biases = rows_of(self.layer)[1] if self.bias else 0
        lost = dict(self.lost).get(rank, nan) if self.lost is not None else nan
        return Candidate(rank, macs, parameters + biases, lost) if macs < self.macs else None

    def _cost(self, rank: Rank) -> tuple[int, int]:
        if isinstance(rank, tuple):
            return row_cost(self.factorisation.specs(self.layer, rank, bias=False), self.shapes)
        macs, parameters = self._cost_of_one
        return rank * macs, rank * parameters  # every layer in the row has n inputs or n outputs a group

    @cached_property
    def _cost_of_one(self) -> tuple[int, int]:
        return row_cost(self.factorisation.specs(self.layer, 1, bias=False), self.shapes)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All ranks that take less, the least first."""
        cheaper = []
        for rank in self.factorisation.ranks(self.layer):
            candidate = self.at(rank)
            if candidate is None:
                break
            cheaper.append(candidate)
        return cheaper


def below_bound(layer: LayerCandidates) -> Candidate | None:
    """Return the greatest rank at which the layer takes less: n < m₁ m₂ / (m₁ + m₂) for a matrix; None where there is none."""
    return layer.candidates[-1] if layer.candidates else None


def above_energy(layer: LayerCandidates, energy: float) -> Candidate | None:
    """Return the least rank that keeps this share of the squares; None where the layer would not take less."""
    return next((c for c in layer.candidates if 1 - c.lost >= energy), None)


def for_budget(layers: Mapping[str, LayerCandidates], measure: str, need: float, doing: str) -> dict[str, Candidate]:
    """Return the rank of each layer that is changed, so that together they save `need`, for the least loss.

    What is greatest is the product of the shares that the layers keep (Zhang et al., 2015, rank selection), exactly up to
    a 4096th of the savings, by dynamic programming (`secateur.allocate.Portions`).

    Args:
        layers: by name.
        measure: ``"macs"`` or ``"parameters"``.
        need: how many are to be saved.
        doing: who asks, for the errors.

    Raises:
        InputError: so many cannot be saved.
    """
    options = {}
    for name, layer in layers.items():
        whole = getattr(layer, measure)
        # Ranks that save nothing of this are none of the options.
        options[name] = [c for c in layer.candidates if getattr(c, measure) < whole]
    choices = {
        name: Choices(
            [0.0, *(float(getattr(layers[name], measure) - getattr(c, measure)) for c in options[name])],
            [0.0, *(-log(max(1 - c.lost, LEAST)) for c in options[name])],
        )
        for name in layers
    }
    table = Portions(choices)
    if need > table.most:
        raise InputError(
            f"{doing}: {need:,.0f} {measure} are to be saved, and rank 1 in every layer saves {table.most:,.0f}; ask for "
            "less, or cut channels as well"
        )
    return {name: options[name][number - 1] for name, number in table.at(need).items() if number}


def rank_words(rank: Rank, full: Rank) -> str:
    """Return a rank beside the full one, in words.

    >>> rank_words(13, 64), rank_words((8, 16), (32, 64))
    ('rank 13 of 64', 'rank 8 × 16 of 32 × 64')
    """
    words = [f"{r[0]} × {r[1]}" if isinstance(r, tuple) else str(r) for r in (rank, full)]
    return f"rank {words[0]} of {words[1]}"
