"""What a compression has found out so far, kept in a folder so that a killed one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from secateur.compression.options import Goal
from secateur.files import write_text
from secateur.types import FileError

__all__ = ["Compression", "Journal", "Trial"]

FORMAT = "secateur-compression-1"


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

    def __str__(self) -> str:
        verdict = "kept" if self.accepted else "taken back"
        start = f"trial {self.number} on {self.base or 'the original'}"
        if self.cost is None:
            return f"{start}: not to be had: {self.why}"
        return (
            f"{start}: cost {self.cost:.1%}, metric {self.metric:.4f} "
            f"({self.untrained:.4f} untrained), {verdict}: {self.why}; {self.seconds:.0f} s"
        )


@dataclass
class Journal:
    """The trials so far, and what they share; `folder` is None where nothing is written.

    >>> journal = Journal(None, {"goal": "macs"})
    >>> journal.folder is None, journal.trials
    (True, [])
    """

    folder: Path | None
    identity: Mapping[str, Any]
    baseline: dict[str, float] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    done: str = ""

    @classmethod
    def opened(cls, folder: Path | None, identity: Mapping[str, Any]) -> Journal:
        """Return the journal of a folder, or a new one.

        Raises:
            FileError: the folder is that of another compression, or its journal is damaged.
        """
        journal = cls(folder, identity)
        if folder is None or not journal.path.exists():
            return journal
        try:
            record = json.loads(journal.path.read_text(encoding="utf-8"))
            theirs = record["identity"]
            trials = [Trial(**trial) for trial in record["trials"]]
            baseline, done = dict(record["baseline"]), str(record["done"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise FileError(f"{journal.path} is damaged ({error}); delete the folder to start over") from error
        differing = sorted(name for name in {*identity, *theirs} if theirs.get(name) != identity.get(name))
        if differing:
            raise FileError(
                f"{folder} holds another compression; these differ: {', '.join(differing)}; give another folder, or "
                "delete this one to start over"
            )
        return cls(folder, identity, baseline, trials, done)

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

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {
            "format": FORMAT,
            "identity": dict(self.identity),
            "baseline": self.baseline,
            "trials": [asdict(trial) for trial in self.trials],
            "done": self.done,
        }

    @property
    def accepted(self) -> list[Trial]:
        """The trials that are good enough, in order."""
        return [trial for trial in self.trials if trial.accepted]

    @property
    def cost(self) -> float:
        """The least cost of those, as a fraction of the original's; 1 where there is none."""
        return min((trial.cost for trial in self.accepted if trial.cost is not None), default=1.0)


@dataclass(frozen=True)
class Compression:
    """How a compression went: the `history` of its `Result`.

    Attributes:
        goal: what was to be reached.
        metric: the name of what was rated by.
        runtime: where latency was measured.
        baseline: the original's metric on the validation data.
        trials: all that was tried, in order.
        reached: whether the best is within the goal.
        why: what ended it, in a sentence.
    """

    goal: Goal
    metric: str
    runtime: str
    baseline: float
    trials: tuple[Trial, ...]
    reached: bool
    why: str

    @classmethod
    def of(cls, journal: Journal, goal: Goal, metric: str, runtime: str) -> Self:
        """Read it from the journal of a compression that has ended."""
        return cls(
            goal,
            metric,
            runtime,
            journal.baseline["metric"],
            tuple(journal.trials),
            journal.cost <= goal.fraction,
            journal.done,
        )

    @property
    def best(self) -> Trial | None:
        """The trial that came back; None where none was good enough."""
        return next((trial for trial in reversed(self.trials) if trial.accepted), None)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        asked = f"{self.goal.what} {self.goal.fraction:g}" + (
            f" in {self.runtime}" if self.goal.what == "latency" else ""
        )
        if self.best is None:
            outcome = "nothing smaller was good enough; the original comes back"
        else:
            outcome = f"{self.best.cost:.1%} of it, {self.metric} {self.baseline:.4f} → {self.best.metric:.4f} on the validation data"
        return "\n".join([f"goal {asked}: {self.why}; {outcome}", *map(str, self.trials)])
