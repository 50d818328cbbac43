"""One directory that keeps the results of studies: SQLite for the numbers, safetensors for the tensors.

A record is written in one transaction after its artefact, so that a process killed at any moment leaves a
store that opens, with every finished cell in it and nothing of the unfinished one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.files import replacing, sweep
from secateur.lab import frames, paths
from secateur.lab.recipe import Recipe
from secateur.lab.records import Failure, Record, now
from secateur.types import FileError, InputError, unknown_name

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Store"]

_APPLICATION = 0x53454341  # "SECA": SQLite's own field for whose file it is
_VERSION = 1
# SQLite's errors that say nothing about what is in the file.
_OUTSIDE = tuple(f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "FULL", "READONLY", "CANTOPEN", "IOERR", "PERM"))
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, kind TEXT NOT NULL, seed INTEGER,
    recipe TEXT NOT NULL, metrics TEXT NOT NULL, history TEXT NOT NULL, environment TEXT NOT NULL,
    artefact TEXT, wall_seconds REAL NOT NULL, cpu_seconds REAL NOT NULL, created TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS failures (
    id TEXT PRIMARY KEY, study TEXT NOT NULL, recipe TEXT NOT NULL,
    error TEXT NOT NULL, traceback TEXT NOT NULL, created TEXT NOT NULL
);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""


@dataclass(frozen=True)
class Store:
    """A directory of results, each under its recipe's id.

    A store is only its path: every call opens the database and closes it, so that a store can be handed to
    another process. Several processes may use one at the same time (on a local disk: SQLite's write-ahead log
    does not work on network file systems).

    Args:
        path: the directory.
        create: make the directory and the database when they are missing.

    Raises:
        FileError: the store is missing, damaged, or not one of ours.

    >>> import tempfile, torch
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> recipe = Recipe("toy", "train", {"seed": 3})
    >>> _ = store.put(Record(recipe, {"accuracy": 0.5}), {"weight": torch.ones(2)})
    >>> store.get(recipe.id).metrics["accuracy"], store.artefact(recipe.id)["weight"].tolist()
    (0.5, [1.0, 1.0])
    """

    path: Path
    create: bool = field(default=True, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))
        if not self.create and not self.database.exists():
            raise FileError(f"there is no store at {self.path}; run the study first, or give the right directory")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot make the store's directory {self.path}: {error}") from error
        self._prepare()
        sweep(paths.artefacts_dir(self.path))

    @property
    def database(self) -> Path:
        """The database's file."""
        return paths.database_file(self.path)

    def put(self, record: Record, tensors: Mapping[str, Tensor] | None = None) -> Record:
        """Keep a record, and its `tensors` as its artefact; an older one of the same id is replaced.

        Returns:
            The record as kept, with its artefact's checksum.

        Raises:
            InputError: a metric or the history is not JSON.
            FileError: the disk refuses.
        """
        rows = _encoded(record)
        if tensors is not None:
            # Without its record an artefact is nothing, so the old pair goes before the new file comes.
            self.delete(record.id)
            rows["artefact"] = _save(paths.artefact_file(self.path, record.id), tensors)
        columns, marks = ", ".join(rows), ", ".join("?" * len(rows))
        with self._connection() as connection:
            connection.execute(f"INSERT OR REPLACE INTO records ({columns}) VALUES ({marks})", tuple(rows.values()))
            connection.execute("DELETE FROM failures WHERE id = ?", (record.id,))
        return self._decoded(rows)

    def get(self, identity: str) -> Record:
        """Return one record.

        Raises:
            UnknownNameError: there is none of that id.
        """
        rows = self._select("SELECT * FROM records WHERE id = ?", (identity,))
        if not rows:
            raise unknown_name("record", identity, self.ids())
        return self._decoded(rows[0])

    def has(self, identity: str) -> bool:
        """Say whether the cell of that id is finished."""
        return bool(self._select("SELECT 1 FROM records WHERE id = ?", (identity,)))

    def ids(self) -> set[str]:
        """Return the ids of all finished cells."""
        return {row["id"] for row in self._select("SELECT id FROM records")}

    def records(self, ids: Iterable[str] | None = None) -> list[Record]:
        """Return the records, oldest first; those of `ids` alone, in the order of `ids`, when given."""
        rows = self._select("SELECT * FROM records ORDER BY created, rowid")
        if ids is None:
            return [self._decoded(row) for row in rows]
        table = {row["id"]: row for row in rows}
        return [self._decoded(table[identity]) for identity in ids if identity in table]

    def delete(self, identity: str) -> None:
        """Forget one record and its artefact, so that the next run computes the cell again."""
        with self._connection() as connection:
            connection.execute("DELETE FROM records WHERE id = ?", (identity,))
        path = paths.artefact_file(self.path, identity)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"cannot remove the artefact {path}: {error}; remove it by hand") from error

    def artefact(self, identity: str) -> dict[str, Tensor]:
        """Return the tensors that a cell kept, on the CPU.

        Raises:
            UnknownNameError: there is no record of that id.
            FileError: it kept none, or the file is missing or damaged.
        """
        checksum = self.get(identity).artefact
        if checksum is None:
            raise FileError(f"record {identity} in {self.path} kept no tensors; its cell returns no artefact")
        return _load(paths.artefact_file(self.path, identity), checksum, identity)

    def fail(self, failure: Failure) -> None:
        """Keep why a cell failed; a later success forgets it."""
        recipe = failure.recipe
        row = (recipe.id, recipe.study, json.dumps(recipe.to_dict()), failure.error, failure.traceback, now())
        with self._connection() as connection:
            connection.execute("INSERT OR REPLACE INTO failures VALUES (?, ?, ?, ?, ?, ?)", row)

    def failures(self) -> list[Failure]:
        """Return the cells that failed and have not succeeded since, oldest first."""
        rows = self._select("SELECT * FROM failures ORDER BY created, rowid")
        return [Failure(self._recipe(row["recipe"]), row["error"], row["traceback"]) for row in rows]

    def frame(self, ids: Iterable[str] | None = None) -> DataFrame:
        """Return the records as a pandas table: one row a cell, one column a parameter and a metric.

        The columns are ``id``, ``study``, ``kind``, the parameters, the metrics, ``wall_seconds``,
        ``cpu_seconds``, ``created``. A name that two of these groups share is written ``parameter.name`` or
        ``metric.name`` where it would hide the other. What a cell does not have is missing (nan or None).
        """
        return frames.frame(self.records(ids))

    def histories(self, ids: Iterable[str] | None = None) -> DataFrame:
        """Return the histories as one long pandas table: the parameters beside every epoch's values."""
        return frames.histories(self.records(ids))

    def _prepare(self) -> None:
        with self._connection() as connection:
            self._check_owner(connection)
            if connection.execute("PRAGMA quick_check(1)").fetchone()["quick_check"] != "ok":
                raise sqlite3.DatabaseError("the file fails SQLite's own check")
            if _pragma(connection, "user_version") < _VERSION:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(_SCHEMA)

    def _check_owner(self, connection: sqlite3.Connection) -> None:
        owner, version = _pragma(connection, "application_id"), _pragma(connection, "user_version")
        # A file without tables is new, or was being made when its process was killed.
        fresh = connection.execute("SELECT 1 FROM sqlite_master").fetchone() is None
        if owner != _APPLICATION and not fresh:
            raise FileError(f"{self.database} is not a secateur store; give another directory")
        if version > _VERSION:
            raise FileError(f"{self.database} was written by a newer secateur; upgrade with pip install -U secateur")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self.database, timeout=60.0)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    yield connection
        except sqlite3.DatabaseError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.DatabaseError) -> FileError:
        name = getattr(error, "sqlite_errorname", "")
        if not name.startswith(_OUTSIDE):
            return self._damaged(error)
        return FileError(
            f"cannot use the store's database {self.database}: {error}; see that the disk has room, that the "
            "folder and the file may be written, and that no other program holds them"
        )

    def _damaged(self, error: Exception) -> FileError:
        return FileError(
            f"the store's database {self.database} is damaged: {error}; put a copy in its place, or move it "
            "away with its -wal and -shm files (the cells will be run again)"
        )

    def _select(self, query: str, values: tuple[str, ...] = ()) -> list[dict[str, Any]]:
        with self._connection() as connection:
            return [dict(row) for row in connection.execute(query, values)]

    def _recipe(self, text: str) -> Recipe:
        try:
            return Recipe.from_dict(json.loads(text))
        except (ValueError, FileError) as error:
            raise self._damaged(error) from error

    def _decoded(self, row: Mapping[str, Any]) -> Record:
        try:
            metrics, history, environment = (json.loads(row[name]) for name in ("metrics", "history", "environment"))
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error
        rest = {name: row[name] for name in ("artefact", "wall_seconds", "cpu_seconds", "created")}
        return Record(self._recipe(row["recipe"]), metrics, history, environment, **rest)


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _encoded(record: Record) -> dict[str, Any]:
    recipe = record.recipe
    try:
        texts = {
            "recipe": json.dumps(recipe.to_dict()),
            "metrics": json.dumps(dict(record.metrics)),
            "history": json.dumps([dict(row) for row in record.history]),
            "environment": json.dumps(dict(record.environment)),
        }
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the results of cell {recipe} cannot be kept: {error}; give plain numbers (.item() or .tolist())"
        ) from error
    names = {"id": recipe.id, "study": recipe.study, "kind": recipe.kind, "seed": recipe.seed}
    times = {
        "wall_seconds": record.wall_seconds,
        "cpu_seconds": record.cpu_seconds,
        "created": record.created,
    }
    return {**names, **texts, "artefact": record.artefact, **times}


def _save(path: Path, tensors: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save_file

    # Each its own dense memory: the format refuses tensors that share theirs, as tied weights do.
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part)
        return _checksum(part)


def _load(path: Path, checksum: str, identity: str) -> dict[str, Tensor]:
    from safetensors.torch import load

    remedy = f"forget the cell with Store.delete({identity!r}) and run the study again"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read the artefact {path}: {error}; {remedy}") from error
    if hashlib.sha256(data).hexdigest() != checksum:
        raise FileError(f"the artefact {path} is damaged: its checksum is not the one that was recorded; {remedy}")
    return load(data)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
