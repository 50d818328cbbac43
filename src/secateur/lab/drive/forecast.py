"""What a run of a study would compute: how many cells of each kind, which of them are there, and about how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from secateur.lab.drive.tally import clock
from secateur.lab.keep.store import Store
from secateur.lab.plan.study import Cell, Planned

__all__ = ["Forecast", "KindForecast", "forecast"]


@dataclass(frozen=True)
class KindForecast:
    """The cells of one kind.

    Attributes:
        kind: which.
        cells: how many the study has.
        finished: how many are in the store.
        failed: how many failed in an earlier run, and would be tried with ``--retry-failed`` alone.
        seconds: how long one took on average here; None where none is finished.
    """

    kind: str
    cells: int
    finished: int
    failed: int
    seconds: float | None

    @property
    def left(self) -> int:
        """How many would be computed."""
        return self.cells - self.finished - self.failed


@dataclass(frozen=True)
class Forecast:
    """What a run would compute, kind by kind.

    >>> print(Forecast("toy", (KindForecast("train", 3, 1, 0, 60.0), KindForecast("prune", 9, 0, 0, None))))
    toy: 12 cells, 1 finished, 0 failed before, 11 to compute
      train: 3 cells, 1 finished, 0 failed before, 2 to compute, 60.0 s each
      prune: 9 cells, 0 finished, 0 failed before, 9 to compute
    About 0:02:00 of computing, divided by how many cells run at a time; of prune none has been timed here yet.
    """

    study: str
    kinds: tuple[KindForecast, ...]

    @property
    def seconds(self) -> float:
        """How long the cells to compute take, one after the other, as far as their kind has been timed."""
        return sum(kind.left * (kind.seconds or 0.0) for kind in self.kinds)

    @property
    def untimed(self) -> tuple[str, ...]:
        """The kinds of which there is something to compute and nothing finished."""
        return tuple(kind.kind for kind in self.kinds if kind.left and kind.seconds is None)

    def __str__(self) -> str:
        lines = [f"{self.study}: {_counts(self.kinds)}"]
        for kind in self.kinds:
            each = "" if kind.seconds is None else f", {kind.seconds:.1f} s each"
            lines.append(f"  {kind.kind}: {_counts([kind])}{each}")
        if not any(kind.left for kind in self.kinds):
            return "\n".join([*lines, "Nothing is left to compute."])
        untimed = f"of {', '.join(self.untimed)} none has been timed here yet" if self.untimed else ""
        about = (
            f"about {clock(self.seconds)} of computing, divided by how many cells run at a time" if self.seconds else ""
        )
        words = "; ".join(part for part in (about, untimed) if part)
        return "\n".join([*lines, f"{words[0].upper()}{words[1:]}."])


def forecast(planned: Planned, store: Store | None) -> Forecast:
    """Return what a run of the study would compute; without a store, all of it. Nothing is written."""
    by_kind: dict[str, list[Cell]] = {}
    for cell in planned.cells:
        by_kind.setdefault(cell.recipe.kind, []).append(cell)
    failed = {failure.recipe.id for failure in store.failures()} if store else set()
    return Forecast(planned.study.name, tuple(_of_kind(kind, cells, store, failed) for kind, cells in by_kind.items()))


def _of_kind(kind: str, cells: Sequence[Cell], store: Store | None, failed: set[str]) -> KindForecast:
    records = store.records(cell.id for cell in cells) if store else []
    finished = {record.id for record in records}
    seconds = sum(record.wall_seconds for record in records) / len(records) if records else None
    missed = sum(cell.id in failed - finished for cell in cells)
    return KindForecast(kind, len(cells), len(finished), missed, seconds)


def _counts(kinds: Sequence[KindForecast]) -> str:
    cells, finished, failed, left = (
        sum(getattr(kind, name) for kind in kinds) for name in ("cells", "finished", "failed", "left")
    )
    return f"{cells} cells, {finished} finished, {failed} failed before, {left} to compute"
