"""Who computes a cell: locks that die with their process, so that two runs on one store share the work."""

from __future__ import annotations

from collections.abc import Set
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from secateur.lab.keep import paths
from secateur.types import FileError

__all__ = ["Locks"]


class Locks:
    """The locks that this process holds on the cells of a store.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp())
    >>> mine, theirs = Locks(place), Locks(place)
    >>> mine.take("0123456789abcdef"), theirs.take("0123456789abcdef")
    (True, False)
    >>> mine.give_back("0123456789abcdef")
    >>> theirs.take("0123456789abcdef")
    True
    >>> theirs.give_back_all()
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._held: dict[str, FileLock] = {}

    def take(self, identity: str) -> bool:
        """Lock a cell; False when another process has it.

        Raises:
            FileError: the lock's file cannot be made.
        """
        path = paths.lock_file(self._store, identity)
        try:
            path.parent.mkdir(exist_ok=True)
            lock = FileLock(path)
            lock.acquire(blocking=False)
        except Timeout:
            return False
        except OSError as error:
            raise FileError(
                f"cannot lock a cell with {path}: {error}; check the folder's permissions and free space"
            ) from error
        self._held[identity] = lock
        return True

    def give_back(self, identity: str) -> None:
        """Unlock a cell."""
        lock = self._held.pop(identity)
        # While it is still held: whoever opened the file before sees that it has no name any more, and tries again.
        with suppress(OSError):
            Path(lock.lock_file).unlink()
        lock.release()

    def sweep(self, finished: Set[str]) -> None:
        """Remove the files that runs which were killed left of cells that are finished since."""
        for file in sorted(paths.lock_file(self._store, "*").parent.glob("*.lock")):
            if file.stem in finished and file.stem not in self._held and self.take(file.stem):
                self.give_back(file.stem)

    def give_back_all(self) -> None:
        """Unlock what is still locked."""
        for identity in list(self._held):
            self.give_back(identity)
