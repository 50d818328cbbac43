"""TOML files of recipes and studies: read with the line of what is wrong, and written."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.files import DEEPEST, check_depth, read_text
from secateur.types import FileError, InputError

__all__ = ["dumps", "place", "read"]

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path) -> tuple[dict[str, Any], str]:
    """Return what a TOML file holds, and its text (for `place`).

    Raises:
        FileError: it is missing or cannot be read, or it is not TOML; the error says at which line.
    """
    try:
        text = read_text(path)
        values = tomllib.loads(text)
        check_depth(values)
        return values, text
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"cannot read {path}: {error}; give a TOML file in UTF-8") from error
    except RecursionError:
        raise FileError(f"{path} is nested more than {DEEPEST} deep; write plain values") from None
    except ValueError as error:  # tomllib's own, and Python's where a number has thousands of digits
        raise FileError(f"{path} is not TOML: {error}; see https://toml.io") from error


def place(path: Path, text: str, key: str) -> str:
    """Return where a key stands, for an error: the file, and the line where it can be found.

    >>> place(Path("a.toml"), "name = 'x'\\nseeds = 0", "seeds")
    'a.toml, line 2'
    """
    head = re.compile(rf"\s*\[?\s*[\"']?{re.escape(key)}[\"']?\s*[\]=.]")
    lines = [number for number, line in enumerate(text.splitlines(), 1) if head.match(line)]
    return f"{path}, line {lines[0]}" if lines else str(path)


def dumps(values: Mapping[str, Any]) -> str:
    """Return plain values as TOML: one line a value, mappings of mappings as tables at the end.

    TOML has no null: a None in `values`, or in a table of it, is left out.

    Raises:
        InputError: a None deeper inside, or a value that is not plain JSON.

    >>> print(dumps({"name": "a", "layers": [1, 2.5], "deep": {"x y": True}}), end="")
    name = "a"
    layers = [1, 2.5]
    <BLANKLINE>
    [deep]
    "x y" = true
    """
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines = [f"{_key(k)} = {_value(k, v)}" for k, v in values.items() if v is not None and k not in tables]
    for key, table in tables.items():
        lines += ["", f"[{_key(key)}]"]
        lines += [f"{_key(k)} = {_value(f'{key}.{k}', v)}" for k, v in table.items() if v is not None]
    return "\n".join(lines) + "\n"


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _text(name)


def _text(text: str) -> str:
    # JSON's escapes are TOML's, but for delete, which JSON leaves as it is.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inner = [f"{_key(k)} = {_value(f'{name}.{k}', v)}" for k, v in value.items()]
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, Sequence):
        return f"[{', '.join(_value(name, part) for part in value)}]"
    raise InputError(f"{name!r} is {value!r}, which TOML cannot say; leave it out")
