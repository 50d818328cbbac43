"""Records as pandas tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from secateur.files import require
from secateur.lab.keep.records import Record
from secateur.lab.plan.recipe import Json

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["FIXED", "frame", "histories", "row"]

_LEADING = ("id", "study", "kind")
_TRAILING = ("wall_seconds", "cpu_seconds", "created")
FIXED = (*_LEADING, *_TRAILING)
"""The columns that every record has."""


def row(record: Record) -> dict[str, Any]:
    """Return what `frame` takes of a record."""
    facts: dict[str, Any] = {"id": record.id, "study": record.recipe.study, "kind": record.recipe.kind}
    facts |= {"parameters": record.recipe.parameters, "metrics": record.metrics}
    return facts | {name: getattr(record, name) for name in _TRAILING}


def frame(rows: Sequence[Mapping[str, Any]]) -> DataFrame:
    """Return one row a record; each of `rows` has the fixed columns, ``parameters`` and ``metrics``."""
    hidden, covered = _names(rows)
    records = [
        {name: record[name] for name in _LEADING}
        | _named("parameter", record["parameters"], hidden)
        | _named("metric", record["metrics"], covered)
        | {name: record[name] for name in _TRAILING}
        for record in rows
    ]
    table = require("pandas", "lab").DataFrame(records)
    middle = [name for name in table.columns if name not in FIXED]
    # Without records there are no rows to take the columns from.
    return table.reindex(columns=[*_LEADING, *middle, *_TRAILING])


def histories(records: Sequence[Record]) -> DataFrame:
    """Return one row an epoch, with the record's parameters."""
    epochs = {name for record in records for step in record.history for name in step}
    rows = []
    for record in records:
        values = _named("parameter", record.recipe.parameters, epochs | {*_LEADING})
        names = {"id": record.id, "study": record.recipe.study, "kind": record.recipe.kind}
        rows += [{**names, **values, **step} for step in record.history]
    return require("pandas", "lab").DataFrame(rows)


def _names(rows: Sequence[Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """The names of parameters and of metrics that would hide another column."""
    parameters = {name for record in rows for name in record["parameters"]}
    metrics = {name for record in rows for name in record["metrics"]}
    return parameters & (metrics | {*FIXED}), metrics & {*FIXED}


def _named(group: str, values: Mapping[str, Json], hidden: set[str]) -> dict[str, Json]:
    return {(f"{group}.{name}" if name in hidden else name): value for name, value in values.items()}
