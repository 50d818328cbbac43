"""Block elimination: which units' inputs least squares misses least, one after the other, all others refitted each time.

Of W that minimises tr(W H Wᵀ) − 2 tr(C Wᵀ) with rows g = 0, the error beyond that of the best W is tr(W_g (H⁻¹_gg)⁻¹ W_gᵀ)
(Hassibi and Stork, 1992; for blocks Frantar and Alistarh, 2022). When g is gone, H⁻¹ loses H⁻¹_:g (H⁻¹_gg)⁻¹ H⁻¹_g: and
the elimination goes on. As in a Cholesky decomposition with pivots, only the columns of pivots are ever updated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.deadline import check_time

__all__ = ["Elimination", "LeastSquares", "removals"]


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """A least-squares problem whose inputs belong to units.

    Attributes:
        moments: H, the second moments of its inputs with what the square of each weight costs, ``(inputs, inputs)``.
        weights: the W of the least error with all inputs, ``(inputs, outputs)``.
        units: which units have inputs here, int64 ``(units here,)``.
        rows: the inputs of each, int64 ``(units here, inputs a unit)``; -1 where a unit has fewer than others.
    """

    moments: Tensor
    weights: Tensor
    units: Tensor
    rows: Tensor


class Elimination:
    """A problem from which units are eliminated one after the other.

    Args:
        problem: the problem.
        count: how many units will go at most.

    >>> moments = torch.tensor([[1.0, 1.0], [1.0, 2.0]])
    >>> units = Elimination(LeastSquares(moments, torch.tensor([[1.0], [2.0]]), torch.arange(2), torch.tensor([[0], [1]])), 1)
    >>> units.costs()                           # w² / [H⁻¹]ᵢᵢ, with H⁻¹ = [[2, −1], [−1, 1]]
    tensor([0.5000, 4.0000], dtype=torch.float64)
    >>> units.remove(0)                         # [1, 2] − 1 / 2 · [2, −1]
    >>> units.weights.flatten(), units.costs()
    (tensor([0.0000, 2.5000], dtype=torch.float64), tensor([ 0.0000, 12.5000], dtype=torch.float64))
    """

    def __init__(self, problem: LeastSquares, count: int) -> None:
        self.units, self.rows = problem.units, problem.rows.clamp(min=0)
        self.weights = problem.weights.double().clone()
        self._real = problem.rows >= 0
        self._inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.moments.double()))
        # H⁻¹ is now the first one less F Fᵀ.
        self._factor = self._inverse.new_empty(len(self._inverse), count * self.rows.shape[1])
        self._width = 0
        self._blocks = self._block(self._inverse[self.rows.unsqueeze(2), self.rows.unsqueeze(1)])
        self._gone = torch.zeros(len(self.units), dtype=torch.bool, device=self.rows.device)

    def _block(self, blocks: Tensor) -> Tensor:
        """With a row of the identity where a unit has no input."""
        there = self._real.unsqueeze(2) & self._real.unsqueeze(1)
        return torch.where(there, blocks, torch.eye(blocks.shape[1], dtype=blocks.dtype, device=blocks.device))

    def costs(self) -> Tensor:
        """Return the error that the removal of each unit here would add, ``(units here,)``; 0 for those that are gone."""
        lower = torch.linalg.cholesky(self._blocks)
        weights = self.weights[self.rows] * self._real.unsqueeze(2)
        lost = torch.linalg.solve_triangular(lower, weights, upper=False)
        costs: Tensor = lost.square().sum((1, 2))
        return costs

    def remove(self, here: int) -> None:
        """Remove a unit, by its position among `units`, and refit what is left."""
        rows = self.rows[here][self._real[here]]
        before = self._factor[:, : self._width]
        columns = self._inverse[:, rows] - before @ before[rows].mT
        lower = torch.linalg.cholesky(columns[rows])
        new = torch.linalg.solve_triangular(lower.mT, columns, upper=True, left=False)
        self.weights -= new @ torch.linalg.solve_triangular(lower, self.weights[rows], upper=False)
        self.weights[rows] = 0
        self._factor[:, self._width : self._width + len(rows)] = new
        self._width += len(rows)
        of_unit = new[self.rows] * self._real.unsqueeze(2)
        self._gone[here] = True
        self._blocks = self._blocks - of_unit @ of_unit.mT
        # What is gone has no weights; any block that can be inverted does.
        self._blocks[self._gone] = torch.eye(self.rows.shape[1], dtype=new.dtype, device=new.device)


def removals(problems: Sequence[LeastSquares], units: int, count: int) -> list[tuple[int, float]]:
    """Return which `count` units to remove, in order, each with the error that it added, summed over all problems.

    Each time the unit goes whose removal adds least, all weights of what is left being fitted anew.

    >>> moments = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 1.1]])   # inputs 0 and 2 are much alike
    >>> problem = LeastSquares(moments, torch.tensor([[2.0], [1.0], [1.0]]), torch.arange(3), torch.arange(3).view(3, 1))
    >>> [(unit, round(error, 3)) for unit, error in removals([problem], 3, 2)]
    [(2, 0.1), (1, 1.0)]
    """
    parts = [Elimination(problem, count) for problem in problems]
    block = [{int(unit): place for place, unit in enumerate(part.units)} for part in parts]
    left = torch.ones(units, dtype=torch.bool)
    order = []
    for _ in range(count):
        check_time()
        costs = torch.zeros(units, dtype=torch.float64)
        for part in parts:
            costs[part.units.cpu()] += part.costs().cpu()
        unit = int(torch.where(left, costs, torch.inf).argmin())
        left[unit] = False
        order.append((unit, float(costs[unit])))
        for part, places in zip(parts, block, strict=True):
            if unit in places:
                part.remove(places[unit])
    return order
