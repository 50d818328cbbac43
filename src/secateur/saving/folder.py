"""A folder that is written whole or not at all, and never over files of somebody else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from secateur.files import flush
from secateur.saving.manifest import FILES, MANIFEST, read_manifest
from secateur.types import FileError

__all__ = ["check_target", "write_folder"]


def check_target(target: Path) -> None:
    """Refuse a target that holds anything but a saved model of ours.

    Raises:
        FileError: it is a file, or a folder with other files.
    """
    try:
        if target.is_dir():
            file_names = {path.name for path in target.iterdir()}
        elif target.exists():
            raise FileError(f"{target}: is a file; name a folder to save to")
        else:
            return
    except OSError as error:
        raise _cannot_write(target, error) from error
    foreign = sorted(file_names - set(FILES))
    if foreign:
        raise FileError(f"{target}: holds other files ({foreign[0]}); name a new or empty folder to save to")
    if file_names:
        _check_ours(target)


def _check_ours(target: Path) -> None:
    try:
        read_manifest(target)
    except FileError as error:
        raise FileError(
            f"{target}: holds other files (its {MANIFEST} is not one that was written here); "
            "name a new or empty folder to save to"
        ) from error


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write `files` beside `target` and rename, so that a failure leaves the old folder or the new one.

    Only when the machine dies between the two renames is neither there; both then lie beside it, under hidden names.

    Raises:
        FileError: the folder cannot be written.
    """
    try:
        # A link stays a link: what it points to is replaced.
        _write(target.resolve(), files)
    except OSError as error:
        raise _cannot_write(target, error) from error


def _cannot_write(target: Path, error: OSError) -> FileError:
    return FileError(f"{target}: cannot be written ({error}); check the folder's permissions and free space")


def _write(target: Path, files: Mapping[str, bytes]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        for name, data in files.items():
            with open(staging / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        # mkdtemp makes a private folder; the finished one should be as readable as any other.
        staging.chmod(0o755)
        flush(staging)
        _swap(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    with suppress(OSError):  # the folder is there already; the disk may know of it a moment later
        flush(target.parent)


def _swap(staging: Path, target: Path) -> None:
    """Put `staging` in the place of `target`; when that fails, `target` is as it was."""
    if not target.exists():
        staging.rename(target)
        return
    old = staging.with_name(f"{staging.name}.old")
    target.rename(old)
    try:
        staging.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
