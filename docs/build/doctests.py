"""Docstrings' doctests become fenced code in the reference: griffe knows them only below a heading of their own."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

# From a prompt to the next blank line, output included.
DOCTEST = re.compile(r"^>>> .*?(?=\n\s*\n|\Z)", re.MULTILINE | re.DOTALL)


class Doctests(Extension):
    """Fence every doctest."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a class, a function or a module."""
        if obj.docstring is not None:
            obj.docstring.value = DOCTEST.sub(lambda doctest: f"```pycon\n{doctest[0]}\n```", obj.docstring.value)
