"""A report as one HTML page, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from secateur.lab.files import require
from secateur.lab.report import Block, Picture, Report, Table
from secateur.lab.style import inline_svg

__all__ = ["html", "markdown"]


def html(report: Report, drawings: Mapping[str, str]) -> str:
    """Return the page: style and figures inside, no script, nothing fetched.

    Args:
        report: what to show.
        drawings: each figure's SVG, by name.

    >>> "<h1>a &lt; b</h1>" in html(Report("a < b"), {})
    True
    """
    jinja2 = require("jinja2")
    maker = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    safe = require("markupsafe").Markup
    pictures = (block for block in report.blocks() if isinstance(block, Picture))
    drawn = {one.name: safe(inline_svg(drawings[one.name], one.name, one.alt)) for one in pictures}
    page = maker.from_string(_template("report.html.j2")).render(
        report=report,
        style=safe(_template("report.css")),
        drawn=drawn,
        anchors=_anchors([section.title for section in report.sections]),
        kind=_kind,
        numbers=_numbers(report),
    )
    return str(page) + "\n"


def markdown(report: Report) -> str:
    """Return the report in Markdown, its figures linked as files beside it.

    >>> print(markdown(Report("Toy", ("It *works*.",))))
    # Toy
    <BLANKLINE>
    It \\*works\\*.
    <BLANKLINE>
    """
    return "\n\n".join(_paragraphs(report)) + "\n"


def _template(name: str) -> str:
    return files("secateur.lab").joinpath("templates", name).read_text(encoding="utf-8")


def _kind(block: Block) -> str:
    return {str: "paragraph", Table: "table", Picture: "picture"}[type(block)]


def _numbers(report: Report) -> dict[str, int]:
    """Number figures and tables, each kind from 1, by name."""
    numbers: dict[str, int] = {}
    for kind in (Table, Picture):
        blocks = [block for block in report.blocks() if isinstance(block, kind)]
        numbers |= {block.name: position for position, block in enumerate(blocks, 1)}
    return numbers


def _anchors(titles: Sequence[str]) -> list[str]:
    """Return one anchor a title; a number leads, so that equal titles differ."""
    words = [re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title in titles]
    return [f"s{position}-{word}" for position, word in enumerate(words, 1)]


def _paragraphs(report: Report) -> Iterator[str]:
    yield f"# {_escape(report.title)}"
    if report.source:
        yield f"After {_escape(report.source)}"
    yield from map(_escape, report.summary)
    if report.cards:
        yield "\n".join(f"- {_card(card.label, card.value, card.note)}" for card in report.cards)
    numbers = _numbers(report)
    for section in report.sections:
        yield f"## {_escape(section.title)}"
        for block in section.blocks:
            yield _block(block, numbers)
    if report.command:
        yield "## How to reproduce"
        yield f"    {report.command}"
    if report.environment:
        yield "## Environment"
        yield "\n".join(f"- {_escape(key)}: {_escape(value)}" for key, value in report.environment.items())


def _card(label: str, value: str, note: str) -> str:
    return f"{_escape(label)}: **{_escape(value)}**" + (f" ({_escape(note)})" if note else "")


def _block(block: Block, numbers: Mapping[str, int]) -> str:
    if isinstance(block, str):
        return _escape(block)
    kind = "Table" if isinstance(block, Table) else "Figure"
    basis = f" ({_escape(block.basis)})" if block.basis else ""
    caption = f"**{kind} {numbers[block.name]}.** {_escape(block.caption)}{basis}"
    if isinstance(block, Picture):
        return f"![{_escape(block.alt)}](figures/{block.name}.svg)\n\n{caption}"
    return f"{caption}\n\n{_pipes(block)}"


def _pipes(table: Table) -> str:
    lines = [[_escape(column.heading) for column in table.columns]]
    lines.append(["---:" if table.is_number(place) else "---" for place in range(len(table.columns))])
    for place, row in enumerate(table.rows):
        lines.append([_cell(table, place, column, value) for column, value in enumerate(row)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(table: Table, row: int, column: int, value: Any) -> str:
    text = _escape(table.columns[column].text(value))
    return f"**{text}**" if table.is_best(row, column) else text


def _escape(text: str) -> str:
    """Keep text from being read as Markdown or HTML; line ends become spaces."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", " ".join(text.split()))
