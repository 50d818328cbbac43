"""Solvers: what to remove and new values for what stays, found together from data, without training."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from secateur.checks import check_name
from secateur.labelled import Data
from secateur.solvers.solution import Solution, Solver
from secateur.solvers.sparse_gpt import SparseGPT
from secateur.solvers.structured_obs import StructuredOBS
from secateur.solvers.thinet import ThiNet
from secateur.solvers.wood_fisher import WoodFisher
from secateur.types import InputError

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


def by_name(name: str, data: Data | None) -> Solver:
    """Return the solver called `name`, on these samples.

    Raises:
        UnknownNameError: there is no such solver.
        InputError: there are no samples.
    """
    check_name("solver", name, SOLVERS)
    if data is None:
        raise InputError(f"solver {name!r} looks at data: give labelled samples, such as (inputs, targets)")
    return SOLVERS[name](data)
