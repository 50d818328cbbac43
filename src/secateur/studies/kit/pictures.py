"""Figures that several studies draw alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from secateur.lab.show import figures
from secateur.lab.show.blocks import Basis, Picture
from secateur.lab.show.words import points

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

__all__ = ["change_heatmap", "change_picture", "greatest_loss"]


def change_heatmap(table: DataFrame, axes: tuple[str, str]) -> Figure:
    """Return the heat map of changes in percentage points; `axes` are the labels across and down."""
    return figures.heatmap(
        table,
        label="Change (points)",
        axes_labels=axes,
        diverging=True,
        show=lambda value: points(value, 1),
    )


def greatest_loss(table: DataFrame) -> tuple[object, object, str]:
    """Return the row and the column of the lowest value of a table, and that value in words."""
    row, column = table.stack().idxmin()
    return row, column, points(float(table.min().min()), 1)


def change_picture(name: str, table: DataFrame, caption: str, alt: str, basis: Basis, rows: str = "") -> Picture:
    """Return the picture of changes by class, one class a column.

    Args:
        name, caption, basis: the picture's.
        table: changes in percentage points.
        alt: what it shows in words, with ``{row}``, ``{column}`` and ``{loss}`` of the greatest loss.
        rows: what the rows are.
    """
    row, column, loss = greatest_loss(table)
    drawing = change_heatmap(table, ("", rows))
    return Picture(name, drawing, caption, alt.format(row=row, column=column, loss=loss), basis, table.reset_index())
