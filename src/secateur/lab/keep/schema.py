"""The tables of a store's database, the views over them, and the way from older ones."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from functools import cache

from secateur.lab.keep.seals import Damaged, open_ledger

__all__ = ["APPLICATION", "VERSION", "VIEWS", "check_layout", "check_pages", "owner", "prepare", "queryable"]

APPLICATION = 0x53454341  # "SECA": SQLite's own field for whose file it is
VERSION = 3

# What is large stands last or in a table of its own, so that a filter over many records reads little.
_TABLES = (
    """CREATE TABLE IF NOT EXISTS records (
        seal INTEGER NOT NULL,
        id TEXT PRIMARY KEY, study TEXT NOT NULL, kind TEXT NOT NULL, seed INTEGER, created TEXT NOT NULL,
        wall_seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, artefact TEXT, history_seal INTEGER,
        recipe TEXT NOT NULL, metrics TEXT NOT NULL, environment TEXT NOT NULL, exact TEXT
    )""",
    "CREATE TABLE IF NOT EXISTS histories (id TEXT PRIMARY KEY, history TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS failures (
        seal INTEGER NOT NULL, id TEXT PRIMARY KEY, study TEXT NOT NULL, recipe TEXT NOT NULL,
        error TEXT NOT NULL, traceback TEXT NOT NULL, created TEXT NOT NULL
    )""",
    """CREATE TABLE IF NOT EXISTS ledger (
        seal INTEGER NOT NULL, store TEXT NOT NULL, sequence INTEGER NOT NULL,
        records INTEGER NOT NULL, record_ids INTEGER NOT NULL, record_seals INTEGER NOT NULL,
        failures INTEGER NOT NULL, failure_seals INTEGER NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS records_of_study ON records (study, kind, created)",
    "CREATE INDEX IF NOT EXISTS records_by_time ON records (created)",
)
VIEWS = {
    "cells": """SELECT id, study, kind, seed, json_extract(recipe, '$.parameters') AS parameters,
        json_extract(recipe, '$.needs') AS needs, metrics, environment, artefact, wall_seconds, cpu_seconds, created
        FROM records""",
    "parameters": """SELECT records.id, one.key AS name, one.value
        FROM records, json_each(records.recipe, '$.parameters') AS one""",
    "metrics": """SELECT records.id, one.key AS name, one.value
        FROM records, json_each(records.metrics) AS one WHERE one.type NOT IN ('array', 'object')""",
    "class_metrics": """SELECT records.id, list.key AS name, one.key AS class, one.value
        FROM records, json_each(records.metrics) AS list, json_each(list.value) AS one WHERE list.type = 'array'""",
}
"""The views that people ask: name → its query."""

_MARK = "\x00not finite"
_WORDS = {"NaN": "null", "Infinity": "9e999", "-Infinity": "-9e999"}

# Older tables are put aside, and what they hold goes into new ones; the seals are written afterwards.
_COLUMNS = "id, study, kind, seed, created, wall_seconds, cpu_seconds, artefact"
_FAILURES = (
    "INSERT INTO failures SELECT 0, id, study, recipe, error, traceback, created FROM old_failures ORDER BY rowid"
)
_FROM: dict[int, tuple[tuple[str, ...], tuple[str, ...]]] = {
    0: ((), ()),
    1: (
        ("records", "failures"),
        (
            f"INSERT INTO records SELECT 0, {_COLUMNS}, NULL, recipe, metrics, environment, NULL FROM old_records "
            "ORDER BY rowid",
            "INSERT INTO histories SELECT id, history FROM old_records WHERE history <> '[]'",
            _FAILURES,
        ),
    ),
    2: (
        ("records", "failures", "histories"),
        (
            f"INSERT INTO records SELECT 0, {_COLUMNS}, NULL, recipe, metrics, environment, exact FROM old_records "
            "ORDER BY rowid",
            "INSERT INTO histories SELECT id, history FROM old_histories ORDER BY rowid",
            _FAILURES,
        ),
    ),
}
"""From a version: the tables that are put aside, and the statements that fill the new ones."""


def queryable(metrics: str) -> tuple[str, str | None]:
    """Return metrics, written as Python writes JSON, as SQL can read them, and as they were where that differs.

    JSON knows no nan, so that one is null to a query; an infinity is a number too great to hold.

    >>> queryable('{"loss": NaN, "best": -Infinity}')
    ('{"loss": null, "best": -9e999}', '{"loss": NaN, "best": -Infinity}')
    >>> queryable('{"loss": 0.5}')
    ('{"loss": 0.5}', None)
    """
    if "NaN" not in metrics and "Infinity" not in metrics:
        return metrics, None
    # A constant becomes a mark that no number or text can be, and the mark what SQL understands.
    plain = json.loads(metrics, parse_constant=lambda word: {_MARK: _WORDS[word]})
    text = json.dumps(plain)
    for word in _WORDS.values():
        text = text.replace(json.dumps({_MARK: word}), word)
    return text, metrics


def owner(connection: sqlite3.Connection) -> tuple[int, int, bool]:
    """Return whose file it is, of which version, and whether it is still empty."""
    empty = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
    return _pragma(connection, "application_id"), _pragma(connection, "user_version"), empty


def prepare(connection: sqlite3.Connection, patience: float) -> None:
    """Bring an empty database, or one of an older version, to this version; another process may do so as well.

    Args:
        connection: in autocommit mode.
        patience: how many seconds to wait for other processes.
    """
    _to_log(connection, patience)
    connection.execute("BEGIN IMMEDIATE")
    version = _pragma(connection, "user_version")  # another process may have been first
    if version < VERSION:
        check_pages(connection)  # what is damaged must not get a seal
        _rebuild(connection, version)
        _mend(connection)
        open_ledger(connection)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def check_pages(connection: sqlite3.Connection) -> None:
    """Refuse a database whose pages or indexes make no sense."""
    answer = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
    if answer != "ok":
        raise Damaged(" ".join(str(answer).split()))


def _rebuild(connection: sqlite3.Connection, version: int) -> None:
    """Make the tables and views of this version, with what the older ones hold."""
    aside, fill = _FROM[version]
    for view in VIEWS:
        connection.execute(f"DROP VIEW IF EXISTS {view}")
    for index in ("records_of_study", "records_by_time"):
        connection.execute(f"DROP INDEX IF EXISTS {index}")
    moves = [f"ALTER TABLE {table} RENAME TO old_{table}" for table in aside]
    views = [f"CREATE VIEW IF NOT EXISTS {name} AS {query}" for name, query in VIEWS.items()]
    for statement in (*moves, *_TABLES, *fill, *(f"DROP TABLE old_{table}" for table in aside), *views):
        connection.execute(statement)


@cache
def _layout_of_this_version() -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:")) as connection:
        _rebuild(connection, 0)
        return _layout(connection)


def _layout(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")
    return frozenset((kind, name, sql) for kind, name, sql in rows)


def check_layout(connection: sqlite3.Connection) -> None:
    """Refuse a database of this version that lacks a table, an index or a view, or has another in its place."""
    lost = sorted(name for _, name, _ in _layout_of_this_version() - _layout(connection))
    if lost:
        raise Damaged(f"{', '.join(lost)} in it are not as they were made")


def _mend(connection: sqlite3.Connection) -> None:
    """Make the metrics of version 1 that SQL cannot read ones that it can."""
    rows = connection.execute("SELECT id, metrics FROM records WHERE NOT json_valid(metrics)").fetchall()
    for identity, metrics in rows:
        try:
            both = queryable(metrics)
        except ValueError:
            continue  # damaged; whoever reads the record is told
        connection.execute("UPDATE records SET metrics = ?, exact = ? WHERE id = ?", (*both, identity))


def _to_log(connection: sqlite3.Connection, patience: float) -> None:
    """Switch to the write-ahead log, for which SQLite does not wait by itself when another process does so too."""
    end = time.monotonic() + patience
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or time.monotonic() > end:
                raise
            time.sleep(0.01)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
