"""Libraries that only some data sets need, asked for when they are needed."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from secateur.types import DataError

__all__ = ["require"]


def require(module: str, purpose: str) -> Any:
    """Return an optional module, imported.

    Raises:
        DataError: it is not installed; the message names the extra that brings it.

    >>> require("json", "reading JSON").loads("[1]")
    [1]
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise DataError(
            f"{purpose} needs {module.partition('.')[0]}, which cannot be imported ({error}); "
            "pip install 'secateur[data]'"
        ) from error
