"""What a report is built of: paragraphs, tables, figures, and the cards at its head."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, cast

from secateur.lab.show.words import formatted
from secateur.types import InputError, unknown_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["Basis", "Block", "Card", "Column", "Picture", "Section", "Table", "Tone"]

Tone = Literal["", "good", "bad"]
"""What a value means to the reader; neither good nor bad when empty."""

_VERDICTS: Mapping[str, Tone] = {"better": "good", "worse": "bad"}
_LONG = 14
"""A table of more rows is folded."""
_WIDE = 12
"""Of a table of more columns those that say the same in every row are said once, in its caption."""
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Basis:
    """What a table or figure was computed from.

    Attributes:
        words: seeds and split, such as ``"3 seeds, test set of digits"``.
        query: the command that lists the same rows of the store.
        cells: the ids of the cells.

    >>> print(Basis("3 seeds, test set").also("mean"))
    3 seeds, test set; mean
    """

    words: str
    query: str = ""
    cells: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.words

    def also(self, words: str) -> Basis:
        """Return the same basis with words added."""
        return replace(self, words=f"{self.words}; {words}")


@dataclass(frozen=True)
class Card:
    """One main number at the head of the report.

    Attributes:
        label: what it is.
        value: the number as text.
        note: what stands under it.
        interval: its 95 % interval as text (`secateur.lab.show.words.spread`).
        tone: what it means, to be coloured by.
    """

    label: str
    value: str
    note: str = ""
    interval: str = ""
    tone: Tone = ""


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: the heading.
        unit: the unit, shown beside the heading.
        format: a Python format for the numbers, such as ``".4f"`` or ``".1%"``.
        published: the figures are the publication's, not ours; shown apart.
        best: highlight the greatest (``"max"``) or the least (``"min"``) number.
        worst: mark the greatest or the least number as the bad one.
        key: the column of a data frame that `Table.of` takes; the title when empty.

    Raises:
        InputError: the format fits no number.
    """

    title: str
    unit: str = ""
    format: str = ""
    published: bool = False
    best: Literal["max", "min"] | None = None
    worst: Literal["max", "min"] | None = None
    key: str = ""

    def __post_init__(self) -> None:
        try:
            format(0.5, self.format)
            for name, which in (("best", self.best), ("worst", self.worst)):
                if which not in (None, "max", "min"):
                    raise ValueError(f"{name} is {which!r}")
        except ValueError as error:
            raise InputError(
                f"column {self.title!r}: {error}; give a format such as '.3f' or '.1%', and best or worst 'max' or 'min'"
            ) from error

    @property
    def heading(self) -> str:
        """The title with its unit, and whose figures these are."""
        words = f"{self.title} ({self.unit})" if self.unit else self.title
        return f"{words}, published" if self.published else words

    def text(self, value: object) -> str:
        """Return a value as the table shows it; a missing one is a dash.

        >>> Column("loss", format=".3f").text(0.12345), Column("loss").text(float("nan"))
        ('0.123', '–')
        """
        if value is None or value != value:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if _is_number(value):
            shape = self.format or ("d" if isinstance(value, Integral) else ".4g")
            return formatted(cast(float, value), shape)
        return str(value)


@dataclass(frozen=True)
class Table:
    """A table: columns, rows of raw values, and a caption.

    Attributes:
        name: the name of its file, in small letters, digits, ``-`` and ``_``.
        caption: what it shows.
        columns: the columns; the first one names the rows.
        rows: the values, one a column; None and nan are missing.
        basis: what it was computed from, such as ``"5 seeds, test set"``, or a `Basis` with its cells.

    Raises:
        InputError: a bad name, no columns, or a row of another length.
    """

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Any]]
    basis: str | Basis = ""

    def __post_init__(self) -> None:
        _check_name("table", self.name)
        if not self.columns:
            raise InputError(f"table {self.name!r} has no columns")
        for row in self.rows:
            if len(row) != len(self.columns):
                raise InputError(
                    f"table {self.name!r} has {len(self.columns)} columns, but the row {list(row)!r} has {len(row)}"
                )

    @classmethod
    def of(cls, frame: DataFrame, name: str, caption: str, columns: Sequence[Column], basis: str | Basis = "") -> Table:
        """Return the table of a data frame's `columns`, found by their keys.

        Raises:
            UnknownNameError: the frame has no such column.
        """
        keys = [column.key or column.title for column in columns]
        for key in keys:
            if key not in frame.columns:
                raise unknown_name("column of the data frame", key, map(str, frame.columns))
        return cls(name, caption, columns, [list(row) for row in frame[keys].itertuples(index=False)], basis)

    @property
    def is_long(self) -> bool:
        """Whether there are so many rows that a page folds them."""
        return len(self.rows) > _LONG

    @property
    def shown_columns(self) -> list[int]:
        """The places of the columns that a page has room for: of a wide table not those that are the same in all rows.

        >>> columns = [Column(f"c{place}") for place in range(13)]
        >>> Table("t", "", columns, [["a", 1, *range(11)], ["a", 2, *range(11)]]).shown_columns
        [1]
        """
        places = range(len(self.columns))
        if len(places) <= _WIDE or len(self.rows) < 2:
            return list(places)
        return [place for place in places if len({self.columns[place].text(row[place]) for row in self.rows}) > 1]

    @property
    def said_once(self) -> str:
        """What a page says of the columns that it leaves out; empty where it shows all."""
        left_out = sorted(set(range(len(self.columns))) - set(self.shown_columns))
        values = [
            f"{self.columns[place].heading} {self.columns[place].text(self.rows[0][place])}" for place in left_out
        ]
        return f" In all rows: {', '.join(values)}." if values else ""

    def is_number(self, column: int) -> bool:
        """Say whether a column holds numbers, which stand on the right."""
        return any(_is_number(row[column]) for row in self.rows)

    def sort_key(self, row: int, column: int) -> str:
        """Return a number in full, for the page to sort by; empty where the words themselves are sorted."""
        value = self.rows[row][column]
        return repr(float(value)) if _is_number(value) else ""

    def is_best(self, row: int, column: int) -> bool:
        """Say whether a value is the one to highlight (equal ones all are)."""
        return self._is_end(row, column, self.columns[column].best)

    def tone(self, row: int, column: int) -> Tone:
        """Return what a value means, to be coloured by: a verdict, or the number that a column marks."""
        if self._is_end(row, column, self.columns[column].worst):
            return "bad"
        value = self.rows[row][column]
        return "good" if self.is_best(row, column) else _VERDICTS.get(value, "") if isinstance(value, str) else ""

    def _is_end(self, row: int, column: int, want: str | None) -> bool:
        values = [line[column] for line in self.rows if _is_number(line[column])]
        if want is None or not values:
            return False
        return bool(self.rows[row][column] == (max(values) if want == "max" else min(values)))

    def to_csv(self) -> str:
        """Return the raw values, comma-separated, under the columns' headings."""
        return _csv([column.heading for column in self.columns], self.rows)


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with its words and its numbers.

    Attributes:
        name: the name of its files, in small letters, digits, ``-`` and ``_``.
        figure: the drawing (`secateur.lab.show.figures`).
        caption: what it shows.
        alt: what a reader who cannot see it should know.
        basis: what it was computed from, such as ``"mean of 5 seeds, test set"``, or a `Basis` with its cells.
        data: the numbers behind it.

    Raises:
        InputError: a bad name, or no `alt`.
    """

    name: str
    figure: Figure
    caption: str
    alt: str
    basis: str | Basis = ""
    data: DataFrame | None = None

    def __post_init__(self) -> None:
        _check_name("figure", self.name)
        if not self.alt.strip():
            raise InputError(f"figure {self.name!r} has no alt text; say in a sentence what it shows")

    def to_csv(self) -> str | None:
        """Return the numbers behind the figure, comma-separated."""
        if self.data is None:
            return None
        return _csv(map(str, self.data.columns), self.data.itertuples(index=False))


Block = str | Table | Picture
"""What a section holds: a paragraph of plain text, a table, or a figure."""


@dataclass(frozen=True, eq=False)
class Section:
    """A heading and what stands under it.

    Attributes:
        title: the heading.
        blocks: what stands under it.
        group: what it and its neighbours are about, under which the contents list them; its title begins with it.
    """

    title: str
    blocks: Sequence[Block]
    group: str = ""

    @property
    def short_title(self) -> str:
        """The title under that of its group."""
        return self.title.removeprefix(f"{self.group}: ") if self.group else self.title

    def within(self, data: str, model: str) -> Section:
        """Return the section as a part of a report on several networks or data sets: they stand in title and names.

        >>> Section("Costs", ["Nothing."]).within("digits", "ann-128").title
        'ann-128 on digits: Costs'
        """
        prefix = re.sub(r"[^a-z0-9]+", "-", f"{model}-{data}".lower()).strip("-")

        def own(block: Block) -> Block:
            return block if isinstance(block, str) else replace(block, name=f"{prefix}-{block.name}")

        group = f"{model} on {data}"
        return Section(f"{group}: {self.title}", [own(block) for block in self.blocks], group)


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise InputError(f"{what} name {name!r} cannot name a file; use small letters, digits, '-' and '_'")


def _is_number(value: object) -> bool:
    return not isinstance(value, bool) and hasattr(value, "__float__") and value == value


def _csv(heading: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(list(heading))
    writer.writerows(["" if value is None or value != value else value for value in row] for row in rows)
    return text.getvalue()
