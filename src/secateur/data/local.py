"""Where a data set's files are on this machine, and their content once it has been checked."""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from secateur.data.registry import REGISTRY, File, Info
from secateur.types import DataError

__all__ = ["VARIABLE", "Found", "cache_folder", "content", "find", "places"]

VARIABLE = "SECATEUR_DATA"

_SLACK = 1 << 20
"""Bytes of an archive besides its files: headers, and small files such as a list of the classes."""


@dataclass(frozen=True)
class Found:
    """A file of a data set on this machine: by itself, compressed, or inside an archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return f"{self.path}" + (f" ({self.member})" if self.member else "")


def cache_folder() -> Path:
    """Return the folder of downloads: ``$XDG_CACHE_HOME/secateur``, else ``~/.cache/secateur``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "secateur"


def places(info: Info, root: str | Path | None = None) -> list[Path]:
    """Return the folders that may hold a data set, in the order in which they are searched.

    First `root`, then the environment variable ``SECATEUR_DATA``, then where an operating system's package
    puts it, then the cache. Under the first two: the usual folder names (torchvision's among them), and the
    place itself.
    """
    variable = os.environ.get(VARIABLE)
    roots = [Path(place).expanduser() for place in (root, variable) if place]
    folders = [base / folder for base in roots for folder in (*info.folders, ".", "raw")]
    folders += [Path(folder) for folder in info.system]
    folders += [cache_folder() / info.name]
    return folders


def find(info: Info, file: File, root: str | Path | None = None) -> Found | None:
    """Return where `file` is, or None: as it is, with ``.gz``, or inside a downloaded archive."""
    for place in places(info, root):
        for name in (file.name, f"{file.name}.gz"):
            if (place / name).is_file():
                return Found(place / name)
        for download in info.downloads:
            archive = place / download.name
            if download.name.endswith(".tar.gz") and file.name in download.holds and archive.is_file():
                return Found(archive, file.name)
    return None


def content(info: Info, file: File, found: Found) -> bytes:
    """Return the bytes of a file that was found, decompressed, of the known size and SHA-256.

    No more is read than the file should hold, so a file that swells when it is decompressed does no harm.

    Raises:
        DataError: it cannot be read, is truncated, or is not the file that it should be.
    """
    remedy = f"delete it, then load again to fetch it, or set {VARIABLE} to a folder with a good copy"
    try:
        with _open(found, 2 * sum(each.size for each in info.files) + _SLACK) as stream:
            data = stream.read(file.size + 1)
    except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError) as error:
        raise DataError(f"load({info.name!r}): cannot read {found}: {error}; {remedy}") from error
    if hashlib.sha256(data).hexdigest() != file.sha256:
        raise DataError(f"load({info.name!r}): {found} {_difference(data, file)}; {remedy}")
    return data


def _difference(data: bytes, file: File) -> str:
    if len(data) < file.size:
        return f"is truncated: it holds {len(data)} bytes of {file.size}"
    code = hashlib.sha256(data).hexdigest()
    for other in REGISTRY.values():
        if any(code == other_file.sha256 for other_file in other.files):
            return f"is a file of {other.name!r}"
    return f"is not the known file: its SHA-256 begins with {code[:12]}, not {file.sha256[:12]}"


@contextmanager
def _open(found: Found, most: int) -> Iterator[BinaryIO]:
    if found.member is not None:
        # What is decompressed on the way to the member is counted: a few kilobytes can swell without end.
        with (
            gzip.open(found.path, "rb") as stream,
            tarfile.open(fileobj=cast(BinaryIO, _Bounded(stream, most)), mode="r|") as archive,
        ):
            yield _member(archive, found.member)
    elif found.path.suffix == ".gz":
        with gzip.open(found.path, "rb") as stream:
            yield cast(BinaryIO, stream)
    else:
        with found.path.open("rb") as plain:
            yield plain


class _Bounded:
    """A stream of which no more is read than a whole archive could hold."""

    def __init__(self, stream: gzip.GzipFile, most: int) -> None:
        self.stream, self.left = stream, most

    def read(self, count: int) -> bytes:
        data = self.stream.read(min(count, self.left + 1))
        self.left -= len(data)
        if self.left < 0:
            raise tarfile.ReadError("it holds more than twice what the data set does")
        return data


def _member(archive: tarfile.TarFile, name: str) -> BinaryIO:
    # Only the last part of the path is looked at, and nothing is ever extracted to disk.
    for member in archive:
        if member.isfile() and member.name.rpartition("/")[2] == name:
            stream = archive.extractfile(member)
            if stream is not None:
                return cast(BinaryIO, stream)
    raise KeyError(f"no {name} in the archive")
