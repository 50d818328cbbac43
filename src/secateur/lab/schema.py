"""The tables of a store's database, the views over them, and the way from older ones."""

from __future__ import annotations

import json
import sqlite3
import time

__all__ = ["APPLICATION", "VERSION", "VIEWS", "owner", "prepare", "queryable"]

APPLICATION = 0x53454341  # "SECA": SQLite's own field for whose file it is
VERSION = 2

# What is large stands last or in a table of its own, so that a filter over many records reads little.
_TABLES = (
    """CREATE TABLE IF NOT EXISTS records (
        id TEXT PRIMARY KEY, study TEXT NOT NULL, kind TEXT NOT NULL, seed INTEGER, created TEXT NOT NULL,
        wall_seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, artefact TEXT,
        recipe TEXT NOT NULL, metrics TEXT NOT NULL, environment TEXT NOT NULL, exact TEXT
    )""",
    "CREATE TABLE IF NOT EXISTS histories (id TEXT PRIMARY KEY, history TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS failures (
        id TEXT PRIMARY KEY, study TEXT NOT NULL, recipe TEXT NOT NULL,
        error TEXT NOT NULL, traceback TEXT NOT NULL, created TEXT NOT NULL
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

# The columns of version 1, with what each becomes.
_FROM_1 = (
    "ALTER TABLE records RENAME TO records_1",
    *_TABLES,
    """INSERT INTO records SELECT id, study, kind, seed, created, wall_seconds, cpu_seconds, artefact,
        recipe, metrics, environment, NULL FROM records_1 ORDER BY rowid""",
    "INSERT INTO histories SELECT id, history FROM records_1 WHERE history <> '[]'",
    "DROP TABLE records_1",
)


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
        for statement in _FROM_1 if version == 1 else _TABLES:
            connection.execute(statement)
        _mend(connection)
        for name, query in VIEWS.items():
            connection.execute(f"CREATE VIEW IF NOT EXISTS {name} AS {query}")
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


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
