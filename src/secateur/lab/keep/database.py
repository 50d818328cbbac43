"""The connection to a store's database: opened once a process, safe with threads, forks and other processes."""

from __future__ import annotations

import atexit
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from secateur.files import flush
from secateur.lab.keep import witness
from secateur.lab.keep.schema import APPLICATION, VERSION, check_layout, check_pages, owner, prepare
from secateur.lab.keep.seals import Damaged, Ledger, check_failures, check_histories, check_records
from secateur.types import FileError

__all__ = ["Connection", "address", "close", "connected", "damaged", "ensure", "sweep", "translated", "writing"]

_PATIENCE = 60.0
"""How many seconds a call waits for other processes that write."""
_MOST = 16
"""How many databases are kept open; each holds three file handles."""
# SQLite's errors that say nothing about what is in the file.
_OUTSIDE = tuple(f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "FULL", "READONLY", "CANTOPEN", "IOERR", "PERM"))


class Connection(sqlite3.Connection):
    """A connection that remembers in which state of the database what was found to be as it was written."""

    def check_records(self) -> None:
        """Compare all records with their seals and the ledger, unless nothing was written since the last time."""
        self._once("records", check_records)

    def check_whole(self) -> None:
        """Compare all that is in the database with its seals, and see that pages and indexes are sound."""
        self.check_records()
        for part in (check_pages, check_histories, check_failures):
            self._once(part.__name__, part)

    def _once(self, name: str, check: Callable[[sqlite3.Connection], None]) -> None:
        state = int(self.execute("PRAGMA data_version").fetchone()[0]), self.total_changes
        good: dict[str, tuple[int, int]] = self.__dict__.setdefault("good", {})
        if good.get(name) != state:
            check(self)
            good[name] = state


# One connection a file, used by one thread at a time: SQLite lets one writer in anyway.
_lock = threading.RLock()
_open: dict[Path, tuple[tuple[int, int], Connection]] = {}


@contextmanager
def connected(file: Path) -> Iterator[Connection]:
    """Give the connection to a store's database within one transaction, for reading.

    Raises:
        FileError: the file is missing, damaged, not a store's, or the disk refuses.
    """
    with _transaction(file, "BEGIN") as connection:
        yield connection


@contextmanager
def writing(file: Path) -> Iterator[Ledger]:
    """Give the ledger of a store's database within one transaction, which an exception undoes.

    The transaction is durable when this returns: it survives the process's end at any moment, and a power cut
    (``synchronous = FULL``).

    Raises:
        FileError: the file is missing, damaged, not a store's, or the disk refuses.
    """
    with _lock:
        with _transaction(file, "BEGIN IMMEDIATE") as connection:
            ledger = Ledger(connection)
            yield ledger
            ledger.close()
        witness.write(file.absolute(), ledger.state)


@contextmanager
def _transaction(file: Path, begin: str) -> Iterator[Connection]:
    with _lock, translated(file):
        connection = _held(file)
        try:
            connection.execute(begin)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error:
            # After a full disk or a damaged page, start again from the file.
            close(file)
            raise
        except BaseException:
            connection.rollback()
            raise


def ensure(file: Path) -> None:
    """Make the database where there is no file, and see that it is a store's, of this version, with nothing lost.

    Raises:
        FileError: it is not, or it cannot be made.
    """
    with _lock, translated(file):
        if not file.exists():
            _create(file.absolute())
        _held(file)


def close(file: Path | None = None) -> None:
    """Close this process's connection to `file`, or all of them; the next call opens it again."""
    with _lock:
        for path in [file.absolute()] if file is not None else list(_open):
            if path in _open:
                # What cannot be closed neatly is found in the log by the next one that opens it.
                with suppress(sqlite3.Error):
                    _open.pop(path)[1].close()


def address(file: Path, mode: str) -> str:
    """Return the URI of a database for SQLite; `mode` is ``ro``, ``rw`` or ``rwc``.

    >>> address(Path("/runs/50 %/records.sqlite"), "ro")
    'file:/runs/50%20%25/records.sqlite?mode=ro'
    """
    return f"file:{quote(str(file.absolute()))}?mode={mode}"


@contextmanager
def translated(file: Path) -> Iterator[None]:
    """Turn SQLite's errors into a `FileError` that says what to do."""
    try:
        yield
    except (Damaged, UnicodeDecodeError) as error:  # SQLite quotes what it cannot read
        raise damaged(file, error) from error
    except sqlite3.DatabaseError as error:
        if not getattr(error, "sqlite_errorname", "").startswith(_OUTSIDE):
            raise damaged(file, error) from error
        raise FileError(
            f"cannot use the store's database {file}: {error}; see that the disk has room, that the "
            "folder and the file may be written, and that no other program holds them"
        ) from error


def damaged(file: Path, error: Exception) -> FileError:
    """Return the error for a database whose content makes no sense."""
    return FileError(
        f"the store's database {file} is damaged: {error}; put a copy in its place, or move it "
        "away with its -wal and -shm files (the cells will be run again)"
    )


def _held(file: Path) -> Connection:
    path = file.absolute()
    if path in _open:
        identity, connection = _open[path]
        if identity == _identity(path):
            return connection
        close(path)  # another file stands there now
    while len(_open) >= _MOST:
        close(next(iter(_open)))
    connection = _connect(path)
    _open[path] = (_identity(path) or (0, 0), connection)
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_dev, facts.st_ino


def _connect(path: Path) -> Connection:
    # Read first, so that it knows of nothing that the database read after it does not.
    state = witness.read(path)
    _check_size(path)
    # Without an isolation level Python opens no transactions of its own.
    connection = sqlite3.connect(
        address(path, "rw"),
        timeout=_PATIENCE,
        uri=True,
        check_same_thread=False,
        isolation_level=None,
        factory=Connection,
    )
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        whose, version, empty = owner(connection)
        if whose != APPLICATION:
            if empty:
                raise Damaged("it holds no tables")
            raise FileError(f"{path} is not a secateur store; give another directory")
        if version > VERSION:
            raise FileError(f"{path} was written by a newer secateur; upgrade with pip install -U secateur")
        if version < VERSION:
            prepare(connection, _PATIENCE)
        check_layout(connection)
        witness.check(path, state, Ledger(connection).state)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_size(path: Path) -> None:
    """Refuse a file without content, from which SQLite would make a new database."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return  # SQLite says so
    if not size:
        raise Damaged("it is empty (0 bytes)")


def _create(path: Path) -> None:
    """Make a database that is there whole or not at all; another process may do so as well."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder) / path.name
        with closing(sqlite3.connect(address(new, "rwc"), uri=True, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
            prepare(connection, _PATIENCE)
        flush(new)
        witness.forget(path)
        try:
            os.link(new, path)
        except FileExistsError:
            return
        except OSError:  # a file system without links
            new.rename(path)
    flush(path.parent)


def sweep(file: Path, older_than: float) -> None:
    """Remove what processes left that were killed while they made the database, if it is older (seconds)."""
    for folder in file.parent.glob(f".{file.name}.*"):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > older_than:
                shutil.rmtree(folder)


def _before_fork() -> None:
    # A connection must not be used, or even closed, on both sides of a fork.
    _lock.acquire()
    close()


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=lambda: _lock.release(), after_in_child=_in_child)
atexit.register(close)
