"""Write the tutorial and the gallery as Jupyter notebooks: `python docs/build/notebooks.py FOLDER`.

Code of a page is a cell; a block with a title becomes a cell that writes the file and, of Python, one that runs it; a command of
secateur becomes a cell that runs it. What a page shows as printed is left out, since the notebook prints it itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import jupytext

DOCS = Path(__file__).parents[1]
FENCE = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```\n', re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\((?!https?:)[^)]+\)")


def cell(code: str) -> str:
    """Return code as jupytext reads a cell."""
    return f"```python\n{code.rstrip()}\n```\n"


def cells(fence: re.Match[str]) -> str:
    """Return what stands in the notebook for a block of a page."""
    kind, name, content = fence.groups()
    if name is not None:
        written = cell(f"%%writefile {name}\n{content}")
        return f"{written}\n{cell(f'%run {name}')}" if kind == "python" else written
    if kind == "console":
        return cell("\n".join(f"!{line[2:]}" for line in content.splitlines() if line.startswith("$ ")))
    if kind == "text":
        return ""
    # Of a shell's block jupytext would make a cell that clones and installs.
    return cell(content) if kind == "python" else f"```\n{content}```\n"


def main(folder: Path) -> None:
    """Convert the pages; links to other pages, which a notebook has not, become their words."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in [DOCS / "tutorial.md", *sorted((DOCS / "gallery").glob("*.md"))]:
        if page.stem != "index":
            text = FENCE.sub(cells, page.read_text(encoding="utf-8"))
            notebook = jupytext.reads(LINK.sub(r"\1", text), fmt="md")
            notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
            jupytext.write(notebook, folder / f"{page.stem}.ipynb")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
