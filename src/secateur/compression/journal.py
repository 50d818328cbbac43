"""What a compression has found out so far, kept in a folder so that a killed one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from secateur.files import MALFORMED, from_json, read_text, write_text
from secateur.hints import from_plain
from secateur.types import FileError

__all__ = ["Attempt", "Journal", "StepTrial", "Trial", "least_cost"]

FORMAT = "secateur-compression-1"

KEPT: Mapping[str, Callable[[Any], Any]] = {"baseline": dict, "done": str, "runtime": str, "latency": list}
"""What the file holds beside identity and trials."""


@dataclass(frozen=True)
class Trial:
    """One smaller model that was tried.

    Attributes:
        number: from 1.
        base: the number of the trial whose model was cut further; 0 for the original.
        asked: the cost that it was cut to, as a fraction of the original's.
        cost: what it costs, as a fraction of the original's: measured, where it is a latency. None, as the next two, where
            there was no such model.
        metric: on the validation data, after the training.
        untrained: the same before the training.
        accepted: whether the metric is within what it may drop.
        why: what was decided, in words.
        seconds: how long it took.
    """

    number: int
    base: int
    asked: float
    cost: float | None
    metric: float | None
    untrained: float | None
    accepted: bool
    why: str
    seconds: float


@dataclass(frozen=True)
class StepTrial:
    """One of the steps that were given, as it was tried.

    Attributes:
        number: from 1.
        step: what it does, in words.
        macs, parameters, bytes: of what it made, and after training; None where it could not be done.
        latency: median seconds of the original and of what it made, in turns; empty where it does not run in the runtime.
        metric, untrained: on the validation data, after the training and before it.
        accepted: whether the metric is within what it may drop.
        why: what was decided, in words.
        seconds: how long it took.
    """

    number: int
    step: str
    macs: int | None
    parameters: int | None
    bytes: int | None
    latency: Sequence[float]
    metric: float | None
    untrained: float | None
    accepted: bool
    why: str
    seconds: float


Attempt = TypeVar("Attempt", Trial, StepTrial)


@dataclass
class Journal(Generic[Attempt]):
    """The trials so far, and what they share; `folder` is None where nothing is written.

    Attributes:
        folder: where the file is.
        identity: what decides the outcome: another is refused.
        baseline: the original's metric.
        trials: all that was tried, in order.
        done: what ended it, in words; empty while it goes on.
        runtime: where latency is measured.
        latency: seconds of the original and of the best, measured at the end.

    >>> journal = Journal(None, {"goal": "macs"})
    >>> journal.folder is None, journal.trials
    (True, [])
    """

    folder: Path | None
    identity: Mapping[str, Any]
    baseline: dict[str, float] = field(default_factory=dict)
    trials: list[Attempt] = field(default_factory=list)
    done: str = ""
    runtime: str = ""
    latency: list[float] = field(default_factory=list)

    @classmethod
    def opened(cls, folder: Path | None, identity: Mapping[str, Any], attempts: type[Attempt]) -> Journal[Attempt]:
        """Return the journal of a folder, or a new one.

        Raises:
            FileError: the folder is that of another compression, or its journal is damaged.
        """
        journal = cls(folder, identity)
        if folder is None or not journal.path.exists():
            return journal
        try:
            record = from_json(read_text(journal.path))
            theirs: dict[str, Any] = dict(record["identity"])
            trials = [from_plain(attempts, trial) for trial in record["trials"]]
            rest = {name: kind(record[name]) for name, kind in KEPT.items()}
        except (OSError, *MALFORMED) as error:
            raise FileError(f"{journal.path} is damaged ({error}); delete the folder to start over") from error
        differing = sorted(name for name in {*identity, *theirs} if theirs.get(name) != identity.get(name))
        if differing:
            raise FileError(
                f"{folder} holds another compression; these differ: {', '.join(differing)}; give another folder, or "
                "delete this one to start over"
            )
        return cls(folder, identity, trials=trials, **rest)

    @property
    def path(self) -> Path:
        """The journal's file."""
        assert self.folder is not None
        return self.folder / "compression.json"

    def place(self, name: str) -> Path | None:
        """Return the path of a part of the folder; None where nothing is written."""
        return None if self.folder is None else self.folder / name

    def write(self) -> None:
        """Put all that is known on the disk, whole or not at all."""
        if self.folder is not None:
            write_text(self.path, json.dumps(self.to_dict(), indent=1))

    def forget(self, *patterns: str) -> None:
        """Delete the parts of the folder whose names match one of the patterns."""
        if self.folder is not None:
            for file in (file for pattern in patterns for file in self.folder.glob(pattern)):
                file.unlink(missing_ok=True)

    def reopen(self) -> None:
        """Let it go on after its end."""
        self.done, self.latency = "", []

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "format": FORMAT,
            "identity": dict(self.identity),
            "trials": [asdict(trial) for trial in self.trials],
            **{name: getattr(self, name) for name in KEPT},
        }

    @property
    def accepted(self) -> list[Attempt]:
        """The trials that are good enough, in order."""
        return [trial for trial in self.trials if trial.accepted]


def least_cost(journal: Journal[Trial]) -> float:
    """Return the least cost of the trials that are good enough, as a fraction of the original's; 1 where there is none."""
    return min((trial.cost for trial in journal.accepted if trial.cost is not None), default=1.0)
