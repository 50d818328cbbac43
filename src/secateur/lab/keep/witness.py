"""The witness beside a store's database: how many transactions it had, written after each.

SQLite keeps the latest transactions in a log of its own (``-wal``). Where that is lost, damaged or not copied, the database
is whole, and an older one. The witness tells: it must not know of more transactions than the database. It is written
without waiting for the disk, so that it costs nothing, and after a power cut it may lag behind, which is harmless.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from zlib import crc32

from secateur.files import read_text
from secateur.lab.keep.paths import witness_file
from secateur.lab.keep.seals import Damaged

__all__ = ["check", "forget", "read", "write"]

State = tuple[str, int]
"""What a database calls itself, and how many transactions it has had."""


def read(database: Path) -> State | None:
    """Return what it says; None where there is none, or half of one."""
    try:
        store, sequence, check_ = read_text(witness_file(database)).split()
        return (store, int(sequence)) if check_ == _check(store, int(sequence)) else None
    except (OSError, ValueError):
        return None


def forget(database: Path) -> None:
    """Remove what another database at this place left."""
    witness_file(database).unlink(missing_ok=True)


def write(database: Path, state: State) -> None:
    """Write it, unless it knows of a later transaction."""
    before = read(database)
    if before is not None and before[0] == state[0] and before[1] >= state[1]:
        return
    store, sequence = state
    text = f"{store} {sequence:020d} {_check(store, sequence)}\n".encode()
    # Of one length, at one go and in place. What it says is already in the database, so no error is worth more.
    with suppress(OSError):
        # No link is followed, as what it points to would be overwritten, and no pipe waited for.
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        handle = os.open(witness_file(database), flags, 0o666)
        try:
            os.pwrite(handle, text, 0)
            os.ftruncate(handle, len(text))
        finally:
            os.close(handle)


def check(database: Path, seen: State | None, state: State) -> None:
    """Refuse a database that has lost transactions."""
    if seen is not None and (seen[0] != state[0] or seen[1] > state[1]):
        words = (
            "it is another one than" if seen[0] != state[0] else f"{seen[1] - state[1]} transactions are missing that"
        )
        raise Damaged(
            f"{words} {witness_file(database).name} beside it knows of, as where its -wal file was lost; where an older copy "
            f"was put there on purpose, delete {witness_file(database)}"
        )


def _check(store: str, sequence: int) -> str:
    return f"{crc32(f'{store} {sequence}'.encode()):08x}"
