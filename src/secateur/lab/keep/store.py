"""One directory that keeps the results of studies: SQLite for the numbers, safetensors for the tensors.

A record is written in one transaction after its artefact, so that a process killed at any moment leaves a
store that opens, with every finished cell in it and nothing of the unfinished one.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from secateur.files import check_depth, read_bytes, sweep, write_bytes
from secateur.lab.keep import database, frames, paths, query
from secateur.lab.keep.arrivals import Arrival
from secateur.lab.keep.records import Failure, Record
from secateur.lab.keep.schema import queryable
from secateur.lab.keep.seals import RECORD, Damaged, check_failures, check_history, check_ids, check_record, plain
from secateur.lab.plan.recipe import Json, Recipe
from secateur.types import FileError, InputError, UnknownNameError

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Store", "intact", "load_artefact"]

_LARGEST = 2**63 - 1
"""The largest whole number of an SQL column."""
_RECORDS = (
    f"SELECT {', '.join(f'records.{name}' for name in RECORD)}, history FROM records{{}} LEFT JOIN histories USING (id)"
)


@dataclass(frozen=True)
class Store:
    """A directory of results, each under its recipe's id.

    A store is only its path, so that it can be handed to another process; the connection to its database is
    the process's own, opened at the first call. Several processes may use one at the same time (on a local
    disk: SQLite's write-ahead log does not work on network file systems). What `put` and `fail` have kept
    survives kill -9 and a power cut. A copy of the directory needs the ``-wal`` file beside the database.

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
        database.ensure(self.database)

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
            FileError: the disk refuses; nothing of the record is kept then.
        """
        (result,) = self.put_all([(record, tensors)])
        if isinstance(result, InputError):
            raise result
        return result

    def put_all(self, results: Sequence[tuple[Record, Mapping[str, Tensor] | None]]) -> list[Record | InputError]:
        """Keep several records in one transaction, which costs the disk little more than one record; as `put`.

        Returns:
            For each the record as kept, or why it cannot be kept; the others are.

        Raises:
            FileError: the disk refuses; nothing of any of them is kept then.
        """
        rows: list[tuple[dict[str, Any], str] | InputError] = []
        files: list[Path] = []
        try:
            for record, tensors in results:
                try:
                    row, history = _encoded(record)
                except InputError as error:
                    rows.append(error)
                    continue
                if tensors is not None:
                    row["artefact"] = self._put_artefact(record.id, tensors, files)
                rows.append((row, history))
            with database.writing(self.database) as ledger:
                for entry in rows:
                    if not isinstance(entry, InputError):
                        ledger.put_record(*entry)
        except BaseException:
            for file in files:
                with suppress(OSError):
                    file.unlink()
            raise
        return [e if isinstance(e, InputError) else self._record({**e[0], "history": e[1]}) for e in rows]

    def _put_artefact(self, identity: str, tensors: Mapping[str, Tensor], files: list[Path]) -> str:
        """Write the tensors to their file, which goes to `files`; return its checksum."""
        file = paths.artefact_file(self.path, identity)
        # Without its record an artefact is nothing, so the old pair goes before the new file comes.
        if file.exists() or self.has(identity):
            self.delete(identity)
        checksum = tensors.move(file) if isinstance(tensors, Arrival) else _save(file, tensors)
        files.append(file)
        return checksum

    def get(self, identity: str) -> Record:
        """Return one record.

        Raises:
            UnknownNameError: there is none of that id.
        """
        rows = self._select(f"{_RECORDS.format('')} WHERE records.id = ?", identity)
        if not rows:
            self._check_missing({identity})
            raise UnknownNameError(
                f"unknown record {str(identity)!r} in {self.path}; `secateur runs list --store {self.path}` lists them"
            )
        return self._decoded(rows[0])

    def has(self, identity: str) -> bool:
        """Say whether the cell of that id is finished."""
        return bool(self._select("SELECT 1 FROM records WHERE id = ?", identity))

    def ids(self) -> set[str]:
        """Return the ids of all finished cells."""
        with database.connected(self.database) as connection:
            identities = [row["id"] for row in connection.execute("SELECT id FROM records")]
            check_ids(connection, identities)
        return set(identities)

    def matching(self, start: str) -> list[str]:
        """Return the ids, of finished cells and of failed ones, that begin so, in order."""
        return sorted(
            name for name in self.ids() | {failure.recipe.id for failure in self.failures()} if name.startswith(start)
        )

    def records(self, ids: Iterable[str] | None = None) -> list[Record]:
        """Return the records, oldest first; those of `ids` alone, in the order of `ids`, when given."""
        if ids is None:
            self._check_records()
            return [
                self._decoded(row)
                for row in self._select(f"{_RECORDS.format(' NOT INDEXED')} ORDER BY created, records.rowid")
            ]
        identities = list(ids)
        rows = self._select(
            f"{_RECORDS.format('')} WHERE id IN (SELECT value FROM json_each(?))", json.dumps(identities)
        )
        table = {row["id"]: row for row in rows}
        self._check_missing(set(identities) - set(table))
        return [self._decoded(table[identity]) for identity in identities if identity in table]

    def delete(self, *identities: str) -> None:
        """Forget records, their artefacts and failures, so that the next run computes the cells again."""
        with database.writing(self.database) as ledger:
            for identity in identities:
                ledger.forget(identity)
        for identity in identities:
            self.forget_checkpoint(identity)
            path = paths.artefact_file(self.path, identity)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise FileError(f"cannot remove the artefact {path}: {error}; remove it by hand") from error

    def forget_checkpoint(self, identity: str) -> None:
        """Remove what a cell has kept of its way so far; a file that cannot be removed is left to `sweep`."""
        with suppress(OSError):
            paths.checkpoint_file(self.path, identity).unlink(missing_ok=True)

    def dependents(self, ids: Iterable[str]) -> list[str]:
        """Return the finished cells that build upon those of `ids`, directly or not, without these themselves."""
        query_ = """WITH RECURSIVE
            needs (id, need) AS (SELECT records.id, one.value FROM records, json_each(recipe, '$.needs') AS one),
            found (id) AS (SELECT value FROM json_each(?1)
                           UNION SELECT needs.id FROM needs JOIN found ON needs.need = found.id)
            SELECT id FROM found WHERE id NOT IN (SELECT value FROM json_each(?1)) ORDER BY id"""
        self._check_records()
        return [row["id"] for row in self._select(query_, json.dumps(list(ids)))]

    def artefact(self, identity: str) -> dict[str, Tensor]:
        """Return the tensors that a cell kept, on the CPU.

        Raises:
            UnknownNameError: there is no record of that id.
            FileError: it kept none, or the file is missing or damaged.
        """
        checksum = self.get(identity).artefact
        if checksum is None:
            raise FileError(f"record {identity} in {self.path} kept no tensors; its cell returns no artefact")
        return load_artefact(paths.artefact_file(self.path, identity), checksum, identity)

    def fail(self, failure: Failure) -> None:
        """Keep why a cell failed; a later success forgets it."""
        recipe = failure.recipe
        row = {"id": recipe.id, "study": recipe.study, "recipe": json.dumps(recipe.to_dict()), "error": failure.error}
        with database.writing(self.database) as ledger:
            ledger.put_failure({**row, "traceback": failure.traceback, "created": failure.created})

    def forgive(self, identity: str) -> None:
        """Forget that a cell failed, so that the next run tries it again; a record of it stays."""
        with database.writing(self.database) as ledger:
            ledger.forgive(identity)

    def failures(self) -> list[Failure]:
        """Return the cells that failed and have not succeeded since, oldest first."""
        with database.connected(self.database) as connection:
            check_failures(connection)
            rows = connection.execute("SELECT * FROM failures ORDER BY created, rowid").fetchall()
        return [Failure(self._recipe(row["recipe"]), row["error"], row["traceback"], row["created"]) for row in rows]

    def query(
        self,
        *,
        study: str | None = None,
        kind: str | None = None,
        where: query.Where = None,
        columns: Sequence[str] | None = None,
        sort: str | None = None,
        limit: int | None = None,
    ) -> DataFrame:
        """Return the records that fulfil conditions as a pandas table, as `frame` does for all.

        Args:
            study, kind: those of this study and kind of cell alone.
            where: conditions on parameters, metrics and fixed columns: texts such as ``"accuracy>0.8"``, or a
                mapping of names to a value, a list of values (any), or a pair (least, most; None is open). A record
                without the value does not fulfil them. A name that a parameter and a metric share means the metric;
                ``parameter.NAME`` and ``metric.NAME`` tell them apart.
            columns: these alone, in this order; much faster for many records.
            sort: the column to sort by, with ``-`` before it from great to small; oldest first when None.
            limit: at most so many.

        Raises:
            UnknownNameError: no record has a parameter or a metric of that name.
            InputError: a condition that makes no sense.

        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> for sparsity, accuracy in ((0.2, 0.9), (0.5, 0.8), (0.8, 0.3)):
        ...     _ = store.put(Record(Recipe("toy", "prune", {"sparsity": sparsity}), {"accuracy": accuracy}))
        >>> store.query(where={"accuracy": (0.5, None)}, columns=["sparsity"], sort="-accuracy")["sparsity"].tolist()
        [0.2, 0.5]
        """
        fixed = [query.Condition(name, "=", v) for name, v in (("study", study), ("kind", kind)) if v is not None]
        with database.connected(self.database) as connection:
            return query.select(connection, [*fixed, *query.conditions(where)], columns, sort, limit)

    def sql(self, text: str, parameters: Sequence[Json] = (), *, seconds: float = 60.0) -> DataFrame:
        """Return the answer to one SELECT as a pandas table; nothing can be changed this way.

        There are ``cells`` (id, study, kind, seed, parameters, needs, metrics and environment as JSON, artefact,
        wall_seconds, cpu_seconds, created), ``parameters`` and ``metrics`` (id, name, value), ``class_metrics``
        (id, name, class, value), ``failures`` and ``histories``; each begins with a column ``store``.

        Raises:
            InputError: the query is wrong, would change something, or takes more than `seconds`.

        >>> import tempfile
        >>> store = Store(Path(tempfile.mkdtemp()))
        >>> _ = store.put(Record(Recipe("toy", "train", {"seed": 0}), {"class_accuracy": [0.5, 0.25]}))
        >>> store.sql("select class, value from class_metrics order by value").values.tolist()
        [[1.0, 0.25], [0.0, 0.5]]
        """
        return query.sql({self.path.name: self.database}, text, parameters, seconds=seconds)

    def frame(self, ids: Iterable[str] | None = None) -> DataFrame:
        """Return the records as a pandas table: one row a cell, one column a parameter and a metric.

        The columns are ``id``, ``study``, ``kind``, the parameters, the metrics, ``wall_seconds``,
        ``cpu_seconds``, ``created``. A name that two of these groups share is written ``parameter.name`` or
        ``metric.name`` where it would hide the other. What a cell does not have is missing (nan or None).
        """
        return frames.frame([frames.row(record) for record in self.records(ids)])

    def histories(self, ids: Iterable[str] | None = None) -> DataFrame:
        """Return the histories as one long pandas table: the parameters beside every epoch's values."""
        return frames.histories(self.records(ids))

    def sweep(self, older_than: float = 86400.0) -> list[Path]:
        """Remove what killed writers left: temporary files, and artefacts without a record; return these artefacts.

        Only files older than `older_than` seconds go, since younger ones may belong to a cell that is being kept.
        """
        folder, finished, removed = paths.artefacts_dir(self.path), self.ids(), []
        sweep(folder, older_than)
        self._sweep_passing(finished, older_than)
        database.sweep(self.database, older_than)
        for file in sorted(folder.glob(paths.artefact_file(self.path, "*").name)):
            with suppress(OSError):
                if file.stem not in finished and time.time() - file.stat().st_mtime > older_than:
                    file.unlink()
                    removed.append(file)
        return removed

    def _sweep_passing(self, finished: set[str], older_than: float) -> None:
        """Remove checkpoints of finished cells, and tensors that no driver came to store."""
        for name, spared in ((paths.checkpoint_file, finished), (paths.arrival_file, None)):
            pattern = name(self.path, "*")
            sweep(pattern.parent, older_than)
            for file in pattern.parent.glob(pattern.name):
                with suppress(OSError):
                    old = time.time() - file.stat().st_mtime > older_than
                    if old and (spared is None or file.stem in spared):
                        file.unlink()

    def check(self) -> None:
        """Read the whole database and every artefact, and compare all with their checksums.

        Raises:
            FileError: something is damaged or missing; the error names it.
        """
        with database.connected(self.database) as connection:
            connection.check_whole()
        self.ids()
        for record in self.records():
            if record.artefact is not None:
                _read(paths.artefact_file(self.path, record.id), record.artefact, record.id)

    def close(self) -> None:
        """Close this process's connection to the database; the next call opens it again."""
        database.close(self.database)

    def _check_missing(self, identities: set[str]) -> None:
        """Refuse the database where records are there that are not found."""
        lost = identities & self.ids() if identities else set()
        if lost:
            raise database.damaged(self.database, FileError(f"its index does not find record {min(lost)}"))

    def _check_records(self) -> None:
        with database.connected(self.database) as connection:
            connection.check_records()

    def _select(self, text: str, *values: Json) -> list[sqlite3.Row]:
        with database.connected(self.database) as connection:
            return connection.execute(text, values).fetchall()

    def _recipe(self, text: str) -> Recipe:
        try:
            return Recipe.from_dict(plain(text, dict, "recipes"))
        except (Damaged, FileError) as error:
            raise database.damaged(self.database, error) from error

    def _decoded(self, row: sqlite3.Row) -> Record:
        try:
            check_record(row)
            check_history(row)
        except Damaged as error:
            raise database.damaged(self.database, error) from error
        return self._record(row)

    def _record(self, row: sqlite3.Row | Mapping[str, Any]) -> Record:
        texts = (row["exact"] or row["metrics"], row["history"] or "[]", row["environment"])
        kinds = ((dict, "metrics"), (list, "histories"), (dict, "environments"))
        try:
            metrics, history, environment = (plain(text, *kind) for text, kind in zip(texts, kinds, strict=True))
            _check_plain(row, history)
        except Damaged as error:
            raise database.damaged(self.database, error) from error
        rest = {name: row[name] for name in ("artefact", "wall_seconds", "cpu_seconds", "created")}
        recipe = self._recipe(row["recipe"])
        if recipe.id != row["id"]:
            raise database.damaged(self.database, FileError(f"record {row['id']} holds the recipe of cell {recipe.id}"))
        return Record(recipe, metrics, history, environment, **rest)


def _check_plain(row: sqlite3.Row | Mapping[str, Any], history: list[Any]) -> None:
    """Refuse what no record of ours holds, whoever wrote it."""
    if not all(isinstance(step, dict) for step in history):
        raise Damaged("its history is no list of mappings")
    kinds: dict[str, tuple[type, ...]] = {"wall_seconds": (int, float), "cpu_seconds": (int, float), "created": (str,)}
    for name, kind in {**kinds, "artefact": (str, type(None))}.items():
        if not isinstance(row[name], kind):
            raise Damaged(f"its {name} is {row[name]!r}")


def _encoded(record: Record) -> tuple[dict[str, Any], str]:
    """The row of a record, and its history."""
    recipe = record.recipe
    try:
        metrics, exact = queryable(json.dumps(dict(record.metrics)))
        history = json.dumps([dict(row) for row in record.history])
        environment = json.dumps(dict(record.environment))
        for values in (dict(record.metrics), list(record.history), dict(record.environment)):
            check_depth(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"the results of cell {recipe} cannot be kept: {error}; give plain numbers (.item() or .tolist())"
        ) from error
    seed = int(recipe.seed) if recipe.seed is not None and abs(recipe.seed) <= _LARGEST else None
    names = {"id": recipe.id, "study": recipe.study, "kind": recipe.kind, "seed": seed, "created": record.created}
    # As SQLite gives them back, since the seal tells 1 from 1.0.
    times = {"wall_seconds": float(record.wall_seconds), "cpu_seconds": float(record.cpu_seconds)}
    texts = {"recipe": json.dumps(recipe.to_dict()), "metrics": metrics, "environment": environment, "exact": exact}
    return {**names, **times, "artefact": record.artefact, **texts}, history


def _save(path: Path, tensors: Mapping[str, Tensor]) -> str:
    from safetensors.torch import save

    # Each its own dense memory: the format refuses tensors that share theirs, as tied weights do.
    data = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def load_artefact(path: Path, checksum: str, identity: str) -> dict[str, Tensor]:
    """Return the tensors of a cell's artefact file.

    Raises:
        FileError: it is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(_read(path, checksum, identity))
    except (SafetensorError, ValueError, KeyError) as error:
        raise FileError(f"the artefact {path} is no safetensors file ({error}); {_remedy(identity)}") from error


def _remedy(identity: str) -> str:
    return f"forget the cell with Store.delete({identity!r}) and run the study again"


def _read(path: Path, checksum: str, identity: str) -> bytes:
    remedy = _remedy(identity)
    try:
        data = read_bytes(path)
    except OSError as error:
        raise FileError(f"cannot read the artefact {path}: {error}; {remedy}") from error
    return intact(data, checksum, path, identity)


def intact(data: bytes, checksum: str, place: Path | str, identity: str) -> bytes:
    """Return the bytes of a cell's artefact, as they were written.

    Raises:
        FileError: they are not, by their checksum.
    """
    if hashlib.sha256(data).hexdigest() != checksum:
        words = f"the artefact {place} is damaged: its checksum is not the one that was recorded"
        raise FileError(f"{words}; {_remedy(identity)}")
    return data
