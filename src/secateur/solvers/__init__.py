"""Solvers: what to remove and new values for what stays, found together from data, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from secateur.checks import check_name
from secateur.labelled import Data
from secateur.solvers.solution import Solution, Solver
from secateur.solvers.sparse_gpt import SparseGPT
from secateur.solvers.structured_obs import StructuredOBS
from secateur.solvers.thinet import ThiNet
from secateur.solvers.wood_fisher import WoodFisher
from secateur.types import InputError, Loss

__all__ = ["SOLVERS", "Solution", "Solver", "SparseGPT", "StructuredOBS", "ThiNet", "WoodFisher", "by_name", "names"]

SOLVERS: Mapping[str, Callable[[Data], Solver]] = {
    "sparse-gpt": SparseGPT,
    "structured-obs": StructuredOBS,
    "thinet": ThiNet,
    "wood-fisher": WoodFisher,
}
"""The solvers by name; each takes the samples first."""


def names() -> list[str]:
    """Return the names of all solvers.

    >>> names()
    ['sparse-gpt', 'structured-obs', 'thinet', 'wood-fisher']
    """
    return sorted(SOLVERS)


def by_name(name: str, data: Data | None, loss: str | Loss | None = None) -> Solver:
    """Return the solver called `name`, on these samples, with this loss where it takes one.

    Raises:
        UnknownNameError: there is no such solver.
        InputError: there are no samples.
    """
    check_name("solver", name, SOLVERS)
    if data is None:
        raise InputError(f"solver {name!r} looks at data: give labelled samples, such as (inputs, targets)")
    solver = SOLVERS[name](data)
    return solver if loss is None or not hasattr(solver, "loss") else replace(solver, loss=loss)  # type: ignore[type-var]
