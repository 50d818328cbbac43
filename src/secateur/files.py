"""Files that are either whole or not there, and libraries that only some features need."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from secateur.types import FileError, MissingLibraryError

__all__ = [
    "DEEPEST",
    "LARGEST_TEXT",
    "MALFORMED",
    "check_depth",
    "check_regular",
    "flush",
    "from_json",
    "in_order",
    "new_folder",
    "read_bytes",
    "read_tensors",
    "read_text",
    "replacing",
    "require",
    "sweep",
    "write_bytes",
    "write_text",
]

_MARK = ".part"

DEEPEST = 100
"""Plain data that are nested deeper are nobody's: what walks through them would run out of Python's stack."""

MALFORMED = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What comes of plain data that have another form than those that were written, whatever their checksum says."""

_TELEMETRY = {"openvino": "openvino_telemetry"}
"""What a library tells its makers by, of each conversion and unless the user says no; without it a stub of its own stands in."""

LARGEST_TEXT = 1 << 28
"""A text of ours is of kilobytes; one of more bytes than this is nobody's, and would fill the memory."""


def check_regular(path: str | os.PathLike[str]) -> None:
    """Refuse what is no file: a pipe would hold its reader for ever, a device has no end.

    Raises:
        OSError: it is no regular file, nor a link to one, or is not there.

    >>> check_regular("/dev/null")
    Traceback (most recent call last):
    OSError: [Errno 22] it is no regular file: '/dev/null'
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", os.fspath(path))


def read_bytes(path: Path) -> bytes:
    """Return what a regular file holds.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    check_regular(path)
    return path.read_bytes()


def read_text(path: Path, errors: str = "strict") -> str:
    """Return what a regular file of text in UTF-8 holds.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is not in UTF-8, or larger than any text of ours.
    """
    check_regular(path)
    if (size := path.stat().st_size) > LARGEST_TEXT:
        raise ValueError(f"it holds {size} bytes, and no text of ours has more than {LARGEST_TEXT}")
    return path.read_text(encoding="utf-8", errors=errors)


def read_tensors(path: Path, framework: str = "pt") -> tuple[dict[str, str], dict[str, Any]]:
    """Return what a safetensors file says beside its tensors, and the tensors by name.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is no whole safetensors file.
    """
    # Only here is safetensors needed, and importing it is not free.
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    try:
        with safe_open(path, framework) as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"it is no whole safetensors file ({error})") from error


def from_json(text: str | bytes) -> Any:
    """Return what JSON from a file says.

    Raises:
        ValueError: it is no JSON, holds a number of thousands of digits, or is nested deeper than anything of ours.

    >>> from_json('{"a": [1]}')
    {'a': [1]}
    >>> from_json("[" * 5000 + "]" * 5000)
    Traceback (most recent call last):
    ValueError: it is nested more than 100 deep
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    # Where there are fewer brackets nothing can be nested so deep.
    count = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if count > DEEPEST:
        check_depth(value)
    return value


def check_depth(value: object) -> None:
    """Refuse plain data that are nested too deep.

    Raises:
        ValueError: they are.
    """
    layer = [value]
    for _ in range(DEEPEST + 1):
        layer = [
            inner
            for outer in layer
            if isinstance(outer, (dict, list, tuple))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not layer:
            return
    raise ValueError(f"it is nested more than {DEEPEST} deep")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file in the folder of `path`, and put it in the place of `path` at the end.

    The bytes are on the disk before the name changes, so a reader sees the old file or the new one, never a
    half. On an exception the temporary file is removed and `path` is as it was.

    Raises:
        FileError: the folder cannot be made or written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "deep" / "a.txt"
    >>> with replacing(target) as part:
    ...     _ = part.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    part = _part(path)
    try:
        yield part
        flush(part)
        part.replace(path)
        flush(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        with suppress(OSError):  # a disk that went bad takes no removal either
            part.unlink(missing_ok=True)


def in_order(data: bytes) -> bytes:
    """Return a safetensors file with what stands beside its tensors in the order of its keys.

    safetensors writes that in another order each time, and the same contents should make the same file.

    >>> import torch
    >>> from safetensors.torch import save
    >>> in_order(save({"x": torch.zeros(1)}, {"b": "", "a": ""}))[8:46]
    b'{"__metadata__":{"a":"","b":""},"x":{"'
    """
    stop = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:stop])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the tensors are aligned
    return len(text).to_bytes(8, "little") + text + data[stop:]


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a folder beside `target` to write into, and put it in its place at the end: whoever finds it finds all of it.

    Raises:
        FileError: `target` holds files, or cannot be made or written.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "deep" / "model"
    >>> with new_folder(target) as folder:
    ...     _ = (folder / "a.txt").write_text("whole")
    >>> [file.name for file in target.iterdir()], len(list(target.parent.iterdir()))
    (['a.txt'], 1)
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileError(f"{target}: holds other files; name a new or empty folder to save to")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            yield made
            made.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path`, wholly or not at all."""
    with replacing(path) as part:
        part.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in UTF-8, wholly or not at all."""
    write_bytes(path, text.encode("utf-8"))


def sweep(folder: Path, older_than: float = 86400.0) -> None:
    """Remove what killed writers left in `folder`: temporary files older than `older_than` seconds.

    Younger ones may belong to a process that is still writing.
    """
    for part in folder.glob(f".*{_MARK}"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > older_than:
                part.unlink()


def require(module: str, extra: str) -> Any:
    """Import a library of one of the extras.

    Raises:
        MissingLibraryError: it is not installed.

    >>> require("math", "lab").sqrt(4.0)
    2.0
    """
    telemetry = _TELEMETRY.get(module.partition(".")[0])
    if telemetry is not None:
        # An import that is blocked so fails, and what would have sent does without; one that the user made stays.
        sys.modules.setdefault(telemetry, None)  # type: ignore[arg-type]
    try:
        return import_module(module)
    except ImportError as error:
        name = module.partition(".")[0]
        raise MissingLibraryError(
            f"this needs {name}, which cannot be imported ({error}): pip install 'secateur[{extra}]'"
        ) from error


def _unwritable(path: Path, error: OSError) -> FileError:
    """What is said where a file cannot be written: a file that stands where a folder should is named."""
    in_the_way = next((parent for parent in path.parents if parent.exists() and not parent.is_dir()), None)
    if in_the_way is not None:
        return FileError(f"cannot write {path}: {in_the_way} is a file; name a place in a folder")
    return FileError(f"cannot write {path}: {error}; check the folder's permissions and free space")


def _part(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_MARK, dir=path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    # mkstemp makes a private file; the finished one should be as readable as any other that the user makes.
    os.fchmod(handle, 0o666 & ~_umask())
    os.close(handle)
    return Path(name)


def _umask() -> int:
    # There is no way to read the umask but to set it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def flush(path: Path) -> None:
    """Put what is written of a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
