"""Tables of distributions, as pandas' ``describe`` prints them, with a publication's beside ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from secateur.files import require
from secateur.lab.show.blocks import Basis, Column, Table

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["STATISTICS", "describe_table", "quartiles", "statistics"]

STATISTICS = ("mean", "std", "min", "25%", "50%", "75%", "max")
"""What pandas' ``describe`` says of a distribution, as the thesis prints it."""


def statistics(frame: DataFrame, x: str, value: str) -> DataFrame:
    """Return the statistics of each network's draws at each `x`, averaged over the networks.

    One network's spread is what a publication on one network shows; networks differ besides.

    >>> import pandas
    >>> rows = pandas.DataFrame({"n": 1, "seed": [0, 0, 1, 1], "loss": [1.0, 3.0, 2.0, 6.0]})
    >>> statistics(rows, "n", "loss").loc[1, ["mean", "min", "max"]].tolist()
    [3.0, 1.5, 4.5]
    """
    by_network = frame.groupby([x, "seed"])[value].describe()
    return by_network.groupby(level=0)[list(STATISTICS)].mean()


def quartiles(theirs: Mapping[int, Sequence[float]] | None) -> DataFrame | None:
    """Return published statistics as the `box` figure takes them; None where there are none."""
    if not theirs:
        return None
    rows = [{"n": n, **dict(zip(STATISTICS, values, strict=True))} for n, values in theirs.items()]
    frame: DataFrame = require("pandas", "lab").DataFrame(rows)
    return frame


def describe_table(
    frame: DataFrame,
    x: str,
    value: str,
    name: str,
    caption: str,
    basis: Basis,
    *,
    theirs: Mapping[int, Sequence[float]] | None = None,
    digits: int = 4,
) -> Table:
    """Return the table of `statistics`, one column for each `x`, with the publication's columns beside ours.

    Args:
        frame: one row a draw, with ``seed``.
        x, value: the columns of groups and of values.
        name, caption, basis: the table's.
        theirs: x → the published statistics, in the order of `STATISTICS`.
        digits: behind the point.
    """
    ours = statistics(frame, x, value)
    columns, values, shape = [Column("statistic")], [], f".{digits}f"
    for at in ours.index:
        columns.append(Column(f"{x} = {at}", format=shape))
        values.append(ours.loc[at].tolist())
        if theirs and at in theirs:
            columns.append(Column(f"{x} = {at}", format=shape, published=True))
            values.append(list(theirs[at]))
    rows = [[title, *(column[place] for column in values)] for place, title in enumerate(STATISTICS)]
    return Table(name, caption, columns, rows, basis)
