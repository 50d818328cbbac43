"""What a solver works out: masks, and the weights that go with them; and the smaller model that they make."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.calls import usual
from secateur.checks import check_fraction
from secateur.copies import copied
from secateur.hints import Checked
from secateur.result import Method, Result
from secateur.selection import layer_fractions
from secateur.state import own_tensors
from secateur.types import InputError, Keep, Sites
from secateur.wrappers import check_module

__all__ = ["Fractions", "Solution", "Solver", "fractions_of", "write"]

Fractions = float | Mapping[str, float]
"""The fraction removed: of all, or by site."""


@dataclass(frozen=True, eq=False)
class Solution(Checked):
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

    @usual
    def apply(self, model: nn.Module) -> nn.Module:
        """Return a copy of the model with the new weights; channels are then cut with ``cut(copy, sites, keep)``.

        Raises:
            InputError: the model has no such parameter, or it has another shape.
        """
        check_module(model, "Solution.apply")
        changed = copied(model)
        model_tensors = own_tensors(changed)
        for name, tensor in self.tensors.items():
            if name not in model_tensors or model_tensors[name].shape != tensor.shape:
                has = tuple(model_tensors[name].shape) if name in model_tensors else "none"
                raise InputError(
                    f"Solution.apply: the solution is for another model: it changes {name!r} of shape "
                    f"{tuple(tensor.shape)}, and this one has {has}"
                )
            with torch.no_grad():
                model_tensors[name].copy_(tensor)
        return changed


class Solver(Checked, ABC):
    """What removes and repairs: a frozen dataclass, called with ``(model, sites, sparsity)``, that changes nothing."""

    @usual
    def __call__(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Result:
        """Return the smaller model, repaired and verified: channels are cut out, single weights are zero.

        Args:
            model: the model that `sites` were found in; it is left as it is.
            sites: from `channels` or `weights`, whichever the solver takes.
            sparsity: the fraction removed, in [0, 1], or one by site.
            pattern: instead, for solvers that know it: N of every M weights stay, such as ``"2:4"``.
        """
        solution = self.solve(model, sites, sparsity, pattern=pattern)
        method = Method(criterion=repr(self), sparsity=sparsity, rule={} if pattern is None else {"pattern": pattern})
        return Result.of(model, sites, solution.keep, repaired=solution.apply(model), method=method)

    @abstractmethod
    def solve(
        self, model: nn.Module, sites: Sites, sparsity: Fractions | None = None, *, pattern: str | None = None
    ) -> Solution:
        """Return the masks, and the weights that make up for what goes; nothing is cut."""


def fractions_of(sparsity: Fractions, sites: Sites, doing: str) -> dict[str, float]:
    """Return the fraction of every site, those not named in a mapping staying whole.

    One fraction for all is that of each tensor's channels; sites that lie in one axis share it.

    Raises:
        InputError: a fraction outside [0, 1].
        UnknownNameError: a name that is no site.
    """
    fractions = (
        dict.fromkeys(sites, 0.0) | dict(sparsity) if isinstance(sparsity, Mapping) else dict.fromkeys(sites, sparsity)
    )
    for name, fraction in fractions.items():
        _ = sites[name]
        check_fraction(doing, sparsity=fraction)
    return fractions if isinstance(sparsity, Mapping) else layer_fractions(sites, sparsity)


def write(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write values into the model's tensors, by name."""
    model_tensors = own_tensors(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            model_tensors[name].copy_(tensor)
