"""A table is its groups and its columns: one row for each group of rows, one column for each mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from secateur.lab.show.blocks import Basis, Column, Table
from secateur.lab.show.sections import interval
from secateur.lab.show.stats.columns import SHARE, range_of

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Mean", "grouped", "means"]

Value = str | Callable[["DataFrame"], Any]


@dataclass(frozen=True)
class Mean:
    """A column of a table: the mean of a value over the rows of a group.

    Attributes:
        value: a column of the rows, nan where they lack it; or a function from the rows to numbers, of which the mean is
            taken, or to one number or text, which is shown as it is.
        column: how it is shown.
        interval: the title of a further column with the mean's 95 % interval; none when empty.
        share: whether the values are shares of something, which no interval leaves; None: known by the column's name,
            and changes in points by the unit.
    """

    value: Value
    column: Column
    interval: str = ""
    share: bool | None = None

    @property
    def columns(self) -> list[Column]:
        """The column, and that of the interval where there is one."""
        return [self.column, *([Column(self.interval)] if self.interval else [])]

    def of(self, rows: DataFrame) -> list[Any]:
        """Return the values of one group."""
        values = self.value(rows) if callable(self.value) else rows.get(self.value, float("nan"))
        if not hasattr(values, "notna"):
            return [values, *([""] if self.interval else [])]
        mean = float(values.mean()) if values.notna().any() else float("nan")
        if not self.interval:
            return [mean]
        words = interval(values, within=self._range(values), shape=self.column.format or ".4g") if len(values) else ""
        return [mean, words]

    def _range(self, values: Any) -> tuple[float, float] | None:
        """The range that the mean cannot leave, by what is said of the values."""
        if self.share is not None:
            return SHARE if self.share else None
        if self.column.unit == "points":
            return -100.0, 100.0
        return range_of(self.value, values) if isinstance(self.value, str) else None


def grouped(
    frame: DataFrame,
    name: str,
    caption: str,
    groups: Mapping[str, Column],
    columns: Sequence[Mean],
    basis: Basis | str,
    *,
    sort: bool = False,
    first: Sequence[Sequence[Any]] = (),
) -> Table:
    """Return one row for each group of the rows, in the order in which they are met.

    Args:
        frame: the rows.
        name, caption, basis: the table's.
        groups: column of the frame → how it is shown; each combination of their values is a group.
        columns: what is shown of a group.
        sort: bring the groups into order.
        first: rows that stand before those of the groups.

    >>> import pandas
    >>> rows = pandas.DataFrame({"method": ["l2", "l2", "l1"], "accuracy": [0.5, 0.7, 0.9]})
    >>> shown = [Mean("accuracy", Column("accuracy", format=".4f"), "95 %"), Mean(len, Column("networks"))]
    >>> grouped(rows, "toy", "Toys.", {"method": Column("method")}, shown, "").rows
    [['l2', 0.6, '0.0000 to 1.0000', 2], ['l1', 0.9, '', 1]]
    """
    headings = [*groups.values(), *(column for mean in columns for column in mean.columns)]
    rows = (
        [[*key, *means(group, columns)] for key, group in frame.groupby(list(groups), sort=sort)] if len(frame) else []
    )
    return Table(name, caption, headings, [*map(list, first), *rows], basis)


def means(rows: DataFrame, columns: Sequence[Mean]) -> list[Any]:
    """Return what `columns` show of some rows."""
    return [value for mean in columns for value in mean.of(rows)]
