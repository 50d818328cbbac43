"""Records as pandas tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from secateur.files import require
from secateur.lab.recipe import Json
from secateur.lab.records import Record

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["frame", "histories"]

_LEADING = ("id", "study", "kind")
_TRAILING = ("wall_seconds", "cpu_seconds", "created")


def frame(records: Sequence[Record]) -> DataFrame:
    hidden, covered = _names(records)
    rows = []
    for record in records:
        metrics = {(f"metric.{k}" if k in covered else k): v for k, v in record.metrics.items()}
        row = {"id": record.id, "study": record.recipe.study, "kind": record.recipe.kind}
        row |= _parameters(record, hidden) | metrics
        rows.append(row | {name: getattr(record, name) for name in _TRAILING})
    frame = require("pandas", "lab").DataFrame(rows)
    middle = [name for name in frame.columns if name not in {*_LEADING, *_TRAILING}]
    # Without records there are no rows to take the columns from.
    return frame.reindex(columns=[*_LEADING, *middle, *_TRAILING])


def histories(records: Sequence[Record]) -> DataFrame:
    epochs = {name for record in records for step in record.history for name in step}
    rows = []
    for record in records:
        values = _parameters(record, epochs | {*_LEADING})
        names = {"id": record.id, "study": record.recipe.study, "kind": record.recipe.kind}
        rows += [{**names, **values, **step} for step in record.history]
    return require("pandas", "lab").DataFrame(rows)


def _names(records: Sequence[Record]) -> tuple[set[str], set[str]]:
    """The names of parameters and of metrics that would hide another column."""
    parameters = {name for record in records for name in record.recipe.parameters}
    metrics = {name for record in records for name in record.metrics}
    fixed = {*_LEADING, *_TRAILING}
    return parameters & (metrics | fixed), metrics & fixed


def _parameters(record: Record, hidden: set[str]) -> dict[str, Json]:
    values = record.recipe.parameters.items()
    return {(f"parameter.{name}" if name in hidden else name): value for name, value in values}
