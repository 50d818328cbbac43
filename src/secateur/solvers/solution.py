"""What a solver returns: masks, and the weights that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from secateur.state import check_module, own_tensors
from secateur.types import InputError, Keep, Sites
from secateur.untouched import copied

__all__ = ["Fractions", "Solution", "Solver", "fractions_of"]

Fractions = float | Mapping[str, float]
"""The fraction removed: of all, or by site."""


@dataclass(frozen=True, eq=False)
class Solution:
    """Masks, and the weights that make up for what they remove.

    Attributes:
        keep: one bool tensor a site, True = keep.
        tensors: the new values of every parameter that changes, zeros where units are removed, by name.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> solution = Solution({"weight": torch.tensor([[True, False]])}, {"weight": torch.tensor([[1.5, 0.0]])})
    >>> solution.apply(model).weight.tolist()
    [[1.5, 0.0]]
    """

    keep: Keep
    tensors: Mapping[str, Tensor]

    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model with the new weights; channels are then cut with ``cut(copy, sites, keep)``.

        Raises:
            InputError: the model has no such parameter, or it has another shape.
        """
        check_module(model, "Solution.apply")
        changed = copied(model)
        own = own_tensors(changed)
        for name, tensor in self.tensors.items():
            if name not in own or own[name].shape != tensor.shape:
                has = tuple(own[name].shape) if name in own else "none"
                raise InputError(
                    f"Solution.apply: the solution is for another model: it changes {name!r} of shape "
                    f"{tuple(tensor.shape)}, and this one has {has}"
                )
            with torch.no_grad():
                own[name].copy_(tensor)
        return changed


class Solver(Protocol):
    """What removes and repairs: a frozen dataclass, called with ``(model, sites, sparsity)``, that changes nothing."""

    def __call__(self, model: nn.Module, sites: Sites, sparsity: Fractions) -> Solution:
        """Return the masks for this sparsity, and the weights that make up for what goes."""
        ...


def fractions_of(sparsity: Fractions, sites: Sites, doing: str) -> dict[str, float]:
    """Return the fraction of every site, those not named in a mapping staying whole.

    Raises:
        InputError: a fraction outside [0, 1].
        UnknownNameError: a name that is no site.
    """
    given = dict.fromkeys(sites, 0.0) | dict(sparsity) if isinstance(sparsity, Mapping) else sparsity
    found = given if isinstance(given, dict) else dict.fromkeys(sites, given)
    for name, fraction in found.items():
        _ = sites[name]
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
            raise InputError(f"{doing}: sparsity is the fraction removed and must lie in [0, 1]; got {fraction!r}")
    return found
