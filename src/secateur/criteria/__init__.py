"""Criteria: one file a family. A criterion is a frozen dataclass that only scores: ``(model, sites) → scores``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

from secateur.criteria.magnitude import Magnitude
from secateur.criteria.random import Random
from secateur.types import Criterion, unknown_name

__all__ = ["CRITERIA", "Magnitude", "Random", "by_name"]

CRITERIA: dict[str, Callable[..., Criterion]] = {
    "l1": partial(Magnitude, p=1),
    "l2": partial(Magnitude, p=2),
    "linf": partial(Magnitude, p=inf),
    "magnitude": Magnitude,
    "random": Random,
}
"""The criteria that need no data, by the names used in recipes and on the command line."""


def by_name(name: str, **options: object) -> Criterion:
    """Return the criterion called `name`.

    >>> by_name("l1")
    Magnitude(p=1)
    """
    if name not in CRITERIA:
        raise unknown_name("criterion", name, CRITERIA)
    return CRITERIA[name](**options)
