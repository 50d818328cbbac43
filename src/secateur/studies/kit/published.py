"""Published figures, which stand in a TOML file beside the studies that show them."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from tomllib import loads
from typing import Any

__all__ = ["published"]


@lru_cache
def published(publication: str) -> dict[str, Any]:
    """Return what ``published.toml`` in a publication's folder holds; keys that are numbers as numbers.

    >>> published("charpentier")["random"]["mnist"]["accuracy"][1][0]
    0.972
    """
    text = files(f"secateur.studies.{publication}").joinpath("published.toml").read_text(encoding="utf-8")
    return {name: _numbered(value) for name, value in loads(text).items()}


def _numbered(value: Any) -> Any:
    """The same with numbers as keys where TOML has texts, and "–" as a missing number."""
    if isinstance(value, dict):
        return {_number(name): _numbered(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_numbered(inner) for inner in value]
    return None if value == "–" else value


def _number(name: str) -> Any:
    try:
        return int(name)
    except ValueError:
        try:
            return float(name)
        except ValueError:
            return name
