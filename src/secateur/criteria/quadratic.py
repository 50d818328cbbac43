"""A quadratic model of the loss over keep masks: what it foretells of a joint cut, and greedy orders of removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.checks import check_name
from secateur.types import InputError, Keep

__all__ = ["Descent", "Quadratic", "Removal"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Removal:
    """Units in the order in which they go, with what each adds to the loss once those before it are gone.

    Attributes:
        units: positions among the units of all sites, sites in their order.
        rises: the rise of the loss with each, float64; their sum up to any place is what that joint cut is foretold.
    """

    units: NDArray[np.int64]
    rises: Floats


@dataclass(frozen=True, eq=False)
class Quadratic:
    """The rise of the loss when the units S go together: Σ ``slopes`` over S + ½ Σ ``pairs`` over S × S.

    Attributes:
        sizes: the units of each site, in order.
        slopes: to first order, what the loss rises by without each unit, float64 ``(units,)``.
        pairs: how two units' removals act together, float64, symmetric ``(units, units)``.

    >>> import torch
    >>> twins = Quadratic({"a": 3}, np.array([0.0, 0.0, 1.0]), np.array([[2.0, 2, 0], [2, 2, 0], [0, 0, 0]]))
    >>> twins.foretell({"a": torch.tensor([False, True, True])})      # ½ · 2
    1.0
    >>> twins.foretell({"a": torch.tensor([False, False, True])})     # each makes up for the other: ½ (2 + 2 + 2 + 2)
    4.0
    """

    sizes: Mapping[str, int]
    slopes: Floats
    pairs: Floats

    @property
    def spans(self) -> dict[str, slice]:
        """Where the units of each site lie among all."""
        ends = np.cumsum([0, *self.sizes.values()]).tolist()
        return {name: slice(*ends[at : at + 2]) for at, name in enumerate(self.sizes)}

    @property
    def alone(self) -> Floats:
        """The rise of the loss without each unit alone."""
        return self.slopes + np.diagonal(self.pairs) / 2

    def foretell(self, keep: Keep) -> float:
        """Return the rise of the loss that is foretold for a joint cut; sites without a mask stay whole.

        Raises:
            UnknownNameError: there is no such site.
            InputError: a mask has another shape than its site.
        """
        removed, spans = np.zeros(len(self.slopes)), self.spans
        for name, mask in keep.items():
            check_name("site", name, spans)
            if tuple(mask.shape) != (self.sizes[name],):
                raise InputError(
                    f"foretell: the mask of {name!r} has the shape {tuple(mask.shape)}, and the site {self.sizes[name]} "
                    "units; give one bool for each"
                )
            removed[spans[name]] = ~mask.cpu().bool().numpy()
        return float(self.slopes @ removed + removed @ self.pairs @ removed / 2)

    def greedy(self, quotas: Mapping[str, int]) -> Removal:
        """Return units in greedy order, so many of each site: the next is the one that adds least to those before it.

        Of equals the earlier one goes first.

        >>> twins = Quadratic({"a": 3}, np.array([0.0, 0.0, 1.0]), np.array([[2.0, 2, 0], [2, 2, 0], [0, 0, 0]]))
        >>> twins.greedy({"a": 2}).units.tolist(), twins.greedy({"a": 2}).rises.tolist()
        ([0, 2], [1.0, 1.0])
        """
        return Descent(self).take(quotas)

    def order(self, minimum: int, evenly: bool) -> Removal:
        """Return all units in greedy order; the last `minimum` of every site go after all others.

        Args:
            minimum: units of each site.
            evenly: sites keep pace: at any place each has lost the same share of its units. A site of n units loses its
                k-th when the share reaches (k − ½) / n, as `select` rounds with ``scope="layer"``; which unit that is,
                the costs say.
        """
        walk = Descent(self)
        quotas = {name: max(size - minimum, 0) for name, size in self.sizes.items()}
        first = walk.take(quotas, evenly)
        last = walk.take({name: size - quotas[name] for name, size in self.sizes.items()})
        return Removal(np.concatenate([first.units, last.units]), np.concatenate([first.rises, last.rises]))


class Descent:
    """Units taken away one after the other.

    What every unit would cost is kept up to date: removing unit u adds ``pairs[u]`` to it.

    Attributes:
        costs: what each unit that is left would add to the loss, float64 ``(units,)``.
        gone: whether each unit is gone.
    """

    def __init__(self, model: Quadratic) -> None:
        self.model, self.spans = model, model.spans
        self.costs = model.alone.copy()
        self.gone = np.zeros(len(self.costs), dtype=bool)

    def remove(self, units: list[int]) -> None:
        """Take units away."""
        self.costs += self.model.pairs[units].sum(0)
        self.gone[units] = True

    def cheapest(self, site: str, count: int) -> Removal:
        """Return the units of a site that would go next if so many of them went, without taking them away."""
        span = self.spans[site]
        costs = np.where(self.gone[span], np.inf, self.costs[span])
        units, rises = [], []
        for _ in range(count):
            unit = int(np.argmin(costs))
            units.append(span.start + unit)
            rises.append(float(costs[unit]))
            costs += self.model.pairs[span.start + unit, span]
            costs[unit] = np.inf
        return Removal(np.array(units, dtype=np.int64), np.array(rises, dtype=np.float64))

    def take(self, quotas: Mapping[str, int], evenly: bool = False) -> Removal:
        """Take so many units of each site, the cheapest at each turn."""
        barred = np.where(self.gone, np.inf, 0.0)
        left = {name: quotas.get(name, 0) for name in self.spans}
        for name in (name for name, count in left.items() if not count):
            barred[self.spans[name]] = np.inf
        owner = np.repeat(list(self.spans), list(self.model.sizes.values()))
        turns = self._turns(left) if evenly else (slice(0, len(self.costs)) for _ in range(sum(left.values())))
        units, rises = [], []
        for span in turns:
            unit = span.start + int(np.argmin(self.costs[span] + barred[span]))
            units.append(unit)
            rises.append(float(self.costs[unit]))
            self.remove([unit])
            barred[unit] = np.inf
            left[owner[unit]] -= 1
            if not left[owner[unit]]:
                barred[self.spans[owner[unit]]] = np.inf
        return Removal(np.array(units, dtype=np.int64), np.array(rises, dtype=np.float64))

    def _turns(self, left: Mapping[str, int]) -> list[slice]:
        """Whose turn it is, one after the other, where all sites keep pace."""
        turns = [
            ((number + 0.5) / self.model.sizes[name], at, self.spans[name])
            for at, (name, count) in enumerate(left.items())
            for number in range(count)
        ]
        return [span for _, _, span in sorted(turns, key=lambda turn: turn[:2])]
