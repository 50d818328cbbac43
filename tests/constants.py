"""The numbers with a name that a room is written with: a change of one changes results, memory or time, and is meant or wrong."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import secateur


def constants_of(room: str) -> dict[str, Any]:
    """Return what the capitals of a room's modules stand for, where that is numbers, by module and name."""
    folder = Path(secateur.__file__).parent
    values: dict[str, Any] = {}
    for file in sorted((folder / room).rglob("*.py")):
        module = ".".join(file.relative_to(folder).with_suffix("").parts)
        for name in _capitals(ast.parse(file.read_text())):
            value = getattr(importlib.import_module(f"secateur.{module}"), name)
            if _is_number(value):
                values[f"{module}.{name}"] = value
    return values


def _capitals(tree: ast.Module) -> list[str]:
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign) and node.value]
    names = [name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return [name for name in names if name.strip("_").isupper()]


def _is_number(value: object) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_number, value))
    return isinstance(value, int | float) and not isinstance(value, bool)
