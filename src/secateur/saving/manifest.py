"""The manifest of a saved model: what it holds, and that nothing else gets in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as parse_tensors
from torch import Tensor

from secateur.files import from_json, read_bytes, read_text
from secateur.types import FileError

__all__ = ["EDITS", "FILES", "MANIFEST", "MODEL", "Manifest", "dump_manifest", "read_manifest", "read_tensors"]

FORMAT = 3
READABLE = (2, 3)
"""Before 3, every tensor was stored as it is."""
MODEL, EDITS, MANIFEST = "model.safetensors", "edits.safetensors", "secateur.json"
FILES = (MODEL, EDITS, MANIFEST)


@dataclass(frozen=True)
class Manifest:
    """What a manifest says.

    Attributes:
        sha256: the checksum of each of the other two files.
        edits: what was done to the model, in order; tensors by their number in the second file.
        shared: the names of tensors that are another one, with that one's name.
        report: the report of the pruning.
        history: how it went, as plain data; None where there is nothing to tell.
        answers: what the model answers to plain inputs; None where that is not known.
        encoded: the tensors of the model that are not stored as they are, with what their codecs made of them.
    """

    sha256: Mapping[str, str]
    edits: Sequence[Mapping[str, Any]]
    shared: Mapping[str, str]
    report: Mapping[str, Any]
    history: Any = None
    answers: Mapping[str, Any] | None = None
    encoded: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def dump_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as JSON that holds its own checksum.

    Raises:
        TypeError, ValueError: the report holds what JSON cannot.
    """
    body = {"format": FORMAT, **asdict(manifest)}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1).encode()


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a folder.

    Raises:
        FileError: it is missing, damaged, of another format, or not of the form that `dump_manifest` writes.
    """
    path = folder / MANIFEST
    try:
        body = from_json(read_text(path))
        intact = body.pop("checksum") == _checksum(body)
    except (FileNotFoundError, NotADirectoryError):
        missing = f"{folder}: is a file" if folder.is_file() else f"{path}: not found"
        raise FileError(f"{missing}; pass {_meant(folder)}") from None
    # json raises RecursionError on brackets that are nested thousands deep.
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FileError(f"{path}: is not a manifest of a pruned model ({error}); save the model again") from error
    if not intact:
        raise FileError(f"{path}: was changed after it was written (its checksum differs); save the model again")
    if body.get("format") not in READABLE:
        raise FileError(
            f"{path}: has format {body.get('format')!r}; this version reads {FORMAT} and older; save the model again"
        )
    if body["format"] < FORMAT:
        body["encoded"] = {}
    for part, right in PARTS.items():
        if part not in body or not right(body[part]):
            raise FileError(
                f"{path}: is not a manifest of a pruned model ({part!r} is not right); save the model again"
            )
    return Manifest(**{part: body[part] for part in PARTS})


def _meant(folder: Path) -> str:
    """The folder in it that holds a model, as that of a compression does, in words; else what such a folder is."""
    inner = next((path.parent for path in sorted(folder.glob(f"*/{MANIFEST}"))), None)
    return "a folder that Result.save wrote" if inner is None else f"the folder in it that holds the model, {inner}"


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _mapping_of(right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(right(v) for v in value.values())


def _text(value: object) -> bool:
    return isinstance(value, str)


def _kinds(value: object) -> bool:
    """Whether a value is a list of edits, each of which says its kind."""
    return isinstance(value, list) and all(isinstance(edit, dict) and _text(edit.get("kind")) for edit in value)


# What each part must be, whoever wrote it.
PARTS: Mapping[str, Callable[[Any], bool]] = {
    "sha256": lambda value: _mapping_of(_text)(value) and set(value) == {MODEL, EDITS},
    "edits": _kinds,
    "shared": _mapping_of(_text),
    "report": lambda value: isinstance(value, dict),
    "history": lambda value: value is None or isinstance(value, dict),
    "answers": lambda value: value is None or isinstance(value, dict),
    "encoded": lambda value: _mapping_of(lambda record: isinstance(record, dict))(value),
}


def read_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file after checking that it is the one that was written."""
    try:
        data = read_bytes(path)
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); save the model again") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise FileError(f"{path}: truncated or changed after it was written (SHA-256 differs); save the model again")
    try:
        return parse_tensors(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise FileError(f"{path}: is not a safetensors file ({error}); save the model again") from error
