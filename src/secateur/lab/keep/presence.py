"""Whether another machine sees the same store's folder, as on a shared file system."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path

from secateur.files import write_text
from secateur.lab.keep import paths

__all__ = ["Presence"]


@dataclass(frozen=True)
class Presence:
    """A store's folder, and the random text in it that no other folder of that path holds.

    >>> import tempfile
    >>> presence = Presence.of(Path(tempfile.mkdtemp()))
    >>> presence.is_here(), Presence(presence.folder, "another").is_here(), presence == Presence.of(presence.folder)
    (True, False, True)
    """

    folder: Path
    mark: str

    @classmethod
    def of(cls, folder: Path) -> Presence:
        """Return the presence of a folder, marking it where it has no mark.

        Raises:
            FileError: the folder cannot be written.
        """
        file = paths.presence_file(folder)
        if not file.exists():
            write_text(file, secrets.token_hex(16))
        return cls(folder.absolute(), file.read_text())

    def is_here(self) -> bool:
        """Say whether this process sees the very folder."""
        try:
            return paths.presence_file(self.folder).read_text() == self.mark
        except OSError:
            return False
