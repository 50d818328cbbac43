"""What a cell leaves behind: a record when it is finished, a failure when it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from secateur.lab.plan.recipe import Json, Recipe

__all__ = ["Failure", "Record", "now"]


def now() -> str:
    """Return the time, ISO 8601 in UTC, to the second.

    >>> now().endswith("+00:00")
    True
    """
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False)
class Record:
    """What one finished cell left.

    Attributes:
        recipe: what was computed.
        metrics: its results by name: numbers, strings, or lists of numbers (one a class).
        history: one mapping an epoch (or step), oldest first.
        environment: versions, machine, threads, commit (`secateur.lab.keep.environment`).
        wall_seconds: time on the clock.
        cpu_seconds: processor time of the process.
        created: when it was finished, ISO 8601 in UTC.
        artefact: the SHA-256 of its artefact's file; None when it kept no tensors.
    """

    recipe: Recipe
    metrics: Mapping[str, Json]
    history: Sequence[Mapping[str, Json]] = ()
    environment: Mapping[str, Json] = field(default_factory=dict)
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    created: str = field(default_factory=now)
    artefact: str | None = None

    @property
    def id(self) -> str:
        """The recipe's id."""
        return self.recipe.id


@dataclass(frozen=True)
class Failure:
    """Why a cell could not be finished: its recipe, the error in one line, the traceback, and when (ISO 8601, UTC)."""

    recipe: Recipe
    error: str
    traceback: str
    created: str = field(default_factory=now)
