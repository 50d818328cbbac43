"""Questions to stores: conditions on parameters and metrics, and read-only SQL."""

from __future__ import annotations

import math
import re
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secateur.checks import check_whole
from secateur.files import from_json, require
from secateur.lab.keep import frames
from secateur.lab.keep.database import Connection, address, connected
from secateur.lab.keep.schema import VIEWS
from secateur.lab.keep.seals import FAILURE, RECORD, check_record, plain
from secateur.lab.plan.recipe import Json
from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Condition", "Where", "conditions", "select", "sql"]

_TEXT = ("id", "study", "kind", "created")
_NUMBERS = ("wall_seconds", "cpu_seconds")
_SPELLING = re.compile(r"\s*([^=<>!]+?)\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
# What a query may do: look. Attaching, writing, settings and loading code are refused by SQLite itself.
_ALLOWED = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
_LONGEST = 100_000_000
"""The longest text that a query may make, in bytes."""


@dataclass(frozen=True)
class Condition:
    """One thing that a record must fulfil.

    Attributes:
        name: a parameter or a metric (the metric where both have the name), ``parameter.NAME``, ``metric.NAME``,
            or one of id, study, kind, created, wall_seconds, cpu_seconds.
        operator: ``=``, ``!=``, ``<``, ``<=``, ``>`` or ``>=``. All but ``=`` with None ask that there is a value.
        value: a number, a text, a bool or None (not given); with ``=`` also a list, any of which will do.

    Raises:
        InputError: a value that SQL cannot compare.

    >>> Condition.parse("accuracy>=0.8")
    Condition(name='accuracy', operator='>=', value=0.8)
    """

    name: str
    operator: str
    value: Json

    def __post_init__(self) -> None:
        for part in self.value if self._is_list() else (self.value,):
            if part is not None and not isinstance(part, (bool, int, float, str)):
                raise InputError(f"condition on {self.name!r}: cannot compare with {part!r}; give numbers or texts")
        if self.operator not in ("=", "!=") and self.value is None:
            raise InputError(f"condition on {self.name!r}: {self.operator} needs a number or a text, not None")

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Return the condition that is written as ``NAME=VALUE``, ``NAME>VALUE`` and so on.

        The value is read as JSON where it is, else as plain text; ``null`` is None.

        Raises:
            InputError: it is not of that form.
        """
        match = _SPELLING.fullmatch(text)
        if not match:
            raise InputError(f"condition {text!r}: write NAME=VALUE, with =, !=, <, <=, > or >=, such as accuracy>0.8")
        name, operator, value = match.groups()
        return cls(name, operator, value.strip() if name in _TEXT else _value(value.strip()))

    def to_sql(self) -> tuple[str, list[Json]]:
        """Return the condition in SQL, with the values of its marks."""
        text, path = _expression(self.name)
        if self._is_list():
            return f"{text} IN ({', '.join('?' * len(self.value))})", [*path, *self.value]
        if self.value is None:
            return f"{text} IS {'NOT ' if self.operator == '!=' else ''}NULL", path
        if self.operator in ("=", "!="):
            return f"{text} {self.operator} ?", [*path, self.value]
        # To SQLite every text is greater than every number.
        kinds = "('text')" if isinstance(self.value, str) else "('integer', 'real')"
        return f"{text} {self.operator} ? AND typeof({text}) IN {kinds}", [*path, self.value, *path]

    def _is_list(self) -> bool:
        return self.operator == "=" and isinstance(self.value, (list, set, frozenset))


Where = Mapping[str, Json] | Sequence[str] | None
"""Conditions: texts such as ``accuracy>0.8``, or names with a value, a list of values, or a pair (least, most)."""


def conditions(where: Where) -> list[Condition]:
    """Return the conditions, all of which must hold.

    A pair is a range with both ends; None leaves an end open.

    >>> [str(c.operator) for c in conditions({"sparsity": 0.5, "accuracy": (0.8, None)})]
    ['=', '>=']
    """
    if where is None:
        return []
    if isinstance(where, str):
        raise InputError(f"where is the text {where!r}; give a list of such texts, or a mapping")
    if not isinstance(where, Mapping):
        return [Condition.parse(text) for text in where]
    parsed: list[Condition] = []
    for name, value in where.items():
        if not isinstance(value, tuple):
            parsed.append(Condition(name, "=", value))
            continue
        if len(value) != 2:
            raise InputError(f"condition on {name!r}: a range is a pair (least, most), got {value!r}")
        ends = zip((">=", "<="), value, strict=True)
        parsed += [Condition(name, operator, end) for operator, end in ends if end is not None]
    return parsed


def select(
    connection: Connection,
    where: Sequence[Condition] = (),
    columns: Sequence[str] | None = None,
    sort: str | None = None,
    limit: int | None = None,
) -> DataFrame:
    """Return the records that fulfil all of `where`; see `Store.query`."""
    asked = [*(c.name for c in where), *(columns or ()), *([sort.removeprefix("-")] if sort else [])]
    # What a condition reads decides what comes, so all must be right; of the newest only those that come.
    newest = limit is not None and not where and (sort or "created").removeprefix("-") in frames.FIXED
    if not newest:
        connection.check_records()
    _check_names(connection, asked)
    _check_kinds(connection, where)
    text, values = _clauses(where, sort, limit)
    text = text if newest else f"NOT INDEXED {text}"
    for row in connection.execute(f"SELECT {', '.join(RECORD)} FROM records {text}", values) if newest else ():
        check_record(row)
    if columns is None:
        return frames.frame(_rows(connection, text, values))
    if not columns:
        raise InputError("columns is empty; name one or more, or give None for all")
    texts, paths = zip(*(_expression(name, "->") for name in columns), strict=True)
    marks = [value for path in paths for value in path] + values
    answers = connection.execute(f"SELECT {', '.join(texts)} FROM records {text}", marks)
    plain = [name in frames.FIXED for name in columns]
    rows = [[v if p else _read(v) for p, v in zip(plain, row, strict=True)] for row in answers]
    return require("pandas", "lab").DataFrame(rows, columns=list(columns))


def _clauses(where: Sequence[Condition], sort: str | None, limit: int | None) -> tuple[str, list[Json]]:
    parts, values = [], []
    for condition in where:
        part, more = condition.to_sql()
        parts.append(part)
        values += more
    text = f"WHERE {' AND '.join(parts)}" if parts else ""
    name, falling = (sort or "created").removeprefix("-"), " DESC" if (sort or "").startswith("-") else ""
    order, path = _expression(name)
    # The records without a value come last, whichever way; a fixed column is never without, and may have an index.
    missing = "" if name in frames.FIXED else f"{order} IS NULL, "
    text += f" ORDER BY {missing}{order}{falling}, rowid{falling if name == 'created' else ''}"
    values += [*path, *path] if missing else path
    if limit is not None:
        check_whole("query", 0, "None is all", limit=limit)
        text += " LIMIT ?"
        values.append(limit)
    return text, values


def _rows(connection: sqlite3.Connection, text: str, values: Sequence[Json]) -> list[dict[str, Any]]:
    columns = "id, study, kind, wall_seconds, cpu_seconds, created, coalesce(exact, metrics) AS metrics"
    columns += ", json_extract(recipe, '$.parameters') AS parameters"
    answers = map(dict, connection.execute(f"SELECT {columns} FROM records {text}", values))
    return [r | {name: plain(r[name], dict, name) for name in ("parameters", "metrics")} for r in answers]


def _read(text: str | None) -> Json:
    # What JSON cannot say, nan, is null there (`queryable`).
    return math.nan if text == "null" else None if text is None else plain(text, object, "values")


def _value(text: str) -> Json:
    try:
        return from_json(text)
    except ValueError:
        return text


def _expression(name: str, take: str = "") -> tuple[str, list[Json]]:
    """A column or a value inside one, in SQL; with ``->`` as JSON text."""
    if name in frames.FIXED:
        return name, []
    groups = {"parameter": "recipe", "metric": "metrics"}
    group, dot, rest = name.partition(".")
    if not dot or group not in groups:
        group, rest = "", name
    if not rest or '"' in rest or "\x00" in rest:
        raise InputError(f"{name!r} cannot name a parameter or a metric in a query; use Store.records and look there")
    places = [(column, _path(column, rest)) for key, column in groups.items() if group in ("", key)]
    texts = [f"{column} -> ?" if take else f"json_extract({column}, ?)" for column, _ in reversed(places)]
    return texts[0] if group else f"coalesce({', '.join(texts)})", [path for _, path in reversed(places)]


def _path(column: str, name: str) -> str:
    return f'$.parameters."{name}"' if column == "recipe" else f'$."{name}"'


def _check_names(connection: sqlite3.Connection, names: Iterable[str]) -> None:
    """Refuse a name that no record has, when there are records."""
    for name in dict.fromkeys(names):
        text, path = _expression(name, "->")
        if (
            name in frames.FIXED
            or connection.execute(f"SELECT 1 FROM records WHERE {text} NOT NULL LIMIT 1", path).fetchone()
        ):
            continue
        names_there = {
            row[0]
            for view in ("parameters", "metrics", "class_metrics")
            for row in connection.execute(f"SELECT DISTINCT name FROM {view}")
        }
        if names_there:
            raise unknown_name("parameter or metric", name, names_there | {*frames.FIXED})


def _check_kinds(connection: sqlite3.Connection, where: Iterable[Condition]) -> None:
    """Refuse to compare numbers with a text, or texts with a number, which nothing can fulfil."""
    for condition in where:
        text, path = _expression(condition.name)
        answers = connection.execute(f"SELECT DISTINCT typeof({text}) FROM records", [*path, *path][: text.count("?")])
        kinds = {_KINDS.get(row[0], "") for row in answers} - {""}
        values = condition.value if isinstance(condition.value, (list, set, frozenset)) else [condition.value]
        asked = {"texts" if isinstance(value, str) else "numbers" for value in values if value is not None}
        if kinds and asked and not kinds & asked:
            (holds,) = kinds
            raise InputError(
                f"condition {condition.name}{condition.operator}{condition.value}: {condition.name} holds {holds}; "
                f"give a {holds.removesuffix('s')}"
            )


_KINDS = {"text": "texts", "integer": "numbers", "real": "numbers"}
"""What SQLite calls a value's type: in words."""


def sql(stores: Mapping[str, Path], query: str, parameters: Sequence[Json] = (), *, seconds: float = 60.0) -> DataFrame:
    """Return the answer to one SELECT over one or several stores.

    There are views ``cells``, ``parameters``, ``metrics`` and ``class_metrics``, and tables ``failures`` and
    ``histories``, each with a first column ``store``. Nothing can be changed: the files are opened for reading
    and SQLite refuses everything but looking.

    Args:
        stores: name → database file.
        query: one SELECT (or WITH … SELECT) of SQLite's SQL.
        parameters: the values of its ``?`` marks.
        seconds: after this time the query is given up.

    Raises:
        InputError: it is no such query, asks for what may not be done, or takes too long.
    """
    for file in stores.values():
        with connected(file) as store_connection:
            store_connection.check_whole()
    try:
        with closing(_reader(stores)) as connection:
            _guard(connection, seconds)
            cursor = connection.execute(query, parameters)
            if cursor.description is None:
                raise InputError(f"the query {query!r} asks for nothing; write a SELECT")
            names = [str(column[0]) for column in cursor.description]
            return require("pandas", "lab").DataFrame(cursor.fetchall(), columns=names)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        words = f"it took more than {seconds:g} s" if str(error) == "interrupted" else str(error)
        raise InputError(
            f"the query {query!r} cannot be answered: {words}; write one SELECT over {', '.join(_ANSWERS)}"
        ) from error


_ANSWERS = (*VIEWS, "failures", "histories")
_COLUMNS = {"failures": FAILURE[1:]}


def _reader(stores: Mapping[str, Path]) -> sqlite3.Connection:
    """A connection that holds the stores, for reading, and the views over all of them."""
    connection = sqlite3.connect("file::memory:", uri=True)
    try:
        for place, file in enumerate(stores.values()):
            connection.execute(f"ATTACH ? AS store{place}", (address(file, "ro"),))
        for view in _ANSWERS:
            columns = ", ".join(_COLUMNS.get(view, "*"))
            parts = [
                f"SELECT {_quoted(name)} AS store, {columns} FROM store{at}.{view}" for at, name in enumerate(stores)
            ]
            connection.execute(f"CREATE TEMP VIEW {view} AS {' UNION ALL '.join(parts)}")
    except sqlite3.Error as error:
        connection.close()
        if "too many attached" in str(error):
            raise InputError(f"one query can ask at most 10 stores, not {len(stores)}; choose them") from error
        raise
    return connection


def _guard(connection: sqlite3.Connection, seconds: float) -> None:
    end = time.monotonic() + seconds
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.execute("PRAGMA query_only = 1")
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
    # A true answer ends the query; between the steps Ctrl-C is seen, too.
    connection.set_progress_handler(lambda: time.monotonic() > end, 100_000)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
