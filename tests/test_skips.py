"""Every test that is skipped says why, and the reason is one of a few that hold on every machine (CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import secateur

TESTS, PACKAGE = Path(__file__).parent, Path(secateur.__file__).parent

KINDS = {
    "an optional library": r"is not installed|needs Lightning Fabric|needs Hugging Face's library|^importorskip \w+",
    "what the system offers": (
        r"/proc|mount|only Linux|the system does not say|chromium is not on this machine|no qemu-aarch64 here|"
        r"which fetch Debian's programs|cannot be fetched by|this torch has no|fewer than two devices|Debian package"
    ),
    "a file that the tests do not bring": r"beside the tests|is not on this machine|names no folder of SmolLM2",
    "a case that this model is none of": (
        r"takes several inputs|nothing can be cut|returns no single tensor|removes nothing here|"
        r"two renames are all there are|computes in float64, too"
    ),
}
"""What CONTRIBUTING.md says, and what reasons say of it."""


def reasons(file: Path) -> Iterator[str]:
    """The reasons of all skips in a file; of an `importorskip` the library."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = node.func.attr
        if name == "importorskip":
            yield f"importorskip {text_of(node.args[0])}"
        elif name == "skip" or (name == "skipif" and isinstance(node.func.value, ast.Attribute)):
            given = [k.value for k in node.keywords if k.arg == "reason"]
            yield text_of((given or node.args[: name == "skip"] or [ast.Constant("")])[0])


def text_of(node: ast.expr) -> str:
    """The text of a reason; what is filled in stands as a dot."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "." for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else ast.unparse(node)


FILES = [*TESTS.rglob("*.py"), *(PACKAGE / "testing").rglob("*.py")]


@pytest.mark.parametrize("file", [file for file in FILES if any(reasons(file))], ids=lambda file: file.name)
def test_a_skip_has_a_reason_that_holds_everywhere(file: Path) -> None:
    for reason in reasons(file):
        kinds = [kind for kind, pattern in KINDS.items() if re.search(pattern, reason)]
        assert kinds, f"{file.name}: {reason!r} is of no kind; say what is missing, or let the test run"


def test_the_kinds_are_those_of_the_documents() -> None:
    page = TESTS.parent / "CONTRIBUTING.md"
    if not page.is_file():
        pytest.skip("the documents are not beside the tests")
    for kind in KINDS:
        assert kind in page.read_text(encoding="utf-8")
