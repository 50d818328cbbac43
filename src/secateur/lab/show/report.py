"""A report: what a study found, as one page that needs nothing else, and the files behind it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from secateur.checks import check_name
from secateur.files import require, write_bytes, write_text
from secateur.lab.keep import paths
from secateur.lab.show.blocks import Basis, Block, Card, Picture, Section, Table
from secateur.lab.show.figures.narrow import narrowed
from secateur.lab.show.marks import layout
from secateur.lab.show.style import inline_svg, png, svg
from secateur.types import InputError

__all__ = ["Report", "html", "markdown"]


_WARNS = ("This report is not complete", "WARNING: ")
"""By what a sentence of the summary is known to warn."""

_FINDINGS, _FIRST = 6, 4
"""Of a summary of more than so many paragraphs the first few are shown."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a study found.

    Attributes:
        title: the title.
        summary: what was found, in a few paragraphs of plain text.
        cards: the main numbers.
        sections: the body.
        source: the publication that the study follows.
        command: the exact command that makes the report again.
        lead: the figure that the page leads with: the name of one in the body, or one of its own; the first when empty.
        environment: what it was computed with, by name (`secateur.lab.keep.environment`).
        subject: what was looked at, such as ``"lenet-300-100 on digits"``; stands under the title.

    Raises:
        InputError: two figures or tables have one name.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> report = Report("Toy", ("Nothing was pruned.",))
    >>> report.write(folder).name, "Nothing was pruned." in (folder / "report.md").read_text()
    ('report.html', True)
    """

    title: str
    summary: Sequence[str] = ()
    cards: Sequence[Card] = ()
    sections: Sequence[Section] = ()
    source: str = ""
    command: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    lead: str | Picture = ""
    subject: str = ""

    def __post_init__(self) -> None:
        names = [block.name for block in self.blocks() if not isinstance(block, str)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"report {self.title!r}: two blocks are named {', '.join(twice)}; rename one")
        if isinstance(self.lead, str) and self.lead:
            check_name(f"figure of report {self.title!r}", self.lead, [picture.name for picture in self.pictures()])

    def blocks(self) -> list[Block]:
        """Return the figure that leads, where it is in no section, and the blocks of all sections, in order."""
        head = [self.lead] if isinstance(self.lead, Picture) else []
        return [*head, *(block for section in self.sections for block in section.blocks)]

    def pictures(self) -> list[Picture]:
        """Return the figures, in order."""
        return [block for block in self.blocks() if isinstance(block, Picture)]

    @property
    def warnings(self) -> list[str]:
        """What of the summary a reader must know before the picture is looked at."""
        return [text for text in self.summary if any(mark in text for mark in _WARNS)]

    @property
    def findings(self) -> tuple[list[str], list[str]]:
        """The rest of the summary: what the page shows, and, of many paragraphs, what it folds."""
        warnings = self.warnings
        rest = [text for text in self.summary if text not in warnings]
        return (rest, []) if len(rest) <= _FINDINGS else (rest[:_FIRST], rest[_FIRST:])

    @property
    def leading(self) -> Picture | None:
        """The figure that the page leads with; None where there is none."""
        if isinstance(self.lead, Picture):
            return self.lead
        pictures = self.pictures()
        return next((picture for picture in pictures if picture.name == self.lead), next(iter(pictures), None))

    def write(self, directory: Path | str) -> Path:
        """Write the page, its text form, and the files of its figures and tables.

        ``report.html`` is one file that needs no other and no network. Beside it: ``report.md``,
        ``figures/<name>.svg`` and ``.png``, ``tables/<name>.csv``. The page holds the SVG and CSV files as well, to
        be saved from it. Each file is replaced as a whole, the page
        last.

        Returns:
            The page's path.

        Raises:
            FileError: the directory cannot be written.
        """
        folder = Path(directory)
        drawings = {picture.name: svg(picture.figure) for picture in self.pictures()}
        page, plain = html(self, drawings), markdown(self)
        for block in self.blocks():
            if isinstance(block, Picture):
                write_text(paths.figure_file(folder, block.name, "svg"), drawings[block.name])
                write_bytes(paths.figure_file(folder, block.name, "png"), png(block.figure))
            numbers = None if isinstance(block, str) else block.to_csv()
            if not isinstance(block, str) and numbers is not None:
                write_text(paths.table_file(folder, block.name), numbers)
        write_text(paths.markdown_file(folder), plain)
        write_text(paths.html_file(folder), page)
        return paths.html_file(folder)


def html(report: Report, drawings: Mapping[str, str]) -> str:
    """Return the page: style, figures and a small script inside, nothing fetched; it reads well without the script.

    Args:
        report: what to show.
        drawings: each figure's SVG, by name.

    >>> "<h1>a &lt; b</h1>" in html(Report("a < b"), {})
    True
    """
    jinja2 = require("jinja2", "lab")
    maker = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    safe = require("markupsafe", "lab").Markup
    forms = [form for picture in report.pictures() for form in _forms(picture, drawings[picture.name])]
    page = maker.from_string(_template("report.html.j2")).render(
        report=report,
        style=safe(_template("report.css")),
        script=safe(_template("report.js")),
        marks=safe(_json({name: places for name, _, places in forms})),
        drawn={name: safe(drawn) for name, drawn, _ in forms},
        anchors=_anchors([section.title for section in report.sections]),
        kind=_kind,
        numbers=_numbers(report),
        uri=lambda text, kind: safe(_uri(text, kind)),
        drawings=drawings,
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


def _forms(picture: Picture, wide: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A figure's two forms on the page: the name, the drawing, and where its values are."""
    yield picture.name, inline_svg(wide, picture.name, picture.alt), layout(picture.figure)
    with narrowed(picture.figure):
        name, image = f"{picture.name}.narrow", svg(picture.figure)
        yield name, inline_svg(image, name, picture.alt), layout(picture.figure)


def _template(name: str) -> str:
    return files("secateur.lab.show").joinpath("templates", name).read_text(encoding="utf-8")


def _json(value: object) -> str:
    """JSON that may stand in a script element: no name in it can end the element, or open a comment."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _uri(text: str, kind: str) -> str:
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"


def _kind(block: Block) -> str:
    return {str: "paragraph", Table: "table", Picture: "picture"}[type(block)]


def _numbers(report: Report) -> dict[str, int]:
    """Number figures and tables, each kind from 1, by name."""
    numbers: dict[str, int] = {}
    lead = report.leading
    for kind in (Table, Picture):
        blocks = [block for block in report.blocks() if isinstance(block, kind)]
        blocks.sort(key=lambda block: block is not lead)
        numbers |= {block.name: position for position, block in enumerate(blocks, 1)}
    return numbers


def _anchors(titles: Sequence[str]) -> list[str]:
    """Return one anchor a title; a number leads, so that equal titles differ."""
    words = [re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") for title in titles]
    return [f"s{position}-{word}" for position, word in enumerate(words, 1)]


def _paragraphs(report: Report) -> Iterator[str]:
    yield f"# {_escape(report.title)}"
    if report.subject:
        yield _escape(report.subject)
    if report.source:
        yield f"After {_escape(report.source)}"
    numbers, lead, warnings = _numbers(report), report.leading, report.warnings
    yield from map(_escape, warnings)
    if lead is not None:
        yield _block(lead, numbers)
    if report.cards:
        yield "\n".join(map(_card, report.cards))
    yield from (_escape(text) for text in report.summary if text not in warnings)
    for section in report.sections:
        yield f"## {_escape(section.title)}"
        for block in section.blocks:
            if block is not lead:
                yield _block(block, numbers)
    if report.command:
        yield "## How to reproduce"
        yield "\n".join(f"    {line}" for line in report.command.splitlines())
    if report.environment:
        yield "## Environment"
        yield "\n".join(f"- {_escape(key)}: {_escape(value)}" for key, value in report.environment.items())


def _card(card: Card) -> str:
    notes = [*([f"95 %: {card.interval}"] if card.interval else []), *([card.note] if card.note else [])]
    return f"- {_escape(card.label)}: **{_escape(card.value)}**" + (f" ({_escape('; '.join(notes))})" if notes else "")


def _block(block: Block, numbers: Mapping[str, int]) -> str:
    if isinstance(block, str):
        return _escape(block)
    kind = "Table" if isinstance(block, Table) else "Figure"
    basis = f" ({_escape(str(block.basis))})" if block.basis else ""
    caption = f"**{kind} {numbers[block.name]}.** {_escape(block.caption)}{basis}"
    if isinstance(block.basis, Basis) and block.basis.query:
        caption += f"\n\n    {block.basis.query}"
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
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", re.sub(r"[ \t\r\n]+", " ", text))
