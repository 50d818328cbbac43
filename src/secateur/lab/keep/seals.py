"""Seals on the rows of a store's database, and the ledger that counts them: what was changed or lost shows.

Every row has a hash of all that stands in it. The ledger, one row, has how many records and failures there are, and
the exclusive or of their ids and of their seals; it changes in the same transaction as they do. So a changed row does
not fit its seal, and a lost, added or doubled one does not fit the ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from functools import reduce
from hashlib import blake2b
from operator import xor
from typing import Any
from uuid import uuid4

from secateur.files import from_json

__all__ = [
    "FAILURE",
    "RECORD",
    "Damaged",
    "Ledger",
    "check_failures",
    "check_histories",
    "check_history",
    "check_ids",
    "check_record",
    "check_records",
    "open_ledger",
    "plain",
    "seal",
]

RECORD = (
    "seal", "id", "study", "kind", "seed", "created", "wall_seconds", "cpu_seconds", "artefact", "history_seal",
    "recipe", "metrics", "environment", "exact",
)  # fmt: skip
"""The columns of a record's row, in their order."""
FAILURE = ("seal", "id", "study", "recipe", "error", "traceback", "created")
LEDGER = ("seal", "store", "sequence", "records", "record_ids", "record_seals", "failures", "failure_seals")

Row = sqlite3.Row


class Damaged(Exception):
    """What stands in the database is not what was written."""


def seal(*values: object) -> int:
    """Return a hash of texts, numbers and None: 64 bits, as SQLite holds them; a number is not the text that it prints.

    >>> seal("a", 1.0, None) == seal("a", 1.0, None), seal("a", "1.0", None) == seal("a", 1.0, None)
    (True, False)
    """
    text = "\x1f".join([value if type(value) is str else f"\x00{value!r}" for value in values])
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def plain(text: str | None, kind: type, name: str) -> Any:
    """Return what the JSON in a column says.

    Raises:
        Damaged: it is no JSON, nested too deep, or of another kind.

    >>> plain("[1]", list, "history")
    [1]
    >>> plain("[1]", dict, "metrics")
    Traceback (most recent call last):
    secateur.lab.keep.seals.Damaged: its metrics are a list
    """
    try:
        value = from_json(text or "")
    except (ValueError, TypeError) as error:
        raise Damaged(f"its {name} cannot be read: {error}") from error
    if not isinstance(value, kind):
        raise Damaged(f"its {name} are a {type(value).__name__}")
    return value


class Ledger:
    """The ledger of a database within one transaction: through it rows come and go.

    Attributes:
        values: what stands in it, but for its own seal.

    Raises:
        Damaged: it is lost, or not as it was written.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        rows = connection.execute(f"SELECT {', '.join(LEDGER)} FROM ledger").fetchall()
        if len(rows) != 1 or not _is_sealed(rows[0]):
            raise Damaged("the ledger of its records is lost or changed")
        self.values: dict[str, Any] = dict(zip(LEDGER[1:], tuple(rows[0])[1:], strict=True))

    @property
    def state(self) -> tuple[str, int]:
        """The database's name for itself, and how many transactions there have been."""
        return self.values["store"], self.values["sequence"]

    def put_record(self, row: Mapping[str, Any], history: str) -> None:
        """Write a record and its history (JSON); an older record of the id goes, and so does a failure.

        Args:
            row: the columns of a record but for the seals.
            history: as JSON.
        """
        self.forget(row["id"])
        whole = {**row, "history_seal": seal(row["id"], history)}
        row_seal = self._insert("records", [whole[name] for name in RECORD[1:]])
        self._connection.execute("INSERT INTO histories VALUES (?, ?)", (row["id"], history))
        self._count("record", 1, row["id"], row_seal)

    def put_failure(self, row: Mapping[str, Any]) -> None:
        """Write a failure, in place of an older one of the id."""
        self._forget("failure", row["id"])
        self._count("failure", 1, row["id"], self._insert("failures", [row[name] for name in FAILURE[1:]]))

    def forget(self, identity: str) -> None:
        """Remove a record, its history and its failure."""
        if self._forget("record", identity):
            self._connection.execute("DELETE FROM histories WHERE id = ?", (identity,))
        self.forgive(identity)

    def forgive(self, identity: str) -> None:
        """Remove a failure."""
        self._forget("failure", identity)

    def close(self) -> None:
        """Write the ledger, one transaction further."""
        self.values["sequence"] += 1
        values = list(self.values.values())
        marks = ", ".join(f"{name} = ?" for name in LEDGER)
        self._connection.execute(f"UPDATE ledger SET {marks}", [seal(*values), *values])

    def _insert(self, table: str, values: list[Any]) -> int:
        row_seal = seal(*values)
        marks = ", ".join("?" * (1 + len(values)))
        self._connection.execute(f"INSERT INTO {table} VALUES ({marks})", [row_seal, *values])
        return row_seal

    def _forget(self, kind: str, identity: str) -> bool:
        rows = self._connection.execute(f"SELECT seal FROM {kind}s WHERE id = ?", (identity,)).fetchall()
        if rows:
            self._connection.execute(f"DELETE FROM {kind}s WHERE id = ?", (identity,))
        for (row_seal,) in rows:
            self._count(kind, -1, identity, row_seal)
        return bool(rows)

    def _count(self, kind: str, step: int, identity: str, own: int) -> None:
        self.values[f"{kind}s"] += step
        self.values[f"{kind}_seals"] ^= own
        if kind == "record":
            self.values["record_ids"] ^= _number(identity)


def open_ledger(connection: sqlite3.Connection) -> None:
    """Seal the rows of a database that has none of it yet, and write its ledger."""
    for identity, history in connection.execute("SELECT id, history FROM histories").fetchall():
        connection.execute("UPDATE records SET history_seal = ? WHERE id = ?", (seal(identity, history), identity))
    values: list[Any] = [uuid4().hex, 0]
    for table, columns in (("records", RECORD), ("failures", FAILURE)):
        rows = [tuple(row) for row in connection.execute(f"SELECT {', '.join(columns[1:])} FROM {table}")]
        seals = [(seal(*row), row[0]) for row in rows]
        connection.executemany(f"UPDATE {table} SET seal = ? WHERE id = ?", seals)
        ids = [reduce(xor, (_number(identity) for _, identity in seals), 0)] if table == "records" else []
        values += [len(rows), *ids, reduce(xor, (row_seal for row_seal, _ in seals), 0)]
    marks = ", ".join("?" * len(LEDGER))
    connection.execute(f"INSERT INTO ledger VALUES ({marks})", [seal(*values), *values])


def check_record(row: Row) -> None:
    """Refuse a record's row, with its columns in their order first, that is not as it was written."""
    if not _is_sealed(tuple(row)[: len(RECORD)]):
        raise Damaged(f"record {row['id']} is not as it was written (its checksum differs)")


def check_history(row: Row) -> None:
    """Refuse a history, beside the columns of its record, that is not as it was written."""
    if row["history_seal"] != (None if row["history"] is None else seal(row["id"], row["history"])):
        raise Damaged(f"the history of record {row['id']} is not as it was written (its checksum differs)")


def check_records(connection: sqlite3.Connection) -> None:
    """Refuse a database any record of which was changed, lost or added."""
    _check_all(connection, "record", RECORD)


def check_failures(connection: sqlite3.Connection) -> None:
    """Refuse a database any failure of which was changed, lost or added."""
    _check_all(connection, "failure", FAILURE)


def check_histories(connection: sqlite3.Connection) -> None:
    """Refuse a database any history of which was changed, lost or added."""
    rows = connection.execute(
        "SELECT records.id, history_seal, history FROM records NOT INDEXED LEFT JOIN histories USING (id)"
    )
    count = 0
    for row in rows:
        check_history(row)
        count += row["history"] is not None
    if connection.execute("SELECT count(*) FROM histories NOT INDEXED").fetchone()[0] != count:
        raise Damaged("a history in it belongs to no record")


def check_ids(connection: sqlite3.Connection, identities: Sequence[str]) -> None:
    """Refuse ids that are not those of all records."""
    ledger, numbers = Ledger(connection).values, [_number(identity) for identity in identities]
    if (len(set(numbers)), reduce(xor, numbers, 0)) != (ledger["records"], ledger["record_ids"]):
        raise Damaged(f"{ledger['records']} records were kept, and {len(numbers)} ids, or other ones, are found")


def _check_all(connection: sqlite3.Connection, kind: str, columns: Sequence[str]) -> None:
    cursor = connection.cursor()
    cursor.row_factory = None  # plain tuples: this loop is what reading many records costs
    seals: dict[str, int] = {}
    for row_seal, identity, *rest in cursor.execute(f"SELECT {', '.join(columns)} FROM {kind}s NOT INDEXED"):
        if seal(identity, *rest) != row_seal:
            raise Damaged(f"{kind} {identity} is not as it was written (its checksum differs)")
        if seals.setdefault(identity, row_seal) is not row_seal:
            raise Damaged(f"{kind} {identity} is there twice")
    ledger = Ledger(connection).values
    if (len(seals), reduce(xor, seals.values(), 0)) != (ledger[f"{kind}s"], ledger[f"{kind}_seals"]):
        raise Damaged(f"{ledger[f'{kind}s']} {kind}s were kept, and {len(seals)}, or other ones, are found")


def _is_sealed(row: Sequence[Any]) -> bool:
    row_seal, *values = row
    return bool(seal(*values) == row_seal)


def _number(identity: str) -> int:
    """An id, 16 hex digits, as a number that SQLite holds."""
    try:
        return int.from_bytes(bytes.fromhex(identity)[:8], "little", signed=True)
    except (TypeError, ValueError):
        raise Damaged(f"{identity!r} is no id of a record") from None
