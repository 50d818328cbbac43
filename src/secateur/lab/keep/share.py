"""A place that all machines of a cluster reach, where large tensors lie on their way: a folder, S3, anything of fsspec's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.checks import in_one_line
from secateur.files import replacing, require
from secateur.types import FileError

__all__ = ["SHARE_VARIABLE", "Share"]

SHARE_VARIABLE = "SECATEUR_SHARE"
"""The environment variable that names the place for a run on Ray."""

_PIECE = 1 << 24


@dataclass(frozen=True)
class Share:
    """A place by its address, as fsspec has them: ``/mnt/all``, ``s3://bucket/folder``, ``memory://tensors``.

    >>> share = Share("memory://doctest")
    >>> share.put("a" * 16, b"bytes") == hashlib.sha256(b"bytes").hexdigest(), share.read("a" * 16)
    (True, b'bytes')
    >>> share.drop("a" * 16)

    Raises:
        MissingLibraryError: fsspec, or what it needs for this address, is not installed.
    """

    address: str

    @classmethod
    def of_environment(cls) -> Share | None:
        """Return the place that the environment variable names, or None."""
        address = os.environ.get(SHARE_VARIABLE)
        return cls(address) if address else None

    def put(self, identity: str, data: bytes) -> str:
        """Leave the bytes of a cell's tensors; return their SHA-256.

        Raises:
            FileError: the place cannot be written.
        """
        with self._opened(identity, "wb") as file:
            file.write(data)
        return hashlib.sha256(data).hexdigest()

    def put_file(self, identity: str, path: Path) -> None:
        """Leave a file of a cell's tensors, in pieces.

        Raises:
            FileError: it cannot be read, or the place cannot be written.
        """
        with self._opened(identity, "wb") as target, path.open("rb") as source:
            _copy(source, target)

    def read(self, identity: str) -> bytes:
        """Return the bytes of a cell's tensors.

        Raises:
            FileError: they are not there.
        """
        with self._opened(identity, "rb") as file:
            data: bytes = file.read()
        return data

    def fetch(self, identity: str, path: Path) -> None:
        """Bring a cell's tensors into a file, in pieces: they are never in memory as a whole.

        Raises:
            FileError: they are not there, or the file cannot be written.
        """
        with self._opened(identity, "rb") as source, replacing(path) as part, part.open("wb") as target:
            _copy(source, target)

    def drop(self, identity: str) -> None:
        """Remove a cell's tensors, where they are."""
        system, root = self._system()
        with suppress(Exception):
            system.rm(self._place(root, identity))

    def _system(self) -> tuple[Any, str]:
        system, root = require("fsspec", "share").core.url_to_fs(self.address)
        return system, root

    @staticmethod
    def _place(root: str, identity: str) -> str:
        return f"{root.rstrip('/')}/{identity}.safetensors"

    @contextmanager
    def _opened(self, identity: str, mode: str) -> Iterator[Any]:
        try:
            system, root = self._system()
            if mode == "wb":
                system.makedirs(root, exist_ok=True)
            with system.open(self._place(root, identity), mode) as file:
                yield file
        except FileError:
            raise
        except Exception as error:
            # Each kind of place fails in its own way.
            doing = "written to" if mode == "wb" else "read from"
            raise FileError(
                f"the tensors of cell {identity} cannot be {doing} {self.address}: {in_one_line(error)}; "
                f"give ${SHARE_VARIABLE} a place that all machines reach"
            ) from error


def _copy(source: Any, target: Any) -> None:
    while piece := source.read(_PIECE):
        target.write(piece)
