"""The connection to a store's database: opened once a process, safe with threads, forks and other processes."""

from __future__ import annotations

import atexit
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from secateur.lab.schema import APPLICATION, VERSION, owner, prepare
from secateur.types import FileError

__all__ = ["address", "close", "connected", "damaged", "ensure", "translated"]

_PATIENCE = 60.0
"""How many seconds a call waits for other processes that write."""
_MOST = 16
"""How many databases are kept open; each holds three file handles."""
# SQLite's errors that say nothing about what is in the file.
_OUTSIDE = tuple(f"SQLITE_{name}" for name in ("BUSY", "LOCKED", "FULL", "READONLY", "CANTOPEN", "IOERR", "PERM"))

# One connection a file, used by one thread at a time: SQLite lets one writer in anyway.
_lock = threading.RLock()
_open: dict[Path, tuple[tuple[int, int], sqlite3.Connection]] = {}


@contextmanager
def connected(file: Path, *, write: bool = False) -> Iterator[sqlite3.Connection]:
    """Give the connection to a store's database within one transaction, which an exception undoes.

    With `write` the transaction is durable when this returns: it survives the process's end at any moment, and
    a power cut (``synchronous = FULL``).

    Raises:
        FileError: the file is missing, damaged, not a store's, or the disk refuses.
    """
    with _lock, translated(file):
        connection = _held(file)
        try:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
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
    """Make the database where there is none, and see that it is a store's, of this version.

    Raises:
        FileError: it is not, or it cannot be made.
    """
    with _lock, translated(file):
        _held(file, create=True)


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


def _held(file: Path, create: bool = False) -> sqlite3.Connection:
    path = file.absolute()
    if path in _open:
        identity, connection = _open[path]
        if identity == _identity(path):
            return connection
        close(path)  # another file stands there now
    while len(_open) >= _MOST:
        close(next(iter(_open)))
    connection = _connect(path, create)
    _open[path] = (_identity(path) or (0, 0), connection)
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path, create: bool) -> sqlite3.Connection:
    uri = address(path, "rwc" if create else "rw")
    # Without an isolation level Python opens no transactions of its own.
    connection = sqlite3.connect(uri, timeout=_PATIENCE, uri=True, check_same_thread=False, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")
        whose, version, empty = owner(connection)
        # A file without tables is new, or was being made when its process was killed.
        if whose != APPLICATION and not empty:
            raise FileError(f"{path} is not a secateur store; give another directory")
        if version > VERSION:
            raise FileError(f"{path} was written by a newer secateur; upgrade with pip install -U secateur")
        if version < VERSION:
            prepare(connection, _PATIENCE)
    except BaseException:
        connection.close()
        raise
    return connection


def _before_fork() -> None:
    # A connection must not be used, or even closed, on both sides of a fork.
    _lock.acquire()
    close()


def _in_child() -> None:
    global _lock
    _lock = threading.RLock()


os.register_at_fork(before=_before_fork, after_in_parent=lambda: _lock.release(), after_in_child=_in_child)
atexit.register(close)
