"""What a method is held against: as many units of each site chosen by magnitude, or at random."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor, nn

from secateur.criteria import Magnitude, Random
from secateur.selection import select
from secateur.types import InputError, Keep, Scores, Sites

__all__ = ["METHODS", "as_many", "by_magnitude", "by_method", "drawn", "drawn_like"]

METHODS = ("loss change", "magnitude", "random")
"""What chooses the units that go; the last two are the controls."""


def by_method(method: str, model: nn.Module, sites: Sites, changes: Scores, sparsity: float, seed: int) -> Keep:
    """Return the masks of one of `METHODS`; the controls remove as many units of each layer as the loss change does."""
    keep = select(changes, sparsity)
    if method == "loss change":
        return keep
    return as_many(Random(seed)(model, sites), keep) if method == "random" else by_magnitude(keep, model, sites)


def as_many(scores: Scores, keep: Keep) -> dict[str, Tensor]:
    """Return masks that remove the lowest scores, in each site as many as `keep` does.

    >>> import torch
    >>> as_many({"fc": torch.tensor([3.0, 1.0, 2.0])}, {"fc": torch.tensor([True, True, False])})
    {'fc': tensor([ True, False,  True])}
    """
    fractions = {name: int((~mask).sum()) / mask.numel() for name, mask in keep.items()}
    return select(scores, fractions, scope="layer", minimum=0)


def by_magnitude(keep: Keep, model: nn.Module, sites: Sites) -> dict[str, Tensor]:
    """Return the keep mask that removes as many units of each site as `keep` does: those of the lowest L2 norm."""
    return as_many(Magnitude(p=2)(model, sites), keep)


def drawn(model: nn.Module, sites: Sites, n: int, draws: int, seed: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return keep masks that each remove `n` of all units, drawn at random.

    Args:
        model, sites: the network and its sites, all pooled; one may lose every unit.
        n: how many units go.
        draws: how many masks.
        seed: whole numbers that together decide the draws.

    Raises:
        InputError: there are fewer units than `n`.
    """
    total = sum(site.size for site in sites.values())
    if n > total:
        raise InputError(f"{n} units are to be removed at random, but the network has only {total}; ask for fewer")
    return [select(scores, n / total, minimum=0) for scores in _random(model, sites, draws, seed)]


def drawn_like(keep: Keep, model: nn.Module, sites: Sites, draws: int, seed: Sequence[int]) -> list[dict[str, Tensor]]:
    """Return keep masks that each remove as many units of each site as `keep` does, drawn at random."""
    return [as_many(scores, keep) for scores in _random(model, sites, draws, seed)]


def _random(model: nn.Module, sites: Sites, draws: int, seed: Sequence[int]) -> Iterable[dict[str, Tensor]]:
    seeds = np.random.default_rng(list(seed)).integers(2**31, size=draws)
    return (Random(int(number))(model, sites) for number in seeds)
